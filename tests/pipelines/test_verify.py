"""A whole build passes; each way in which it may be less is told, with the file."""
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from manifests import records, shards
from pipelines import verify
from tests.pipelines import whole
from tests.pipelines.whole import edit_json, rewrite, shard


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return whole.build(tmp_path_factory.mktemp("whole") / "out", shards_a_split=2)


@pytest.fixture
def out(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "out")


def test_what_is_whole_is_counted(made):
    found = verify.verify(str(made))
    assert set(found) == {"mucaps", "muedit", "muimage", "muvideo", "musicqa"}
    for dataset, by_split in found.items():
        rows = whole.rows(dataset)
        for split, held in by_split.items():
            wanted = [row for row in rows if (row["source_id"] in whole.EVAL) == (split == "eval")]
            assert sum(one.rows for one in held) == len(wanted) and len(held) == 2
            assert [Path(one.url).name[:10] for one in held] == ["data-00000", "data-00001"]
            assert sum(one.media for one in held) == sum(
                len(value["bytes"]) for row in wanted for value in row.values() if isinstance(value, dict)
                and "bytes" in value)
            assert all(one.rest > 100 * one.rows for one in held)
    assert set(verify.verify(str(made), ["muvideo"])) == {"muvideo"}


def first(**changed):
    """A change of a shard's first row."""
    return lambda rows: [rows[0] | changed, *rows[1:]]


def medium(data: bytes | None) -> dict:
    return {"bytes": data, "path": "x.opus"}


