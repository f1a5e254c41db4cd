"""Takedown under OUT: the rows of source videos leave the datasets, and all else that is kept of them goes.

OUT/takedown/log.json remembers them as hashes, so that the list does not itself say what was taken down; it is written
before anything is removed, and what was begun is finished by whoever comes next: a takedown, a build, `features`. All
that happens here can happen twice. Rows are only removed: what a build would do otherwise for lack of them (find
another partner for a clip, say) it does the next time.
"""
import hashlib
from collections.abc import Iterable, Iterator, Mapping

import yaml

from manifests import records, shards, storage
from manifests.outcomes import DONE
from pairing import match
from pipelines import card, duplicates, muedit, pairs, report, traces, write
from pipelines.lines import Line
from pipelines.write import Shard
from training.sources import SPLITS, Sources

REASON = "taken_down"
_LEFT_ALONE = "what it was paired with was taken down; the next build pairs it anew"


def hashed(name: str) -> str:
    """Of an id. The prefix keeps these from being looked up among hashes that others made."""
    return hashlib.sha256(f"m2ugen takedown\0{name}".encode()).hexdigest()


def log(out: str) -> list[dict]:
    """What was ever taken down, oldest first: "date", "ids" (hashes of source videos), how many "rows" were of them,
    and how many in each of "datasets", "squashed" (repositories whose history is), "done" (whether it is here)."""
    try:
        return storage.read_json(_log(out))
    except FileNotFoundError:
        return []


def note(out: str, entries: list[dict]) -> None:
    storage.write_json(_log(out), entries)


def remembered(out: str) -> frozenset[str]:
    """Hashes of the source videos that no build brings back."""
    return frozenset(one for entry in log(out) for one in entry["ids"])


def among(out: str, segments: Mapping[str, dict]) -> frozenset[str]:
    """Ids of the clips, rows of records.SEGMENT, whose source video was taken down."""
    gone = remembered(out)
    return frozenset(key for key, row in segments.items() if hashed(row["source_id"]) in gone) if gone else frozenset()


def line(clip: str) -> Line:
    """What a dataset has of a clip that was taken down."""
    return Line(_veiled(clip), clip, None, REASON)


def told(dataset: str, clip: str, source_id: str, split: str) -> dict:
    """Its row of the ledger, which is counted but names nobody."""
    return {"dataset": dataset, "id": _veiled(clip), "source_id": _veiled(source_id), "target_source_id": None,
            "uri": "", "split": split, "outcome": REASON, "detail": ""}


def seen(ledgers: Mapping[str, list[dict]], gone: frozenset[str]) -> set[str]:
    """Those of the source videos (hashes, as all are here) that ledgers tell of."""
    return {hashed(row["source_id"]) for rows in ledgers.values() for row in rows} & gone


def copies(ledgers: Mapping[str, list[dict]], gone: frozenset[str]) -> set[str]:
    """Source videos that were lost as copies of these: the same recordings, which must not come in their place."""
    kept = {duplicates.told(clip) for rows in ledgers.values() for row in rows for clip, source in _clips(row)
            if hashed(source) in gone}
    return {hashed(row["source_id"]) for rows in ledgers.values() for row in rows
            if row["outcome"] == "duplicate" and row["detail"] in kept}


def held(ledgers: Mapping[str, list[dict]], gone: frozenset[str]) -> dict[str, int]:
    """How many rows have one of the source videos, by dataset."""
    counts = {dataset: sum(row["outcome"] == DONE and _of(row, gone) for row in rows)
              for dataset, rows in ledgers.items()}
    return {dataset: count for dataset, count in counts.items() if count}


def ledgers(out: str) -> dict[str, list[dict]]:
    """Rows by dataset, of every build here."""
    folder = storage.join(out, "ledger")
    return {name.removesuffix(".arrow"): list(shards.read(storage.join(folder, name)))
            for name in storage.names(folder) if name.endswith(".arrow") and not name.startswith(storage.TEMPORARY)}


