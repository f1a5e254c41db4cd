"""Rows and media are found where they lie, by name, and nowhere else."""
import json
import os
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from manifests import shards, storage
from training import sources
from training.samples import Medium
from training.sources import Media, Sources

MEDIUM = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema([("id", pa.string()), ("image", MEDIUM), ("beats", pa.list_(pa.float32())), ("audio", MEDIUM)])


def dataset(out: str, name: str, split: str, parts: list[list[dict]]) -> list[str]:
    """As a build writes it; the shards' URLs."""
    folder = storage.join(out, "datasets", name, split)
    names = [f"data-{number:05d}-of-{len(parts):05d}-{uuid.uuid4().hex[:12]}.arrow" for number in range(len(parts))]
    for file, rows in zip(names, parts, strict=True):
        shards.write(storage.join(folder, file), SCHEMA, rows)
    storage.write_json(storage.join(folder, "state.json"), {"_data_files": [{"filename": file} for file in names]})
    return [storage.join(folder, file) for file in names]


def row(key: str, size: int = 100) -> dict:
    return {"id": key, "image": {"bytes": b"image " + key.encode() * size, "path": f"{key}.jpg"}, "beats": [0.5, 1.0],
            "audio": {"bytes": b"audio " + key.encode() * size, "path": f"{key}.opus"}}


@pytest.fixture(params=["folder", "url"])
def out(request, tmp_path):
    """A folder, and a place that is none: what is not on this machine cannot be mapped."""
    if request.param == "folder":
        yield str(tmp_path / "out")
        return
    yield f"memory://{tmp_path.name}"
    fsspec.filesystem("memory").rm("/", recursive=True)


def test_shards_are_those_of_the_state_in_its_order(out) -> None:
    found = dataset(out, "muimage", "train", [[row("b")], [row("a")], [row("c")]])
    storage.write_bytes(storage.join(out, "datasets/muimage/train/old.arrow"), b"of another build")
    state = storage.join(out, "datasets/muimage/train/state.json")
    storage.write_json(state, {"_data_files": list(reversed(storage.read_json(state)["_data_files"]))})
    assert Sources(out).shards("muimage", "train") == found[::-1]
    assert Sources(out).shards("muimage", "eval") == [] and Sources(out).shards("mucaps", "train") == []


@pytest.mark.parametrize("said, told", [
    ("[]", "names no _data_files"), ('{"_data_files": null}', "names no _data_files"),
    ('{"_data_files": [{"name": "a.arrow"}]}', "names no _data_files"), ("{", "not valid JSON"),
    ('{"_data_files": [{"filename": "../../../../secret.arrow"}]}', "no file name below a folder"),
    ('{"_data_files": [{"filename": 3}]}', "no text")])
def test_a_state_that_is_none_is_told(tmp_path, said: str, told: str) -> None:
    state = tmp_path / "datasets" / "mucaps" / "train" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text(said)
    with pytest.raises(ValueError, match=told) as found:
        Sources(str(tmp_path)).shards("mucaps", "train")
    assert str(found.value).count(str(state)) == 1


def test_every_medium_of_a_dataset_is_found_by_id(out) -> None:
    rows = {split: [[row(f"{split}{part}-{number}", 7) for number in range(size)] for part, size in enumerate(sizes)]
            for split, sizes in {"train": (120, 1, 51), "eval": (3,)}.items()}
    for split, parts in rows.items():
        dataset(out, "muimage", split, parts)
    media = Media(Sources(out))
    for parts in rows.values():
        for wanted in (one for part in parts for one in part):
            for modality in ("audio", "image"):
                assert media.read(modality, Medium("muimage", wanted["id"])) == wanted[modality]["bytes"]


def test_ids_whose_hashes_are_equal_are_told_apart(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sources, "_hash", len)
    keys = [f"{number:03d}" for number in range(70)] + ["a", "b"]
    dataset(str(tmp_path), "mucaps", "train", [[row(key) for key in keys[:60]], [row(key) for key in keys[60:]]])
    media = Media(Sources(str(tmp_path)))
    assert [media.read("audio", Medium("mucaps", key)) for key in keys] == [row(key)["audio"]["bytes"] for key in keys]
    with pytest.raises(ValueError, match="datasets/mucaps/train: no row 'xyz'"):
        media.read("audio", Medium("mucaps", "xyz"))


