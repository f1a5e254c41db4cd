"""Features: what the frozen models say of a build's media and captions, computed once, for the trainer to read.

Top to bottom: what is wanted, by content (`contents`); what of it was never encoded (`encode`), kind by kind; an index
of where it lies (training.features). Media is touched by the stages' workers only.
"""
import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from math import isqrt

import apache_beam as beam

from captioners import device, held
from manifests import outcomes, shards, storage
from manifests.outcomes import DONE
from pipelines import contents, encode, ending, engine, forget, greeting, marks, stage
from pipelines.contents import Found
from pipelines.encode import Encoder
from pipelines.engine import Engine
from pipelines.marks import Entry, Marks
from pipelines.progress import Progress
from pipelines.sandbox import Limits
from pipelines.stage import Stage, Task
from training import config, features, frozen
from training.sources import Sources

_LITTLE = 3.0  # CPU s: done here before processes would have started
_NAMES = {"mert": "audio", "vit": "image", "vivit": "video", "text-encoder": "text"}
_WHAT = {"mert": "MERT, which hears music", "vit": "ViT, which looks at images", "vivit": "ViViT, which watches videos",
         "text-encoder": "the music decoder's, which reads captions"}


@dataclass(frozen=True)
class Options:
    sources: Sources
    encoders: Mapping[str, Encoder]  # by kind
    engine: Engine
    limits: Limits

    @property
    def out(self) -> str:
        return self.sources.out


@dataclass
class Kind:
    """What became of what is wanted of one kind. `wanted` = those with features + `lost`."""
    wanted: int = 0
    contents: int = 0  # different ones
    new: int = 0       # of those, encoded in this run
    reused: int = 0
    size: int = 0      # bytes of features
    seconds: float = 0.0  # of the workers
    lost: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # one of each reason


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="the build's folder, or an fsspec URL; features are put there too")
    parser.add_argument("--size", choices=("debug", "7b"), default="debug", help="of the model (default: debug)")
    parser.add_argument("--decoder", choices=("musicgen", "audioldm2"), default="musicgen",
                        help="whose encodings of captions are wanted (default: musicgen)")
    parser.add_argument("--coco", metavar="FILE[,FOLDER]", help="COCO's captions, and the folder of its images")
    parser.add_argument("--musicqa", metavar="FILE[,FOLDER]", help="the published MusicQA, and the folder of its audio")
    for name, what in _WHAT.items():
        parser.add_argument(f"--{name}", metavar="MODEL", help=f"{what}: a Hub id (ID@REVISION) or a directory "
                                                               "(default: the published one; size debug: a random one)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"),
                        help="that models compute in (default: bfloat16 at 7b on a GPU, else float32)")
    parser.add_argument("--batch", type=engine.count, default=0, help="what a model is asked at a time, at most")
    engine.add_arguments(parser)


def parse(parser: argparse.ArgumentParser, values: argparse.Namespace, rest: list[str]) -> Options:
    """Options, or the parser's error (exit 2) that says what to do. Models are fetched and pinned."""
    for name in ("out", "coco", "musicqa"):
        if (given := getattr(values, name)) == "":
            parser.error(f"--{name}: empty")
        if given:  # in quotes, as make gives it, no shell has seen to ~
            setattr(values, name, ",".join(map(os.path.expanduser, given.split(",", 1))))
    where, limits = engine.parse(parser, values, rest)
    out = storage.absolute(values.out)
    if not (values.coco or values.musicqa or storage.names(storage.join(out, "datasets"))):
        parser.error(f"--out: there are no datasets in {out}; make them first (`make datasets OUT=...`), or give "
                     "--coco or --musicqa")
    dtype = values.dtype or ("bfloat16" if values.size == "7b" and device.there() else "float32")
    try:
        chosen = frozen.choose(config.m2ugen(values.size, values.decoder), {
            kind: getattr(values, name.replace("-", "_")) for name, kind in _NAMES.items()})
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    return Options(Sources(out, *(given and _absolute(given) for given in (values.coco, None, values.musicqa))),
                   {kind: Encoder(one, dtype, values.batch) for kind, one in chosen.items()}, where, limits)


