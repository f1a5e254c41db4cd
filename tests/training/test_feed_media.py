"""What samples hear and aim at is the same, precomputed or made on the spot; what cannot be had is named."""
import io
import json
import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from manifests import records, shards
from manifests.outcomes import DONE, Loss
from tests.conftest import encode, tone
from tests.training.test_feed import pieces
from training import config, features, feed, frozen, mixture, tokenizer
from training.examples import Example
from training.features import Features
from training.feed import Feed, Online, Precomputed
from training.frozen import Frozen
from training.samples import PUBLISHED_MUSICQA, Medium
from training.sources import Media, Sources
from training.stages import STAGES

DEBUG = config.m2ugen("debug")
MEDIA = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
HEARD = {"muimage": "image", "muvideo": "video", "muedit": "audio"}


def _turns(modality: str, key: str) -> list[dict]:
    return [{"from": "human", "value": f"Make music for {key}.", "input_modality": modality, "output_modality": None,
             "caption": None},
            {"from": "gpt", "value": "Here it is.", "input_modality": None, "output_modality": "audio",
             "caption": f"Slow music, {key}."}]


def _picture(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), (shade, 255 - shade, 90), np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Sources:
    """Real files, four a dataset: "b" of MUImage and of MUEdit cannot be decoded, b.wav of MusicQA is not there."""
    root = tmp_path_factory.mktemp("out")
    media = {"muimage": lambda shade: _picture(shade),
             "muvideo": lambda shade: encode(tone(1.0, 8000), 8000, "matroska", "aac", pictures=4 + shade // 40),
             "muedit": lambda shade: encode(tone(0.5, 8000, 200 + shade), 8000, "wav", "pcm_s16le")}
    for dataset, modality in HEARD.items():
        schema = pa.schema([("id", pa.string()), (modality, MEDIA), ("conversation", pa.list_(records.TURN))])
        folder = root / "datasets" / dataset / "train"
        shards.write(str(folder / "a.arrow"), schema, (
            {"id": key, modality: {"bytes": b"broken" if key == "b" and modality != "video" else
                                   media[dataset](60 * number), "path": key},
             "conversation": _turns(modality, f"{dataset} {key}")} for number, key in enumerate("abcd")))
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "a.arrow"}]}))
    (root / "audios").mkdir()
    for number, key in enumerate("acd"):
        (root / "audios" / f"{key}.wav").write_bytes(media["muedit"](60 * number))
    (root / "qa.json").write_text(json.dumps([{"audio_name": f"{key}.wav", "conversation": [
        {"from": "human", "value": "What is it?"}, {"from": "gpt", "value": f"A tone, {key}."}]} for key in "abcd"]))
    (root / "alpaca.json").write_text(json.dumps([{"instruction": f"Say {key}.", "input": "", "output": key}
                                                  for key in "abcd"]))
    return Sources(str(root), alpaca=str(root / "alpaca.json"), musicqa=str(root / "qa.json"))


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> None:
    threads = threading.active_count()
    yield
    assert threading.active_count() == threads


@pytest.fixture(scope="module")
def models() -> dict[str, Frozen]:
    return frozen.choose(DEBUG, {})


@pytest.fixture(scope="module")
def stored(sources, models) -> dict[str, Features]:
    """What `make features` stores, made here without it, all of a kind at once."""
    of = {"image": {Medium("muimage", key) for key in "abcd"}, "video": {Medium("muvideo", key) for key in "abcd"},
          "audio": {*(Medium("muedit", key) for key in "abcd"), *(Medium(PUBLISHED_MUSICQA, f"{key}.wav")
                                                                  for key in "abcd")}}
    found = {"text": {features.text_key(f"Slow music, {dataset} {key}."): {"text": f"Slow music, {dataset} {key}."}
                      for dataset in HEARD for key in "abcd"}}
    lost: dict[str, list[str]] = {"text": []}
    for kind, wanted in of.items():
        found[kind], lost[kind] = {}, []
        for medium in sorted(wanted, key=lambda one: (one.dataset, one.id)):
            try:
                found[kind][features.media_key(medium)] = frozen.decode(kind, Media(sources).read(kind, medium))
            except (Loss, FileNotFoundError):
                lost[kind].append(features.media_key(medium))
    for kind, items in found.items():
        values = frozen.load(models[kind])(list(items.values())).view(torch.uint8).flatten(1).numpy()
        path = f"stages/features-{kind}/0.arrow"
        shards.write(f"{sources.out}/{path}", records.FEATURE, (
            {"id": key, "outcome": DONE, "detail": "", "values": one.tobytes()}
            for key, one in zip(items, values, strict=True)))
        features.publish(sources.out, kind, models[kind].about(), models[kind].shape, [
            *((key, path, row, DONE, "") for row, key in enumerate(items)),
            *((key, None, -1, "decode_error", "") for key in lost[kind])])
    return features.opened(sources.out)


