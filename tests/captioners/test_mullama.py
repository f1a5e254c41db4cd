"""MU-LLaMA from the Hub's files: what it says follows from the music, and files that are not its own are told."""
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import bitsandbytes
import numpy as np
import pytest
import sentencepiece
import torch
from peft.tuners.lora import Linear
from sentencepiece import sentencepiece_model_pb2 as proto
from transformers import HubertModel, Wav2Vec2FeatureExtractor

from captioners import inputs, mullama
from captioners.mullama import MULLaMA, Settings, load, needed
from pipelines.sample import render
from tests.captioners import toy_mullama as toy
from tests.training import meta, toys
from training import checkpoint
from training.m2ugen import M2UGen

SHORT = Settings(max_new=24)
Folders = dict[str, Path]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Toys have no work for two, which would wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("hub")
    toy.save(cache)
    return cache


@pytest.fixture(scope="module")
def folders(cache: Path) -> Folders:
    return {role: next((cache / f"models--{name.replace('/', '--')}" / "snapshots").iterdir())
            for role, name in mullama.ROLES.items()}


@pytest.fixture(scope="module")
def model(folders: Folders) -> MULLaMA:
    return load(folders, SHORT)


@pytest.fixture(scope="module")
def heard() -> list[dict]:
    """Ten-second clips with picture and sound, and others of other lengths, one of two windows."""
    random = np.random.default_rng(0)

    def noise(seconds: float) -> bytes:
        return (0.1 * random.standard_normal(round(seconds * inputs.RATE))).astype("<f4").tobytes()
    return [*(inputs.music(render(f"sample-0-{number:05d}")) for number in (3, 5, 6)), {"windows": [noise(2.5)]},
            {"windows": [noise(3), noise(3)]}, {"windows": [noise(0.25)]}]


@pytest.fixture
def copied(folders: Folders, tmp_path: Path) -> Folders:
    """To be broken."""
    return {role: Path(shutil.copytree(folder, tmp_path / role)) for role, folder in folders.items()}


