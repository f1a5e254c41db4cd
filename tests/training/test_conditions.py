"""Captions encoded by folders as published, against the models in them asked directly."""
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear
from transformers import (
    AutoTokenizer,
    ClapModel,
    GPT2LMHeadModel,
    MusicgenForConditionalGeneration,
    T5ForConditionalGeneration,
)

from tests.training import folders
from training import conditions

CAPTIONS = ["a slow piece in a minor key", "drums", "a fast piece of music with drums with piano in a major key with "
            "drums with piano with drums with piano"]
SHAPE = (16, 24)
HOW = {"device": "cpu", "dtype": torch.float32}


@pytest.fixture(scope="module")
def audioldm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.audioldm2(tmp_path_factory.mktemp("ldm") / "audioldm2")


def test_t5_and_musicgen(tmp_path: Path) -> None:
    t5 = T5ForConditionalGeneration.from_pretrained(folders.t5(tmp_path / "t5")).encoder
    music = MusicgenForConditionalGeneration.from_pretrained(folders.musicgen(tmp_path / "musicgen")).text_encoder
    words = AutoTokenizer.from_pretrained(tmp_path / "t5")
    said = {}
    for name, model in (("t5", t5), ("musicgen", music)):
        said[name] = conditions.musicgen(tmp_path / name, SHAPE, **HOW)(CAPTIONS)
        assert said[name].shape == (3, *SHAPE)
        for caption, one in zip(CAPTIONS[:2], said[name], strict=False):  # as if there were no padding
            ids = words([caption], return_tensors="pt").input_ids
            with torch.no_grad():
                states = model.eval()(input_ids=ids).last_hidden_state[0]
            torch.testing.assert_close(one[:len(states)], states, rtol=0, atol=1e-5)
    assert (said["t5"] - said["musicgen"]).abs().max() > 0.1
    with torch.no_grad():  # what is longer is cut, its end mark kept
        ids = words([CAPTIONS[2]], truncation=True, max_length=16, return_tensors="pt").input_ids
        assert ids.shape == (1, 16) and ids[0, -1] == words.eos_token_id
        torch.testing.assert_close(said["t5"][2], t5(input_ids=ids).last_hidden_state[0], rtol=0, atol=1e-5)


def test_audioldm2(audioldm2: Path) -> None:
    """As diffusers' pipeline goes about it, step by step and with nothing of ours."""
    got = conditions.audioldm2(audioldm2, (1, 16 * 16 + 8 * 12), **HOW, length=16)(CAPTIONS[:2])
    assert got.shape == (2, 1, 352)
    clap = ClapModel.from_pretrained(audioldm2 / "text_encoder").eval()
    gpt2 = GPT2LMHeadModel.from_pretrained(audioldm2 / "language_model").transformer.eval()
    t5 = T5ForConditionalGeneration.from_pretrained(audioldm2 / "text_encoder_2").encoder.eval()
    heard, words = (AutoTokenizer.from_pretrained(audioldm2 / name) for name in ("tokenizer", "tokenizer_2"))
    values = load_file(audioldm2 / "projection_model" / "diffusion_pytorch_model.safetensors")
    for caption, one in zip(CAPTIONS, got[:, 0], strict=False):
        with torch.no_grad():
            whole = clap.get_text_features(**heard([caption], return_tensors="pt")).pooler_output
            tokens = words([caption], padding="max_length", max_length=16, return_tensors="pt")
            states = t5(**tokens).last_hidden_state[0]
            read = torch.stack([
                values["sos_embed"], *linear(whole, values["projection.weight"], values["projection.bias"]),
                values["eos_embed"], values["sos_embed_1"],
                *linear(states, values["projection_1.weight"], values["projection_1.bias"]), values["eos_embed_1"]])
            seen = torch.cat([torch.ones(4), tokens.attention_mask[0], torch.ones(1)]).long()
            said = []
            for _ in range(8):
                last = gpt2(inputs_embeds=read[None], attention_mask=seen[None]).last_hidden_state[0, -1]
                said.append(last)
                read, seen = torch.cat([read, last[None]]), torch.cat([seen, seen.new_ones(1)])
        torch.testing.assert_close(one[:256].view(16, 16), states, rtol=0, atol=1e-5)
        torch.testing.assert_close(one[256:].view(8, 12), torch.stack(said), rtol=0, atol=1e-5)