@pytest.mark.parametrize(("dataset", "change", "fault"), [
    ("mucaps", lambda rows: rows[1:], "holds eval 2, train 9, and stats.json says eval 2, train 10 of 12"),
    ("mucaps", lambda rows: [*rows, rows[0]], "the id 'clip-0' is there twice"),
    ("mucaps", first(id="other"), "12 rows are done, of which 1 are not in the dataset"),
    ("mucaps", first(caption=""), "caption of 'clip-0' is empty"),
    ("mucaps", first(caption=None), "caption of 'clip-0' is empty"),
    ("mucaps", first(audio=medium(b"")), "audio of 'clip-0' is empty"),
    ("mucaps", first(audio=None), "audio of 'clip-0' is empty"),
    ("mucaps", first(audio=medium(b"no sound at all")), "audio of 'clip-0' cannot be decoded"),
    ("muedit", first(target_audio=medium(b"no sound")), "target_audio of 'clip-0~clip-1' cannot be decoded"),
    ("muimage", first(image=medium(b"no picture")), "image of 'clip-0' cannot be decoded"),
    ("muvideo", first(video=medium(b"no film")), "video of 'clip-0' cannot be decoded"),
    ("musicqa", first(conversation=[]), "conversation of 'clip-0' is empty"),
    ("muvideo", first(video_caption=""), "video_caption of 'clip-0' is empty"),
    ("mucaps", first(source_id="clip-2"), "the source 'clip-2' is in two splits"),
    ("muedit", first(target_source_id="clip-2"), "the source 'clip-2' is in two splits"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_wrong_with_a_row(out, dataset, change, fault):
    rewrite(shard(out, dataset), change)
    with pytest.raises(verify.Unsound, match=re.escape(fault)) as told:
        verify.verify(str(out), ["mucaps", dataset] if dataset != "mucaps" else None)
    assert dataset in str(told.value) and "make datasets" in str(told.value)


def test_a_source_in_two_splits_of_two_datasets(out):
    """Each dataset alone is sound."""
    other = whole.build(out.parent / "other", lambda dataset, rows: [
        row for row in rows if row["source_id"] not in whole.EVAL[1:]])
    name = {"clip-0": "clip-2", "clip-2": "clip-0"}  # the two change their splits
    for path in (other / "datasets" / "mucaps").rglob("*.arrow"):
        rewrite(path, lambda rows: [row | {"source_id": name.get(row["source_id"], row["source_id"])} for row in rows])
    assert verify.verify(str(other), ["mucaps"]) and verify.verify(str(other), ["musicqa"])
    with pytest.raises(verify.Unsound, match=r"is in two splits"):
        verify.verify(str(other), ["mucaps", "musicqa"])


def test_a_cut_or_garbled_shard(out):
    path = shard(out, "mucaps")
    data = path.read_bytes()
    path.write_bytes(data[:len(data) // 2])
    with pytest.raises(verify.Unsound, match=r"data-00000-of-00002-abc.arrow"):
        verify.verify(str(out), ["mucaps"])
    path.write_bytes(b"no Arrow")
    with pytest.raises(verify.Unsound, match=r"not a readable Arrow shard"):
        verify.verify(str(out), ["mucaps"])


@pytest.mark.parametrize("change", [
    lambda schema, rows: (schema.remove_metadata(), rows),  # then nothing tells which columns are media
    lambda schema, rows: (schema.append(pa.field("cover", pa.binary())), [row | {"cover": b"picture"} for row in rows]),
    lambda schema, rows: (schema.remove(schema.get_field_index("speech")),
                          [{name: value for name, value in row.items() if name != "speech"} for row in rows]),
], ids=["unmarked", "more", "less"])
def test_columns_that_are_not_the_datasets(out, change):
    path = shard(out, "mucaps")
    schema, rows = change(next(shards.batches(str(path))).schema, list(shards.read(str(path))))
    shards.write(str(path), schema, rows)
    with pytest.raises(verify.Unsound, match=r"abc.arrow: its columns are not those of mucaps, as this version makes"):
        verify.verify(str(out), ["mucaps"])


def test_a_shard_without_a_row(out):
    rewrite(shard(out, "mucaps"), lambda rows: [])
    with pytest.raises(verify.Unsound, match=r"data-00000-of-00002-abc.arrow: holds no row"):
        verify.verify(str(out), ["mucaps"])


def test_a_list_of_shards_that_points_elsewhere(out):
    """Nothing is read there."""
    shutil.copy(shard(out, "mucaps"), out / "elsewhere.arrow")
    edit_json(out / "datasets" / "mucaps" / "train" / "state.json",
              lambda state: state["_data_files"][0].update(filename="../../../elsewhere.arrow"))
    with pytest.raises(verify.Unsound, match=r"those that lie there differ") as told:
        verify.verify(str(out), ["mucaps"])
    assert "holds eval 2, train 5, and stats.json says eval 2, train 10" in str(told.value)


def test_a_shard_that_no_list_names_or_that_is_gone(out):
    shutil.copy(shard(out, "mucaps"), shard(out, "mucaps").with_name("data-00009-of-00010-abc.arrow"))
    with pytest.raises(verify.Unsound, match=r"those that lie there differ"):
        verify.verify(str(out), ["mucaps"])
    shard(out, "muedit").unlink()
    with pytest.raises(verify.Unsound, match=r"those that lie there differ"):
        verify.verify(str(out), ["muedit"])


def test_a_card_of_another_build(out):
    card = out / "datasets" / "mucaps" / "README.md"
    card.write_text(card.read_text().replace("num_examples: 10\n", "num_examples: 11\n"))
    with pytest.raises(verify.Unsound, match=r"its card says eval 2, train 11"):
        verify.verify(str(out), ["mucaps"])
    card.write_text("# no metadata")
    with pytest.raises(verify.Unsound, match=r"its card or its lists of shards cannot be read"):
        verify.verify(str(out), ["mucaps"])
    card.unlink()
    with pytest.raises(verify.Unsound, match=r"its card or its lists of shards cannot be read"):
        verify.verify(str(out), ["mucaps"])


def test_a_ledger_that_does_not_add_up(out):
    url = str(out / "ledger" / "mucaps.arrow")
    lines = list(shards.read(url))
    shards.write(url, records.LEDGER, lines[:-1])
    with pytest.raises(verify.Unsound, match=r"12 done and 0 lost, and stats.json says 13 requested, 12 done and 1"):
        verify.verify(str(out), ["mucaps"])
    shards.write(url, records.LEDGER, [lines[0] | {"split": "eval"}, *lines[1:]])
    with pytest.raises(verify.Unsound, match=r"of which 1 are not in the dataset or not in their split"):
        verify.verify(str(out), ["mucaps"])
    shards.write(url, records.LEDGER, [*lines[:-1], lines[-1] | {"outcome": "bo\x1bredom"}])
    with pytest.raises(verify.Unsound, match=r"mucaps.arrow: 'bo\\x1bredom' is no reason to lose a row"):
        verify.verify(str(out), ["mucaps"])
    Path(url).unlink()
    with pytest.raises(verify.Unsound, match=r"mucaps.arrow"):
        verify.verify(str(out), ["mucaps"])


def test_builds_that_are_none_or_not_done(out, tmp_path):
    with pytest.raises(verify.Unsound, match=r"no finished build here"):
        verify.verify(str(tmp_path / "nowhere"))
    with pytest.raises(verify.Unsound, match=r"coco is not of its last build, which made mucaps, muedit"):
        verify.verify(str(out), ["mucaps", "coco"])
    edit_json(out / "run.json", lambda run: run.update(state="failed"))
    with pytest.raises(verify.Unsound, match=r"did not end well"):
        verify.verify(str(out))


@pytest.mark.parametrize(("name", "text"), [
    ("stats.json", "[]"), ("stats.json", "{}"), ("stats.json", '{"datasets": {"mucaps": {}}}'),
    ("stats.json", '{"datasets": {"../mucaps": {"requested": 1, "done": 1, "lost": {}, "splits": {}}}}'),
    ("stats.json", '{"datasets": {"mucaps": {"requested": 1, "done": 1, "lost": {"silent": "1"}, "splits": {}}}}'),
    ("run.json", "[]")])
def test_numbers_that_no_build_writes(out, name, text):
    (out / name).write_text(text)
    with pytest.raises(verify.Unsound, match=rf"{name}: is not what a build writes there; run `make datasets` again"):
        verify.verify(str(out))


def test_many_faults_are_counted(out):
    for dataset in ("mucaps", "muedit", "muimage", "muvideo", "musicqa"):
        for path in (out / "datasets" / dataset).rglob("*.arrow"):
            rewrite(path, lambda rows: [row | {"caption": ""} for row in rows])
            path.with_name("data-00009-of-00010-abc.arrow").write_bytes(b"")
    with pytest.raises(verify.Unsound, match=r"; and \d+ more"):
        verify.verify(str(out))
