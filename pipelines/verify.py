"""Whether a build's datasets are whole, before anybody else is given them.

Everything is read once: counts must agree wherever they are told, every row must have its media and texts, a sample of
the media must decode, and no source may be in two splits. Memory holds a hash for each id and source, about 150 bytes.
"""
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import yaml
from datasets import Features

from manifests import media, shards, splits, storage
from manifests.messages import named, one_line, shown
from manifests.outcomes import DONE, REASONS, Loss
from pipelines import sandbox
from pipelines.write import DATASETS

_SAMPLE = 24  # rows of a dataset whose media is decoded, about, beside each shard's first
_SHOWN = 10   # faults in a message


class Unsound(ValueError):
    """The datasets must not be published; the message says why, and what to do."""


@dataclass(frozen=True)
class Shard:
    """A sound Arrow shard of a dataset."""
    url: str
    rows: int
    media: int  # bytes of media in it
    rest: int   # of everything else


def verify(out: str, datasets: Sequence[str] | None = None) -> dict[str, dict[str, list[Shard]]]:
    """The shards of each dataset (None: of all that the build made) by split, in their order; a dataset without a row
    has none. Raises Unsound."""
    ended(out)
    stats = _stats(out)
    if unknown := [dataset for dataset in datasets or () if dataset not in stats]:
        raise Unsound(f"{out}: {', '.join(unknown)} is not of its last build, which made {', '.join(stats)}; name "
                      "those (DATASETS=), or build again")
    faults: list[str] = []
    split_of: dict[bytes, str] = {}
    found = {dataset: _dataset(out, dataset, stats[dataset], split_of, faults)
             for dataset in (stats if datasets is None else datasets)}
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise Unsound(f"{out}: not fit to be published: {'; '.join(faults[:_SHOWN])}{more}. Remove the folders of "
                      "these datasets and run `make datasets` again: it makes them anew of what is in OUT/stages")
    return found


def ended(out: str) -> None:
    """Unsound where there is no build, or its last run did not end well."""
    if (state := _told(out, "run.json").get("state")) != "done":
        raise Unsound(f"{out}: its last build did not end well ({shown(str(state))}); run `make datasets` again")


def kinds(schema: pa.Schema) -> dict[str, str]:
    """The media columns of an Arrow schema: name → "Audio", "Image" or "Video", as `datasets` notes it there."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return {name: kind["_type"] for name, kind in noted.get("info", {}).get("features", {}).items()
            if isinstance(kind, dict) and kind.get("_type") in ("Audio", "Image", "Video")}


def decoded(medium: dict) -> None:
    """Decode {"kind", "bytes"}, all of it. Raises Loss. Called in a process of its own."""
    try:
        if medium["kind"] == "Image":
            from PIL import Image
            Image.open(io.BytesIO(medium["bytes"])).load()
        elif medium["kind"] == "Video":
            media.frames(medium["bytes"], 1)
        else:
            media.decode_audio(medium["bytes"], 1.0)
    except (media.MediaError, OSError, ValueError) as error:
        raise Loss("decode_error", str(error)) from error


def _told(out: str, name: str) -> dict:
    url = storage.join(out, name)
    with named(out):
        there = storage.exists(url)
    if not there:
        raise Unsound(f"{out}: no finished build here (there is no {name}); `make datasets OUT={out}` makes one")
    if not isinstance(value := storage.read_json(url), dict):
        raise Unsound(f"{url}: is not what a build writes there; run `make datasets` again")
    return value


def _stats(out: str) -> dict[str, dict]:
    """The numbers of each dataset, those that are compared here all there."""
    stats = _told(out, "stats.json").get("datasets")
    sound = isinstance(stats, dict) and all(
        name in DATASETS and isinstance(numbers, dict) and {"requested", "done", "lost", "splits"} <= numbers.keys()
        and all(type(one) is int for one in (numbers["requested"], numbers["done"]))
        and all(isinstance(counts, dict) and all(type(one) is int for one in counts.values())
                for counts in (numbers["lost"], numbers["splits"])) for name, numbers in stats.items())
    if not sound:
        raise Unsound(f"{out}/stats.json: is not what a build writes there; run `make datasets` again")
    return stats


def _dataset(out: str, dataset: str, numbers: dict, split_of: dict[bytes, str], faults: list[str]
             ) -> dict[str, list[Shard]]:
    """The dataset's shards; what is wrong goes to `faults`."""
    root = storage.join(out, "datasets", dataset)
    listed = _listed(root, numbers, faults) if numbers["done"] or storage.names(root) else {}
    rows: dict[bytes, str] = {}
    chance = _SAMPLE / max(numbers["done"], 1)
    found = {split: [shard for url in urls
                     if (shard := _shard(dataset, url, split, chance, rows, split_of, faults))]
             for split, urls in listed.items()}
    counts = {split: sum(shard.rows for shard in found.get(split, ())) for split in (splits.TRAIN, splits.EVAL)}
    if counts != numbers["splits"] or sum(counts.values()) != numbers["done"]:
        faults.append(f"{root}: holds {_words(counts)}, and stats.json says {_words(numbers['splits'])} of "
                      f"{numbers['done']}")
    _ledger(out, dataset, numbers, rows, faults)
    return {split: held for split, held in found.items() if held}


