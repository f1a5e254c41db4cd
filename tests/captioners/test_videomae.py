import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel
from transformers.utils import logging

from captioners import inputs, videomae
from captioners.videomae import Settings, load, settings
from pipelines.sample import render
from tests.captioners import hub, toy_videomae

ROOT = Path(__file__).resolve().parents[2]
SHORT = Settings(max_length=40)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    cache = tmp_path_factory.mktemp("hub")
    toy_videomae.save(cache)
    return cache


@pytest.fixture(scope="module")
def folders(cache) -> dict[str, Path]:
    return {role: hub.snapshot(cache, name) for role, name in videomae.ROLES.items()}


@pytest.fixture(scope="module")
def captioner(folders) -> videomae.TimeSformerGPT2:
    return load(folders, Settings())


@pytest.fixture
def broken(folders, tmp_path) -> dict[str, Path]:
    """Copies, to be damaged."""
    return {role: Path(shutil.copytree(folder, tmp_path / role)) for role, folder in folders.items()}


@pytest.fixture(scope="module")
def videos() -> list[dict]:
    """Two of the sample corpus, and frames of other shapes: upright, wide, and tiny."""
    rng = np.random.default_rng(3)
    made = []
    for width, height in ((90, 160), (250, 100), (12, 16)):
        coarse = rng.integers(0, 256, (8, height // 4, width // 2, 3), np.uint8)
        made.append(given(coarse.repeat(4, 1).repeat(2, 2)))
    return [*(inputs.video(render(clip), 8) for clip in ("sample-0-00003", "sample-0-00001")), *made]


def given(frames: np.ndarray) -> dict:
    return {"count": len(frames), "width": frames.shape[2], "height": frames.shape[1], "pixels": frames.tobytes()}


def unpacked(video: dict) -> np.ndarray:
    return np.frombuffer(video["pixels"], np.uint8).reshape(video["count"], video["height"], video["width"], 3)


def change(folder: Path, name: str = "config.json", **changed) -> None:
    told = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(told | changed))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


def test_the_text_is_that_of_the_calls_its_author_documents(folders, captioner, videos):
    processor = AutoImageProcessor.from_pretrained(folders["processor"], backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(folders["tokenizer"])
    model = VisionEncoderDecoderModel.from_pretrained(folders["video"])
    expected = []
    for video in videos:
        pixels = processor(list(unpacked(video)), return_tensors="pt").pixel_values
        with torch.no_grad():
            tokens = model.generate(pixels, min_length=20, max_length=200, num_beams=8)
        expected.append(" ".join(tokenizer.batch_decode(tokens, skip_special_tokens=True)[0].split()))
    assert captioner(videos, range(len(videos))) == expected
    assert all(text.replace(" ", "").isalpha() for text in expected)


def test_one_beam_is_the_likeliest_token_step_by_step(folders, videos):
    """Without transformers' generation: no cache, no mask, the start and the end as in config.json."""
    captioner = load(folders, Settings(beams=1, min_length=12, max_length=30))
    model, end = captioner.model, captioner.tokenizer.convert_tokens_to_ids(toy_videomae.END)
    for video in videos[:3]:
        tokens = [end]
        while len(tokens) < 30 and tokens[1:].count(end) == 0:
            with torch.no_grad():
                logits = model(captioner.pixels(video), decoder_input_ids=torch.tensor([tokens])).logits[0, -1]
            if len(tokens) < 12:
                logits[end] = -torch.inf
            tokens.append(int(logits.argmax()))
        words = [captioner.tokenizer.decode(token) for token in tokens if token != end]
        assert captioner([video], [0]) == ["".join(words).strip()]


def test_pixels_are_resized_cropped_and_normalised(captioner, videos):
    """Against Pillow: the shorter side to 224, the middle, ImageNet's mean and deviation."""
    for video in videos:
        pixels = captioner.pixels(video)
        assert pixels.shape == (1, 8, 3, 224, 224) and pixels.dtype == torch.float32
        scale = 224 / min(video["width"], video["height"])
        width, height = int(video["width"] * scale), int(video["height"] * scale)
        left, top = (width - 224) // 2, (height - 224) // 2
        for frame, seen in zip(unpacked(video), pixels[0], strict=True):
            picture = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
            cropped = np.asarray(picture.crop((left, top, left + 224, top + 224)), np.float64) / 255
            expected = (cropped - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
            assert np.abs(seen.numpy().transpose(1, 2, 0) - expected).max() < 1e-5


def test_a_frame_like_a_ribbon_is_not_enlarged_whole(captioner):
    """Of 2 x 40,000 pixels it would be 224 x 4,480,000: 3 GB a frame."""
    frames = np.random.default_rng(1).integers(0, 256, (8, 2, 120, 3), np.uint8)
    sizes = []

    def processor(pictures: list[np.ndarray], **how) -> dict:
        sizes.extend(picture.shape for picture in pictures)
        return captioner.processor(pictures, **how)

    watched = videomae.TimeSformerGPT2(captioner.settings, processor, captioner.tokenizer, captioner.model)
    for turned in (frames, frames.transpose(0, 2, 1, 3)):
        whole = captioner.processor(list(turned), return_tensors="pt")["pixel_values"]
        assert torch.allclose(watched.pixels(given(turned)), whole, atol=1e-5)
    assert {*sizes} == {(2, 8, 3), (8, 2, 3)}


def test_a_batch_says_what_each_says_alone(folders, captioner, videos):
    alone = [captioner([video], [seed])[0] for seed, video in enumerate(videos)]
    assert captioner(videos, range(5)) == alone
    assert captioner(videos[::-1], range(5)) == alone[::-1]  # and seeds change nothing
    assert len({len(text) for text in alone}) > 1
    assert captioner([], []) == []
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    assert load(folders, SHORT)(videos[:2], [8, 9]) == load(folders, SHORT)(videos[:2], [0, 0])
    assert torch.equal(before, torch.random.get_rng_state())


def test_different_videos_have_different_features_and_texts(captioner, videos):
    features = captioner.see(videos)
    assert features.shape == (5, 1 + 8 * 16, 32)
    assert (torch.cdist(features.flatten(1), features.flatten(1)) + torch.eye(5) * 100).min() > 1
    assert len(set(captioner(videos, range(5)))) == 5
    backwards = given(unpacked(videos[0])[::-1])
    assert not torch.allclose(captioner.see([backwards]), features[:1], atol=0.1)  # it sees motion, not frames alone


def test_real_videos_are_captioned(captioner, shared_media):
    files = [shared_media / "video" / name for name in ("big_buck_bunny_0_30.webm", "chaplin.mp4")]
    texts = captioner([inputs.video(file, 8) for file in files], [0, 0])
    assert len(set(texts)) == 2 and all(len(text.split()) >= 19 for text in texts)


def test_a_video_of_one_frame_is_captioned(captioner):
    frame = np.full((1, 60, 80, 3), 90, np.uint8)
    assert captioner([given(frame.repeat(8, 0))], [0])[0]
    with pytest.raises(ValueError, match="a video of 1 frames, for a model that takes 8"):
        captioner([given(frame)], [0])


def test_lengths_count_the_token_it_starts_from(broken, videos):
    state = weights(broken["video"])
    end = json.loads((broken["tokenizer"] / "vocab.json").read_text())[toy_videomae.END]
    for name in ("decoder.transformer.wte.weight", "decoder.lm_head.weight"):
        state[name][end, 0] = 8
    torch.save(state, broken["video"] / "pytorch_model.bin")  # now it ends as soon as it may
    assert [len(text.split()) for text in load(broken, Settings())(videos, range(5))] == [19] * 5
    assert load(broken, Settings(min_length=0))(videos, range(5)) == [""] * 5
    for name in ("decoder.transformer.wte.weight", "decoder.lm_head.weight"):
        state[name][end, 0] = -8
    torch.save(state, broken["video"] / "pytorch_model.bin")  # and now never
    assert [len(text.split()) for text in load(broken, SHORT)(videos, range(5))] == [39] * 5


def test_frames_are_read_from_the_model(folders, broken, videos):
    assert settings(folders) == Settings() == Settings(8, 8, 20, 200)
    assert settings(folders, beams=2) == Settings(beams=2)
    change(broken["video"], encoder=json.loads((broken["video"] / "config.json").read_text())["encoder"]
           | {"num_frames": 4})
    state = weights(broken["video"])
    name = "encoder.embeddings.time_embeddings"
    torch.save(state | {name: state[name][:, :4].clone()}, broken["video"] / "pytorch_model.bin")
    with pytest.raises(ValueError, match="takes 4 frames, not 8; set frames to 4"):
        load(broken, Settings())
    assert settings(broken) == Settings(frames=4)
    four = [given(unpacked(video)[::2]) for video in videos]
    assert len(set(load(broken, settings(broken, max_length=30))(four, range(5)))) == 5


@pytest.mark.parametrize("given", [{"beams": 0}, {"min_length": 30, "max_length": 20}, {"max_length": 257}])
def test_settings_out_of_range(folders, given):
    with pytest.raises(ValueError, match="can do beams from 1 and lengths from 0 to 256, not"):
        load(folders, Settings(**given))


def test_converted_weights_without_the_tied_table_are_the_same(broken, captioner, videos):
    state = {name: tensor for name, tensor in weights(broken["video"]).items() if name != "decoder.lm_head.weight"}
    save_file(state, broken["video"] / "model.safetensors", {"format": "pt"})
    (broken["video"] / "pytorch_model.bin").unlink()
    assert load(broken, Settings())(videos, range(5)) == captioner(videos, range(5))
    with (broken["video"] / "model.safetensors").open("r+b") as file:
        file.truncate(50_000)
    with pytest.raises(ValueError, match=r"video: weights .* fetch it again"):
        load(broken, Settings())


def test_a_tokenizer_of_the_models_own_will_do(broken, captioner, videos):
    assert all(videomae.needed(role, broken) for role in videomae.ROLES)
    for file in broken["tokenizer"].glob("tokenizer*"):
        shutil.copy(file, broken["video"])
    change(broken["video"], "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", eos_token=toy_videomae.END)
    assert [role for role in videomae.ROLES if not videomae.needed(role, broken)] == ["tokenizer"]
    del broken["tokenizer"]
    assert load(broken, Settings())(videos[:1], [0]) == captioner(videos[:1], [0])


def test_truncated_weights(broken):
    file = broken["video"] / "pytorch_model.bin"
    for size in (file.stat().st_size // 2, 0):
        with file.open("r+b") as target:
            target.truncate(size)
        with pytest.raises(ValueError, match=r"video: weights .* fetch it again"):
            load(broken, Settings())


def test_code_in_weights_is_not_run(broken, tmp_path):
    class Bad:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"encoder.x": Bad()}, broken["video"] / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"weights .* cannot be read"):
        load(broken, Settings())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name, fault", [
    ("encoder.encoder.layer.1.intermediate.dense.weight", "1 weights are missing .encoder.encoder.layer.1"),
    ("decoder.transformer.h.1.crossattention.c_attn.bias", "1 weights are missing .decoder.transformer.h.1.cross"),
])
def test_missing_weights(broken, name, fault):
    state = weights(broken["video"])
    del state[name]
    torch.save(state, broken["video"] / "pytorch_model.bin")
    with pytest.raises(ValueError, match=fault):
        load(broken, Settings())


