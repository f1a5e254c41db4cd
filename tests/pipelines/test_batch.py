"""Stages that take rows together: what a batch is made of, and what becomes of its rows."""
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from manifests import shards
from manifests.outcomes import Loss
from pipelines import stage
from pipelines.marks import Marks
from pipelines.stage import Batch, Stage, Task
from tests.pipelines.test_stage import pipeline

SCHEMA = pa.schema([("id", pa.string()), ("outcome", pa.string()), ("detail", pa.string()), ("revision", pa.string()),
                    ("text", pa.string())])


def ready(row: dict) -> dict:
    if row["text"] == "unfit":
        raise Loss("decode_error", "no media")
    if row["text"] == "broken":
        raise KeyError("by design")
    return {"text": row["text"], "id": row["id"]}


def ask(rows: list[dict], log: str, room: int) -> list:
    with open(log, "a") as file:
        file.write(json.dumps([row["text"] for row in rows]) + "\n")
    if len(rows) > room:
        raise MemoryError("a batch too many")
    if any(row["text"] == "poison" for row in rows):
        raise ZeroDivisionError("by design")
    return [Loss("caption_failed", "nothing said") if row["text"] == "mute" else {"text": row["text"].upper()}
            for row in rows]


def batched(log: Path, size: int = 4, room: int = 100, threads: int = 2) -> Stage:
    batch = Batch(partial(ask, log=str(log), room=room), size, lambda row: len(row["text"]), {}, threads=threads)
    return Stage("shout", "v1", SCHEMA, ready, batch=batch)


def run(out: Path, one: Stage, *texts: str, workers: int = 1, copies: dict | None = None) -> dict:
    """Outcome and text by key, of one shard."""
    rows = tuple({"id": f"k{number:02d}", "revision": text, "text": text} | (
        {"copy": copies[text]} if text in (copies or {}) else {}) for number, text in enumerate(texts))
    stage.run(str(out), [Task("s0", rows=rows)], [one], pipeline(workers))
    index = Marks(one.folder(str(out))).refresh().index()
    stored = {row["id"]: row for entry in index.values() for row in shards.read(entry.url)}
    return {key: (entry.outcome, stored[key]["text"], entry.detail) for key, entry in sorted(index.items())}


@pytest.fixture
def log(tmp_path) -> Path:
    (tmp_path / "log").touch()
    return tmp_path / "log"


def asked(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_batches_go_from_the_shortest_row_to_the_longest(tmp_path, log):
    texts = ["ccc", "a", "ddddd", "bb", "eeeeee", "ffffffff", "a"]
    found = run(tmp_path / "out", batched(log, size=3), *texts)
    assert asked(log) == [["a", "a", "bb"], ["ccc", "ddddd", "eeeeee"], ["ffffffff"]]
    assert [text for _, text, _ in found.values()] == [text.upper() for text in texts]


def test_a_batch_that_does_not_fit_is_halved(tmp_path, log):
    found = run(tmp_path / "out", batched(log, size=5, room=2), "aa", "bb", "cc", "dd", "ee")
    assert {outcome for outcome, _, _ in found.values()} == {"done"}
    assert asked(log) == [["aa", "bb", "cc", "dd", "ee"], ["aa", "bb", "cc"], ["aa", "bb"], ["cc"], ["dd", "ee"]]


def test_a_row_that_does_not_fit_alone_is_tried_again_next_time(tmp_path, log):
    found = run(tmp_path / "out", batched(log, room=0), "aa", "bb")
    assert {(outcome, detail) for outcome, _, detail in found.values()} == {
        ("failed", "MemoryError: out of memory, even alone")}


def test_one_bad_row_costs_no_other(tmp_path, log):
    texts = ["one", "unfit", "two", "poison", "mute", "broken", "three"]
    found = run(tmp_path / "out", batched(log, size=7), *texts)
    by_text = dict(zip(texts, found.values(), strict=True))
    assert [by_text[text][:2] for text in ("one", "two", "three")] == [("done", "ONE"), ("done", "TWO"),
                                                                       ("done", "THREE")]
    assert by_text["unfit"] == ("decode_error", None, "no media")
    assert by_text["mute"] == ("caption_failed", None, "nothing said")
    assert by_text["poison"][0] == by_text["broken"][0] == "failed"
    assert "ZeroDivisionError: by design" in by_text["poison"][2] and "test_batch.py" in by_text["poison"][2]


def test_a_missing_package_ends_the_run(tmp_path, log):
    def absent(rows: list[dict]) -> list:
        import not_there  # noqa: F401
    one = Stage("shout", "v1", SCHEMA, ready, batch=Batch(absent, 2, lambda row: 0, {}))
    with pytest.raises(Exception, match="not_there"):
        run(tmp_path / "out", one, "a", "b")


def test_what_asking_takes_cannot_be_had_and_no_row_is_to_blame(tmp_path, log):
    def load() -> None:
        raise ValueError("the model is not there")
    one = batched(log)
    one = replace(one, batch=replace(one.batch, load=load))
    with pytest.raises(Exception, match="the model is not there"):
        run(tmp_path / "out", one, "a", "b")
    assert asked(log) == [] and not list((tmp_path / "out").rglob("*.json"))


def test_a_batch_ends_where_its_media_are_too_much(monkeypatch):
    monkeypatch.setattr(stage, "_MEDIA", 10)
    sizes = iter([{"id": str(size), "clip": {"audio": bytes(size)}, "other": None} for size in (4, 4, 4, 20, 1, 1, 1)])
    found = []
    while batch := stage._batch(sizes, 3):
        found.append([len(row["clip"]["audio"]) for row in batch])
    assert found == [[4, 4, 4], [20], [1, 1, 1]]


def test_content_that_was_met_is_copied_and_not_asked_for(tmp_path, log):
    one = batched(log)
    run(tmp_path / "first", one, "aa", "bb")
    met = Marks(one.folder(str(tmp_path / "first"))).refresh().index()["k01"]
    found = run(tmp_path / "second", one, "bb", "cc", copies={"bb": stage.join.Part(met.url, "k01")})
    assert found == {"k00": ("done", "BB", ""), "k01": ("done", "CC", "")}
    assert asked(log) == [["aa", "bb"], ["cc"]]


def test_another_worker_count_is_the_same_shard(tmp_path, log):
    texts = ["ccc", "a", "ddddd", "unfit", "bb", "poison"]
    for workers in (1, 2):
        run(tmp_path / str(workers), batched(log, size=3), *texts, workers=workers)
    one, two = ((tmp_path / name / "stages" / "shout" / "v1" / "s0.0.arrow").read_bytes() for name in "12")
    assert one == two
