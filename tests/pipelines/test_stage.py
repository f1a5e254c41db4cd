"""Stages over real Beam pipelines, with work that leaves a trace of how often it was done."""
import argparse
import os
from functools import partial
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pytest

from manifests import shards, storage
from manifests.outcomes import Loss
from pipelines import options, stage
from pipelines.stage import Marks, Stage, Task

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
