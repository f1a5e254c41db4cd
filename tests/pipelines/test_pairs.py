"""The stage: from shards of measurements to pairs, by one process or several, once."""
import argparse
import json
from functools import partial
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest

from manifests import records, shards, storage
from pairing import match, points
from pairing.match import Settings
from pipelines import options, pairs
from pipelines.marks import Entry

MAJOR = np.isin(np.arange(12), (0, 2, 4, 5, 7, 9, 11)) / 7


def pipeline(workers: int = 1) -> beam.Pipeline:
    """On so many processes: one is this one."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    values = parser.parse_args(["--out", "unused", "--workers", str(workers)])
    return options.parse(parser, values, []).pipeline()


def measurement(key: str, **fields) -> dict:
    return dict.fromkeys(records.MEASUREMENT.names) | {
        "id": key, "outcome": "done", "detail": "", "tempo": 120.0, "tempo_confidence": 0.95, "onset_rate": 4.0,
        "pulse": [0.0, 0.0, 0.4, 0.0, 0.0, 0.8], "chroma": MAJOR.tolist(), "pitch_median": 64.0, "loudness": -14.0,
        "dynamics": 6.0} | fields


def corpus(count: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [measurement(f"clip-{index:04d}", tempo=float(rng.choice((60.0, 90, 120, 121, 180)) + rng.normal(0, 1)),
                        tempo_confidence=float(rng.uniform(0.7, 1)), onset_rate=float(rng.uniform(2, 5)),
                        chroma=np.roll(MAJOR, rng.integers(12)).tolist(), loudness=float(rng.normal(-14, 3)),
                        pitch_median=float(rng.normal(64, 5)) if rng.random() < 0.9 else None)
            for index in range(count)] + [measurement("nothing like it", tempo=150.0)]


def stored(folder: Path, rows: list[dict], size: int = 70) -> dict[str, Entry]:
    """The rows in shards, as `measure` leaves them."""
    entries = {}
    for start in range(0, len(rows), size):
        url = str(folder / "stages" / "measure" / f"{start}.arrow")
        shards.write(url, records.MEASUREMENT, rows[start:start + size])
        for row in rows[start:start + size]:
            entries[row["id"]] = Entry(url, str(start), "done", json.dumps(row), "", None, None, 0)
    return entries


def find(folder: Path, rows: list[dict], keys=None, settings=Settings(), factory=pipeline, **named):  # noqa: B008
    entries = stored(folder, rows)
    keys = list(entries) if keys is None else keys
    defaults = {"source": {key: f"video of {key}" for key in keys}, "split": dict.fromkeys(keys, "train"),
                "recording": {key: key for key in keys}}
    named = {name: defaults[name] | named.get(name, {}) for name in defaults}
    return pairs.find(str(folder), keys, entries, settings=settings, pipeline_factory=factory, **named)


def listed(folder: Path) -> dict[str, bytes]:
    url = str(folder / "stages" / "pairs")
    return {name: storage.read_bytes(storage.join(url, name)) for name in storage.names(url)}


@pytest.fixture
def cut(monkeypatch):
    """Few clips are many."""
    monkeypatch.setattr(pairs, "FEW", 0)
    monkeypatch.setattr(pairs, "_BUCKET", 40)


def test_the_nearest_are_paired_and_the_others_told_why(tmp_path):
    rows = [measurement("a"), measurement("b", tempo=121.0), measurement("c", tempo=140.0),
            measurement("d", tempo_confidence=0.3), measurement("e", tempo=None, pulse=[]),
            measurement("f", tempo=123.5)]
    found, single = find(tmp_path, rows, settings=Settings(max_pairs_per_clip=1))
    assert [(pair.a, pair.b) for pair in found] == [("a", "b")]
    assert found[0].distance == pytest.approx(np.log2(121 / 120) / 0.05)
    assert single == {"c": pairs.ALONE, "d": pairs.UNSTEADY, "e": pairs.UNSTEADY, "f": pairs.OUTDONE}


@pytest.mark.parametrize("name, value", [("source", "one video"), ("recording", "one recording"), ("split", None)])
def test_who_is_never_paired(tmp_path, name, value):
    rows = [measurement(key) for key in "ab"]
    named = {"a": value or "train", "b": value or "eval"}
    assert find(tmp_path, rows, **{name: named}) == ([], {"a": pairs.ALONE, "b": pairs.ALONE})
    assert [(pair.a, pair.b) for pair in find(tmp_path, rows)[0]] == [("a", "b")]


def test_only_what_is_asked_for_is_paired(tmp_path):
    rows = [measurement(key) for key in "abc"]
    found, single = find(tmp_path, rows, keys=["c", "a"])
    assert ([(pair.a, pair.b) for pair in found], single) == ([("a", "c")], {})
    assert find(tmp_path, rows, keys=[]) == ([], {})


def test_workers_buckets_and_order_change_no_byte(tmp_path, cut, monkeypatch):
    rows = corpus(400)
    settings = Settings(half_double=True)
    factories = {1: pipeline, 3: partial(pipeline, workers=3)}
    results = []
    for number, (bucket, workers) in enumerate(((40, 1), (40, 3), (111, 1), (1000, 1))):
        monkeypatch.setattr(pairs, "_BUCKET", bucket)
        results.append((find(tmp_path / str(number), rows, settings=settings, factory=factories[workers]),
                        listed(tmp_path / str(number))))
    monkeypatch.undo()  # now few are few, and in another order in other shards
    results.append((find(tmp_path / "few", rows[::-1], settings=settings), listed(tmp_path / "few")))
    assert all(result == results[0] for result in results)
    (found, single), files = results[0]
    assert len(found) > 100 and set(single.values()) == {pairs.UNSTEADY, pairs.ALONE, pairs.OUTDONE}
    assert {pair.a for pair in found} | {pair.b for pair in found} | set(single) == {row["id"] for row in rows}
    assert [name[-6:] for name in files] == [".arrow"]  # nothing else is left


def test_pairs_are_those_of_the_vectors(tmp_path):
    rows = corpus(150)
    found, _ = find(tmp_path, rows, settings=Settings(max_pairs_per_clip=150))
    columns = {name: np.array([np.nan if row[name] is None else row[name] for row in rows]) for name in points.COLUMNS}
    for name in ("pulse", "chroma"):
        columns[name] = columns[name].astype(np.float32)  # as they are stored
    vector, sure = points.vectors(columns), columns["tempo_confidence"] >= Settings().min_tempo_confidence
    far = points.distance(vector[:, None], vector)
    expected = {(rows[a]["id"], rows[b]["id"], far[a, b]) for a, b in np.argwhere(far <= 1)
                if a < b and sure[a] and sure[b]}
    assert {(pair.a, pair.b, pair.distance) for pair in found} == expected and len(expected) > 50


def test_decided_anew_only_when_the_input_changes(tmp_path, monkeypatch):
    rows = corpus(60)
    first = find(tmp_path, rows)
    monkeypatch.setattr(pairs, "_clips", lambda *ignored: pytest.fail("decided again"))
    assert find(tmp_path, rows) == first
    monkeypatch.undo()
    before = set(listed(tmp_path))
    changes = [{"settings": Settings(threshold=0.5)}, {"source": {"clip-0001": "video of clip-0002"}},
               {"split": {"clip-0001": "eval"}}, {"recording": {"clip-0001": "clip-0002"}},
               {"keys": [row["id"] for row in rows[1:]]}]
    for change in changes:
        find(tmp_path, rows, **change)
        assert len(listed(tmp_path)) == 1 and not set(listed(tmp_path)) & before
        before |= set(listed(tmp_path))
    find(tmp_path, [rows[0] | {"tempo": 77.0}, *rows[1:]])
    assert not set(listed(tmp_path)) & before


def test_an_older_entry_of_a_clip_does_not_count(tmp_path):
    entries = stored(tmp_path, [measurement("a", tempo=60.0), measurement("b")])
    newer = stored(tmp_path / "newer", [measurement("a")])
    one = {key: key for key in "ab"}
    found, _ = pairs.find(str(tmp_path), "ab", entries | newer, one, dict.fromkeys("ab", "train"), one, Settings(),
                          pipeline)
    assert [(pair.a, pair.b, pair.distance) for pair in found] == [("a", "b", 0.0)]


def test_a_measurement_of_another_shape_is_named(tmp_path):
    rows = [measurement("a"), measurement("b", pulse=[0.5, 0.1])]
    with pytest.raises(ValueError, match=r"0\.arrow: b has 2 values of `pulse`, not 6; remove the shard"):
        find(tmp_path, rows)


def test_parts_that_an_interrupted_build_left_are_used(tmp_path, cut, monkeypatch):
    rows = corpus(200)
    whole = find(tmp_path / "whole", rows)
    within, searched = match.within, []

    def fail(*arguments):
        searched.append(1)
        if len(searched) == 4:
            raise RuntimeError("out of order")
        return within(*arguments)
    monkeypatch.setattr(match, "within", fail)
    with pytest.raises(RuntimeError, match="out of order"):
        find(tmp_path / "cut", rows)
    folder = tmp_path / "cut" / "stages" / "pairs"
    assert [path.suffix for path in folder.iterdir()] == [""]  # parts, and no result
    assert len(list(folder.glob("*/*-of-00005.arrow"))) == 3
    assert not list(folder.glob(f"*/{storage.TEMPORARY}*"))
    searched[:] = [1] * 4
    assert find(tmp_path / "cut", rows) == whole
    assert len(searched) == 4 + 2
    assert len(listed(tmp_path / "cut")) == 1


def test_it_works_in_a_bucket(tmp_path, cut, bucket):
    rows = corpus(120)
    entries = {}
    for row in rows:
        entries[row["id"]] = Entry(f"{bucket}/measure.arrow", "0", "done", row["id"], "", None, None, 0)
    shards.write(f"{bucket}/measure.arrow", records.MEASUREMENT, rows)
    named = {key: key for key in entries}
    found = pairs.find(bucket, list(entries), entries, {key: f"video of {key}" for key in entries},
                       dict.fromkeys(entries, "train"), named, Settings(), pipeline)
    assert found == find(tmp_path, rows)
    assert len(storage.names(f"{bucket}/stages/pairs")) == 1