@pytest.mark.parametrize("decoder", ["musicgen", "audioldm2"])
def test_debug_tells_captions_apart(decoder: str) -> None:
    """By any of their words but the shortest, and names of keys; and says the same in every run."""
    shape = SHAPE if decoder == "musicgen" else (1, 352)
    long = "A slow piece of music in A minor at about 90 BPM, dark and quiet, with a narrow range, "
    captions = [long + "balanced.", long + "bright.", "Bright.", "", long.replace("A minor", "G minor") + "bright."]
    state = torch.random.get_rng_state()
    ask = conditions.debug(decoder, shape, **HOW)
    assert torch.equal(torch.random.get_rng_state(), state)
    said = ask(captions)
    assert said.shape == (5, *shape) and said.isfinite().all() and not said.requires_grad
    for one in range(5):
        for other in range(one):
            apart = (said[one].bfloat16() - said[other].bfloat16()).float().square().mean().sqrt()
            assert apart > 0.05, (captions[one], captions[other])
    assert torch.equal(conditions.debug(decoder, shape, **HOW)(captions), said)


def test_what_is_not_the_decoders_own(tmp_path: Path, audioldm2: Path) -> None:
    folders.t5(tmp_path / "t5", 32)
    with pytest.raises(ValueError, match=r"t5: encodes a caption in \(16, 32\), and the model needs \(16, 24\)"):
        conditions.musicgen(tmp_path / "t5", SHAPE, **HOW)
    with pytest.raises(ValueError, match=r"audioldm2: encodes a caption in \(1, 2144\)"):
        conditions.audioldm2(audioldm2, (1, 352), **HOW)
    with pytest.raises(ValueError, match="its model_type is 'vit'; give T5-base or a MusicGen"):
        folders.words(folder := folders.vit(tmp_path / "vit"), 0, "</s>", "<pad>")
        conditions.musicgen(folder, SHAPE, **HOW)
    with pytest.raises(ValueError, match=r"vit/tokenizer: a tokenizer .* cannot be read"):
        conditions.audioldm2(folder, (1, 352), **HOW, length=16)


def test_what_is_not_whole(tmp_path: Path, audioldm2: Path) -> None:
    folder = folders.t5(tmp_path / "t5")
    kept = load_file(folder / "model.safetensors")
    save_file({name: one for name, one in kept.items() if ".block.1." not in name}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"t5: holds no encoder\.block\.1.*is this a T5EncoderModel"):
        conditions.musicgen(folder, SHAPE, **HOW)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:999])
    with pytest.raises(ValueError, match="t5: T5's or MusicGen's weights"):
        conditions.musicgen(folder, SHAPE, **HOW)
    shutil.copytree(folder, tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"mute: a tokenizer \(tokenizer\.json"):
        conditions.musicgen(tmp_path / "mute", SHAPE, **HOW)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="t5: "):
        conditions.musicgen(folder, SHAPE, **HOW)
    for change, said in (
            ({"sos_embed": None}, "of another shape: sos_embed;"),
            ({"positions": torch.zeros(3)}, "positions;"),
            ({"projection.weight": torch.zeros(12, 11)}, "projection.weight;"),
            ({"eos_embed": torch.full((12,), float("nan"))}, "holds NaN")):
        shutil.rmtree(tmp_path / "ldm", ignore_errors=True)
        shutil.copytree(audioldm2, tmp_path / "ldm")
        file = tmp_path / "ldm" / "projection_model" / "diffusion_pytorch_model.safetensors"
        save_file({name: one for name, one in (load_file(file) | change).items() if one is not None}, file)
        with pytest.raises(ValueError, match=rf"diffusion_pytorch_model\.safetensors: .*{said}"):
            conditions.audioldm2(tmp_path / "ldm", (1, 352), **HOW, length=16)
    file.unlink()
    with pytest.raises(ValueError, match="projection_model: no diffusion_pytorch_model"):
        conditions.audioldm2(tmp_path / "ldm", (1, 352), **HOW, length=16)


@pytest.mark.parametrize("decoder, shape", [("musicgen", SHAPE), ("audioldm2", (1, 352))])
def test_the_debug_encoder_reads_which_words_there_are_and_not_their_order(decoder, shape) -> None:
    encode = conditions.debug(decoder, shape, "cpu", torch.float32)
    caption = "moderately percussive uptempo bright energetic dance groove, constant loudness and narrow register"
    words = caption.split()
    said = encode([caption, " ".join(words[::-1]), " ".join(words[:-1])])
    assert torch.equal(said[0], said[1]) and not torch.allclose(said[0], said[2])
