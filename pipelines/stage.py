"""Per-key stages: functions from shards to shards, done once per key and version, killed and resumed at any point.

A stage writes `OUT/stages/NAME/TAG/SHARD.ATTEMPT.arrow` and then, as the commit marker, the same name with `.json`:
what became of each key, a digest of its row, and what it cost. Everything that is known about progress is read from
these markers, so it is the same for any runner. TAG changes with the stage's version and parameters and with those of
the stage that it reads: bumping one redoes it and what follows, nothing before.
"""
import hashlib
import json
import platform
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
from threadpoolctl import threadpool_limits

from captioners import batches
from manifests import shards, storage
from manifests.outcomes import DONE, TRANSIENT, Loss
from pipelines import join
from pipelines.marks import Entry, Marks
from pipelines.sandbox import MACHINE, Failed, cpu_seconds

_MEDIA = 2**28  # bytes, encoded, of a batch
_KNOWN = ("id", "source_id", "revision")  # of a row's input: kept for losses, too


class Stop(Exception):
    """A stage's `each` raises it to end its work for this run: what follows is not asked for, and nothing is lost."""


@dataclass(frozen=True)
class Batch:
    """How a stage takes rows together. What comes of a row rests on that row alone, but for the rounding of sums.

    Rows of a shard lie from the shortest to the longest and are cut into batches in this order, so that what a batch
    is made of follows from the shard's rows, and from nothing that happens. Rows that `each` finds unfit leave theirs.
    """
    ask: Callable[[list[dict]], Sequence[dict | Exception]]  # of what `each` made of the rows
    size: int
    length: Callable[[dict], float]   # of a row of which only `needs` was read
    needs: join.Columns
    load: Callable[[], None] | None = None  # what asking takes; where it fails, no row is to blame
    threads: int = 1                  # in which `each` goes ahead, by a batch at most


@dataclass(frozen=True)
class Stage:
    """`each` turns an input row (a dict) into the fields of `schema`, or raises Loss or Stop; with a `batch`, into what
    that takes. It must be picklable."""
    name: str
    tag: str
    schema: pa.Schema
    each: Callable[[dict], dict]
    reads: "Stage | None" = None              # None: its rows come with the task
    columns: tuple[str, ...] | None = None    # what it needs of them; None = all
    parts: join.Columns = field(default_factory=dict)  # that rows which come with the task name
    again: tuple[str, ...] = ()               # permanent reasons that are asked again in this run
    cost: float = 1.0                         # CPU seconds a key, about: whether processes are worth their start
    batch: Batch | None = None                # of a stage whose rows come with the task
    shared: bool = False                      # rows of one revision are one, whatever their keys: made once
    least: int = 4                            # keys in a shard, where there are so many
    most: int = 512                           # and at most: what a kill may cost
    processes: int = 0                        # at most so many at a time; 0: as many as there are
    lanes: int = 0                            # of a source that is asked: so many at a time

    def settled(self, entry: "Entry | None") -> bool:
        return entry is not None and entry.outcome not in TRANSIENT and entry.outcome not in self.again

    def folder(self, out: str) -> str:
        return storage.join(out, "stages", self.name, self.tag)


@dataclass(frozen=True)
class Task:
    """One shard's worth of work. `keys` None = every key that the input has; `rows` = the input of a first stage.

    Tasks of one `lane` are done one after the other, by one worker at a time; without one, wherever there is room.
    """
    shard: str
    keys: tuple[str, ...] | None = None
    rows: tuple[dict, ...] = ()
    lane: str = ""


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
            if (allowed is None or key in allowed) and not stage.settled(own.get(key))]


@contextmanager
def lease(out: str) -> Iterator[str]:
    """A token of this build's: workers that hold another one, or find none, are an older build's and do no more.

    A runner elsewhere may not notice at once, or at all, that a build was interrupted.
    """
    token, url = uuid.uuid4().hex, _lease(out)
    storage.write_bytes(url, token.encode())
    try:
        yield token
    finally:
        storage.remove(url)


