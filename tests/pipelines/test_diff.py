"""What a diff of two builds tells, against changes that were made on purpose."""
import json
import shutil
import tracemalloc

import pyarrow as pa
import pytest

from captioners import measured
from manifests import shards
from pipelines import __main__ as cli
from pipelines import diff, mucaps, version
from pipelines.diff import Change
from tests.pipelines.handmade import dataset, row
from tests.pipelines.test_build import build, ledger

KEYS = [f"clip-{number}" for number in range(20)]
ROWS = {"train": [row(key) for key in KEYS[:15]], "eval": [row(key) for key in KEYS[15:]]}


def found(a, b) -> set[Change]:
    listed = list(diff.changes(str(a), str(b)))
    assert len(listed) == len(set(listed))
    return set(listed)


@pytest.fixture
def changed(tmp_path):
    """A and B, and what was done to come from one to the other."""
    train = {one["id"]: one for one in ROWS["train"]}
    moved, gone = train.pop("clip-3"), train.pop("clip-7")
    train["new"] = row("new")
    train["clip-1"] = row("clip-1", caption="Another.", agreement=None)
    train["clip-2"] = row("clip-2", audio={"bytes": b"another sound", "path": "clip-2.opus"})
    train["clip-4"] = row("clip-4", beats=[0.5])
    a = dataset(dataset(tmp_path / "a", ROWS), {"train": [gone]}, "musicqa")
    b = dataset(dataset(tmp_path / "b", {"train": train.values(), "eval": [*ROWS["eval"], moved]}, files=4),
                {"eval": [gone]}, "muvideo")
    return a, b, {
        Change("mucaps", "train", "clip-3", "removed"), Change("mucaps", "eval", "clip-3", "added"),
        Change("mucaps", "train", "clip-7", "removed"), Change("mucaps", "train", "new", "added"),
        Change("mucaps", "train", "clip-1", "changed", ("agreement", "caption")),
        Change("mucaps", "train", "clip-2", "changed", ("audio",)),
        Change("mucaps", "train", "clip-4", "changed", ("beats",)),
        Change("musicqa", "train", "clip-7", "removed"), Change("muvideo", "eval", "clip-7", "added")}


def test_every_change_is_told_once_and_nothing_else(changed):
    a, b, expected = changed
    assert found(a, b) == expected
    back = {"added": "removed", "removed": "added", "changed": "changed"}
    assert found(b, a) == {Change(one.dataset, one.split, one.id, back[one.change], one.columns) for one in expected}


def test_it_says_the_same_where_versions_are_the_same(tmp_path):
    one, other = dataset(tmp_path / "one", ROWS), dataset(tmp_path / "other", ROWS, files=5)
    assert found(one, other) == set() and version.version(str(one)) == version.version(str(other))


def test_columns_that_only_one_build_has(tmp_path):
    dataset(tmp_path / "a", ROWS)
    schema = mucaps.features().arrow_schema
    for split, rows in ROWS.items():
        dataset(tmp_path / "b", {split: rows})
        shard = next((tmp_path / "b" / "datasets" / "mucaps" / split).glob("*.arrow"))
        rows = [{name: value for name, value in one.items() if name != "speech"} for one in shards.read(str(shard))]
        shards.write(str(shard), schema.remove(schema.get_field_index("speech")), rows)
    changes = found(tmp_path / "a", tmp_path / "b")
    assert {one.id for one in changes} == set(KEYS) and {one.columns for one in changes} == {("speech",)}


def test_builds(tmp_path, monkeypatch):
    few, more = tmp_path / "few", tmp_path / "more"
    build(few, "--limit", "4")
    shutil.copytree(few, more)
    build(more, "--limit", "6")
    done = [{(one["split"], key) for key, one in ledger(out).items() if one["outcome"] == "done"}
            for out in (few, more)]
    assert done[0] < done[1]
    assert found(few, more) == {Change("mucaps", split, key, "added") for split, key in done[1] - done[0]}
    monkeypatch.setattr(measured, "VERSION", measured.VERSION + 1)
    shutil.copytree(few, tmp_path / "again")
    build(tmp_path / "again", "--limit", "4")
    assert found(few, tmp_path / "again") == {Change("mucaps", split, key, "changed", ("captioner_revision",))
                                              for split, key in done[0]}


