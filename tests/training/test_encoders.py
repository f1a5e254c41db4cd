"""What encoders hand over: shapes, order, windows; and that nothing makes them train."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from manifests import media
from training import encoders


@pytest.fixture(scope="module")
def tiny() -> encoders.Encoders:
    return encoders.debug()


def _picture(seed: int, size: tuple[int, int] = (300, 260)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def test_hear(tiny: encoders.Encoders) -> None:
    waves = torch.randn(2, 24000, generator=torch.Generator().manual_seed(0)) * 0.1
    heard = tiny.hear(waves)
    assert heard.shape == (2, 25, 32)
    with torch.no_grad():
        wave = (waves[:1] - waves[:1].mean()) / waves[:1].std(correction=0)
        output = tiny.audio(wave, output_hidden_states=True)
    torch.testing.assert_close(heard[0, 24], output.last_hidden_state[0].mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heard[0, 3], output.hidden_states[3][0].mean(0), rtol=1e-4, atol=1e-5)
    # The trap: hidden_states[24] is not yet behind the final norm, which last_hidden_state is.
    assert (output.hidden_states[24] - output.last_hidden_state).abs().max() > 0.1
    torch.testing.assert_close(tiny.audio.encoder.layer_norm(output.hidden_states[24]), output.last_hidden_state)
    torch.testing.assert_close(tiny.hear(waves[:1] * 3 + 0.2), heard[:1], rtol=1e-3, atol=1e-3)  # do_normalize
    with pytest.raises(ValueError, match="at least 400"):
        tiny.hear(torch.zeros(1, 399))


def test_windows_of_a_track(monkeypatch: pytest.MonkeyPatch, tiny: encoders.Encoders) -> None:
    """The first minute; one further minute for each full hour. At 20 Hz here, so that an hour is short."""
    monkeypatch.setattr(encoders, "RATE", 20)
    track = torch.randn(1, 20 * 60 * 125, generator=torch.Generator().manual_seed(1))  # two hours and five minutes
    minute = [tiny.hear(track[:, start * 1200:(start + 1) * 1200]) for start in range(3)]
    torch.testing.assert_close(tiny.hear(track[:, :1200 * 60 - 1]), minute[0])
    torch.testing.assert_close(tiny.hear(track[:, :1200 * 60]), (minute[0] + minute[1]) / 2)
    torch.testing.assert_close(tiny.hear(track), sum(minute) / 3)
    assert (minute[0] - minute[1]).abs().max() > 1e-3


def test_look(tiny: encoders.Encoders) -> None:
    pictures = [_picture(0), _picture(1, (90, 400))]
    seen = tiny.look(pictures)
    assert seen.shape == (2, 197, 32)
    torch.testing.assert_close(tiny.look(pictures[1:]), seen[1:], rtol=0, atol=1e-5)
    flat = Image.new("L", (50, 50), 255)
    pixels = tiny.image_processor([flat.convert("RGB")], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224) and (pixels == 1).all()  # (255 / 255 - 0.5) / 0.5
    torch.testing.assert_close(tiny.look([flat]), tiny.look([flat.convert("RGB")]))


def test_watch(tiny: encoders.Encoders) -> None:
    frames = [Image.new("RGB", (320, 240), (value, 0, 255)) for value in range(0, 250, 50)]
    seen = tiny.watch(frames)
    assert seen.shape == (3137, 32)
    assert not torch.equal(seen, tiny.watch(frames[:1]))
    black = tiny.video_processor([np.zeros((224, 224, 3), np.uint8)] * 32, return_tensors="pt")["pixel_values"]
    white = tiny.video_processor([np.full((224, 224, 3), 255, np.uint8)] * 32, return_tensors="pt")["pixel_values"]
    assert black.shape == (1, 32, 3, 224, 224)
    torch.testing.assert_close(black.unique(), torch.tensor([-3.0]))
    torch.testing.assert_close(white.unique(), torch.tensor([1.0]))


@pytest.mark.parametrize("count", [1, 2, 3, 31, 32, 33, 300])
def test_any_number_of_frames_is_watched_from_the_first_to_the_last(tiny: encoders.Encoders, count: int) -> None:
    frames = [Image.new("RGB", (8, 8), (place % 256, place // 256, 0)) for place in range(count)]
    asked: list[list[np.ndarray]] = []
    tiny.video_processor, real = (lambda chosen, **settings: asked.append(chosen) or real(chosen, **settings),
                                  tiny.video_processor)
    try:
        assert tiny.watch(frames).shape == (3137, 32)
        assert torch.equal(tiny.watch(frames), tiny.watch([frames[place] for place in media.spread(count, 32)]))
    finally:
        tiny.video_processor = real
    places = [int(picture[0, 0, 0]) + 256 * int(picture[0, 0, 1]) for picture in asked[0]]
    assert len(places) == 32 and places == sorted(places) and (places[0], places[-1]) == (0, count - 1)


def test_no_frames_is_an_error(tiny: encoders.Encoders) -> None:
    with pytest.raises(ValueError, match="without frames"):
        tiny.watch([])


def test_train_leaves_them_in_eval(tiny: encoders.Encoders) -> None:
    """In training mode HuBERT masks time and drops layers: what was heard would change from call to call."""
    holder = nn.ModuleDict({"encoders": tiny, "other": nn.Linear(1, 1)})
    waves = torch.randn(1, 24000, generator=torch.Generator().manual_seed(2))
    before = tiny.hear(waves)
    for change in (tiny.train, holder.train):
        change()
        assert not any(module.training for module in tiny.modules())
        assert torch.equal(tiny.hear(waves), before)
    assert holder["other"].training and not any(parameter.requires_grad for parameter in tiny.parameters())
    tiny.audio.train()  # what the guard is for: this is another answer
    assert not torch.equal(tiny.hear(waves), before)
    tiny.train()
    assert torch.equal(tiny.hear(waves), before)


def test_published(tiny: encoders.Encoders, tmp_path: Path) -> None:
    """Under the names that old transformers gave: weight_g and weight_v of HuBERT, and ViT's nested layers."""
    tensors = {f"mert_model.{name}": tensor for name, tensor in tiny.audio.state_dict().items()}
    for place, letter in enumerate("gv"):
        tensors[f"mert_model.encoder.pos_conv_embed.conv.weight_{letter}"] = tensors.pop(
            f"mert_model.encoder.pos_conv_embed.conv.parametrizations.weight.original{place}")
    for name, model in (("vit", tiny.image), ("vivit", tiny.video)):
        model.save_pretrained(tmp_path / name)
        saved = load_file(tmp_path / name / "model.safetensors")
        assert any(".attention.attention.query." in tensor for tensor in saved)
        tensors |= {f"{name}_model.{key}": tensor for key, tensor in saved.items()}
    configs = (tiny.audio.config, tiny.image.config, tiny.video.config)
    loaded = encoders.published({**tensors, "llama.norm.weight": torch.zeros(1)}, *configs)
    for name, tensor in tiny.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert not any(module.training for module in loaded.modules())
    with pytest.raises(ValueError, match="the checkpoint: holds no"):
        encoders.published({name: tensor for name, tensor in tensors.items() if "vivit" not in name}, *configs)