@pytest.mark.parametrize("name", ["enc_to_dec_proj.weight", "decoder.transformer.h.2.attn.c_attn.weight"])
def test_weights_without_a_place(broken, name):
    """A layer too many is another model; masks are none (the toy has them, as old files do)."""
    torch.save(weights(broken["video"]) | {name: torch.zeros(96)}, broken["video"] / "pytorch_model.bin")
    with pytest.raises(ValueError, match=rf"1 weights have no place \({name}\)"):
        load(broken, Settings())


def test_weights_of_another_shape(broken):
    state = weights(broken["video"])
    torch.save(state | {"decoder.transformer.ln_f.bias": torch.zeros(16)}, broken["video"] / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"video: .*(another shape|cannot be read)"):
        load(broken, Settings())


def test_weights_that_are_no_numbers(broken, videos):
    state = weights(broken["video"])
    state["encoder.layernorm.bias"][3] = torch.nan
    torch.save(state, broken["video"] / "pytorch_model.bin")
    with pytest.raises(FloatingPointError, match="not numbers"):
        load(broken, SHORT)(videos[:1], [0])


@pytest.mark.parametrize("role, what", [("video", "config.json of a TimeSformer-GPT2"), ("tokenizer", "GPT-2's token"),
                                        ("processor", "VideoMAE's preprocessor_config.json")])
