"""Stages over real Beam pipelines, with work that leaves a trace of how often it was done."""
import argparse
import errno
import itertools
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest

from manifests import shards, storage
from manifests.outcomes import Loss
from pipelines import options, stage
from pipelines.marks import Marks
from pipelines.stage import Stage, Task

SCHEMA = pa.schema([("id", pa.string()), ("outcome", pa.string()), ("detail", pa.string()), ("value", pa.int64())])


def pipeline(workers: int = 1) -> beam.Pipeline:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    values = parser.parse_args(["--out", "unused", "--workers", str(workers)])
    return options.parse(parser, values, []).pipeline()


def read_value(row: dict, log: str) -> dict:
    with open(log, "a") as file:
        file.write(f"read {row['id']}\n")
    if row["id"].startswith("gone"):
        raise Loss("no_audio", "a picture only")
    if row["id"].startswith("flaky") and not os.path.exists(f"{log}.better"):
        raise Loss("unreadable", "try later")
    if row["id"].startswith("bug") and not os.path.exists(f"{log}.better"):
        raise ZeroDivisionError("by design")
    return {"value": row["number"]}


def double(row: dict, log: str) -> dict:
    with open(log, "a") as file:
        file.write(f"double {row['id']}\n")
    return {"value": 2 * row["value"]}


@pytest.fixture
def log(tmp_path) -> Path:
    (tmp_path / "log").touch()
    return tmp_path / "log"


def chain(log: Path, version: int = 1) -> list[Stage]:
    first = Stage("read", "v1", SCHEMA, partial(read_value, log=str(log)))
    return [first, Stage("double", stage.tag(version, {}, first), SCHEMA, partial(double, log=str(log)), reads=first)]


def tasks(*ids: str, size: int = 3) -> list[Task]:
    rows = [{"id": key, "number": number} for number, key in enumerate(ids)]
    return [Task(f"g0001-{start // size:06d}", rows=tuple(rows[start:start + size]))
            for start in range(0, len(rows), size)]


def done(log: Path) -> list[str]:
    lines = sorted(log.read_text().split("\n")[:-1])
    log.write_text("")
    return lines


def test_every_key_ends_somewhere_and_is_worked_on_once(tmp_path, log):
    out, stages = str(tmp_path / "out"), chain(log)
    work = tasks("a", "gone-1", "b", "c", "flaky-1", "bug-1", "d")
    stage.run(out, work, stages, pipeline())
    first, second = (Marks(one.folder(out)).refresh().index() for one in stages)
    assert {key: entry.outcome for key, entry in first.items()} == {
        "a": "done", "b": "done", "c": "done", "d": "done", "gone-1": "no_audio", "flaky-1": "unreadable",
        "bug-1": "failed"}
    assert first["gone-1"].detail == "a picture only"
    assert first["bug-1"].detail.startswith("ZeroDivisionError: by design (test_stage.py:")
    assert set(second) == {"a", "b", "c", "d"}
    assert {row["id"]: row["value"] for key in second for row in shards.read(second[key].url)} == {
        "a": 0, "b": 4, "c": 6, "d": 12}
    assert len(done(log)) == 7 + 4

    # Again: only what may have passed is asked again; then, better, it goes through both stages.
    stage.run(out, work, stages, pipeline())
    assert done(log) == ["read bug-1", "read flaky-1"]
    (tmp_path / "log.better").touch()
    stage.run(out, work, stages, pipeline())
    assert done(log) == ["double bug-1", "double flaky-1", "read bug-1", "read flaky-1"]
    stage.run(out, work, stages, pipeline())
    assert done(log) == []
    first, second = (Marks(one.folder(out)).refresh().index() for one in stages)
    assert first["flaky-1"].outcome == second["bug-1"].outcome == "done"


def test_a_version_bump_redoes_the_stage_and_nothing_before(tmp_path, log):
    out = str(tmp_path / "out")
    stage.run(out, tasks("a", "b"), chain(log), pipeline())
    done(log)
    stage.run(out, tasks("a", "b"), chain(log, version=2), pipeline())
    assert done(log) == ["double a", "double b"]


def test_a_tag_follows_parameters_and_the_stage_before(log):
    first = chain(log)[0]
    other = Stage("read", "v2", SCHEMA, first.each)
    tags = [stage.tag(1), stage.tag(2), stage.tag(1, {"a": 1}), stage.tag(1, {"a": 2}), stage.tag(1, {}, first),
            stage.tag(1, {}, other)]
    assert len(set(tags)) == 6
    assert stage.tag(1, {"a": 1, "b": 2}) == stage.tag(1, {"b": 2, "a": 1})


def test_a_shard_without_its_marker_does_not_count(tmp_path, log):
    out, stages = str(tmp_path / "out"), chain(log)
    stage.run(out, tasks("a", "b"), stages, pipeline())
    folder = stages[1].folder(out)
    before = storage.read_bytes(f"{folder}/g0001-000000.0.arrow")
    os.remove(f"{folder}/g0001-000000.0.json")
    Path(f"{folder}/g0001-000000.0.arrow").write_bytes(before[:100])
    done(log)
    stage.run(out, tasks("a", "b"), stages, pipeline())
    assert done(log) == ["double a", "double b"]
    assert storage.read_bytes(f"{folder}/g0001-000000.0.arrow") == before


def test_keys_restrict_a_task(tmp_path, log):
    out, stages = str(tmp_path / "out"), chain(log)
    stage.run(out, tasks("a", "b", "c"), stages[:1], pipeline())
    done(log)
    stage.run(out, [Task("g0001-000000", keys=("b",))], stages, pipeline())
    assert done(log) == ["double b"]
    stage.run(out, [Task("g0001-000000")], stages, pipeline())
    assert done(log) == ["double a", "double c"]
    assert set(Marks(stages[1].folder(out)).refresh().index()) == {"a", "b", "c"}


