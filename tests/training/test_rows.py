"""Which rows a mixture has, in which order and split; what cannot be read is told with file and row."""
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pytest

from manifests import records, shards, splits, storage
from tests.training.test_samples import LOUD, MUEDIT, MUIMAGE, MUSICQA, MUVIDEO
from training import rows, stages
from training.rows import Part
from training.samples import Medium, Texts, Unusable
from training.sources import Sources
from training.stages import Stage

MEDIUM = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = {"mucaps": ["caption"], "muimage": ["image_caption", "caption"], "muvideo": ["video_caption", "caption"],
         "musicqa": ["caption"], "muedit": ["caption", "target_caption"]}
ROWS = {"mucaps": {"caption": LOUD}, "muimage": MUIMAGE, "muvideo": MUVIDEO, "musicqa": MUSICQA, "muedit": MUEDIT}
COCO = {"images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
        "annotations": [{"id": 1, "image_id": 3, "caption": "black edges"}, {"id": 2, "image_id": 7, "caption": "dark"},
                        {"id": 5, "image_id": 3, "caption": "quiet people"}]}
ALPACA = [{"instruction": "One image", "input": "", "output": "It is black"},
          {"instruction": "The key", "input": "A", "output": "minor"}]
MUSICQA_JSON = [{"audio_name": f"{name}.mp3", "conversation": [
    {"from": "human", "value": asked, "input_modality": "audio"},
    {"from": "gpt", "value": "One is fast", "output_modality": "text"}]}
    for name, asked in (("x", "What tempo"), ("y", "The key"), ("x", "The mode"))]


def schema(name: str) -> pa.Schema:
    """Of a build's datasets: texts between media."""
    talk = [] if name == "mucaps" else [("conversation", pa.list_(records.TURN))]
    return pa.schema([("audio", MEDIUM), ("id", pa.string()), *[(text, pa.string()) for text in TEXTS[name]], *talk])


def row(name: str, key: str | None, **other: object) -> dict:
    """A row that all stages can use."""
    return ROWS[name] | {"audio": {"bytes": b"sound" * 200, "path": "a"}} | {"id": key} | other


def dataset(out: Path, name: str, split: str, *parts: Iterable[dict]) -> list[Path]:
    """As a build writes it, a part a shard."""
    folder = out / "datasets" / name / split
    paths = [folder / f"data-{number:05d}.arrow" for number in range(len(parts))]
    for path, some in zip(paths, parts, strict=True):
        shards.write(str(path), schema(name), some)
    storage.write_json(str(folder / "state.json"), {"_data_files": [{"filename": path.name} for path in paths]})
    return paths


def published(path: Path, value: object) -> str:
    path.write_text(json.dumps(value))
    return str(path)


def _texts(part: Part, split: str, stage: int) -> tuple[list[Texts], list[Unusable]]:
    lost: list[Unusable] = []
    return list(rows.texts(part, split, stage, lost.append, {})), lost


def test_what_there_is_of_a_mixture(tmp_path) -> None:
    caps = {split: [str(path) for path in dataset(tmp_path, "mucaps", split, [row("mucaps", "a")])]
            for split in ("train", "eval")}
    qa = [str(path) for path in dataset(tmp_path, "musicqa", "train", [row("musicqa", "a")])]
    given = Sources(str(tmp_path), musicqa="m.json", alpaca="a.json,media")
    found, notes = rows.parts(stages.STAGES[1], given)
    assert found == [Part("mucaps", "mucaps", caps)]
    there = tmp_path / "datasets"
    assert notes == [f"coco is left out: no published file of it was given, and there is no {there}/muimage",
                     f"muvideo is left out: there is no {there}/muvideo"]
    found, notes = rows.parts(stages.STAGES[3], given)
    assert found == [Part("alpaca", "alpaca", file="a.json"), Part("musicqa", "musicqa", {"train": qa, "eval": []}),
                     Part("musicqa", "musicqa", file="m.json")]
    assert [note.partition(" ")[0] for note in notes] == ["muimage", "muvideo", "muedit"]
    assert rows.parts(stages.STAGES[3], Sources(str(tmp_path)))[1][0] == (
        "alpaca is left out: no published file of it was given")
    with pytest.raises(ValueError, match=r"stage 2 has nothing to learn from: mucaps is left out: .*/none/"):
        rows.parts(stages.STAGES[2], Sources(str(tmp_path / "none")))