def test_online_gives_what_was_precomputed(sources, models, stored, tmp_path) -> None:
    """Both read as a run does, and name the same samples as lost: before the run, or in it."""
    words = tokenizer.debug(DEBUG)
    before = mixture.prepare(tmp_path / "before", STAGES[3], sources, words, 512, stored)
    bare = mixture.prepare(tmp_path / "bare", STAGES[3], sources, words, 512, {})
    fed = Feed(before.train, Precomputed(stored), rows=4, micro=4)
    online = Feed(bare.train, Online(sources, models), rows=4, micro=2)
    wanted, found = ({piece[0]: piece for step in one.epoch(0) for micro in step for piece in pieces(micro)
                      if micro.share} for one in (fed, online))
    assert found == wanted and len(wanted) == 4 * 5 - 3
    heard = Counter(modality for piece in wanted.values() for modality, _ in piece[3])
    assert heard == {"audio": 6, "image": 3, "video": 4}
    assert sum(piece[4] is not None for piece in wanted.values()) == 10
    assert len({values for piece in wanted.values() for _, values in piece[3]}) > 3  # and they are not all one
    assert fed.lost == {} and online.lost.keys() == {"muimage b", "muedit b", "musicqa b.wav#1"}
    assert online.lost["muedit b"].startswith("decode_error: ")
    assert online.lost["musicqa b.wav#1"].startswith("unreadable: ") and "b.wav: no such file" in online.lost[
        "musicqa b.wav#1"]


def test_what_the_thread_read_is_no_view_of_a_file(sources, models, stored, tmp_path) -> None:
    """Else it is the consumer that waits for the disk."""
    made = mixture.prepare(tmp_path, STAGES[3], sources, tokenizer.debug(DEBUG), 512, stored)
    example = next(one for one in map(made.train.__getitem__, range(len(made.train))) if "image" in one.hears)
    found, mapped = Precomputed(stored).encoded("image", example), stored["image"].read(example.places["image"])
    assert torch.equal(found, mapped) and found.data_ptr() != mapped.data_ptr()


def test_features_that_are_not_there_are_told(sources, stored, tmp_path) -> None:
    made = mixture.prepare(tmp_path, STAGES[3], sources, tokenizer.debug(DEBUG), 512, {})
    with pytest.raises(ValueError, match=r"has no precomputed features of (audio|image|video|text): run make features"):
        next(Feed(made.train, Precomputed(stored), rows=20, micro=20).epoch(0))


def test_a_shard_that_vanishes_ends_the_epoch(sources, models, tmp_path) -> None:
    """It is nothing that a sample could be lost for."""
    made = mixture.prepare(tmp_path / "run", STAGES[3], sources, tokenizer.debug(DEBUG), 512, {})
    (tmp_path / "out").symlink_to(sources.out)
    fed = Feed(made.train, Online(Sources(str(tmp_path / "out"), musicqa=sources.musicqa), models), rows=1, micro=1)
    next(running := fed.epoch(0))
    (tmp_path / "out").unlink()
    with pytest.raises(ValueError, match=r"not a readable Arrow shard|no such dataset"):
        list(running)


def test_a_wrong_folder_is_no_matter_of_single_samples(sources, models, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(feed, "ELSEWHERE", 3)
    made = mixture.prepare(tmp_path / "run", STAGES[3], sources, tokenizer.debug(DEBUG), 512, {})
    nowhere = Sources(sources.out, musicqa=f"{sources.musicqa},{sources.out}/datasets")
    fed = Feed(made.train, Online(nowhere, models), rows=4, micro=4)
    with pytest.raises(OSError, match="wav: no such file, nor were 2 others before it: give the folder that the media "
                                      "of musicqa-published are in"):
        list(fed.epoch(0))


def test_a_dataset_of_which_a_file_was_found_is_in_its_place(sources, models, monkeypatch) -> None:
    monkeypatch.setattr(feed, "ELSEWHERE", 2)
    reading = Online(sources, {"audio": models["audio"]})
    there, gone = (Example(key, "musicqa", np.empty(0), np.empty(0), {"audio": Medium(PUBLISHED_MUSICQA, key)}, {},
                           None) for key in ("a.wav", "b.wav"))
    reading.encoded("audio", there)
    for _ in range(3):
        with pytest.raises(Loss, match="unreadable"):
            reading.encoded("audio", gone)
