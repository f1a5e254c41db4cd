import pickle
import weakref
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from captioners import device, inputs, model
from captioners.model import Spec


def snapshot(hub: dict[str, str], name: str) -> str:
    (found,) = (Path(hub["HF_HUB_CACHE"]) / f"models--{name.replace('/', '--')}" / "snapshots").iterdir()
    return str(found)


@pytest.fixture
def blip(toy_hub) -> Spec:
    return model.choose("image", {"image": snapshot(toy_hub, "Salesforce/blip-image-captioning-base")})


@pytest.fixture
def video(toy_hub) -> Spec:
    return model.choose("video", {
        "video": snapshot(toy_hub, "Neleac/timesformer-gpt2-video-captioning"),
        "processor": snapshot(toy_hub, "MCG-NJU/videomae-base"),
        "tokenizer": snapshot(toy_hub, "openai-community/gpt2")})


def test_a_spec_tells_what_its_words_follow_from(blip, video):
    assert pickle.loads(pickle.dumps(blip)) == blip and hash(blip) == hash(pickle.loads(pickle.dumps(blip)))
    assert (blip.name, blip.prompt, blip.dtype) == (Path(blip.files[0][1].name).name, "the image shows", "float32")
    assert replace(blip, batch=1).version() == blip.version()
    others = [replace(blip, dtype="bfloat16"), replace(blip, quantize="4bit"), replace(blip, module="lavis"),
              replace(blip, settings=replace(blip.settings, max_new=7))]
    assert all(other.version() != blip.version() for other in others)
    assert video.revision.split("+") == [pinned.revision for _, pinned in video.files] and len(video.files) == 3
    assert asdict(video.settings)["frames"] == 8


def test_what_an_input_is_made_by(blip, video):
    assert model.decoder(blip) is inputs.image
    made = model.decoder(video)
    assert (made.func, made.keywords) == (inputs.video, {"count": 8})


def test_a_process_holds_one_model(blip, video):
    model.held(blip)
    held = weakref.ref(model.held(blip))
    assert model.held(blip) is held()
    model.held(video)
    assert held() is None, "the first is gone, or two would not fit"


def test_a_changed_file_is_another_revision(toy_hub, tmp_path, blip):
    import shutil
    shutil.copytree(blip.files[0][1].name, tmp_path / "own")
    one = model.choose("image", {"image": str(tmp_path / "own")})
    assert one.revision == blip.revision
    (tmp_path / "own" / "tokenizer_config.json").write_text("{}")
    assert model.choose("image", {"image": str(tmp_path / "own")}).revision != blip.revision


def _killed(spec: Spec) -> None:
    import os
    import signal
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_while_it_loads_is_too_little_memory(blip, monkeypatch):
    monkeypatch.setattr(model, "_try_out", _killed)
    with pytest.raises(ValueError, match="there is too little memory"):
        model.try_out(blip)


def test_a_model_is_tried_out_elsewhere(blip, tmp_path):
    model._held.clear()
    model.try_out(blip)
    assert not model._held
    gone = replace(blip, files=(("image", replace(blip.files[0][1], name=str(tmp_path / "moved"))),))
    with pytest.raises(ValueError, match=r"moved: is not there"):
        model.try_out(gone)


def test_where_there_is_no_gpu_it_is_the_cpu():
    if device.there():
        pytest.skip("there is a GPU")
    assert device.claim() == "cpu"
    device.release()


class Cards:
    """Two GPUs, as far as claiming goes."""
    def __init__(self, monkeypatch, tmp_path):
        monkeypatch.setattr(device, "there", lambda: 2)
        monkeypatch.setattr(device, "_lock", lambda number: tmp_path / f"card-{number}")
        monkeypatch.setattr(device, "_claimed", {})


def test_each_process_claims_a_gpu_of_its_own(monkeypatch, tmp_path):
    import fcntl
    Cards(monkeypatch, tmp_path)
    with open(tmp_path / "card-0", "w") as other:  # locks are of open files: this stands for another process
        fcntl.flock(other, fcntl.LOCK_EX)
        assert device.claim() == device.claim() == "cuda:1"
    with open(tmp_path / "card-1", "w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_where_all_gpus_are_taken_it_waits_for_one(monkeypatch, tmp_path):
    import fcntl
    Cards(monkeypatch, tmp_path)
    others = [open(tmp_path / f"card-{number}", "w") for number in range(2)]  # noqa: SIM115
    for other in others:
        fcntl.flock(other, fcntl.LOCK_EX)
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            others[0].close()

    monkeypatch.setattr(device.time, "sleep", wait)
    assert device.claim() == "cuda:0" and len(waits) == 3
    others[1].close()