def _listed(root: str, numbers: dict, faults: list[str]) -> dict[str, list[str]]:
    """The shards of each split, as the dataset's files tell: the card and `load_from_disk`'s must agree."""
    try:
        head = yaml.safe_load(storage.read_bytes(storage.join(root, "README.md")).decode().split("---\n")[1])
        config, info = head["configs"][0], head["dataset_info"]
        named = {one["split"]: [path.rpartition("/")[2] for path in one["path"]] for one in config["data_files"]}
        carded = {one["name"]: one["num_examples"] for one in info["splits"]}
        present = {split: [one["filename"] for one in
                           storage.read_json(storage.join(root, split, "state.json"))["_data_files"]]
                   for split in storage.read_json(storage.join(root, "dataset_dict.json"))["splits"]}
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
        faults.append(f"{root}: its card or its lists of shards cannot be read ({one_line(error)})")
        return {}
    lying = {split: [name for name in storage.names(storage.join(root, split)) if name.endswith(".arrow")]
             for split in present}
    if not named == present == lying:
        faults.append(f"{root}: the shards that its card names, those of state.json and those that lie there differ")
        present = {split: [name for name in names if name in lying[split]] for split, names in present.items()}
    if carded != {split: count for split, count in numbers["splits"].items() if count}:
        faults.append(f"{root}: its card says {_words(carded)}, and stats.json {_words(numbers['splits'])}")
    return {split: [storage.join(root, split, name) for name in names] for split, names in present.items()}


def _shard(dataset: str, url: str, split: str, chance: float, rows: dict[bytes, str], split_of: dict[bytes, str],
           faults: list[str]) -> Shard | None:
    columns = list(DATASETS[dataset].features().items())
    count = size = rest = 0
    try:
        for batch in shards.batches(url):
            batch.validate(full=True)
            # Which columns are media is noted there: what is published without media must not be misled.
            if list(Features.from_arrow_schema(batch.schema).items()) != columns:
                faults.append(f"{url}: its columns are not those of {dataset}, as this version makes them")
                return None
            pictured = kinds(batch.schema)
            ids = batch.column("id").to_pylist()
            for place, key in enumerate(ids):
                digest = _digest(str(key))
                if digest in rows:
                    faults.append(f"{url}: the id {shown(str(key))} is there twice")
                rows[digest] = split
                if count + place == 0 or splits.fraction(str(key), "verify") < chance:
                    _decode(url, key, batch, place, pictured, faults)
            for name in batch.schema.names:
                if name.endswith("source_id"):
                    _leaks(url, split, batch.column(name).to_pylist(), split_of, faults)
            faults.extend(f"{url}: {what}" for what in _empty(batch, pictured, ids))
            count += batch.num_rows
            size += sum(_bytes(batch, name) for name in pictured)
            rest += batch.drop_columns(list(pictured)).nbytes
    except (ValueError, KeyError, pa.ArrowException) as error:
        faults.append(f"{url}: {one_line(error)}")
        return None
    if not count:
        faults.append(f"{url}: holds no row")
        return None
    return Shard(url, count, size, rest)


