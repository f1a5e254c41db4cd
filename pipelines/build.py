"""A build, top to bottom: what is asked for, what became of each clip, what is written.

Everything here handles ids and small records; media is touched by the stages' workers only.
"""
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from manifests import records, shards, splits, storage
from manifests.outcomes import DONE
from pipelines import caption, card, duplicates, ending, fetch, greeting, measure, report, sample, stage, write
from pipelines import filter as filtering
from pipelines.audioset import MOST
from pipelines.breaker import Breaker
from pipelines.options import Options
from pipelines.progress import Progress
from pipelines.stage import Entry, Marks, Stage, Task

_FEW = 5000       # captions: a second or two of work for the measured captioner
_LITTLE = 2**30   # bytes to write: likewise

Index = dict[str, dict[str, Entry]]  # stage → key → what became of it


def build(options: Options) -> dict:
    """Do what is missing; returns the statistics that are in OUT/stats.json too."""
    out = options.out
    segments = _listed(fetch.segments(options))
    split = {key: _split(row["source_id"], options.assignment) for key, row in segments.items()}
    requested = {dataset: [key for key, row in segments.items()
                           if splits.assign(row["source_id"], dataset, options.assignment)
                           and fetch.serves(row, dataset, options)]
                 for dataset in options.datasets}
    wanted = {key: segments[key] for keys in requested.values() for key in keys}

    fetched = fetch.stage(options)
    measured = replace(measure.stage(fetched, options.tagger, options.limits), again=options.retry)
    judged = filtering.stage(measured, options.thresholds)
    captioned = replace(caption.stage(measured, options.seed), again=options.retry)
    stages = {one.name: one for one in (fetched, measured, judged, captioned)}
    marks = {name: Marks(one.folder(out)) for name, one in stages.items()}

    local = options.runner == "FnApiRunner"
    with (_alone(out), Progress(out, stages, options) as progress, ending.sudden(progress.failed, local),
          stage.lease(out) as token):
        if not local:
            greeting.greet(out, options.pipeline(), options.worker_timeout)
        truth = storage.join(out, "sample", "truth.json")
        if options.source == "sample":
            storage.write_json(truth, sample.truth(segments))
        else:
            storage.remove(truth)  # of an earlier build here
        index = _index(marks, wanted)
        new = _new(fetched, wanted, index, marks["fetch"], options)
        work = new + _tasks(index, {*_pending(measured, index), *_pending(judged, index)})
        if work:
            fresh = sum(len(task.rows) for task in new)
            backlog = len(_pending(measured, index))
            progress.expect(fetch=fresh, measure=fresh + backlog,
                            filter=fresh + backlog + len(_pending(judged, index)))
            fetchers = min(options.audioset.fetchers, len(new)) if options.audioset else 0
            stage.run(out, work, [fetched, measured, judged], options.pipeline(workers=fetchers), token)
            index = _index(marks, wanted)

        kept = [key for key, entry in index["filter"].items() if entry.outcome == DONE]
        repeats = duplicates.find(out, kept, index["fetch"], index["measure"], split,
                                  options.thresholds.max_duplicate_error)

        kept = set(kept) - set(repeats)
        work = _tasks(index, [key for key in _pending(captioned, index) if key in kept])
        if work:
            clips = sum(len(task.keys) for task in work)
            progress.expect(caption=clips)
            stage.run(out, work, [captioned], options.pipeline(small=clips < _FEW), token)
            index = _index(marks, wanted)

        ledger = {dataset: [_fate(dataset, segments[key], split[key], index, repeats) for key in sorted(keys)]
                  for dataset, keys in requested.items()}
        plans = {dataset: write.plan(dataset, {row["id"]: row["split"] for row in rows if row["outcome"] == DONE},
                                     index["fetch"], index["measure"], index["caption"])
                 for dataset, rows in ledger.items()}
        work = [shard for plan in plans.values() for shard in plan if not write.written(out, shard)]
        if work:
            progress.expect(write=sum(len(shard.rows) for shard in work))
            size = sum(index["fetch"][row.id].bytes for shard in work for row in shard.rows)
            write.run(out, work, options.pipeline(small=size < _LITTLE))

        stats = report.statistics(ledger, index, options, stages)
        for dataset, rows in ledger.items():
            write.finish(out, dataset, plans[dataset], card.card(out, dataset, plans[dataset], stats))
            shards.write(storage.join(out, "ledger", f"{dataset}.arrow"), records.LEDGER, rows)
        storage.write_json(storage.join(out, "stats.json"), stats)
        for folder in ("sample", "stages", "ledger"):
            storage.sweep(storage.join(out, folder))
        for one in stages.values():
            stage.tidy(one.folder(out))
    return stats