def test_a_folder_that_is_not_there_or_empty(folders, tmp_path, role, what):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match=f"{folder}: .*{what}.* cannot be read"):
            load(folders | {role: folder}, Settings())


def test_another_model_type(folders, broken):
    with pytest.raises(ValueError, match=r"processor: is a model of type videomae .* where a vision-encoder-decoder "):
        load(folders | {"video": broken["processor"]}, Settings())
    with pytest.raises(ValueError, match=r"is a model of type gpt2 \(None, None\)"):
        settings({"video": broken["tokenizer"]})
    told = json.loads((broken["video"] / "config.json").read_text())
    change(broken["video"], encoder=told["encoder"] | {"model_type": "vit"})
    with pytest.raises(ValueError, match=r"type vision-encoder-decoder \(vit, gpt2\), where"):
        settings(broken)


def test_another_vocabulary(broken):
    told = json.loads((broken["tokenizer"] / "tokenizer.json").read_text())
    told["added_tokens"].append(told["added_tokens"][0] | {"id": 240, "content": "<new>"})
    (broken["tokenizer"] / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"tokenizer: a vocabulary of 241 tokens, where the model in .* has 240"):
        load(broken, Settings())


@pytest.mark.parametrize("changed", [{"decoder_start_token_id": None}, {"pad_token_id": None}])
def test_a_config_that_does_not_say_where_to_start(broken, captioner, videos, changed):
    """GPT-2 has one mark, with which a text begins and ends."""
    change(broken["video"], **changed)
    assert load(broken, Settings())(videos, range(5)) == captioner(videos, range(5))