def finish(out: str) -> None:
    """Remove what takedowns that were noted have not removed yet. For the holder of OUT's lock."""
    storage.sweep(storage.join(out, "takedown"))
    entries = log(out)
    if all(entry["done"] for entry in entries):
        return
    gone, rows = remembered(out), ledgers(out)
    source = {clip: name for row in (row for some in rows.values() for row in some) for clip, name in _clips(row)}
    known = traces.Gone(gone, hashed, traces.sources(out) | source)
    for dataset in {*rows, *storage.names(storage.join(out, "datasets"))} & write.DATASETS.keys():
        for split in SPLITS:  # copied first, so that a dataset is whole with or without them at any time
            for url in Sources(out).shards(dataset, split):
                _without(out, dataset, split, url.rpartition("/")[2], gone)
    uri = {traces.clips(row["id"])[0]: row["uri"] for some in rows.values() for row in some}  # its first clip's
    rows = {dataset: _thinned(dataset, some, gone, uri) for dataset, some in rows.items()}
    if muedit.NAME in rows:
        _explain(out, rows[muedit.NAME])
    _counted(out, rows)
    present(out)
    for dataset, some in rows.items():
        shards.write(storage.join(out, "ledger", f"{dataset}.arrow"), records.LEDGER, some)
    traces.remove(out, known)
    note(out, [entry | {"done": True} for entry in entries])


def present(out: str) -> None:
    """Make the datasets what their shards without the remembered ones are, and their cards what stats.json and the log
    say. The shards must have been written."""
    gone = remembered(out)
    try:
        stats = storage.read_json(storage.join(out, "stats.json"))
    except FileNotFoundError:
        stats = {"datasets": {}}
    for dataset in write.DATASETS:
        found = {split: Sources(out).shards(dataset, split) for split in SPLITS}
        planned = [shard for split, urls in found.items() for url in urls
                   if (shard := _without(out, dataset, split, url.rpartition("/")[2], gone))]
        if any(found.values()) or storage.names(storage.join(out, "datasets", dataset)):
            text = (card.card(out, dataset, planned, stats) if dataset in stats["datasets"] else
                    _bare(dataset, planned))
            write.finish(out, dataset, planned, text)


def _without(out: str, dataset: str, split: str, name: str, gone: frozenset[str]) -> Shard | None:
    """The shard without rows of these source videos, written if it is not there; None where no row is left.

    Named and written as a build does it that was never asked for them.
    """
    old = Shard(dataset, split, name, (), 0)
    try:
        mark = storage.read_json(old.marker(out))
    except FileNotFoundError:
        mark = {}
    stays = [not _of(row, gone) for row in _owners(old.url(out))]
    count = sum(stays)
    if count == len(stays):
        return Shard(dataset, split, name, ({},) * count, 0, tuple(mark.get("content", ())))
    if not count:
        return None
    version, *content = mark.get("content") or ["", *(_token(row) for row in shards.read(old.url(out), ["id"]))]
    content = (version, *(token for token, stay in zip(content, stays, strict=True) if stay))
    new = Shard(dataset, split, f"{name.rpartition('-')[0]}-{write.named(content)}.arrow", ({},) * count, 0, content)
    if not write.written(out, new):
        schema = next(shards.batches(old.url(out))).schema
        rows = (row for row, stay in zip(shards.read(old.url(out)), stays, strict=True) if stay)
        shards.write(new.url(out), schema, rows)
        write.mark(out, new, mark.get("started", 0.0), 0.0, 0.0)
    return new


def _owners(url: str) -> Iterator[dict]:
    names = next(shards.batches(url)).schema.names
    return shards.read(url, [name for name in ("source_id", "target_source_id") if name in names])


def _token(row: Mapping) -> str:
    """Of a row that its shard's marker tells nothing of: an older version's, which the next build writes anew."""
    return hashed(row["id"])[:16]


def _of(row: Mapping, gone: frozenset[str]) -> bool:
    """Whether a row of a dataset, or of a ledger, has one of the source videos."""
    return any(row.get(name) and hashed(row[name]) in gone for name in ("source_id", "target_source_id"))


def _clips(row: Mapping) -> Iterator[tuple[str, str]]:
    """The clips that a row of a ledger is of, with their source videos."""
    if row["outcome"] != REASON:
        clip, *other = traces.clips(row["id"])
        yield clip, row["source_id"]
        yield from ((one, row["target_source_id"]) for one in other)


