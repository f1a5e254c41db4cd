import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Blip2ForConditionalGeneration, BlipForConditionalGeneration, BlipProcessor

from captioners import blip, inputs
from captioners.blip import Settings, load
from manifests import media
from pipelines.sample import render
from tests.captioners import hub, toy_blip

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    cache = tmp_path_factory.mktemp("hub")
    toy_blip.save(cache)
    return cache


@pytest.fixture(scope="module")
def folders(cache) -> dict[str, Path]:
    """By Hub id."""
    return {name: hub.snapshot(cache, name) for name in (toy_blip.BLIP, toy_blip.OPT, toy_blip.T5)}


@pytest.fixture(scope="module")
def captioner(folders) -> blip.Blip:
    return load({"image": folders[toy_blip.BLIP]}, Settings())


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Frames of the sample, and noise of sizes that processors stumble over."""
    frames = [frame for clip in ("sample-0-00003", "sample-0-00001") for frame in media.frames(render(clip), 2, 240)]
    noise = np.random.default_rng(0)
    odd = [noise.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((3, 90), (90, 3), (1, 1), (3, 3))]
    return [Image.fromarray(pixels) for pixels in (*frames, *odd)]


@pytest.fixture
def broken(folders, tmp_path) -> Path:
    """A copy of BLIP, to be damaged."""
    return Path(shutil.copytree(folders[toy_blip.BLIP], tmp_path / "blip"))


def given(picture: Image.Image) -> dict:
    return {"width": picture.width, "height": picture.height, "pixels": picture.tobytes()}


def asked(captioner: blip.Blip, pictures: list[Image.Image]) -> list[str]:
    return captioner([given(picture) for picture in pictures], range(len(pictures)))


def test_runs_under_the_production_id_offline_and_says_nothing_else(cache, pictures, captioner, tmp_path):
    pictures[0].save(tmp_path / "picture.png")
    script = ("import sys\n"
              "from captioners import blip, inputs\n"
              "from training import pinned\n"
              "assert not {'torch', 'transformers'} & set(sys.modules)\n"
              "folders = {role: pinned.folder(pinned.pin(name)) for role, name in blip.ROLES.items()}\n"
              f"picture = inputs.image({str(tmp_path / 'picture.png')!r})\n"
              "print(blip.load(folders, blip.Settings())([picture], [0])[0])\n")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, env={
        **os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"})
    assert done.stderr == ""
    assert done.stdout.strip() == asked(captioner, pictures[:1])[0]


def test_pixels_are_squeezed_by_bicubics_and_normalised(captioner, pictures):
    pixels = captioner.pixels([given(picture) for picture in pictures])
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    for row, picture in zip(pixels, pictures, strict=True):
        small = np.asarray(picture.resize((384, 384), Image.Resampling.BICUBIC)) / 255
        np.testing.assert_allclose(row.numpy(), ((small - mean) / std).transpose(2, 0, 1), atol=1e-5)


def test_blip_is_as_transformers_documents_it(captioner, folders, pictures):
    processor = BlipProcessor.from_pretrained(folders[toy_blip.BLIP], backend="pil")
    model = BlipForConditionalGeneration.from_pretrained(folders[toy_blip.BLIP]).eval()
    for picture in pictures[:4]:
        taken = processor(picture, "the image shows", return_tensors="pt")
        tokens = model.generate(**taken, max_new_tokens=30)
        assert asked(captioner, [picture]) == [processor.decode(tokens[0], skip_special_tokens=True)]


def test_blip_says_the_likeliest_token_each_time(captioner, folders, pictures):
    model, tokenizer = captioner.model, captioner.tokenizer
    words = asked(captioner, pictures[:1])[0]
    ids = [model.config.text_config.bos_token_id, *tokenizer("the image shows", add_special_tokens=False).input_ids]
    with torch.inference_mode():
        seen = model.vision_model(captioner.pixels([given(pictures[0])])).last_hidden_state
        while len(ids) < 34 and ids[-1] != tokenizer.sep_token_id:
            logits = model.text_decoder(torch.tensor([ids]), encoder_hidden_states=seen, use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
    assert tokenizer.decode(ids[1:], skip_special_tokens=True) == words


@pytest.mark.parametrize(("name", "beams"), [(toy_blip.OPT, 1), (toy_blip.OPT, 3), (toy_blip.T5, 2)])
def test_blip2_goes_on_from_query_tokens_and_prompt(folders, pictures, name, beams):
    folder = folders[name]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), Blip2ForConditionalGeneration.from_pretrained(folder)
    captioner = load({"image": folder}, Settings(beams=beams))
    expected = []
    for picture in pictures:
        small = np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC)) / 255
        small = (small - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
        # What Blip2Processor puts in, which needs torchvision where none is asked for: <image> for every query token.
        taken = tokenizer("<image>" * toy_blip.QUERIES, add_special_tokens=False).input_ids
        taken = torch.tensor([taken + tokenizer("the image shows").input_ids])
        tokens = model.eval().generate(torch.tensor(small.transpose(2, 0, 1)[None]).float(), input_ids=taken,
                                       attention_mask=torch.ones_like(taken), num_beams=beams, max_new_tokens=30)
        words = tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
        words = words.removeprefix("the image shows").strip()  # OPT's begin with it, T5's do not
        expected.append(f"the image shows {words}" if words else "")
    assert asked(captioner, pictures) == expected and len(set(expected)) > 4


@pytest.mark.parametrize(("name", "beams"), [(toy_blip.BLIP, 1), (toy_blip.BLIP, 3), (toy_blip.OPT, 3),
                                             (toy_blip.T5, 1)])
def test_a_caption_does_not_depend_on_the_others_of_its_batch(folders, pictures, name, beams):
    captioner, pictures = load({"image": folders[name]}, Settings(beams=beams)), pictures[1::2]
    together = asked(captioner, pictures)
    assert [asked(captioner, [picture])[0] for picture in pictures] == together
    assert asked(captioner, pictures[::-1]) == together[::-1]


def test_different_pictures_have_different_features_and_captions(captioner, pictures, shared_media):
    frames = media.frames(str(shared_media / "video" / "chaplin.mp4"), 3, 240)
    pictures = [*pictures[:4:2], *map(Image.fromarray, frames)]
    with torch.inference_mode():
        seen = captioner.model.vision_model(captioner.pixels([given(one) for one in pictures])).last_hidden_state
    for place, one in enumerate(seen):
        assert all((one - other).abs().max() > 0.1 for other in seen[:place])
    assert len(set(asked(captioner, pictures))) == len(pictures)


def test_an_encoded_picture_is_captioned(captioner, pictures, tmp_path):
    pictures[0].save(tmp_path / "a.png")
    one = inputs.image((tmp_path / "a.png").read_bytes())
    assert captioner([one], [0]) == asked(captioner, pictures[:1])
    assert captioner([], []) == []


@pytest.mark.parametrize(("name", "prompt"), [(toy_blip.BLIP, "A man"), (toy_blip.BLIP, ""), (toy_blip.OPT, ""),
                                              (toy_blip.T5, "a picture of")])
def test_captions_begin_with_the_prompt_and_are_as_long_as_asked(folders, pictures, name, prompt):
    captioner = load({"image": folders[name]}, Settings(prompt=prompt, min_new=5, max_new=5))
    begins = captioner.tokenizer.decode(captioner.tokenizer(prompt).input_ids, skip_special_tokens=True).strip()
    said = asked(captioner, pictures[:4])
    assert all(words.startswith(begins) for words in said)
    assert max(len(words.removeprefix(begins).split()) for words in said) == 5  # fewer with an ending such as ##s


def test_nothing_said_is_no_caption(broken, pictures):
    for tied in ("bias", "decoder.bias"):
        change(broken, f"text_decoder.cls.predictions.{tied}", lambda bias: bias.index_fill(0, torch.tensor(102), 1e4))
    assert asked(load({"image": broken}, Settings()), pictures[:2]) == ["", ""]


def test_numbers_that_are_none_are_told(broken, pictures):
    change(broken, "vision_model.post_layernorm.weight", lambda weight: weight * float("nan"))
    with pytest.raises(FloatingPointError, match="not numbers"):
        asked(load({"image": broken}, Settings()), pictures[:1])


def test_the_old_format_says_the_same(broken, captioner, pictures):
    state = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    torch.save(state, broken / "pytorch_model.bin")
    assert asked(load({"image": broken}, Settings()), pictures) == asked(captioner, pictures)


@pytest.mark.parametrize(("quantize", "kind"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt")])
def test_the_language_model_of_blip2_in_few_bits(folders, pictures, quantize, kind, capfd):
    captioner = load({"image": folders[toy_blip.OPT]}, Settings(), quantize=quantize)
    few = {name for name, module in captioner.model.named_modules() if type(module).__name__ == kind}
    assert len(few) == 12 and all(name.startswith("language_model.model.decoder.layers.") for name in few)
    said = asked(captioner, pictures[:4])
    assert len(set(said)) > 1 and all(words.startswith("the image shows ") for words in said)
    assert capfd.readouterr().err == ""


def test_half_precision(folders, pictures):
    captioner = load({"image": folders[toy_blip.BLIP]}, Settings(), dtype=torch.bfloat16)
    assert captioner.model.dtype == torch.bfloat16 and len(set(asked(captioner, pictures[:4]))) > 1


def change(folder: Path, name: str, how: Callable) -> None:
    state = load_file(folder / "model.safetensors")
    state[name] = how(state[name])
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def without(folder: Path, name: str) -> None:
    state = load_file(folder / "model.safetensors")
    del state[name]
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def config(folder: Path, change: dict, part: str = "") -> None:
    found = json.loads((folder / "config.json").read_text())
    (found[part] if part else found).update(change)
    (folder / "config.json").write_text(json.dumps(found))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])


def old(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    cut(folder / "pytorch_model.bin")


def small(file: Path) -> None:
    """transformers would look at such pictures all the same, with the wrong places for their parts."""
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"height": 224, "width": 224}}))


def fewer_words(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: place for word, place in words.items() if place < len(words) - 9}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(("damage", "message"), [
    (shutil.rmtree, "config.json"),
    (lambda folder: (folder / "config.json").unlink(), "config.json"),
    (lambda folder: cut(folder / "config.json"), "config.json: is not whole"),
    (lambda folder: cut(folder / "tokenizer.json"), "tokenizer.json: is not whole"),
    (lambda folder: cut(folder / "model.safetensors"), "model.safetensors cannot be read"),
    (old, "pytorch_model.bin cannot be read"),
    (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
    (lambda folder: without(folder, "vision_model.post_layernorm.weight"), "1 weights are missing .vision_model.post"),
    (lambda folder: without(folder, "text_decoder.cls.predictions.transform.dense.bias"), "weights are missing"),
    (lambda folder: config(folder, {"intermediate_size": 48}, "vision_config"), "6 weights have another shape"),
    (lambda folder: config(folder, {"vocab_size": 400}, "text_config"), "or another model.s"),
    (lambda folder: small(folder / "preprocessor_config.json"), "makes pictures of another size than 384"),
    (lambda folder: config(folder, {"model_type": "vit"}), "is a vit model; blip or blip-2 is needed"),
    (lambda folder: config(folder, {"sep_token_id": 3}, "text_config"), "its token of end is 102 .* and 3 "),
    (lambda folder: config(folder, {"pad_token_id": 3}, "text_config"), "its token of padding is 0 .* and 3 "),
    (fewer_words, "the tokenizer has .* tokens, the model"),
])
def test_faults_name_the_folder(broken, damage, message):
    damage(broken)
    with pytest.raises(ValueError, match=message) as raised:
        load({"image": broken}, Settings())
    assert str(broken) in str(raised.value)


def test_a_tokenizer_without_files_is_a_fault(broken):
    """transformers' own classes would make an empty one of nothing."""
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
        (broken / name).unlink()
    with pytest.raises(ValueError, match="tokeniz"):
        load({"image": broken}, Settings())


def test_a_blip_that_answers_questions_is_another_model(broken):
    state = load_file(broken / "model.safetensors")
    state["text_encoder.embeddings.word_embeddings.weight"] = torch.zeros(8, 32)
    save_file(state, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"another model's, which does not caption \(text_encoder"):
        load({"image": broken}, Settings())


def test_an_old_blip2_without_its_image_token_is_a_fault(folders, tmp_path):
    folder = Path(shutil.copytree(folders[toy_blip.OPT], tmp_path / "opt"))
    config(folder, {"image_token_index": None})
    with pytest.raises(ValueError, match=r"<image>.* old revisions of BLIP-2 lack it"):
        load({"image": folder}, Settings())


@pytest.mark.parametrize(("settings", "quantize", "message"), [
    (Settings(beams=0), "", "a beam"), (Settings(max_new=0), "", "a token"), (Settings(max_new=60), "", "64 tokens"),
    (Settings(min_new=31), "", "a token"), (Settings(), "4bit", "is not quantized"), (Settings(), "2bit", "4bit and 8"),
])
def test_settings_that_the_model_cannot_follow(folders, settings, quantize, message):
    with pytest.raises(ValueError, match=message):
        load({"image": folders[toy_blip.BLIP]}, settings, quantize=quantize)