def test_for_a_person(changed, capsys):
    a, b, _ = changed
    assert cli.main(["diff", str(a), str(b)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if not line.startswith("  ")] == [
        "mucaps train: 1 added, 2 removed, 3 changed (agreement in 1, audio in 1, beats in 1, caption in 1)",
        "mucaps eval: 1 added, 0 removed, 0 changed",
        "muvideo eval: 1 added, 0 removed, 0 changed",
        "musicqa train: 0 added, 1 removed, 0 changed"]
    assert "  ~ clip-1: agreement, caption" in said and said.count("  - clip-7") == 2
    assert cli.main(["diff", str(a), str(a)]) == 0
    assert capsys.readouterr().out == "the same rows\n"


def test_many_rows_are_summed_up_and_hostile_ids_are_shown_harmless(tmp_path, capsys):
    a = dataset(tmp_path / "a", ROWS)
    b = dataset(tmp_path / "b", {"train": [*ROWS["train"], *(row(f"\x1b[2J\n{number}") for number in range(30))],
                                 "eval": ROWS["eval"]})
    assert cli.main(["diff", str(a), str(b)]) == 1
    said = capsys.readouterr().out
    assert said.startswith("mucaps train: 30 added, 0 removed, 0 changed\n  + \\x1b[2J\\n")
    assert said.endswith("  + and 25 more\n") and said.replace("\n", "").isprintable()


def test_as_json(changed, capsys):
    a, b, expected = changed
    assert cli.main(["diff", "--json", str(a), str(b)]) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {Change(**one | {"columns": tuple(one["columns"])}) for one in told} == expected
    assert cli.main(["diff", "--json", str(a), str(a)]) == 0
    assert capsys.readouterr().out == ""


def test_what_is_no_build_is_told(tmp_path, capsys):
    assert cli.main(["diff", "", str(tmp_path)]) == 2
    assert "which two builds?" in capsys.readouterr().err
    a, b = dataset(tmp_path / "a", ROWS), dataset(tmp_path / "b", ROWS)
    shard = next((b / "datasets" / "mucaps" / "train").glob("*.arrow"))
    shards.write(str(shard), mucaps.features().arrow_schema, list(shards.read(str(shard)))[::-1])
    assert cli.main(["diff", str(a), str(b)]) == 2
    assert "is not where a build puts it" in capsys.readouterr().err
    shard.write_bytes(b"no Arrow")
    for other, said in ((b, str(shard)), (tmp_path / "nothing", f"{tmp_path}/nothing: no datasets here")):
        for two in ((a, other), (other, a)):
            assert cli.main(["diff", *map(str, two)]) == 2
            assert said in capsys.readouterr().err


def test_columns_and_ids_of_others_builds(tmp_path, capsys):
    a, b = dataset(tmp_path / "a", ROWS), dataset(tmp_path / "b", ROWS)
    shard = next((b / "datasets" / "mucaps" / "train").glob("*.arrow"))
    rows, schema = list(shards.read(str(shard))), mucaps.features().arrow_schema
    shards.write(str(shard), schema.append(pa.field("cover", pa.binary())), [one | {"cover": b"\xff"} for one in rows])
    assert {one.columns for one in found(a, b)} == {("cover",)} and version.version(str(a)) != version.version(str(b))
    shards.write(str(shard), schema, [rows[0] | {"id": None}, *rows[1:]])
    assert cli.main(["diff", str(a), str(b)]) == 2
    assert f"{shard}: a row has no id" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_rows(tmp_path):
    peaks = []
    for count in (20, 200):
        rows = [row(f"clip-{number}", audio={"bytes": bytes([number % 256]) * 100_000, "path": "a.wav"})
                for number in range(count)]
        changed = [one | {"tempo": 60.0} for one in rows]
        a, b = (dataset(tmp_path / f"{name}{count}", {"train": some}) for name, some in (("a", rows), ("b", changed)))
        del rows, changed
        tracemalloc.start()
        assert sum(one.columns == ("tempo",) for one in diff.changes(str(a), str(b))) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 100_000, "of 20 MB each"