def _thinned(dataset: str, rows: list[dict], gone: frozenset[str], uri: Mapping[str, str]) -> list[dict]:
    """The ledger's rows as a build has them that was asked for the source videos, and may not have them."""
    stay = [row for row in rows if not _of(row, gone)]
    down = {clip: told(dataset, clip, source, row["split"]) for row in rows if _of(row, gone)
            for clip, source in _clips(row) if hashed(source) in gone}
    # Of every clip a ledger tells whether it is in a pair.
    there = {clip for row in stay if "@" not in row["id"] for clip in traces.clips(row["id"])}
    alone = {clip: {"dataset": dataset, "id": clip, "source_id": source, "target_source_id": None,
                    "uri": uri.get(clip, ""), "split": row["split"], "outcome": "no_pair", "detail": _LEFT_ALONE}
             for row in rows if "~" in row["id"] and _of(row, gone)
             for clip, source in _clips(row) if clip not in there and hashed(source) not in gone}
    return sorted([*stay, *down.values(), *alone.values()], key=lambda row: row["id"])


def _explain(out: str, rows: list[dict]) -> None:
    """Why clips are in no pair, as the next build has it: of those, too, that were outdone by what is gone."""
    try:
        made = storage.read_json(storage.join(out, "stats.json"))["made"]
    except FileNotFoundError:
        return
    single = [row for row in rows if row["outcome"] == "no_pair"]
    source, split = {}, {}
    for row in rows:
        if "@" in row["id"] or "~" in row["id"] or row["outcome"] == "no_pair":  # else it was lost before
            for clip, name in _clips(row):
                source[clip], split[clip] = name, row["split"]
    if not single or made["pairing"] is None or "measure" not in made["stages"]:
        return
    measured = traces.index(out, {"measure": made["stages"]["measure"]})["measure"]
    if not source.keys() <= measured.keys() or len(source) > pairs.FEW:
        return
    settings = match.Settings(**{name: value for name, value in made["pairing"].items() if name != "both_directions"})
    _, why = pairs.find(out, source, measured, source, split, {key: key for key in source}, settings, None)
    for row in single:
        row["detail"] = why.get(row["id"], _LEFT_ALONE)


def _counted(out: str, rows: Mapping[str, list[dict]]) -> None:
    """stats.json as these ledgers have it; what rests on stages that are gone stays as it was."""
    url = storage.join(out, "stats.json")
    try:
        stats = storage.read_json(url)
    except FileNotFoundError:
        return
    source, split, lines = {}, {}, {}
    for dataset, some in rows.items():
        if dataset in stats["datasets"]:
            lines[dataset] = [_line(row) for row in some]
            for row in some:
                split[_line(row).clip] = row["split"]
                source |= dict(_clips(row))
    index = traces.index(out, stats["made"]["stages"])
    for dataset, found in lines.items():
        try:
            told = report.numbers({dataset: found}, index, split, source)[dataset]
        except KeyError:  # of a clip that no stage knows any more
            told = report.counted(found, split)
        stats["datasets"][dataset] |= told
    storage.write_json(url, stats)


def _line(row: Mapping) -> Line:
    """As far as numbers need it."""
    clip, *other = traces.clips(row["id"])
    edit = row["id"].partition("@")[2].partition("-")[0]
    if not other and not edit:
        return Line(row["id"], clip, None, row["outcome"], row["detail"], {"check": ("check", clip)})
    target = ("check", other[0]) if other else ("edit-check", row["id"])
    return Line(row["id"], clip, other[0] if other else None, row["outcome"], row["detail"],
                {"check": ("check", clip), "target_check": target}, {"edit": edit or "pair"})


def _bare(dataset: str, planned: Iterable[Shard]) -> str:
    """A card for a dataset of an earlier build, of which stats.json tells no more."""
    files = [{"split": split, "path": [f"{split}/{shard.name}" for shard in planned if shard.split == split]}
             for split in dict.fromkeys(shard.split for shard in planned)]
    head = yaml.safe_dump({"configs": [{"config_name": dataset, "data_files": files, "default": True}]})
    return (f"---\n{head}---\n\n# {write.DATASETS[dataset].TITLE}\n\nRows of an earlier build of it were taken down; "
            "building it again writes its card.\n")


def _veiled(name: str) -> str:
    return f"taken-down-{hashed(name)[:16]}"


def _log(out: str) -> str:
    return storage.join(out, "takedown", "log.json")