def test_muimage_stands_in_for_coco(tmp_path) -> None:
    urls = [str(path) for path in dataset(tmp_path, "muimage", "train", [row("muimage", "a")])]
    found, notes = rows.parts(stages.STAGES[1], Sources(str(tmp_path)))
    assert found == [Part("coco", "muimage", {"train": urls, "eval": []})]
    assert notes[1] == "no published file of coco was given: the captions of muimage's pictures stand in"
    assert _texts(found[0], "train", 1)[0] == [
        Texts("a", "muimage", None, "black edges", {"image": Medium("muimage", "a")})]
    found, notes = rows.parts(stages.STAGES[1], Sources(str(tmp_path), coco="c.json"))
    assert found == [Part("coco", "coco", file="c.json")] and "coco" not in "".join(notes)
    own = Stage(1, 1, {"muimage": 1.0, "coco": 1.0})  # its captions are there already
    found, notes = rows.parts(own, Sources(str(tmp_path)))
    assert [part.name for part in found] == ["muimage"]
    assert notes == ["coco is left out: no published file of it was given"]


def test_rows_come_in_the_shards_order(tmp_path) -> None:
    keys = [[f"{shard}-{number:03d}" for number in range(70, 0, -1)] for shard in "bca"]
    dataset(tmp_path, "mucaps", "train", *[[row("mucaps", key) for key in some] for some in keys])
    dataset(tmp_path, "mucaps", "eval", [row("mucaps", "e")])
    (part,), _ = rows.parts(stages.STAGES[2], Sources(str(tmp_path)))
    assert [one.id for one in _texts(part, "train", 2)[0]] == [key for some in keys for key in some]
    assert [one.id for one in _texts(part, "eval", 2)[0]] == ["e"]


FLAT = {"a.jpg": "black edges", "b.jpg": "dark"}
CHAT = [{"conversation": [{"from": "human", "value": "One image"}, {"from": "gpt", "value": "It is black"}]}]


@pytest.mark.parametrize(("name", "value", "wanted"), [
    ("coco", COCO, [("a.jpg#0", "black edges"), ("b.jpg#1", "dark"), ("a.jpg#2", "quiet people")]),
    ("coco", FLAT, [("a.jpg#0", "black edges"), ("b.jpg#1", "dark")]),
    ("alpaca", ALPACA, [("0", "It is black"), ("1", "minor")]), ("alpaca", CHAT, [("0", "It is black")]),
    ("musicqa", MUSICQA_JSON, [(f"{key}#{number}", "One is fast") for number, key in enumerate(
        ("x.mp3", "y.mp3", "x.mp3"))]),
    ("musicqa", [{"image_name": "z.mp3", "conversation": MUSICQA_JSON[0]["conversation"]}],
     [("z.mp3#0", "One is fast")])])
def test_published_formats(tmp_path, name: str, value: object, wanted: list) -> None:
    part = Part(name, name, file=published(tmp_path / "f.json", value))
    found, lost = _texts(part, "train", 1 if name == "coco" else 3)
    assert [(one.id, one.answer) for one in found] == wanted and not lost
    media = {"coco": ("image", "coco"), "musicqa": ("audio", "musicqa-published")}
    for one in found:
        if name == "alpaca":
            assert one.hears == {}
        else:
            modality, of = media[name]
            assert one.hears == {modality: Medium(of, one.id.partition("#")[0])}