def run(options: Options) -> dict[str, Kind]:
    """Do what is missing; what became of all that is wanted, by kind."""
    out = options.out
    asked = {row["id"]: row for row in contents.wanted(options.sources)}
    hashing = contents.stage(asked.values())
    encoding = {kind: encode.stage(encoder, options.limits) for kind, encoder in options.encoders.items()}
    kinds = {contents.KIND[row["dataset"]] for row in asked.values()}
    kinds |= {"text" for row in asked.values() if row["dataset"] in contents.SPOKEN}

    folders = {one.name: [one.folder(out)] for one in (hashing, *encoding.values())}
    where = storage.join(out, features.FOLDER)  # of its run.json: OUT's own tells of the build
    with (_alone(out), Progress(where, folders, options.engine.workers, options.engine.runner) as progress,
          ending.sudden(progress.failed, options.engine.local), stage.lease(out) as token):
        _try_out(options, kinds)
        made, _ = _done(options, hashing, {key: row["revision"] for key, row in asked.items()}, asked.__getitem__,
                        progress, token)
        wanted = {kind: {} for kind in frozen.KINDS}
        for one in _found(asked, made):
            wanted[one.kind].setdefault(one.key, one)
        told = {}
        for kind, found in wanted.items():
            if found:
                covers = {key: row["size"] for key, row in asked.items() if contents.KIND[row["dataset"]] == kind
                          and "url" in row}
                told[kind] = _encoded(options, encoding[kind], found, covers, progress, token)
            else:  # of what an earlier run wanted
                for suffix in ("json", "arrow"):
                    storage.remove(storage.join(out, features.FOLDER, f"{kind}.{suffix}"))
        held.release()
        for one in (hashing, *encoding.values()):
            marks.tidy(one.folder(out))
    return told


def _encoded(options: Options, one: Stage, wanted: Mapping[str, Found], covers: Mapping[str, int], progress: Progress,
             token: str) -> Kind:
    """Have one kind encoded, and its index written."""
    kind = one.name.removeprefix("features-")
    encoder, root = options.encoders[kind], options.out.rstrip("/") + "/"
    first: dict[str, Found] = {}  # with each content
    for found in wanted.values():
        if found.digest:
            first.setdefault(found.digest, found)
    _mend(options.out, one)
    before = progress.done[one.name]["seconds"]
    entries, new = _done(options, one, dict.fromkeys(first), lambda digest: first[digest].row(), progress, token)
    told = Kind(len(wanted), len(first), new, len(first) - new)
    places: dict[str, dict[str, int]] = {}

    def placed(key: str, found: Found) -> tuple[str, str | None, int, str, str]:
        entry = entries.get(found.digest)
        if entry is None:
            reason, detail = "unreadable", found.fault
        else:
            reason, detail = entry.outcome, entry.detail
        if reason != DONE:
            told.lost[reason] += 1
            told.examples.setdefault(reason, f"{key}: {detail}")
            return key, None, -1, reason, detail
        if entry.url not in places:
            mark = storage.read_json(entry.url.removesuffix("arrow") + "json")
            # Rows of a shard lie in the order of their ids (encode).
            places[entry.url] = {digest: row for row, digest in enumerate(sorted(mark["rows"]))}
        return key, entry.url.removeprefix(root), places[entry.url][found.digest], DONE, ""

    features.publish(options.out, kind, encoder.model.about(), encoder.model.shape,
                     (placed(key, found) for key, found in wanted.items()), covers)
    told.size = encoder.bytes * sum(entry.outcome == DONE for entry in entries.values())
    told.seconds = progress.done[one.name]["seconds"] - before
    return told