def _decode(url: str, key: str, batch: pa.RecordBatch, place: int, pictured: dict[str, str], faults: list[str]) -> None:
    for name, kind in pictured.items():
        try:
            sandbox.call(decoded, {"kind": kind, "bytes": batch.column(name)[place]["bytes"].as_py() or b""},
                         sandbox.Limits())
        except Loss as loss:
            faults.append(f"{url}: {name} of {shown(str(key))} cannot be decoded ({loss.detail})")


def _leaks(url: str, split: str, sources: list[str], split_of: dict[bytes, str], faults: list[str]) -> None:
    """A row's sources, its target's too, are of its own split, in whatever dataset they are met."""
    for source in dict.fromkeys(sources):
        if split_of.setdefault(_digest(str(source)), split) != split:
            faults.append(f"{url}: the source {shown(str(source))} is in two splits")


def _empty(batch: pa.RecordBatch, pictured: dict[str, str], ids: list[str]) -> list[str]:
    """What a row lacks that every row must have."""
    whole = {name: pc.binary_length(pc.struct_field(batch.column(name), "bytes")) for name in pictured}
    whole |= {name: pc.binary_length(batch.column(name)) for name in batch.schema.names
              if name in ("id", "source_id", "target_source_id", "caption") or name.endswith("_caption")}
    if "conversation" in batch.schema.names:
        whole["conversation"] = pc.list_value_length(batch.column("conversation"))
    lacking = []
    for name, lengths in whole.items():
        good = pc.fill_null(pc.greater(lengths, 0), False).to_pylist()
        if not all(good):
            lacking.append(f"{name} of {shown(str(ids[good.index(False)]))} is empty")
    return lacking


def _bytes(batch: pa.RecordBatch, name: str) -> int:
    return pc.sum(pc.binary_length(pc.struct_field(batch.column(name), "bytes"))).as_py() or 0


def _ledger(out: str, dataset: str, numbers: dict, rows: dict[bytes, str], faults: list[str]) -> None:
    """requested = done + lost, and what is done is what is there."""
    url = storage.join(out, "ledger", f"{dataset}.arrow")
    outcomes: Counter[str] = Counter()
    absent = 0
    try:
        for line in shards.read(url, ["id", "split", "outcome"]):
            outcomes[line["outcome"]] += 1
            absent += line["outcome"] == DONE and rows.get(_digest(line["id"])) != line["split"]
    except (ValueError, KeyError) as error:
        faults.append(one_line(error))
        return
    done = outcomes.pop(DONE, 0)
    if unknown := sorted(outcomes.keys() - REASONS.keys()):
        faults.append(f"{url}: {shown(unknown[0])} is no reason to lose a row")
    told = numbers["requested"], numbers["done"], numbers["lost"]
    if (done + outcomes.total(), done, dict(outcomes)) != told or numbers["requested"] != done + sum(
            numbers["lost"].values()):
        faults.append(f"{url}: {done} done and {outcomes.total()} lost, and stats.json says {numbers['requested']} "
                      f"requested, {numbers['done']} done and {sum(numbers['lost'].values())} lost")
    if absent or done != len(rows):
        faults.append(f"{url}: {done} rows are done, of which {absent} are not in the dataset or not in their split; "
                      f"it holds {len(rows)}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in sorted(counts.items()))
