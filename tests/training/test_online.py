"""Without `make features` everything is encoded on the spot: the same losses, and the same weights, bit for bit."""
import os
from pathlib import Path

import pytest
import torch

from manifests import records, shards
from manifests.outcomes import DONE
from tests.training import corpus
from training import features, frozen, train
from training.samples import Medium
from training.sources import Media, Sources

NAMES = ("mucaps", "muimage", "muedit")


def _encode(out: Path, count: int) -> None:
    """What `make features` stores, made without it."""
    sources = Media(Sources(str(out)))
    for kind, model in frozen.choose(corpus.DEBUG, {}).items():
        encode, keys, items = frozen.load(model), [], []
        for name in NAMES:
            for number in range(count):
                if kind == "text":
                    keys.append(corpus.key(kind, name, number))
                    items.append({"text": corpus.row(name, "", number, b"")["caption"]})
                elif corpus.HEARS[name] == kind:
                    keys.append(corpus.key(kind, name, number))
                    items.append(frozen.decode(kind, sources.read(kind, Medium(name, f"{name}-{number}"))))
        path = f"stages/features-{kind}/all.0.arrow"
        values = [encode([item])[0].view(torch.uint8).numpy().tobytes() for item in items]
        shards.write(str(out / path), records.FEATURE, (
            {"id": key, "outcome": DONE, "detail": "", "values": one} for key, one in zip(keys, values, strict=True)))
        features.publish(str(out), kind, model.about(), model.shape, [
            (key, path, row, DONE, "") for row, key in enumerate(keys)])


def test_online_is_precomputed(tmp_path, capsys) -> None:
    online, stored = tmp_path / "online", tmp_path / "stored"
    for out in (online, stored):
        corpus.datasets(out, 4, 1, names=NAMES, medium=corpus.media)
    _encode(stored, 5)
    for stage in (1, 2, 3):
        found = [train.train(corpus.settings(out, out / "runs", stage, epochs=1)) for out in (online, stored)]
        assert found[0]["validation"] == found[1]["validation"] and found[0]["encoders"] == found[1]["encoders"]
        one, other = (out / "runs" / f"stage{stage}" / "model" for out in (online, stored))
        for name in os.listdir(one):
            assert (one / name).read_bytes() == (other / name).read_bytes(), (stage, name)
    said = capsys.readouterr().out
    assert said.count("everything is encoded here, in each epoch again; `make features` does it once") == 3
    assert said.count("features: as `make features` has stored them") == 3


def test_what_cannot_be_decoded_is_left_out_and_named(tmp_path, capsys) -> None:
    corpus.datasets(tmp_path, 4, 2, names=["muimage"], medium=lambda modality, number: (
        b"broken" if number in (1, 5) else corpus.media(modality, number)))
    found = train.train(corpus.settings(tmp_path, tmp_path / "runs", 1))
    assert sorted(found["unreadable"]) == ["coco muimage-1", "coco muimage-5"] and found["ended"]
    assert "2 samples could not be read, and were left out: 'coco muimage-5': " in capsys.readouterr().out


def test_a_shard_of_media_that_vanishes(tmp_path, monkeypatch) -> None:
    corpus.datasets(tmp_path, 4, 1, names=["muimage"], medium=corpus.media)
    shard = tmp_path / "datasets" / "muimage" / "train" / "data-00001.arrow"
    validate = train.Steps.validate

    def gone(self: train.Steps, *rest: object) -> dict:
        found = validate(self, *rest)
        shard.unlink()
        return found
    monkeypatch.setattr(train.Steps, "validate", gone)
    with pytest.raises(ValueError) as failed:
        train.train(corpus.settings(tmp_path, tmp_path / "runs", 1, batch=1, micro=1))
    assert str(shard) in str(failed.value)