def test_published_rows_are_split_by_their_media(tmp_path) -> None:
    """One in a hundred, and all captions of a picture on one side."""
    images = [f"{number}.jpg" for number in range(2000)]
    value = {"images": [{"id": number, "file_name": name} for number, name in enumerate(images)],
             "annotations": [{"id": number, "image_id": number // 2, "caption": f"{number}"} for number in range(4000)]}
    part, aside = Part("coco", "coco", file=published(tmp_path / "c.json", value)), {}
    lost: list[Unusable] = []
    train, held = (list(rows.texts(part, split, 1, lost.append, aside)) for split in ("train", "eval"))
    wanted = {name for name in images if splits.fraction(name, "split") < 0.01}
    assert 10 <= len(wanted) <= 30 and not aside and not lost
    assert [int(one.answer) for one in held] == [number for number in range(4000) if images[number // 2] in wanted]
    assert [int(one.answer) for one in train] == [number for number in range(4000) if images[number // 2] not in wanted]


@pytest.mark.parametrize(("name", "given"), [
    ("alpaca", lambda key, number: {"instruction": key, "output": f"{number}"}),
    ("musicqa", lambda key, number: {"audio_name": key, "conversation": [
        {"from": "human", "value": f"{number}"}, {"from": "gpt", "value": f"{number}"}]})])
def test_the_others_are_split_by_instruction_and_by_sound(tmp_path, name: str, given: Callable) -> None:
    drawn = next(text for text in map(str, range(10**6)) if splits.fraction(text, "split") < 0.01)
    value = [given(key, number) for number, key in enumerate(["a", drawn, "b", drawn])]
    part, aside = Part(name, name, file=published(tmp_path / "f.json", value)), {}
    lost: list[Unusable] = []
    train, held = ([one.answer for one in rows.texts(part, split, 3, lost.append, aside)]
                   for split in ("train", "eval"))
    assert (train, held, lost) == (["0", "2"], ["1", "3"], [])


def test_texts_that_are_not_utf_8_cost_no_other_row(tmp_path) -> None:
    folder = tmp_path / "datasets" / "mucaps" / "train"
    path, = dataset(tmp_path, "mucaps", "train", [row("mucaps", f"{number:04d}", caption=f"loud {number:04d}")
                                                  for number in range(60)])
    whole = path.read_bytes()
    for bad in (b"0007", b"loud 0055"):
        assert whole.count(bad) == (2 if bad == b"0007" else 1)
        whole = whole.replace(bad, b"\xff" * len(bad), 1)
    path.write_bytes(whole)
    (part,), _ = rows.parts(stages.STAGES[2], Sources(str(tmp_path)))
    found, lost = _texts(part, "train", 2)
    assert [one.id for one in found] == [f"{number:04d}" for number in range(60) if number not in (7, 55)]
    assert [(one.dataset, one.id, one.reason) for one in lost] == [
        ("mucaps", f"row {number} of data-00000.arrow", "malformed") for number in (8, 56)]
    assert storage.names(str(folder)) == ["data-00000.arrow", "state.json"]


def test_shards_that_cannot_be_read(tmp_path) -> None:
    path, other = dataset(tmp_path, "mucaps", "train", *[[row("mucaps", f"{number}") for number in range(200)]] * 2)
    (part,), _ = rows.parts(stages.STAGES[2], Sources(str(tmp_path)))
    before = rows.files(part)
    assert [one[:3] for one in before] == [["train", one.name, one.stat().st_size] for one in (path, other)]
    os.utime(other, ns=(1, 10**18))
    assert rows.files(part)[0] == before[0] and rows.files(part)[1] != before[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match=r"data-00000\.arrow: not a readable Arrow shard"):
        _texts(part, "train", 2)
    path.unlink()
    with pytest.raises(ValueError, match=r"data-00000\.arrow: not a readable Arrow shard"):
        _texts(part, "train", 2)
    with pytest.raises(FileNotFoundError, match=r"data-00000\.arrow: no such file; build its dataset again"):
        rows.files(part)
    with pytest.raises(FileNotFoundError, match=r"gone\.json: no such file$"):
        rows.files(Part("coco", "coco", file=str(tmp_path / "gone.json")))


@pytest.mark.parametrize(("columns", "told"), [
    ({"id": "a"}, "no column caption; it has id; build mucaps again"),
    ({"id": 3, "caption": "a"}, "its column id has int64 in it, but text should be there"),
    ({"id": "a", "caption": ["a"]}, "its column caption has list")])
def test_shards_of_other_columns(tmp_path, columns: dict, told: str) -> None:
    batch = pa.RecordBatch.from_pylist([columns])
    path = tmp_path / "own.arrow"
    shards.write(str(path), batch.schema, [columns])
    with pytest.raises(ValueError, match=rf"own\.arrow: {told}"):
        _texts(Part("mucaps", "mucaps", {"train": [str(path)]}), "train", 2)


@pytest.mark.parametrize("talk", ["hello", ["a"], [{"from": "human"}]])
def test_conversations_that_are_none(tmp_path, talk: object) -> None:
    batch = pa.RecordBatch.from_pylist([{"id": "a", "conversation": talk}])
    path = tmp_path / "own.arrow"
    shards.write(str(path), batch.schema, batch.to_pylist())
    with pytest.raises(ValueError, match=r"own\.arrow: its column conversation has .* but turns with caption, from, "):
        _texts(Part("muedit", "muedit", {"train": [str(path)]}), "train", 3)