def run(out: str, tasks: Iterable[Task], stages: list[Stage], pipeline: beam.Pipeline, token: str = "") -> None:
    """Take every task through the stages, in one Beam pipeline; what is committed already is skipped.

    Only tasks' names and small rows cross the shuffle. An error that is no Loss of one key ends the run.
    """
    work = (pipeline | "tasks" >> beam.Create([(task.lane or task.shard, task) for task in tasks])
            | "lanes" >> beam.GroupByKey() | "in order" >> beam.FlatMap(_in_order))
    for stage in stages:
        work = work | stage.name >> beam.ParDo(_Run(stage, out, token))
    to_the_end(pipeline)


def to_the_end(pipeline: beam.Pipeline) -> None:
    """Run it and wait. What interrupts us ends it as well: another runner's job would go on without its launcher."""
    result = pipeline.run()
    try:
        result.wait_until_finish()
    except (KeyboardInterrupt, SystemExit):
        result.cancel()
        raise


def _lease(out: str) -> str:
    return storage.join(out, "stages", "lease")


def _holds(out: str, token: str) -> bool:
    try:
        return storage.read_bytes(_lease(out)) == token.encode()
    except FileNotFoundError:
        return False


def _in_order(lane: tuple[str, Iterable[Task]]) -> list[Task]:
    return sorted(lane[1], key=lambda task: task.shard)


class _Run(beam.DoFn):
    def __init__(self, stage: Stage, out: str, token: str):
        self.stage, self.out, self.token = stage, out, token

    def setup(self) -> None:
        # Workers are the parallelism, and sums must not depend on the machine's cores.
        threadpool_limits(1)

    def process(self, task: Task) -> Iterator[Task]:
        stage = self.stage
        if self.token and not _holds(self.out, self.token):
            return
        own = Marks(stage.folder(self.out)).of(task.shard)
        before = Marks(stage.reads.folder(self.out)).of(task.shard).index() if stage.reads else {}
        todo = missing(stage, task, own.index(), before)
        if todo:
            attempt = storage.join(stage.folder(self.out), f"{task.shard}.{len(own.read)}")
            _commit(stage, attempt, todo, _inputs(stage, task, todo, before), _copies(stage, task, todo))
        yield Task(task.shard, task.keys)


def _inputs(stage: Stage, task: Task, todo: list[str], before: dict[str, Entry]) -> Iterator[dict]:
    if stage.reads is None:
        wanted = set(todo)
        rows = [row for row in task.rows if row["id"] in wanted and "copy" not in row]
        if stage.batch:
            length = {row["id"]: stage.batch.length(row) for row in join.joined(rows, stage.batch.needs)}
            rows.sort(key=lambda row: (length[row["id"]], row["id"]))
        yield from join.joined(rows, stage.parts) if stage.parts else rows
        return
    for url in dict.fromkeys(before[key].url for key in todo):
        wanted = {key for key in todo if before[key].url == url}
        yield from (row for row in shards.read(url, stage.columns and list(stage.columns)) if row["id"] in wanted)


def _copies(stage: Stage, task: Task, todo: list[str]) -> Iterator[dict]:
    """The stage's rows for keys whose content another key had: they are as those, but for the id."""
    rows = [{"id": row["id"], "parts": {"copy": row["copy"]}} for row in task.rows
            if "copy" in row and row["id"] in set(todo)]
    for row in join.joined(rows, {"copy": tuple(name for name in stage.schema.names if name != "id")}):
        yield row["copy"] | {"id": row["id"]}


def _commit(stage: Stage, attempt: str, todo: list[str], inputs: Iterator[dict], copies: Iterator[dict]) -> None:
    """Write the shard, then its marker: one row for each key of `todo`, or of those that came before a Stop."""
    wall, cpu = time.time(), _cpu_seconds()
    marks: dict[str, dict] = {}
    stopped, elsewhere = False, []

    def results() -> Iterator[dict]:
        nonlocal stopped
        yield from map(marked, copies)
        for row, found in _together(stage, inputs, elsewhere) if stage.batch else (
                (row, _tried(stage.each, row)) for row in inputs):
            if isinstance(found, Stop):
                stopped = True
                return
            yield marked(_result(stage, row, found))

    def marked(result: dict) -> dict:
        mark = {"outcome": result["outcome"], "digest": _digest(result)}
        mark |= {name: result[name] for name in ("detail", "revision", "sha256") if result.get(name)}
        if media := {name: len(value) for name, value in result.items() if isinstance(value, bytes)}:
            mark["bytes"] = media
        marks[result["id"]] = mark
        return result

    shards.write(f"{attempt}.arrow", stage.schema, results())
    if stopped and not marks:
        storage.remove(f"{attempt}.arrow")
        return
    if set(marks) != set(todo) and not stopped:
        raise RuntimeError(f"{attempt}: keys {sorted(set(todo) ^ set(marks))[:5]} went missing between the stages; "
                           "remove the input shard to have it made again")
    storage.write_json(f"{attempt}.json", {"rows": marks, "started": wall, "seconds": time.time() - wall,
                                           "cpu_seconds": _cpu_seconds() - cpu + sum(elsewhere)}, indent=None)


