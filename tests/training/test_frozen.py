"""The frozen models, by what the encoders say when they are asked directly; and that batches change nothing."""
import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from torch import Tensor

from manifests.outcomes import Loss
from tests.conftest import encode, tone
from tests.training import folders
from training import encoders, frozen
from training.config import m2ugen, mullama
from training.frozen import Frozen
from training.pinned import pin

DEBUG = m2ugen("debug")


@pytest.fixture(scope="module")
def own() -> dict[str, Frozen]:
    return frozen.choose(DEBUG, {})


def _noise(seed: int, *size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def _heard(seed: int, samples: int = 24000, windows: int = 1) -> dict:
    waves = np.random.default_rng(seed).standard_normal((windows, samples)).astype("<f4") * 0.1
    return {"windows": [wave.tobytes() for wave in waves]}


def _picture(seed: int, width: int = 300, height: int = 200) -> dict:
    return {"width": width, "height": height, "pixels": _noise(seed, height, width, 3).tobytes()}


def _film(seed: int) -> dict:
    return {"count": 32, "width": 60, "height": 40, "pixels": _noise(seed, 32, 40, 60, 3).tobytes()}


ITEMS = {"audio": [_heard(0), _heard(1, 30000), _heard(2)],
         "image": [_picture(0), _picture(1, 90, 400), _picture(2)],
         "video": [_film(0), _film(1)],
         "text": [{"text": "A slow piece."}, {"text": ""}, {"text": "A slow piece of music, quiet and dark. " * 5}]}


def _directly(made: encoders.Encoders, kind: str, item: dict) -> Tensor:
    """What an encoder says of one item, in float32."""
    if kind == "audio":
        return made.hear(torch.from_numpy(np.stack([np.frombuffer(one, "<f4") for one in item["windows"]])))[0]
    size = (item["height"], item["width"], 3)
    pixels = np.frombuffer(item["pixels"], np.uint8)
    if kind == "image":
        return made.look([Image.fromarray(pixels.reshape(size))])[0]
    return made.watch([Image.fromarray(one) for one in pixels.reshape(-1, *size)])


def test_which_they_are(own: dict[str, Frozen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {kind: (one.size, one.pinned, one.music_decoder, one.shape) for kind, one in own.items()} == {
        "audio": ("debug", None, None, (25, 32)), "image": ("debug", None, None, (197, 32)),
        "video": ("debug", None, None, (3137, 32)), "text": ("debug", None, "musicgen", (16, 24))}
    assert tuple(own) == frozen.KINDS and pickle.loads(pickle.dumps(own)) == own
    assert list(frozen.choose(mullama("debug"), {})) == ["audio"]
    assert {kind: one.shape for kind, one in own.items()} == frozen.shapes(DEBUG)
    assert frozen.shapes(mullama("7b")) == {"audio": (25, 1024)}
    text = frozen.choose(m2ugen("debug", "audioldm2"), {})["text"]
    assert (text.music_decoder, text.shape) == ("audioldm2", (1, 352))
    asked = []
    monkeypatch.setattr(frozen, "pin", lambda name: asked.append(name) or pin(str(tmp_path / "one.json")))
    (tmp_path / "one.json").write_text("{}")
    for decoder, model in (("musicgen", "google-t5/t5-base"), ("audioldm2", "cvssp/audioldm2")):
        large = frozen.choose(m2ugen("7b", decoder), {"image": "org/vit", "video": None})
        assert asked == ["m-a-p/MERT-v1-330M", "org/vit", "google/vivit-b-16x2-kinetics400", model]
        assert large["audio"].shape == (25, 1024)
        assert large["text"].shape == {"musicgen": (128, 768), "audioldm2": (1, 137216)}[decoder]
        asked.clear()
    assert frozen.PUBLISHED["image"] == "google/vit-base-patch16-224"
    # A small LLaMA upon the published encoders takes what these say.
    frozen.choose(dataclasses.replace(m2ugen("7b"), dim=64), {})
    assert asked[0] == "m-a-p/MERT-v1-330M"


def test_what_no_model_takes_or_nobody_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mullama takes nothing from text and video; it takes audio"):
        frozen.choose(mullama("debug"), {"video": "org/vivit", "text": "org/t5"})
    with pytest.raises(ValueError, match="no such file or directory"):
        frozen.choose(DEBUG, {"audio": "./none"})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"m-a-p/MERT-v1-330M: .*or give a directory"):
        frozen.choose(m2ugen("7b"), {})


def test_about_tells_all_that_the_numbers_depend_on(tmp_path: Path) -> None:
    """And nothing of where the files lie."""
    folder = folders.mert(tmp_path / "mine")
    one = frozen.choose(DEBUG, {"audio": str(folder)})["audio"]
    about = one.about()
    assert about == {"kind": "audio", "model": "mine", "revision": pin(str(folder)).revision, "music_decoder": None,
                     "shape": [25, 32], "version": frozen.VERSION}
    assert json.loads(json.dumps(about)) == about and str(tmp_path) not in json.dumps(about)
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 24000, "more": 1}')
    text = {decoder: frozen.choose(m2ugen("debug", decoder), {})["text"].about()
            for decoder in ("musicgen", "audioldm2")}
    told = [about, frozen.choose(DEBUG, {"audio": str(folder)})["audio"].about(), *text.values(),
            frozen.choose(DEBUG, {})["audio"].about(), frozen.choose(DEBUG, {})["image"].about()]
    assert len({json.dumps(one) for one in told}) == len(told)


@pytest.mark.parametrize("kind", ["audio", "image", "video"])
def test_the_debug_encoders(own: dict[str, Frozen], kind: str) -> None:
    state = torch.random.get_rng_state()
    said = frozen.load(own[kind])(ITEMS[kind])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert said.dtype == torch.bfloat16 and said.shape == (len(ITEMS[kind]), *own[kind].shape)
    made = encoders.debug()
    for one, item in zip(said, ITEMS[kind], strict=True):
        assert torch.equal(one, _directly(made, kind, item).bfloat16())
    assert not torch.equal(said[0], said[1])


def test_batches_of_the_encoders_agree_with_single_ones() -> None:
    """Those of encoders, which take several at a time: to 1e-6, before rounding. (3137 rows of video are one item.)"""
    made = encoders.debug()
    waves = torch.from_numpy(np.concatenate([np.frombuffer(_heard(seed)["windows"][0], "<f4")[None]
                                             for seed in range(3)]))
    for place, one in enumerate(made.hear(waves)):
        torch.testing.assert_close(one, _directly(made, "audio", _heard(place)), rtol=0, atol=1e-6)
    pictures = [Image.frombytes("RGB", (300, 200), _picture(seed)["pixels"]) for seed in range(3)]
    for place, one in enumerate(made.look(pictures)):
        torch.testing.assert_close(one, _directly(made, "image", _picture(place)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "decoder"), [*((kind, "musicgen") for kind in frozen.KINDS), ("text", "audioldm2")])
def test_equal_items_give_equal_bits_whatever_they_come_with(kind: str, decoder: str,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    one = frozen.choose(m2ugen("debug", decoder), {})[kind]
    ask, items = frozen.load(one), ITEMS[kind]
    said = ask(items)
    assert torch.equal(ask(items[::-1]), said.flip(0)) and ask([]).shape == (0, *one.shape)
    for place, item in enumerate(items):
        assert torch.equal(ask([item])[0], said[place])
    # As on a GPU: several together, and what is left over filled up.
    if kind in ("image", "text"):
        monkeypatch.setattr(frozen, "at_once", lambda kind, device: 2)
        together = frozen.load(one)
        pairs = together(items)
        torch.testing.assert_close(pairs, said, rtol=2**-7, atol=1e-4)
        for place, item in enumerate(items):
            assert torch.equal(together([item])[0], pairs[place])
        assert torch.equal(together(items[1:]), pairs[1:])


def test_how_many_at_once() -> None:
    assert [frozen.at_once(kind, "cpu") for kind in frozen.KINDS] == [1, 1, 1, 1]
    assert [frozen.at_once(kind, "cuda:0") for kind in frozen.KINDS] == [1, 16, 1, 16]


def test_a_track_of_hours_is_the_mean_of_its_minutes(own: dict[str, Frozen]) -> None:
    made, ask = encoders.debug(), frozen.load(own["audio"])
    long = _heard(5, 12000, windows=3)
    each = torch.stack([_directly(made, "audio", {"windows": [one]}) for one in long["windows"]])
    assert torch.equal(ask([long, _heard(0)]), torch.stack([each.mean(0), _directly(made, "audio", _heard(0))]
                                                           ).bfloat16())


def test_from_files_to_outputs(own: dict[str, Frozen]) -> None:
    """Real small media, through `decode`; audio against MERT on the samples themselves."""
    samples = tone(1.5, 24000, 330) + 0.1 * tone(1.5, 24000, 990)
    item = frozen.decode("audio", encode(samples, 24000, "wav", "pcm_f32le"))
    said = frozen.load(own["audio"])([item])
    assert torch.equal(said[0], encoders.debug().hear(torch.from_numpy(samples))[0].bfloat16())
    film = frozen.load(own["video"])([frozen.decode("video", encode(samples, 24000, "mp4", "aac", pictures=9))])
    assert film.shape == (1, 3137, 32)
    for kind in ("audio", "image", "video"):
        with pytest.raises(Loss) as raised:
            frozen.decode(kind, b"none of these")
        assert raised.value.reason == "decode_error"


def test_decoding_imports_no_model_library() -> None:
    code = ("import pickle, sys\n"
            "from functools import partial\n"
            "from training import features, frozen\n"
            "from training.config import m2ugen\n"
            "pickle.loads(pickle.dumps(frozen.choose(m2ugen('debug'), {})))\n"
            "try:\n"
            "    partial(frozen.decode, 'image')(b'none')\n"
            "except Exception as error:\n"
            "    print(type(error).__name__)\n"
            "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n")
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "Loss\n"


@pytest.mark.parametrize("size", ["debug", "7b"])
def test_encoders_of_folders(tmp_path: Path, size: str) -> None:
    made = encoders.debug(seed=1)
    for kind, save in (("audio", folders.mert), ("image", folders.vit), ("video", folders.vivit)):
        one = dataclasses.replace(frozen.choose(DEBUG, {kind: str(save(tmp_path / kind))})[kind], size=size)
        said = frozen.load(one)(ITEMS[kind][:1])[0]
        assert torch.equal(said, _directly(made, kind, ITEMS[kind][0]).bfloat16()), kind
        if kind != "video":  # which takes long
            rough = frozen.load(one, dtype=torch.bfloat16)(ITEMS[kind][:1])[0]
            assert not torch.equal(rough, said)
            assert (rough.float() - said.float()).abs().mean() < 0.2 * said.float().std()


def test_text_of_folders(tmp_path: Path) -> None:
    items = [{"text": "a slow piece"}, {"text": "drums with piano"}]
    said = {}
    for name, decoder, save in (("t5", "musicgen", folders.t5), ("musicgen", "musicgen", folders.musicgen),
                                ("ldm", "audioldm2", folders.audioldm2)):
        config = m2ugen("debug", decoder)
        one = frozen.choose(config, {"text": str(save(tmp_path / name))})["text"]
        said[name] = frozen.load(one)(items)
        assert said[name].shape == (2, *one.shape) and said[name].dtype == torch.bfloat16
        assert (said[name][0] - said[name][1]).abs().max() > 0.1
    assert not torch.equal(said["t5"], said["musicgen"])


def test_what_does_not_fit_the_model(tmp_path: Path, own: dict[str, Frozen]) -> None:
    """Other widths than the config's, broken folders: told at once, with the folder's name."""
    pinned = {kind: pin(str(save(tmp_path / kind))) for kind, save in
              (("audio", folders.mert), ("image", folders.vit), ("video", folders.vivit), ("text", folders.t5))}
    for kind, one in pinned.items():
        with pytest.raises(ValueError, match=rf"/{kind}: .*the model (takes|needs) \(?7"):
            frozen.load(dataclasses.replace(own[kind], pinned=one, shape=(7, 8)))
        other = pinned["image" if kind != "image" else "video"]
        with pytest.raises(ValueError, match=f"/{'image' if kind != 'image' else 'video'}: "):
            frozen.load(dataclasses.replace(own[kind], pinned=other))
    (tmp_path / "image" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"/image: .*cannot be read"):
        frozen.load(dataclasses.replace(own["image"], pinned=pinned["image"]))
    (tmp_path / "video" / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"/video: its preprocessor_config\.json cannot be read"):
        frozen.load(dataclasses.replace(own["video"], pinned=pinned["video"]))
    with pytest.raises(ValueError, match="the debug size: gives 25 rows of 8 for audio, and the model takes 5 of 8"):
        frozen.load(Frozen("audio", "debug", None, None, (5, 8)))