def test_offline_by_its_published_names_and_quietly(cache: Path, tmp_path: Path) -> None:
    """From a Hub cache, in a process that has imported nothing; the settings alone wait for no library."""
    media = tmp_path / "clip.mp4"
    media.write_bytes(render("sample-0-00003"))
    code = ("import sys\nfrom captioners import inputs, mullama\n"
            "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
            "from training.pinned import folder, pin\n"
            "folders = {role: folder(pin(name)) for role, name in mullama.ROLES.items()}\n"
            "model = mullama.load(folders, mullama.Settings(max_new=24))\n"
            "print(model([inputs.music(sys.argv[1])], [5])[0])")
    ran = subprocess.run([sys.executable, "-c", code, str(media)], capture_output=True, text=True, check=True,
                         env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"})
    assert ran.stderr == "" and ran.stdout.strip() and set(ran.stdout.split()) <= set(toy.WORDS)


def test_different_music_is_heard_and_said_differently(model: MULLaMA, shared_media: Path) -> None:
    media = [render("sample-0-00003"), render("sample-0-00005"), *sorted((shared_media / "music").iterdir())]
    made = [inputs.music(one) for one in media]
    states = model.hear(made)
    features = model.model.features("audio", states)[:, 0].detach()
    apart = torch.cdist(features, features) + torch.eye(len(made)) * 1e6
    assert apart.min() > 0.05 * features.norm(dim=-1).mean()
    said = model(made, [1] * len(made))
    assert len(set(said)) == len(made)
    assert all(text == text.strip() and set(text.split()) <= set(toy.WORDS) for text in said) and all(said)


def test_a_row_is_its_own(model: MULLaMA, heard: list[dict]) -> None:
    seeds = list(range(40, 40 + len(heard)))
    together = model(heard, seeds)
    assert together == [model([one], [seed])[0] for one, seed in zip(heard, seeds, strict=True)]
    assert together[::-1] == model(heard[::-1], seeds[::-1])
    assert len({*together, *model([heard[0]] * 6, range(6))}) > 9  # the seed matters
    assert model([], []) == []


def test_only_equal_lengths_are_heard_together(model: MULLaMA, heard: list[dict],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, hear = [], model.ears.hear
    monkeypatch.setattr(model.ears, "hear", lambda waves: shapes.append(tuple(waves.shape)) or hear(waves))
    states = model.hear([*heard, *heard[:3]])
    clip = len(heard[0]["windows"][0]) // 4
    assert sorted(shapes) == [(1, 6000), (1, 60000), (2, 72000), (2, clip), (4, clip)]
    two = [hear(torch.from_numpy(np.frombuffer(wave, np.float32).copy()[None]))[0] for wave in heard[4]["windows"]]
    torch.testing.assert_close(states[4], (two[0] + two[1]) / 2, rtol=1e-4, atol=1e-4)
    assert (two[0] - two[1]).abs().max() > 0.01
    torch.testing.assert_close(states[6:], states[:3], rtol=1e-4, atol=1e-4)


def test_says_what_the_description_of_it_says(folders: Folders, heard: list[dict]) -> None:
    """Greedily, beside transformers' own MERT and an implementation of MU-LLaMA that shares nothing with ours."""
    said = load(folders, Settings(temperature=0, max_new=10))(heard[:2], [0, 0])
    tensors = torch.load(folders["mullama"] / "checkpoint.pth", weights_only=True)["model"]
    words = sentencepiece.SentencePieceProcessor(model_file=str(folders["llama"] / "tokenizer.model"))
    text = ("Below is an instruction that describes a task, paired with an input that provides further context. Write "
            "a response that appropriately completes the request.\n\n### Instruction:\nDescribe the music in detail, "
            "including aspects such as instruments used, tempo, and the mood of the song\n\n### Input:\n<built-in "
            "function input>\n\n### Response:")
    sizes = meta.Sizes(m2ugen=False, dim=64, layers=6, heads=4, hidden=128, vocab=toy.TOKENS, audio_tokens=0, rank=4,
                       ratio=4, rows=4, summed=True, encoders=(("audio", 25, 32),))
    mert = HubertModel.from_pretrained(folders["mert"])
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folders["mert"])
    for one, answer in zip(heard, said, strict=False):
        wave = extractor(np.frombuffer(one["windows"][0], "<f4"), sampling_rate=24000, return_tensors="pt")
        with torch.no_grad():
            output = mert(wave["input_values"], output_hidden_states=True)
        states = torch.stack([*output.hidden_states[:-1], output.last_hidden_state], 1).mean(2)
        tokens = meta.greedy({name: tensor.float() for name, tensor in tensors.items()}, sizes,
                             torch.tensor([1, *words.encode(text)]), {"audio": states}, 10)
        tokens = tokens[:tokens.index(2)] if 2 in tokens else tokens
        assert answer == words.decode(tokens).strip() != ""


def test_the_prompt_is_the_published_one(shared_media: Path) -> None:
    prompts = json.loads((shared_media.parent / "reference" / "prompts.json").read_text())
    assert prompts["MU-LLaMA_prompt"]["template"] == mullama.TEMPLATE
    assert prompts["music_caption_question"]["paper"] == mullama.QUESTION


def test_every_form_of_its_files_says_the_same(tmp_path: Path, folders: Folders, heard: list[dict]) -> None:
    """With the LLaMA in it; upon LLaMA-2 as Hugging Face and as Meta hand it out (which have 32000 tokens); a folder of
    ours, whole and upon LLaMA; and with either file of the tokenizer, wherever that lies."""
    pieces = _padded(toy.tokenizer(), 32000)
    config = replace(toy.CONFIG, vocabulary=32000)
    tensors = toy.checkpoint(config, pieces)
    tensors["llama.output.weight"][config.eos] = 0  # of other random numbers, it would say nothing
    lora = {name: one for name, one in tensors.items() if ".lora_" in name or "llama" not in name
            or name.endswith((".bias", ".gate", "norm.weight"))}
    hugging_face, whole, trained = tmp_path / "hf", tmp_path / "whole", tmp_path / "trained"
    meta_seven = tmp_path / "meta" / "7B"
    for folder in (hugging_face, whole, trained, meta_seven):
        folder.mkdir(parents=True)
    toy.save_llama(hugging_face, config, tensors, pieces)
    torch.save({"model": tensors}, whole / "checkpoint.pth")
    torch.save({"model": {f"module.{name}": one for name, one in lora.items()}}, trained / "checkpoint.pth")
    below = {name.removeprefix("llama."): one for name, one in tensors.items()
             if (name.startswith("llama.") and name not in lora) or name.endswith("norm.weight")}
    torch.save(below, meta_seven / "consolidated.00.pth")
    (meta_seven / "params.json").write_text(json.dumps({"dim": 64, "n_heads": 4, "n_layers": 6, "norm_eps": 1e-5,
                                                        "vocab_size": -1}))
    (meta_seven.parent / "tokenizer.model").write_bytes(pieces)
    checkpoint.convert(whole / "checkpoint.pth", tmp_path / "ours")
    checkpoint.convert(whole / "checkpoint.pth", tmp_path / "small", base={"id": "meta-llama/Llama-2-7b-hf"})
    shutil.copy(hugging_face / "tokenizer.json", whole)

    def said(**given: Path) -> list[str]:
        return load({**given, "mert": folders["mert"]}, Settings(max_new=8))(heard[:3], [1, 2, 3])
    wanted = said(mullama=whole)
    assert len(set(wanted)) == 3 and all(wanted)
    for other in ({"mullama": whole / "checkpoint.pth", "llama": meta_seven.parent},
                  {"mullama": trained, "llama": hugging_face}, {"mullama": trained, "llama": meta_seven.parent},
                  {"mullama": tmp_path / "ours", "llama": hugging_face},
                  {"mullama": tmp_path / "small", "llama": hugging_face}):
        assert said(**other) == wanted, other
    assert not needed("llama", {"mullama": whole}) and needed("mert", {"mullama": whole})
    for other in (trained, tmp_path / "ours", tmp_path / "small"):
        assert needed("llama", {"mullama": other})
    for other in (trained, tmp_path / "small"):
        with pytest.raises(ValueError, match="say where LLaMA-2 7B lies"):
            said(mullama=other)
    with pytest.raises(ValueError, match=r"tokenizer\.model: has 480 tokens, but the model 32000"):
        said(mullama=trained, llama=folders["llama"])
    (trained / "tokenizer.model").write_bytes(pieces)
    with pytest.raises(ValueError, match=r"embed_tokens.weight is \[480, 64\] and not \[32000, 64\]"):
        said(mullama=trained, llama=folders["llama"])


def test_nothing_said_is_an_empty_text(copied: Folders, heard: list[dict]) -> None:
    def ends(tensors: dict) -> None:
        tensors["llama.output.weight"][:] = 0
    _changed(copied["mullama"] / "checkpoint.pth", ends)
    model = load(copied, Settings(temperature=0))
    model.model.llama.model.norm.register_forward_hook(lambda _, __, output: output * 0 + 1)
    with torch.no_grad():
        model.model.llama.lm_head.weight[2] = 1
    assert model(heard[:2], [1, 2]) == ["", ""]


def test_brain_floats(folders: Folders, heard: list[dict], model: MULLaMA) -> None:
    half = load(folders, SHORT, dtype=torch.bfloat16)
    assert {one.dtype for part in (half.model, half.ears) for one in part.parameters()} == {torch.bfloat16}
    assert _apart(_logits(half, model.hear(heard[:3])), _logits(model, model.hear(heard[:3]))) < 0.1
    assert all(set(text.split()) <= set(toy.WORDS) for text in half(heard, range(6)))


@pytest.mark.parametrize(("quantize", "kind", "error"), [
    ("4bit", bitsandbytes.nn.Linear4bit, 0.5), ("8bit", bitsandbytes.nn.Linear8bitLt, 0.1)])
def test_small_weights(folders: Folders, heard: list[dict], model: MULLaMA, quantize: str, kind: type, error: float,
                       capfd: pytest.CaptureFixture) -> None:
    small = load(folders, SHORT, quantize=quantize)
    plain = load(folders, SHORT)
    for name, layer in small.model.llama.named_modules():
        if isinstance(layer, Linear):
            assert isinstance(layer.base_layer, kind) == (not name.endswith("v_proj"))
            if quantize == "4bit" and isinstance(layer.base_layer, kind):
                weight = layer.base_layer.weight
                back = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
                plain.model.llama.get_submodule(name).base_layer.weight.data = back
    states = model.hear(heard[:3])
    exact = _logits(model, states)
    assert 0.01 < _apart(_logits(small, states), exact) < error
    if quantize == "4bit":  # nothing was lost but what the four bits lose
        assert _apart(_logits(small, states), _logits(plain, states)) < 0.03
    capfd.readouterr()
    half = load(folders, SHORT, quantize=quantize, dtype=torch.bfloat16)
    assert all(set(text.split()) <= set(toy.WORDS) and text for text in half(heard[:2], [1, 2]))
    assert capfd.readouterr().err == ""


def test_a_model_that_cannot_hear_is_refused(copied: Folders) -> None:
    def deaf(tensors: dict) -> None:
        for name in tensors:
            if name.endswith(".gate"):
                tensors[name].zero_()
    _changed(copied["mullama"] / "checkpoint.pth", deaf)
    with pytest.raises(ValueError, match=r"checkpoint.pth: its gates are zero: it would say the same of any music"):
        load(copied, SHORT)


def _cut(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size * 2 // 3)


def _config(**said: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / ("preprocessor_config.json" if "sampling_rate" in said else "config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | said))
    return change


def _without(start: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        def drop(tensors: dict) -> None:
            for name in [name for name in tensors if name.startswith(start)]:
                del tensors[name]
        _changed(next(path for path in folder.iterdir() if path.suffix in (".pth", ".bin")), drop)
    return change


def _other(tensors: Callable[[], dict]) -> Callable[[Path], None]:
    return lambda folder: torch.save({"model": tensors()}, folder / "checkpoint.pth")


def _tokens(pieces: Callable[[], bytes]) -> Callable[[Path], int]:
    return lambda folder: (folder / "tokenizer.model").write_bytes(pieces())


def _bare_json(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "tokenizer.model").unlink()
        (folder / "tokenizer.json").write_text(text)
    return change


@pytest.mark.parametrize(("role", "change", "told"), [
    ("mullama", shutil.rmtree, "mullama: no such file or directory; give"),
    ("mullama", lambda folder: (folder / "checkpoint.pth").rename(folder / "7B.pth"), "mullama: no checkpoint.pth or"),
    ("mullama", _cut("checkpoint.pth"), "checkpoint.pth: "),
    ("mullama", _without("mu_mert_f2_2"), r"1 missing: mu_mert_f2_2.weight"),
    ("mullama", _without("llama.layers.3.attention.wk."), r"1 missing: llama.layers.3.attention.wk.weight"),
    ("mullama", _other(lambda: toys.checkpoint(toys.M2UGEN)), "checkpoint.pth: is m2ugen and not MU-LLaMA"),
    ("mullama", _other(lambda: toys.meta_llama(toys.MULLAMA)), "checkpoint.pth: is a LLaMA by itself"),
    ("mullama", _other(lambda: {"prefix_query.weight": torch.zeros(2, 2)}), "LLaMA-Adapter baseline"),
    ("llama", shutil.rmtree, "llama: no tokenizer.model or tokenizer.json; put LLaMA-2's there"),
    ("llama", _cut("tokenizer.model"), "tokenizer.model: not a sentencepiece model"),
    ("llama", _tokens(lambda: toy.tokenizer(400)), "tokenizer.model: has 400 tokens, but the model 480"),
    ("llama", _tokens(lambda: _padded(toy.tokenizer(), 488)), r"has 488 tokens \(M²UGen's code adds"),
    ("llama", _tokens(lambda: _swapped(toy.tokenizer())), r"tokenizer.model: begins and ends with \(2, 1\), but the"),
    ("llama", _bare_json("{"), "tokenizer.json: not valid JSON"),
    ("llama", _bare_json('{"model": {"vocab": {}}}'), "tokenizer.json: not LLaMA's tokenizer: no vocabulary"),
    ("mert", shutil.rmtree, "mert: no such|mert/?.*: no"),
    ("mert", _cut("pytorch_model.bin"), "pytorch_model.bin: "),
    ("mert", _without("encoder.layers.7."), r"mert: holds no encoder.layers.7.*is this a HubertModel"),
    ("mert", _config(intermediate_size=48), "mert: its config gives other shapes to encoder.layers.0"),
    ("mert", _config(model_type="wav2vec2"), "mert: its model_type is 'wav2vec2' and its"),
    ("mert", _config(sampling_rate=16000), "its sampling_rate '16000'; give MERT"),
    ("mert", lambda folder: toy.save_mert(folder, 24), r"mert: gives 25 states of 24, and MU-LLaMA hears 25 of 32")])
def test_what_is_wrong_is_told(copied: Folders, role: str, change: Callable[[Path], None], told: str) -> None:
    change(copied[role])
    with pytest.raises(ValueError, match=told) as raised:
        load(copied, SHORT)
    assert str(copied[role]) in str(raised.value)


def test_an_unknown_way_to_quantize(folders: Folders) -> None:
    with pytest.raises(ValueError, match="'2bit'; choose 4bit or 8bit"):
        load(folders, SHORT, quantize="2bit")


def _changed(path: Path, change: Callable[[dict], None]) -> None:
    saved = torch.load(path, weights_only=True)
    change(saved.get("model", saved))
    torch.save(saved, path)


def _padded(pieces: bytes, count: int) -> bytes:
    """With pieces that nothing is cut into."""
    model = proto.ModelProto()
    model.ParseFromString(pieces)
    for number in range(count - len(model.pieces)):
        model.pieces.add(piece=f"<unused {number}>", score=-1e4, type=proto.ModelProto.SentencePiece.UNUSED)
    return model.SerializeToString()


def _swapped(pieces: bytes) -> bytes:
    model = proto.ModelProto()
    model.ParseFromString(pieces)
    model.pieces[1].piece, model.pieces[2].piece = model.pieces[2].piece, model.pieces[1].piece
    return model.SerializeToString()


def _logits(model: MULLaMA, states: torch.Tensor) -> torch.Tensor:
    inner: M2UGen = model.model
    with torch.no_grad():
        return inner(torch.tensor([model.prompt] * len(states)), encoded={"audio": states}, keep=1).logits.float()


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())
