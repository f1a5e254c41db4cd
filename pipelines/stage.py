"""Per-key stages: functions from shards to shards, done once per key and version, killed and resumed at any point.

A stage writes `OUT/stages/NAME/TAG/SHARD.ATTEMPT.arrow` and then, as the commit marker, the same name with `.json`:
what became of each key, a digest of its row, and what it cost. Everything that is known about progress is read from
these markers, so it is the same for any runner. TAG changes with the stage's version and parameters and with those of
the stage that it reads: bumping one redoes it and what follows, nothing before.
"""
import hashlib
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
from threadpoolctl import threadpool_limits

from manifests import shards, storage
from manifests.outcomes import DONE, TRANSIENT, Loss


@dataclass(frozen=True)
class Stage:
    """`each` turns an input row (a dict) into the fields of `schema`, or raises Loss. It must be picklable."""
    name: str
    tag: str
    schema: pa.Schema
    each: Callable[[dict], dict]
    reads: "Stage | None" = None              # None: its rows come with the task
    columns: tuple[str, ...] | None = None    # what it needs of them; None = all

    def folder(self, out: str) -> str:
        return storage.join(out, "stages", self.name, self.tag)


@dataclass(frozen=True)
class Task:
    """One shard's worth of work. `keys` None = every key that the input has; `rows` = the input of a first stage."""
    shard: str
    keys: tuple[str, ...] | None = None
    rows: tuple[dict, ...] = ()


@dataclass(frozen=True)
class Entry:
    """What became of one key in one stage."""
    url: str            # the shard that holds its row
    shard: str
    outcome: str
    digest: str         # of the row, media excepted
    detail: str
    revision: str | None
    sha256: str | None  # of its media
    bytes: int          # of media in the row

    @property
    def settled(self) -> bool:
        return self.outcome not in TRANSIENT


@dataclass
class Marks:
    """The committed markers of a stage, by the name that they share with their shard."""
    folder: str
    read: dict[str, dict] = field(default_factory=dict)

    def refresh(self) -> "Marks":
        """Read the markers that are new. One whose shard is gone does not count: removing a shard has it made anew."""
        names = set(storage.names(self.folder))
        for stem in sorted(name.removesuffix(".json") for name in names if name.endswith(".json")):
            if not stem.startswith(storage.TEMPORARY) and f"{stem}.arrow" in names:
                self._read(stem)
        return self

    def of(self, shard: str) -> "Marks":
        """Read the markers of one shard, without listing the folder: attempts are numbered without gaps."""
        while all(storage.exists(storage.join(self.folder, f"{shard}.{len(self.read)}.{ending}"))
                  for ending in ("json", "arrow")):
            self._read(f"{shard}.{len(self.read)}")
        return self

    def _read(self, stem: str) -> None:
        if stem not in self.read:
            self.read[stem] = storage.read_json(storage.join(self.folder, f"{stem}.json"))

    def index(self) -> dict[str, Entry]:
        """Each key's newest entry."""
        found = {}
        for stem in sorted(self.read, key=_age):
            shard, url = stem.rpartition(".")[0], storage.join(self.folder, f"{stem}.arrow")
            for key, row in self.read[stem]["rows"].items():
                found[key] = Entry(url, shard, row["outcome"], row["digest"], row.get("detail", ""),
                                   row.get("revision"), row.get("sha256"), row.get("bytes", 0))
        return found


def tidy(folder: str) -> None:
    """Remove shards that never got their marker, and markers that lost their shard."""
    names = set(storage.names(folder))
    for stem, ending in (name.rsplit(".", 1) for name in sorted(names)):
        if f"{stem}.{'arrow' if ending == 'json' else 'json'}" not in names:
            storage.remove(storage.join(folder, f"{stem}.{ending}"))


def tag(version: int, parameters: Mapping | None = None, upstream: Stage | None = None) -> str:
    """The name of a version: a small integer, and a hash of the parameters and of the tag of the stage before."""
    text = json.dumps([parameters or {}, upstream.tag if upstream else ""], sort_keys=True)
    return f"v{version}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def missing(stage: Stage, task: Task, own: dict[str, Entry], before: dict[str, Entry]) -> list[str]:
    """The task's keys that the stage has not settled, in the order of its input."""
    if stage.reads is None:
        wanted = [row["id"] for row in task.rows]
    else:
        wanted = [key for key, entry in before.items() if entry.outcome == DONE]
    allowed = None if task.keys is None else set(task.keys)
    return [key for key in wanted
            if (allowed is None or key in allowed) and not (key in own and own[key].settled)]


