"""A build, top to bottom: what is asked for, what became of each clip, what is written.

Everything here handles ids and small records; media is touched by the stages' workers only.
"""
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from captioners import model
from manifests import records, shards, splits, storage
from manifests.outcomes import DONE
from pipelines import (
    caption,
    card,
    check,
    duplicates,
    ending,
    fetch,
    forget,
    greeting,
    marks,
    measure,
    report,
    sample,
    stage,
    trial,
    write,
)
from pipelines import filter as filtering
from pipelines.lines import Line
from pipelines.options import Options
from pipelines.progress import Progress
from pipelines.stage import Stage
from pipelines.work import Work

_LITTLE = 2**30  # bytes to write: a second or two


def build(options: Options) -> dict:
    """Do what is missing; returns the statistics that are in OUT/stats.json too."""
    out = options.out
    segments = _listed(fetch.segments(options))
    split = {key: _split(row["source_id"], options.assignment) for key, row in segments.items()}
    requested = {dataset: [key for key, row in segments.items()
                           if splits.assign(row["source_id"], dataset, options.assignment)
                           and fetch.serves(row, dataset, options)]
                 for dataset in options.datasets}
    stages = _stages(options)
    _warn(options)

    folders = {name: [one.folder(out)] for name, one in stages.items()}
    folders["write"] = [storage.join(out, "stages", "write", dataset) for dataset in options.datasets]
    local = options.runner == "FnApiRunner"
    with (_alone(out), Progress(out, folders, options.workers, options.runner) as progress,
          ending.sudden(progress.failed, local), stage.lease(out) as token):
        down = forget.among(out, segments)
        fallen = {dataset: [key for key in keys if key in down] for dataset, keys in requested.items()}
        requested = {dataset: [key for key in keys if key not in down] for dataset, keys in requested.items()}
        wanted = {key: segments[key] for keys in requested.values() for key in keys}
        untried = trial.untried(out, options.models.values())
        if not local:
            greeting.greet(out, options.pipeline(), options.worker_timeout, untried)
        else:
            for number, spec in enumerate(untried, 1):
                print(f"loading {spec.name} once, to see that it can be ({number} of {len(untried)}): {spec.revision}",
                      file=sys.stderr)
                model.try_out(spec)
        trial.passed(out, untried)
        truth = storage.join(out, "sample", "truth.json")
        if options.source == "sample":
            storage.write_json(truth, sample.truth([key for key in segments if key not in down]))
        else:
            storage.remove(truth)  # of an earlier build here
        work = Work(options, stages, segments, split, progress, token)
        work.ask([stages["fetch"], stages["measure"], stages["filter"]], wanted)

        kept = work.done(wanted, ("fetch", "measure", "filter"))
        work.index["duplicates"] = duplicates.find(out, kept, segments, work.index, split,
                                                   options.thresholds.max_duplicate_error)
        kept = work.done(kept, ("duplicates",))
        work.ask([stages["caption"]], caption.rows(work, "caption", kept, clip="fetch", measurement="measure"))
        kept = work.done(kept, ("caption",))
        work.ask([stages["check"]], {key: work.row(key, {"caption": ("caption", key), "measurement": ("measure", key)})
                                     for key in kept})

        lines = {dataset: _ordered(dataset, [*write.DATASETS[dataset].lines(work, keys),
                                             *map(forget.line, fallen[dataset])])
                 for dataset, keys in requested.items()}
        plans = {dataset: write.plan(dataset, [line for line in found if line.outcome == DONE], segments, split,
                                     work.index)
                 for dataset, found in lines.items()}
        missing = [shard for plan in plans.values() for shard in plan if not write.written(out, shard)]
        if missing:
            progress.expect({"write": sum(len(shard.rows) for shard in missing)})
            little = sum(shard.media for shard in missing) < _LITTLE
            write.run(out, missing, options.pipeline(options.processes(little)))

        stats = report.statistics(lines, work)
        for dataset, found in lines.items():
            write.finish(out, dataset, plans[dataset], card.card(out, dataset, plans[dataset], stats))
            shards.write(storage.join(out, "ledger", f"{dataset}.arrow"), records.LEDGER,
                         (_told(dataset, line, work) for line in found))
        storage.write_json(storage.join(out, "stats.json"), stats)
        for folder in ("sample", "stages", "ledger"):
            storage.sweep(storage.join(out, folder))
        for one in stages.values():
            marks.tidy(one.folder(out))
    return stats


def _stages(options: Options) -> dict[str, Stage]:
    """Every stage of this build, in the order of their work."""
    fetched = fetch.stage(options)
    measured = measure.stage(fetched, options.tagger, options.limits)
    floor = [fetched, measured, filtering.stage(measured, options.thresholds),
             caption.stage("caption", "music", options), check.stage(options.drop_contradictions)]
    named = {one.name: one for one in floor}
    named |= {one.name: one for dataset in options.datasets for one in write.DATASETS[dataset].stages(options, named)}
    return {name: one if name == "filter" else replace(one, again=options.retry) for name, one in named.items()}


def _warn(options: Options) -> None:
    """Of what another command built here, and this one will not leave, or not renew."""
    try:
        before = storage.read_json(storage.join(options.out, "stats.json"))
    except FileNotFoundError:
        return
    if before["made"]["source"] != options.source:
        print(f"{options.out} holds a build of source {before['made']['source']}: its datasets of the same names are "
              "replaced", file=sys.stderr)
    there = storage.names(storage.join(options.out, "datasets"))
    if others := [name for name in there if name not in options.datasets]:
        print(f"{options.out}: {', '.join(others)} of an earlier build stay as they are; copies of a recording are "
              "found among what is built together", file=sys.stderr)


@contextmanager
def _alone(out: str) -> Iterator[None]:
    """Nobody else builds here, and what a killed build left is gone: halves of files, downloads, cookies."""
    with storage.lock(out):
        for name in storage.names(out):
            if name.startswith(storage.TEMPORARY):
                storage.remove(storage.join(out, name))
        storage.sweep(storage.join(out, "stages"))
        forget.finish(out)  # what a killed takedown began
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


def _ordered(dataset: str, lines: Iterable[Line]) -> list[Line]:
    found = sorted(lines, key=lambda line: line.id)
    for one, other in itertools.pairwise(found):
        if one.id == other.id:
            raise ValueError(f"{dataset}: two rows share the id {one.id!r}: of {one.clip} and of {other.clip}")
    return found


def _told(dataset: str, line: Line, work: Work) -> dict:
    """The line's row of the ledger."""
    segment = work.segments[line.clip]
    if line.outcome == forget.REASON:
        return forget.told(dataset, line.clip, segment["source_id"], work.split[line.clip])
    # File names are bytes: what is no UTF-8, or would break a line, is shown escaped.
    uri = os.fsencode(segment["uri"]).decode("utf-8", "backslashreplace")
    uri = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in uri)
    return {"dataset": dataset, "id": line.id, "source_id": segment["source_id"],
            "target_source_id": line.target and work.segments[line.target]["source_id"], "uri": uri,
            "split": work.split[line.clip], "outcome": line.outcome, "detail": line.detail}