def test_the_index_takes_24_bytes_a_row(tmp_path) -> None:
    dataset(str(tmp_path), "mucaps", "train", [[row(f"a long name of a clip {number}", 1) for number in range(500)]])
    found = sources._index(Sources(str(tmp_path)).shards("mucaps", "train"))
    assert sum(one.nbytes for one in (found.hashes, found.shards, found.offsets, found.rows)) == 24 * 500


def test_what_a_dataset_does_not_hold_is_told(tmp_path) -> None:
    url, = dataset(str(tmp_path), "mucaps", "train", [[
        row("a"), {**row("b"), "audio": None}, {**row("c"), "audio": {"bytes": None, "path": "c.opus"}}]])
    media = Media(Sources(str(tmp_path)))
    for key in ("b", "c"):
        with pytest.raises(ValueError, match=f"{url}: row {key} has no audio in it"):
            media.read("audio", Medium("mucaps", key))
    with pytest.raises(ValueError, match=f"{url}: has no column video"):
        media.read("video", Medium("mucaps", "a"))
    with pytest.raises(ValueError, match="datasets/mucaps/train: no row 'z'"):
        media.read("audio", Medium("mucaps", "z"))
    with pytest.raises(ValueError, match="datasets/muedit: no such dataset"):
        media.read("audio", Medium("muedit", "a"))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("harm", ["gone", "cut", "other"])
