"""From a path to a model: what is read, what is made, and what is said of the gates."""
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training import toys
from tests.training.test_checkpoint import BASE, llama_folder, on_llama, ours, written
from training import checkpoint, names, pretrained, published
from training.config import Projector
from training.fill import fill
from training.m2ugen import M2UGen
from training.sizes import shapes

TOKENS = torch.tensor([[1, 5, 9, 2]])
SOUND = {"audio": torch.randn(1, 25, 12, generator=torch.Generator().manual_seed(0))}
HEARS, DEAF = "no modality's gates are zero", "THE GATES ARE ZERO for "


def plainly(tensors: dict, config) -> M2UGen:
    """Filled into a model that was allocated before."""
    model = M2UGen(config)
    fill(model, ours(tensors, config))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_the_same_from_every_form_of_it(tmp_path, dtype):
    made, llama = on_llama(), llama_folder(tmp_path / "llama")
    source = written(tmp_path / "c.pth", made)
    checkpoint.convert(source, tmp_path / "whole")
    checkpoint.convert(source, tmp_path / "small", base=BASE)
    wanted = plainly(made, toys.M2UGEN).to(dtype)
    for path, below in ((source, None), (source, llama), (tmp_path / "whole", None), (tmp_path / "small", llama)):
        model, told = pretrained.load(path, below, dtype=dtype)
        assert {one.dtype for one in model.parameters()} == {dtype}
        assert torch.equal(model(TOKENS, encoded=SOUND).logits, wanted(TOKENS, encoded=SOUND).logits)
        assert HEARS in told and "all of it was read" in told and DEAF not in told and str(path) in told
    with pytest.raises(ValueError, match=r"small: stands on meta-llama.*say where that lies"):
        pretrained.load(tmp_path / "small")
    with pytest.raises(ValueError, match="float16 is not made here"):
        pretrained.load(source, dtype=torch.float16)
    with pytest.raises(ValueError, match="of another config"):
        pretrained.load(tmp_path / "whole", config=replace(toys.M2UGEN, norm_eps=1e-6))


def test_a_llama_is_the_start_of_training(tmp_path):
    llama, config = llama_folder(tmp_path / "llama"), toys.M2UGEN
    before = torch.random.get_rng_state()
    model, told = pretrained.load(llama, config=config, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert f"{DEAF}audio, image, video" in told and HEARS not in told
    assert "made here, not trained: adapters, biases, lora, prefix, projector, 8 audio tokens" in told
    state, base = model.state_dict(), published.ours(published.open_checkpoint(llama), config)
    for name, one in base.items():
        read = one.load().float()
        assert torch.equal(state[name][:len(read)], read), name
    for name in ("llama.model.embed_tokens.weight", "llama.lm_head.weight"):
        rows = state[name][40:]
        assert rows.std() > 0 and (rows - state[name][:40].mean(0)).abs().max() < 1  # near the mean of all words
    assert all(one.any() == (".lora_A." in name) for name, one in state.items() if ".lora_" in name)
    assert not any(one.any() for name, one in state.items() if name.endswith("base_layer.bias"))
    fresh = M2UGen(config).state_dict()
    for name in names.published(config).values():
        if name.name not in base and state[name.name].numel() > 50:  # as spread as those of a new model
            assert float(state[name.name].std()) == pytest.approx(float(fresh[name.name].std()), rel=0.5), name
    again, other = (pretrained.load(llama, config=config, seed=seed)[0].state_dict() for seed in (3, 4))
    assert all(torch.equal(one, again[name]) for name, one in state.items())
    assert not torch.equal(state["prefix.query"], other["prefix.query"])
    silent = model(TOKENS).logits
    assert torch.equal(silent, model(TOKENS, encoded=SOUND).logits) and silent.isfinite().all()
    with pytest.raises(ValueError, match="give the config of the model"):
        pretrained.load(llama)


def test_a_mullama_of_its_gates_alone(tmp_path):
    whole = toys.checkpoint(toys.MULLAMA)
    kept = {"gates", "prefix", "audio adapter"}
    source = written(tmp_path / "mu.pth", {name: one for name, one in whole.items() if published.group(name) in kept})
    (tmp_path / "llama").mkdir()
    torch.save({name.removeprefix("llama."): one for name, one in whole.items()
                if published.group(name) in ("llama", "norms")}, tmp_path / "llama" / "consolidated.00.pth")
    (tmp_path / "llama" / "params.json").write_text(json.dumps({"dim": 16, "n_heads": 2}))
    checkpoint.convert(source, tmp_path / "ours", base=BASE, config=toys.MULLAMA)
    wanted = {name: torch.zeros_like(one) if published.group(name) in ("lora", "biases") else one
              for name, one in whole.items()}
    said = plainly(wanted, toys.MULLAMA)(TOKENS, encoded=SOUND).logits
    for path, config in ((source, toys.MULLAMA), (tmp_path / "ours", None)):
        model, told = pretrained.load(path, tmp_path / "llama", config=config)
        assert "made here, not trained: biases, lora\n" in told and HEARS in told
        assert torch.equal(model(TOKENS, encoded=SOUND).logits, said)
    with pytest.raises(ValueError, match=r"mu\.pth: holds only what was trained; say where the LLaMA-2"):
        pretrained.load(source, config=toys.MULLAMA)


MEASURE = """
import re, sys
import torch
from training import pretrained

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

pretrained.load(sys.argv[1])  # what is loaded on first use
before = peak()
model, told = pretrained.load(sys.argv[2])
size = sum(one.numel() * one.element_size() for one in model.parameters())
print(size, (peak() - before) / size, float(model.prefix.gates[3][0, 0]), told.count("gates"))
"""


def test_a_model_is_never_there_twice(tmp_path):
    big = replace(toys.M2UGEN, dim=512, heads=8, feed_forward=1376, vocabulary=4000, layers=12, prefix_rows=9,
                  projector=Projector(16, 96, 128, 4, 2, 256))
    written(tmp_path / "small.pth", toys.checkpoint(toys.M2UGEN))
    written(tmp_path / "big.pth", {name: torch.full(shape, 0.25, dtype=torch.float16 if ".w" in name else torch.float32)
                                   for name, shape in shapes(big).items()})
    done = subprocess.run([sys.executable, "-c", MEASURE, tmp_path / "small.pth", tmp_path / "big.pth"],
                          cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=True)
    size, share, gate, said = map(float, done.stdout.split())
    assert 180e6 < size < 260e6 and gate == 0.25 and said == 1
    assert 0.9 < share <= 1.2, f"{share:.2f} of the model's size"
