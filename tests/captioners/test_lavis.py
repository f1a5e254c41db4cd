import dataclasses
import io
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from captioners import blip, lavis
from captioners.lavis import Lavis, Settings, load
from captioners.lavis_worker import receive, send
from manifests import media
from pipelines.sample import render
from tests.captioners import toy_blip

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blip")
    toy_blip.blip(folder)
    return folder


@pytest.fixture
def broken(folder, tmp_path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "blip"))


@pytest.fixture(scope="module")
def environment() -> None:
    if not lavis.PYTHON.is_file():
        pytest.skip("LAVIS's environment is not there: make lavis-env")


@pytest.fixture(scope="module")
def captioner(environment, folder) -> Lavis:
    return load({"image": folder}, Settings())


@pytest.fixture(scope="module")
def pictures() -> list[dict]:
    frames = [frame for clip in ("sample-0-00003", "sample-0-00001") for frame in media.frames(render(clip), 2, 240)]
    noise = np.random.default_rng(0)
    odd = [noise.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((3, 90), (90, 3), (500, 333))]
    return [given(pixels) for pixels in (*frames, *odd)]


def given(pixels: np.ndarray) -> dict:
    return {"width": pixels.shape[1], "height": pixels.shape[0], "pixels": pixels.tobytes()}


@pytest.mark.parametrize("settings", [
    Settings(), Settings(prompt="", max_new=12, min_new=3), Settings(prompt="A man, in the rain", min_new=20)])
def test_says_what_transformers_says(captioner, folder, pictures, settings):
    captioner.settings = settings
    expected = blip.load({"image": folder}, settings)(pictures, range(len(pictures)))
    assert captioner(pictures, range(len(pictures))) == expected
    assert len(set(expected)) == len(pictures)
    assert [captioner([one], [0])[0] for one in pictures] == expected


def test_says_what_transformers_says_of_real_pictures(captioner, folder, shared_media):
    captioner.settings = Settings()
    frames = [given(frame) for name in ("chaplin.mp4", "big_buck_bunny_0_30.webm")
              for frame in media.frames(str(shared_media / "video" / name), 4, 480)]
    expected = blip.load({"image": folder}, Settings())(frames, range(8))
    assert captioner(frames, range(8)) == expected and len(set(expected)) == 8
    assert captioner([], []) == []


def test_what_lavis_raises_is_raised_and_it_goes_on(captioner, pictures):
    captioner.settings = Settings()
    good = captioner(pictures[:1], [0])
    with pytest.raises(RuntimeError, match="LAVIS: ValueError: not enough image data"):
        captioner([{"width": 9, "height": 9, "pixels": b"few"}], [0])
    assert captioner(pictures[:1], [0]) == good


def test_a_process_that_was_killed_is_started_anew(captioner, pictures):
    captioner.settings = Settings()
    good = captioner(pictures[:1], [0])
    os.kill(captioner._process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="LAVIS's process ended"):
        captioner._ask({"sizes": []})
    assert captioner(pictures[:1], [0]) == good


def test_the_old_format_and_a_model_that_says_nothing(environment, broken, pictures):
    state = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    for name in ("text_decoder.cls.predictions.bias", "text_decoder.cls.predictions.decoder.bias"):
        state[name][102] = 1e4
    torch.save(state, broken / "pytorch_model.bin")
    captioner = load({"image": broken}, Settings())
    assert captioner(pictures[:2], [0, 1]) == ["", ""]
    process = captioner._process
    del captioner
    assert process.poll() == 0


def test_missing_weights_are_told(environment, broken):
    state = load_file(broken / "model.safetensors")
    del state["vision_model.post_layernorm.bias"]
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"safetensors: LAVIS .* 1 weights are missing .*visual_encoder.norm.bias"):
        load({"image": broken}, Settings())


def test_truncated_weights_are_told(environment, broken):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model.safetensors: LAVIS cannot load it: ValueError: it is not whole"):
        load({"image": broken}, Settings())


def test_without_the_environment_it_says_what_to_do(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(lavis, "PYTHON", tmp_path / "python")
    with pytest.raises(ValueError, match="run `make lavis-env`"):
        load({"image": folder}, Settings())


def test_an_environment_without_lavis_is_told(folder, monkeypatch):
    monkeypatch.setattr(lavis, "PYTHON", Path(sys.executable))
    with pytest.raises(ValueError, match=r"No module named .*make lavis-env"):
        load({"image": folder}, Settings())


def test_a_process_that_dies_is_told(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(lavis, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(lavis, "_WORKER", tmp_path / "worker.py")
    (tmp_path / "worker.py").write_text("import sys\nsys.exit('a library is broken')")
    with pytest.raises(ValueError, match=r"process ended \(1\): a library is broken; run `make lavis-env` anew"):
        load({"image": folder}, Settings())


@pytest.mark.parametrize(("settings", "quantize"), [(Settings(beams=4), ""), (Settings(), "8bit")])
def test_what_lavis_would_answer_otherwise_is_refused(folder, monkeypatch, settings, quantize):
    monkeypatch.setattr(lavis, "PYTHON", Path(sys.executable))
    with pytest.raises(ValueError, match="1 beam, not quantized"):
        load({"image": folder}, settings, quantize=quantize)


def test_blip2_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lavis, "PYTHON", Path(sys.executable))
    toy_blip.blip2(tmp_path, "opt")
    with pytest.raises(ValueError, match="is a blip-2 model; blip is needed"):
        load({"image": tmp_path}, Settings())


def test_the_contract_is_blips():
    assert (lavis.ROLES, lavis.VERSION) == (blip.ROLES, blip.VERSION)
    assert dataclasses.fields(lavis.Settings) == dataclasses.fields(blip.Settings)


def test_messages_come_whole_or_not_at_all():
    pipe = io.BytesIO()
    send(pipe, {"é": [1, None]}, bytes(range(256)))
    send(pipe, {})
    whole = pipe.getvalue()
    pipe.seek(0)
    assert [receive(pipe), receive(pipe), receive(pipe)] == [({"é": [1, None], "raw": 256}, bytes(range(256))),
                                                            ({"raw": 0}, b""), None]
    assert all(receive(io.BytesIO(whole[:length])) is None for length in range(290))