def _done(options: Options, one: Stage, wanted: Mapping[str, str | None], row: Callable[[str], dict],
          progress: Progress, token: str) -> tuple[dict[str, Entry], int]:
    """Have every `row` that is wanted, by its id, settled in the stage in its revision, if it has one: what became of
    each, and how many were asked for in this run.

    What a shard holds, and its name, follow from the rows that are missing, and from nothing that happens: a run that
    goes on after a kill makes the shards that the killed one would have made.
    """
    size = min(max(isqrt(len(wanted)) // 2, one.least), one.most)
    known = _known(options.out, one, wanted)
    tasks, keys = [], iter(wanted)
    while some := list(islice(keys, size)):
        if missing := [key for key in some if not one.settled(known.get(key))]:
            name = json.dumps([[key, wanted[key]] for key in missing])
            tasks.append(Task(hashlib.sha256(name.encode()).hexdigest()[:16], rows=tuple(map(row, missing))))
    count = sum(len(task.rows) for task in tasks)
    if tasks:
        progress.expect({one.name: count})
        processes = options.engine.processes(count * one.cost < _LITTLE, 0, one.processes)
        if processes > 1:
            held.release()  # what little work brought here, they may need the room of
        stage.run(options.out, tasks, [one], options.engine.pipeline(processes), token)
        progress.expect({})
        known = _known(options.out, one, wanted)
    return known, count


def _known(out: str, one: Stage, wanted: Mapping[str, str | None]) -> dict[str, Entry]:
    """What became of those that the stage was ever asked for, in the revision that is wanted."""
    found: dict[str, Entry] = {}
    read = Marks(one.folder(out)).refresh().read
    for stem in sorted(read):
        for key, entry in Marks(one.folder(out), {stem: read.pop(stem)}).index().items():
            if key in wanted and entry.revision == wanted[key] and not one.settled(found.get(key)):
                found[key] = entry
    return found


def _found(asked: Mapping[str, dict], made: Mapping[str, Entry]) -> Iterator[Found]:
    """All that is wanted, in the order of the datasets. Raises RuntimeError for a shard that cannot be read."""
    if failed := [f"{key}: {made[key].detail}" for key in asked if made[key].outcome != DONE]:
        raise RuntimeError(failed[0] + (f" (and {len(failed) - 1} more like it)" if failed[1:] else ""))
    stored = {row["id"]: row for url in sorted({entry.url for entry in made.values()}) for row in shards.read(url)
              if row["id"] in made and made[row["id"]].url == url}
    for key, row in asked.items():
        yield from contents.found(row, stored.pop(key))


def _mend(out: str, one: Stage) -> None:
    """Remove shards that are not what their markers say, as where a disk was full or a copy broke off: they are made
    again. A store elsewhere has no halves of files."""
    folder = storage.local_path(one.folder(out))
    for stem, mark in Marks(folder).refresh().read.items() if folder else ():
        url = storage.join(folder, f"{stem}.arrow")
        try:
            whole = [key for batch in shards.batches(url, ["id"]) for key in batch["id"].to_pylist()] == sorted(
                mark["rows"])
        except ValueError:
            whole = False
        if not whole:
            print(f"{url}: not whole; it is made again", file=sys.stderr)
            storage.remove(url)


@contextmanager
def _alone(out: str) -> Iterator[None]:
    """Nobody else works here, and the halves of files that a killed run left are gone."""
    with storage.lock(out):
        for folder in ("stages", features.FOLDER):
            storage.sweep(storage.join(out, folder))
        forget.finish(out)  # what a killed takedown began
        yield


def _try_out(options: Options, kinds: set[str]) -> None:
    """Load each model once before any work, where this machine never did for this OUT; elsewhere, on a worker."""
    def marker(one: Encoder) -> str:
        told = json.dumps([os.uname().nodename, one.kind, one.version()], sort_keys=True)
        return storage.join(options.out, "stages", "models",
                            f"features-{one.kind}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.json")

    untried = [one for kind, one in options.encoders.items()
               if kind in kinds and one.model.pinned and not storage.exists(marker(one))]
    if not options.engine.local:
        greeting.greet(options.out, options.engine.pipeline(), options.engine.timeout)
        if untried:
            pipeline = options.engine.pipeline()
            _ = pipeline | "models" >> beam.Create(untried) | "try" >> beam.Map(encode.try_out)
            stage.to_the_end(pipeline)
    else:
        for number, one in enumerate(untried, 1):
            print(f"loading {one.name} once, to see that it can be ({number} of {len(untried)})", file=sys.stderr)
            encode.try_out(one)
    for one in untried:
        storage.write_json(marker(one), one.version())


def _absolute(given: str) -> str:
    return ",".join(storage.absolute(part) for part in given.split(",", 1))


def table(told: Mapping[str, Kind], run: dict) -> str:
    """The result as a person reads it; `run` is OUT/features/run.json."""
    lines = []
    for kind, one in told.items():
        size = f"{one.size / 1e9:.2f} GB" if one.size >= 1e9 else f"{one.size / 1e6:.2f} MB"
        lines.append(f"{kind}: {one.wanted} wanted, {one.wanted - one.lost.total()} done; {one.contents} different, "
                     f"{one.new} new, {one.reused} reused; {size}; {one.seconds:.1f} worker s")
        lines += [f"  lost {count:>6}  {reason:<14} {outcomes.REASONS[reason]}"
                  + (" (asked again next time)" if reason in outcomes.TRANSIENT else "")
                  + f"; such as {one.examples[reason]}" for reason, count in one.lost.most_common()]
    if not any(one.new for one in told.values()):
        lines.append("nothing was left to do")
    return "\n".join([*lines, f"{run['seconds']:.1f} s in all, workers: {run['workers']}"])