def test_another_end_than_the_tokenizers(broken):
    told = json.loads((broken["video"] / "config.json").read_text())
    change(broken["video"], decoder=told["decoder"] | {"eos_token_id": 7})
    with pytest.raises(ValueError, match="ends at token 7, which does not fit the tokenizer's end, 239"):
        load(broken, Settings())


@pytest.mark.parametrize("changed, fault", [
    ({"crop_size": {"height": 112, "width": 112}}, r"a VideoMAEFeatureExtractor that makes pixels of shape "
                                                   r"\(1, 8, 3, 112, 112\), where a VideoMAEImageProcessor and "),
    ({"image_processor_type": "ViTImageProcessor"}, "is a ViTImageProcessor that makes")])
def test_another_processor(broken, changed, fault):
    change(broken["processor"], "preprocessor_config.json", **changed)
    with pytest.raises(ValueError, match=fault):
        load(broken, Settings())


@pytest.mark.parametrize("role, name", [
    ("video", "config.json"), ("processor", "preprocessor_config.json"), ("tokenizer", "tokenizer.json"),
    ("tokenizer", "tokenizer_config.json")])
@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_damaged_files_of_json(broken, role, name, text):
    (broken[role] / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{broken[role]}: .* cannot be read \(.*check the path, or fetch"):
        load(broken, Settings())


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_it_is_not_quantized(folders, bits):
    with pytest.raises(ValueError, match=f"{bits}: the video model is not quantized"):
        load(folders, Settings(), quantize=bits)


def test_half_precision(folders, videos):
    half = load(folders, SHORT, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    assert len(set(half(videos, range(5)))) == 5


def test_transformers_speaks_as_before(folders, videos, capfd):
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    try:
        load(folders, SHORT)(videos[:1], [0])
        assert logging.get_verbosity() == logging.INFO and logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")


def test_production_ids_load_offline_from_the_cache(cache):
    """In a process of its own: names alone, no network, nothing on stderr; its settings cost no model library."""
    code = ("import sys\n"
            "from captioners import inputs, videomae\n"
            "from training import pinned\n"
            "folders = {role: pinned.folder(pinned.pin(name)) for role, name in videomae.ROLES.items()}\n"
            "asked = videomae.settings(folders)\n"
            "assert not {'torch', 'transformers'} & set(sys.modules)\n"
            "from pipelines.sample import render\n"
            "print(videomae.load(folders, asked)([inputs.video(render('sample-0-00003'), asked.frames)], [0])[0])\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=False,
                          env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout.split()) >= 19