@contextmanager
def _alone(out: str) -> Iterator[None]:
    """Nobody else builds here, and what a killed build left is gone: halves of files, downloads, cookies."""
    with storage.lock(out):
        for name in storage.names(out):
            if name.startswith(storage.TEMPORARY):
                storage.remove(storage.join(out, name))
        storage.sweep(storage.join(out, "stages"))
        yield


def _listed(rows: Iterable[dict]) -> dict[str, dict]:
    """By id, in the order of the clip store, so that neighbours in it become neighbours in the datasets."""
    segments: dict[str, dict] = {}
    for row in rows:
        if row.keys() != set(records.SEGMENT.names):
            raise ValueError(f"{row['id']}: a source gave {sorted(row)} in place of {records.SEGMENT.names}")
        if row["id"] in segments:
            raise ValueError(f"two clips share the id {row['id']!r}: {segments[row['id']]['uri']} and {row['uri']}")
        segments[row["id"]] = row
    return dict(sorted(segments.items(), key=lambda item: (write.order(item[0]), item[0])))


def _split(source_id: str, assignment: str) -> str:
    """The video's split in whichever dataset may use it: `assign` gives it one in all of them."""
    dataset = splits.owner(source_id) if assignment == "disjoint" else next(iter(splits.SIZES))
    return splits.assign(source_id, dataset, assignment)


def _index(marks: Mapping[str, Marks], wanted: Mapping[str, dict]) -> Index:
    """What is known of the wanted clips. Entries of an older revision of a clip do not count."""
    known = {name: mark.refresh().index() for name, mark in marks.items()}
    fetched = {key: entry for key, entry in known["fetch"].items()
               if key in wanted and entry.revision == wanted[key]["revision"]}
    later = {name: {key: entry for key, entry in entries.items()
                    if key in fetched and entry.shard == fetched[key].shard}
             for name, entries in known.items() if name != "fetch"}
    return {"fetch": fetched, **later}


def _new(fetched: Stage, wanted: Mapping[str, dict], index: Index, marks: Marks, options: Options) -> list[Task]:
    """Tasks for what was never fetched, or failed for a reason that may pass.

    Sizes follow from all that is wanted, not from what is missing: a resumed build then cuts the rest into the same
    shards as an undisturbed one. About 2·√n of them keep markers few and losses to a kill small.
    """
    source = options.audioset
    if source and Breaker(options.out).open():
        return []
    missing = [row for key, row in wanted.items() if not fetched.settled(index["fetch"].get(key))]
    size = min(max(math.isqrt(len(wanted)) // 2, 4), 512)
    if source:
        size = min(size, MOST, max(len(missing) // source.fetchers, 1))
    generation = 1 + max((int(stem[1:5]) for stem in marks.read), default=0)
    return [Task(f"g{generation:04d}-{number:06d}", rows=tuple(missing[start:start + size]),
                 lane=f"fetcher {number % source.fetchers}" if source else "")
            for number, start in enumerate(range(0, len(missing), size))]


def _pending(one: Stage, index: Index) -> list[str]:
    """Keys that the stage's input has and the stage has not settled."""
    own = index[one.name]
    return [key for key, entry in index[one.reads.name].items()
            if entry.outcome == DONE and not one.settled(own.get(key))]


def _tasks(index: Index, keys: Iterable[str]) -> list[Task]:
    """Tasks for fetched clips, by the shard that they lie in."""
    by_shard: dict[str, list[str]] = {}
    for key in keys:
        by_shard.setdefault(index["fetch"][key].shard, []).append(key)
    return [Task(shard, tuple(sorted(by_shard[shard]))) for shard in sorted(by_shard)]


def _fate(dataset: str, segment: dict, split: str, index: Index, repeats: Mapping[str, str]) -> dict:
    """The clip's row of the ledger: the first stage that lost it says why."""
    key = segment["id"]
    # File names are bytes: what is no UTF-8, or would break a line, is shown escaped.
    uri = os.fsencode(segment["uri"]).decode("utf-8", "backslashreplace")
    uri = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in uri)
    fate = {"dataset": dataset, "id": key, "source_id": segment["source_id"], "uri": uri, "split": split}
    for name in ("fetch", "measure", "filter"):
        entry = index[name].get(key)
        if entry is None:  # the fetching had stopped before it
            return fate | {"outcome": "not_asked", "detail": ""}
        if entry.outcome != DONE:
            return fate | {"outcome": entry.outcome, "detail": entry.detail}
    if key in repeats:
        return fate | {"outcome": "duplicate", "detail": repeats[key]}
    entry = index["caption"][key]
    return fate | {"outcome": entry.outcome, "detail": entry.detail}