def run(out: str, tasks: Iterable[Task], stages: list[Stage], pipeline: beam.Pipeline) -> None:
    """Take every task through the stages, in one Beam pipeline; what is committed already is skipped.

    Only tasks' names and small rows cross the shuffle. An error that is no Loss of one key ends the run.
    """
    with pipeline:
        work = pipeline | "tasks" >> beam.Create(list(tasks)) | beam.Reshuffle()
        for stage in stages:
            work = work | stage.name >> beam.ParDo(_Run(stage, out))


class _Run(beam.DoFn):
    def __init__(self, stage: Stage, out: str):
        self.stage, self.out = stage, out

    def setup(self) -> None:
        # Workers are the parallelism, and sums must not depend on the machine's cores.
        threadpool_limits(1)

    def process(self, task: Task) -> Iterator[Task]:
        stage = self.stage
        own = Marks(stage.folder(self.out)).of(task.shard)
        before = Marks(stage.reads.folder(self.out)).of(task.shard).index() if stage.reads else {}
        todo = missing(stage, task, own.index(), before)
        if todo:
            attempt = storage.join(stage.folder(self.out), f"{task.shard}.{len(own.read)}")
            _commit(stage, attempt, todo, _inputs(stage, task, todo, before))
        yield Task(task.shard, task.keys)


def _inputs(stage: Stage, task: Task, todo: list[str], before: dict[str, Entry]) -> Iterator[dict]:
    if stage.reads is None:
        wanted = set(todo)
        yield from (row for row in task.rows if row["id"] in wanted)
        return
    for url in dict.fromkeys(before[key].url for key in todo):
        wanted = {key for key in todo if before[key].url == url}
        yield from (row for row in shards.read(url, stage.columns and list(stage.columns)) if row["id"] in wanted)


def _commit(stage: Stage, attempt: str, todo: list[str], inputs: Iterator[dict]) -> None:
    """Write the shard, then its marker. Exactly one row for each key of `todo`, or nothing."""
    wall, cpu = time.time(), time.process_time()
    marks: dict[str, dict] = {}

    def results() -> Iterator[dict]:
        for row in inputs:
            key = row["id"]
            # What the input row knows already (ids, revision) is kept for losses, too.
            result = {name: row.get(name) for name in stage.schema.names} | {"outcome": DONE, "detail": ""}
            try:
                result |= stage.each(row)
            except Loss as loss:
                result |= {"outcome": loss.reason, "detail": loss.detail}
            except Exception as error:  # one key's defect must not cost the others; it is told, and tried again
                place = traceback.extract_tb(error.__traceback__)[-1]
                result |= {"outcome": "failed",
                           "detail": f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"}
            marks[key] = {"outcome": result["outcome"], "digest": _digest(result)}
            marks[key] |= {name: result[name] for name in ("detail", "revision", "sha256") if result.get(name)}
            if media := sum(len(value) for value in result.values() if isinstance(value, bytes)):
                marks[key]["bytes"] = media
            yield result

    shards.write(f"{attempt}.arrow", stage.schema, results())
    if set(marks) != set(todo):
        raise RuntimeError(f"{attempt}: keys {sorted(set(todo) ^ set(marks))[:5]} went missing between the stages; "
                           "remove the input shard to have it made again")
    storage.write_json(f"{attempt}.json", {"rows": marks, "started": wall, "seconds": time.time() - wall,
                                           "cpu_seconds": time.process_time() - cpu}, indent=None)


def _digest(row: dict) -> str:
    """Of all but media, for which the row has its own hash: equal rows, equal digests, on any machine."""
    text = json.dumps({name: value for name, value in row.items() if not isinstance(value, bytes)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _age(stem: str) -> tuple[str, int]:
    shard, _, attempt = stem.rpartition(".")
    return shard, int(attempt)
