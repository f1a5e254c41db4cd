import numpy as np
import pytest

from manifests import records, shards, storage
from pipelines import duplicates
from pipelines.marks import Entry


@pytest.fixture
def prints():
    """Recordings: one three times (once a little damaged), one twice, one alone; and three that never change."""
    draw = np.random.default_rng(0)
    a, b, c = draw.integers(0, 2**32, (3, 200), dtype=np.uint32)
    damaged = a.copy()
    damaged[::20] ^= 7
    # What never changes has no fingerprint: only equal files are known to be the same.
    still = dict.fromkeys(("d1", "d2", "d3"), np.empty(0, np.uint32))
    return still | {"a1": a, "a2": damaged, "a3": a, "b1": b, "b2": b, "c1": c}


def find(tmp_path, prints, split, threshold=0.1, names=None, durations=None, segments=None):
    url = str(tmp_path / "measure.arrow")
    rows = [dict.fromkeys(records.MEASUREMENT.names) | {"id": key, "outcome": "done", "fingerprint": words.tolist(),
                                                     "duration": (durations or {}).get(key, 10.0)}
            for key, words in prints.items()]
    shards.write(url, records.MEASUREMENT, rows)
    sha256 = {key: f"sha of {key}" for key in prints} | {"d1": "same", "d3": "same"}
    entries = {key: Entry(url, "s", "done", f"digest of {key}", "", None, sha256[key], 0) for key in prints}
    segments = {key: {"source_id": key, "start": None} for key in prints} | (segments or {})
    found = duplicates.find(str(tmp_path), names or list(prints), segments, {"fetch": entries, "measure": entries},
                            split, threshold)
    assert found.keys() == set(names or prints)
    assert {entry.outcome for entry in found.values()} <= {"done", "duplicate"}
    return {key: entry.detail for key, entry in found.items() if entry.outcome == "duplicate"}


def test_the_smallest_id_stays(tmp_path, prints):
    found = find(tmp_path, prints, dict.fromkeys(prints, "train"))
    assert found == {"a2": "same recording as a1", "a3": "same recording as a1", "b2": "same recording as b1",
                     "d3": "same recording as d1"}


def test_the_copy_in_the_evaluation_split_stays(tmp_path, prints):
    found = find(tmp_path, prints, dict.fromkeys(prints, "train") | {"a2": "eval", "b1": "eval"})
    assert found == {"a1": "same recording as a2", "a3": "same recording as a2", "b2": "same recording as b1",
                     "d3": "same recording as d1"}


def test_the_longer_stays_where_one_is_an_excerpt(tmp_path, prints):
    found = find(tmp_path, prints, dict.fromkeys(prints, "train"), durations={"a1": 30.0, "a2": 200.0, "b2": 10.2})
    assert found == {"a1": "same recording as a2", "a3": "same recording as a2", "b2": "same recording as b1",
                     "d3": "same recording as d1"}


def test_a_track_and_a_segment_of_one_video_stay_both(tmp_path, prints):
    """MUCaps takes the track, the others the segment; of another video's copies none stays, of two segments one."""
    segments = {"a1": {"source_id": "A", "start": None}, "a2": {"source_id": "A", "start": 30.0},
                "a3": {"source_id": "B", "start": None},
                "b1": {"source_id": "C", "start": 30.0}, "b2": {"source_id": "C", "start": 35.0}}
    found = find(tmp_path, prints, dict.fromkeys(prints, "train"), segments=segments)
    assert found == {"a3": "same recording as a1", "b2": "same recording as b1", "d3": "same recording as d1"}


def test_any_order_gives_the_same(tmp_path, prints):
    split = dict.fromkeys(prints, "train")
    first = find(tmp_path / "1", prints, split)
    assert find(tmp_path / "2", dict(reversed(prints.items())), split, names=sorted(prints, reverse=True)) == first


def test_decided_anew_only_when_the_input_changes(tmp_path, prints, monkeypatch):
    split = dict.fromkeys(prints, "train")
    find(tmp_path, prints, split)
    monkeypatch.setattr(duplicates, "_decide", lambda *ignored: pytest.fail("decided again"))
    find(tmp_path, prints, split)
    monkeypatch.undo()
    assert find(tmp_path, prints, split, names=["a2", "b2", "c1"]) == {}
    assert len(storage.names(str(tmp_path / "stages" / "duplicates"))) == 1