def test_a_shard_that_is_not_whole_is_named(tmp_path, harm: str, when: str) -> None:
    url, = dataset(str(tmp_path), "mucaps", "train", [[row(str(number), 1000) for number in range(60)]])
    media, last = Media(Sources(str(tmp_path))), Medium("mucaps", "59")
    if when == "after":
        media.read("audio", last)
    if harm == "gone":
        os.remove(url)
    else:
        data = Path(url).read_bytes()
        Path(url).write_bytes(data[:len(data) // 2] if harm == "cut" else b"no Arrow " * (len(data) // 9))
    with pytest.raises(ValueError, match=f"{url}: not a readable Arrow shard"):
        media.read("audio", last)


def test_a_shard_that_others_took_the_place_of_gives_no_wrong_medium(tmp_path) -> None:
    """Of the same form, but with other rows: the row's id is looked at, not only its place."""
    url, = dataset(str(tmp_path), "mucaps", "train", [[row("a"), row("b")]])
    media = Media(Sources(str(tmp_path)))
    assert media.read("audio", Medium("mucaps", "a")) == row("a")["audio"]["bytes"]
    shards.write(url, SCHEMA, [row("b"), row("a")])
    with pytest.raises(ValueError, match="no longer those that they were"):
        media.read("audio", Medium("mucaps", "a"))


@pytest.fixture
def published(tmp_path) -> Path:
    """The official layout of COCO, and MusicQA's."""
    for file in ("annotations/captions_val2017.json", "annotations/mine.json", "val2017/1.jpg", "other/1.jpg",
                 "annotations/1.jpg", "MusicQA/FinetuneMusicQA.json", "MusicQA/audios/1.mp3", "flat/qa.json",
                 "flat/1.mp3", "secret.jpg"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(file)
    return tmp_path


@pytest.mark.parametrize("kind, given, found", [
    ("coco", "annotations/captions_val2017.json", "val2017/1.jpg"),
    ("coco", "annotations/captions_val2017.json,{}/other", "other/1.jpg"),
    ("coco", "annotations/captions_val2017.json,{}/other/", "other/1.jpg"),
    ("coco", "annotations/mine.json", "annotations/1.jpg"),
    ("coco", "val2017/captions_val2017.json", "val2017/1.jpg"),
    ("musicqa", "MusicQA/FinetuneMusicQA.json", "MusicQA/audios/1.mp3"),
    ("musicqa", "flat/qa.json", "flat/1.mp3"),
    ("musicqa", "flat/qa.json,{}/MusicQA/audios", "MusicQA/audios/1.mp3")])
def test_media_of_published_datasets_lie_beside_their_file_or_where_it_is_said(
        published, monkeypatch, kind: str, given: str, found: str) -> None:
    name, modality, medium = {"coco": ("coco", "image", "1.jpg"), "musicqa": ("musicqa-published", "audio", "1.mp3")
                              }[kind]
    for place in (f"{published}/", ""):  # absolute, and from where one stands
        monkeypatch.chdir(published)
        made = Sources("out", **{kind: place + given.format(place.rstrip("/") or ".")})
        assert made.published(name) == place + given.partition(",")[0]
        assert Media(made).read(modality, Medium(name, medium)) == found.encode()


def test_a_file_in_the_folder_one_stands_in(published, monkeypatch) -> None:
    monkeypatch.chdir(published / "annotations")
    assert Media(Sources("out", coco="mine.json")).read("image", Medium("coco", "1.jpg")) == b"annotations/1.jpg"
    monkeypatch.chdir(published)
    made = Sources("out", coco="annotations/captions_val2017.json")
    assert Media(made).read("image", Medium("coco", "1.jpg")) == b"val2017/1.jpg"


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg", "file:///etc/passwd",
                                  "~/secret.jpg", "..\\secret.jpg", ""])
def test_no_name_leads_out_of_the_folder(published, name: str) -> None:
    file = f"{published}/annotations/captions_val2017.json"
    with pytest.raises(ValueError, match=f"{file}: the file is no file name below a folder"):
        Sources("out", coco=file).file(Medium("coco", name))


def test_what_was_not_given_or_is_not_there_is_told(published) -> None:
    assert Sources("out").published("coco") is None
    with pytest.raises(ValueError, match="coco was not given"):
        Sources("out").file(Medium("coco", "1.jpg"))
    with pytest.raises(ValueError, match="mucaps is not one of the published"):
        Sources("out").file(Medium("mucaps", "a"))
    gone = Sources("out", coco=f"{published}/annotations/captions_val2017.json,{published}/nowhere")
    with pytest.raises(NotADirectoryError, match=f"{published}/nowhere: no such folder; the media of coco"):
        gone.file(Medium("coco", "1.jpg"))
    with pytest.raises(FileNotFoundError, match=f"{published}/val2017/2.jpg: no such file"):
        Media(Sources("out", coco=f"{published}/annotations/captions_val2017.json")).read("image",
                                                                                          Medium("coco", "2.jpg"))


@pytest.mark.parametrize("name", ["coco", "musicqa"])
def test_a_folder_of_media_that_is_not_there_is_told(published, tmp_path, name: str) -> None:
    file = f"{published}/annotations/captions_val2017.json"
    mixture, kind = {"coco", "musicqa", "alpaca"}, {"coco": "image", "musicqa": "audio"}[name]
    Sources("out", **{name: file}).check(mixture, ())
    with pytest.raises(NotADirectoryError, match=rf"{tmp_path}/none: no such folder; the media of {name}"):
        Sources("out", **{name: f"{file},{tmp_path}/none"}).check(mixture, ())
    Sources("out", **{name: f"{file},{tmp_path}/none"}).check(mixture, [kind])  # encoded before
    Sources("out", **{name: f"{file},{tmp_path}/none"}).check(mixture - {name}, ())
    Sources("out", alpaca=f"{tmp_path}/none/a.json").check(mixture, ())  # which has no media


def test_published_media_may_lie_at_a_url(tmp_path) -> None:
    root = f"memory://{tmp_path.name}"
    storage.write_bytes(f"{root}/annotations/captions_val2017.json", json.dumps({"1.jpg": "A cat."}).encode())
    storage.write_bytes(f"{root}/val2017/1.jpg", b"a cat")
    made = Sources(root, coco=f"{root}/annotations/captions_val2017.json")
    assert Media(made).read("image", Medium("coco", "1.jpg")) == b"a cat"
    fsspec.filesystem("memory").rm("/", recursive=True)