def test_two_processes_do_what_one_does(tmp_path, log):
    ids = [f"clip-{number}" for number in range(20)]
    for workers in (1, 2):
        stage.run(str(tmp_path / str(workers)), tasks(*ids), chain(log), pipeline(workers))
    one, two = (chain(log)[1].folder(str(tmp_path / str(workers))) for workers in (1, 2))
    shards_ = [name for name in storage.names(one) if name.endswith(".arrow")]
    assert len(shards_) == 7
    for name in shards_:
        assert storage.read_bytes(f"{one}/{name}") == storage.read_bytes(f"{two}/{name}")


def test_an_input_shard_that_lost_rows_is_an_error_that_names_it(tmp_path, log):
    out, stages = str(tmp_path / "out"), chain(log)
    stage.run(out, tasks("a", "b"), stages[:1], pipeline())
    first = f"{stages[0].folder(out)}/g0001-000000.0.arrow"
    shards.write(first, SCHEMA, list(shards.read(first))[:1])
    with pytest.raises(RuntimeError, match=r"\['b'\] went missing"):
        stage.run(out, [Task("g0001-000000")], stages, pipeline())
    assert not storage.exists(f"{stages[1].folder(out)}/g0001-000000.0.json")


def stop_at_c(row: dict, log: str) -> dict:
    if row["id"] == "c" and not os.path.exists(f"{log}.better"):
        raise stage.Stop
    return read_value(row, log)


def test_a_stop_keeps_what_came_before_and_loses_nothing(tmp_path, log):
    out = str(tmp_path / "out")
    first = Stage("read", "v1", SCHEMA, partial(stop_at_c, log=str(log)))
    work = [Task("g0001-000000", rows=({"id": "a", "number": 0}, {"id": "c", "number": 1}, {"id": "b", "number": 2})),
            Task("g0001-000001", rows=({"id": "c", "number": 1},))]
    stage.run(out, work, [first], pipeline())
    assert {key: entry.outcome for key, entry in Marks(first.folder(out)).refresh().index().items()} == {"a": "done"}
    assert storage.names(first.folder(out)) == ["g0001-000000.0.arrow", "g0001-000000.0.json"]
    (tmp_path / "log.better").touch()
    stage.run(out, work, [first], pipeline())
    assert done(log) == ["read a", "read b", "read c", "read c"]
    assert set(Marks(first.folder(out)).refresh().index()) == {"a", "b", "c"}


def with_time(row: dict, log: str) -> dict:
    begin = time.monotonic()
    time.sleep(0.05)
    with open(log, "a") as file:
        file.write(f"{row['id']} {os.getpid()} {begin} {time.monotonic()}\n")
    return {"value": 0}


def test_a_lane_is_one_after_the_other(tmp_path, log):
    """With three processes for four lanes: within a lane nothing overlaps, and the order is that of the tasks."""
    one = Stage("read", "v1", SCHEMA, partial(with_time, log=str(log)))
    work = [Task(f"g0001-{number:06d}", rows=tuple({"id": f"{number:02d}-{row}", "number": 0} for row in range(2)),
                 lane=f"lane {number % 4}") for number in range(12)]
    stage.run(str(tmp_path / "out"), work, [one], pipeline(workers=3))
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len({process for _, process, *_ in lines}) > 1, "or nothing could have overlapped"
    for lane in range(4):
        mine = [line for line in lines if int(line[0][:2]) % 4 == lane]
        assert [line[0] for line in mine] == sorted(line[0] for line in mine)
        assert all(float(before[3]) <= float(after[2]) for before, after in itertools.pairwise(mine))


def broken(row: dict, kind: str) -> dict:
    if kind == "import":
        import nosuchpackage  # noqa: F401
    raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)))


@pytest.mark.parametrize(("kind", "words"), [
    ("import", "a package is missing on worker .* No module named 'nosuchpackage'"), ("ENOSPC", "No space left"),
    ("EROFS", "Read-only file system")])
def test_what_would_meet_every_clip_ends_the_run(tmp_path, kind, words):
    one = Stage("read", "v1", SCHEMA, partial(broken, kind=kind))
    with pytest.raises((RuntimeError, OSError), match=words):
        stage.run(str(tmp_path / "out"), tasks("a"), [one], pipeline())
    assert not [name for name in storage.names(one.folder(str(tmp_path / "out"))) if name.endswith(".json")]


def test_permanent_losses_are_asked_again_on_demand(tmp_path, log):
    out, stages = str(tmp_path / "out"), chain(log)
    stage.run(out, tasks("a", "gone-1"), stages, pipeline())
    done(log)
    stage.run(out, tasks("a", "gone-1"), [replace(stages[0], again=("speech",)), stages[1]], pipeline())
    assert done(log) == []
    stage.run(out, tasks("a", "gone-1"), [replace(stages[0], again=("no_audio",)), stages[1]], pipeline())
    assert done(log) == ["read gone-1"]


def test_workers_of_an_older_build_do_no_more(tmp_path, log):
    out, stages = str(tmp_path / "out"), chain(log)
    with stage.lease(out) as older, stage.lease(out) as newer:
        stage.run(out, tasks("a"), stages, pipeline(), older)
        assert done(log) == []
        stage.run(out, tasks("a"), stages, pipeline(), newer)
        assert done(log) == ["double a", "read a"]
    stage.run(out, tasks("b"), stages, pipeline(), newer)
    assert done(log) == []