def test_hearing(tiny: encoders.Encoders, tmp_path: Path) -> None:
    """MERT alone, as its repository has it; and what is none."""
    folder = tmp_path / "mert"
    tiny.audio.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mert_model"}))
    processor = folder / "preprocessor_config.json"
    processor.write_text('{"sampling_rate": 24000}')
    alone = encoders.hearing(folder)
    assert alone.image is None and alone.video is None and not any(module.training for module in alone.modules())
    waves = torch.randn(1, 12000, generator=torch.Generator().manual_seed(3))
    assert torch.equal(alone.hear(waves), tiny.hear(waves))
    assert {one.dtype for one in encoders.hearing(folder, torch.bfloat16).parameters()} == {torch.bfloat16}
    processor.write_text('{"sampling_rate": 16000}')
    with pytest.raises(ValueError, match=r"mert: .*its sampling_rate '16000'; give MERT"):
        encoders.hearing(folder)
    processor.unlink()
    assert torch.equal(encoders.hearing(folder).hear(waves), alone.hear(waves))
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(ValueError, match=r"mert: its config gives other shapes to encoder.layers.0"):
        encoders.hearing(folder)
    _without(tiny.audio, "encoder.layers.3.", tmp_path / "cut")
    with pytest.raises(ValueError, match=r"cut: holds no encoder.layers.3.*is this a HubertModel"):
        encoders.hearing(tmp_path / "cut")
    tiny.image.save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match=r"vit: its model_type is 'vit'"):
        encoders.hearing(tmp_path / "vit")


def _without(model: nn.Module, prefix: str, folder: Path) -> str:
    model.save_pretrained(folder, state_dict={name: tensor for name, tensor in model.state_dict().items()
                                              if not name.startswith(prefix)})
    return str(folder)