def _cpu_seconds() -> float:
    """Of this process, and of what the sandbox did for this thread."""
    return time.process_time() + cpu_seconds()


def _together(stage: Stage, inputs: Iterator[dict], elsewhere: list[float]) -> Iterator[tuple[dict, dict | Exception]]:
    """What became of each row, batch by batch; while one is asked, the next is made ready in threads.

    `elsewhere` counts the CPU seconds that the sandbox spent for those.
    """
    def ready(row: dict) -> dict | Exception:
        before = cpu_seconds()
        found = _tried(stage.each, row)
        elsewhere.append(cpu_seconds() - before)
        return found

    def asked(coming: list[tuple[dict, Future]]) -> Iterator[tuple[dict, dict | Exception]]:
        found = [(row, future.result()) for row, future in coming]
        fit = [one for _, one in found if not isinstance(one, Exception)]
        answers = iter(batches.answered(stage.batch.ask, fit))
        yield from ((row, one if isinstance(one, Exception) else next(answers)) for row, one in found)

    with ThreadPoolExecutor(stage.batch.threads) as pool:
        waiting: list[tuple[dict, Future]] = []
        while rows := _batch(inputs, stage.batch.size):
            if stage.batch.load:
                stage.batch.load()
            known = [{name: row[name] for name in _KNOWN if name in row} for row in rows]
            coming = list(zip(known, [pool.submit(ready, row) for row in rows], strict=True))
            yield from asked(waiting)
            waiting = coming
        yield from asked(waiting)


def _batch(inputs: Iterator[dict], size: int) -> list[dict]:
    """The next rows: so many, or as many as have so much media."""
    rows, held = [], 0
    while len(rows) < size and held < _MEDIA and (row := next(inputs, None)):
        rows.append(row)
        held += sum(len(value) for part in row.values() if isinstance(part, dict)
                    for value in part.values() if isinstance(value, bytes))
    return rows


def _tried(each: Callable[[dict], dict], row: dict) -> dict | Exception:
    try:
        return each(row)
    except Exception as error:  # `_result` judges it
        return error


def _result(stage: Stage, row: dict, found: dict | Exception) -> dict:
    """The stage's row for one key, whatever became of it; an error that would meet every key ends the run."""
    result = dict.fromkeys(stage.schema.names) | {"outcome": DONE, "detail": ""}
    result |= {name: row[name] for name in _KNOWN if name in result and name in row}
    if isinstance(found, dict):
        return result | found
    if isinstance(found, Loss):
        return result | {"outcome": found.reason, "detail": found.detail}
    if isinstance(found, ImportError):
        raise RuntimeError(f"{stage.name}: a package is missing on worker {platform.node()}: {found}; "
                           "install this distribution and all it requires there") from found
    if isinstance(found, OSError) and found.errno in MACHINE:
        raise found
    # One key's defect must not cost the others; it is told, and tried again.
    if isinstance(found, Failed):  # in the sandbox, which says where
        return result | {"outcome": "failed", "detail": str(found)}
    places = getattr(found, "__notes__", None) or [
        f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(found.__traceback__)[-1:]]
    return result | {"outcome": "failed",
                     "detail": f"{type(found).__name__}: {found}" + "".join(f" ({place})" for place in places[:1])}


def _digest(row: dict) -> str:
    """Of all but media, for which the row has its own hash: equal rows, equal digests, on any machine."""
    text = json.dumps({name: value for name, value in row.items() if not isinstance(value, bytes)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
