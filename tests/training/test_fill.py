"""Loading: what comes in, and how much memory it takes."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training import toys
from training import names, published, stored
from training.fill import fill
from training.m2ugen import M2UGen
from training.sizes import shapes


def made(config) -> tuple[dict, dict]:
    """A checkpoint's tensors, and the same unread under our names."""
    tensors = toys.checkpoint(config)
    held = {name: stored.in_memory("toy.pth", one) for name, one in tensors.items()}
    checkpoint = published.Checkpoint(config.name, None, config, held)
    return tensors, published.ours(checkpoint)


@pytest.mark.parametrize("layout", ["summed", "mullama"])
@pytest.mark.parametrize("meta", [True, False], ids=["meta", "allocated"])
def test_every_parameter_gets_its_tensor(layout, meta):
    config = toys.LAYOUTS[layout]
    tensors, ours = made(config)
    with torch.device("meta" if meta else "cpu"):
        model = M2UGen(config)
    trainable = {name for name, one in model.named_parameters() if one.requires_grad}
    assert {one.dtype for one in tensors.values()} == {torch.float16, torch.float32}
    fill(model, ours)
    state = model.state_dict()
    for theirs, own in names.published(config).items():
        expected = names.to_ours(tensors[theirs], own.rotated, config)
        assert state[own.name].dtype == torch.float32 and torch.equal(state[own.name], expected.float()), theirs
    assert {name for name, one in model.named_parameters() if one.requires_grad} == trainable
    assert model(torch.tensor([[1, 2, 3]]), encoded={"audio": torch.randn(1, 25, 12)}).logits.isfinite().all()


def test_a_dtype_may_be_chosen_by_name():
    _, ours = made(toys.M2UGEN)
    with torch.device("meta"):
        model = M2UGen(toys.M2UGEN)
    fill(model, ours, dtype=lambda name: torch.float32 if "lora_" in name else torch.bfloat16)
    kinds = {name: one.dtype for name, one in model.named_parameters()}
    assert all(kind == (torch.float32 if "lora_" in name else torch.bfloat16) for name, kind in kinds.items())


def test_a_llama_alone_leaves_the_rest_as_it_is(tmp_path):
    torch.save(toys.meta_llama(toys.M2UGEN), tmp_path / "consolidated.00.pth")
    (tmp_path / "params.json").write_text(json.dumps({"dim": 16, "n_heads": 2}))
    base = published.ours(published.open_checkpoint(tmp_path), toys.M2UGEN)
    model = M2UGen(toys.M2UGEN)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with pytest.raises(ValueError, match="missing: adapters"):
        fill(model, base)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    fill(model, base, stay=[name for name in before if name not in base])
    for name, one in model.state_dict().items():
        rows = 40 if name in base else len(one) if one.dim() else None
        if name in base:
            assert torch.equal(one[:rows], base[name].load().float()[:rows]), name
            assert torch.equal(one[len(base[name].load()):], before[name][len(base[name].load()):])
        else:
            assert torch.equal(one, before[name]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rows_of_audio_tokens_that_nothing_is_read_for_are_zero_on_meta(dtype):
    tensors, _ = made(toys.M2UGEN)
    table = ["llama.tok_embeddings.weight", "llama.output.weight"]
    held = {name: stored.in_memory("toy.pth", one[:40] if name in table else one) for name, one in tensors.items()}
    for _ in range(3):  # a second model may get the memory of the first, with what was in it
        with torch.device("meta"):
            model = M2UGen(toys.M2UGEN)
        fill(model, published.ours(published.Checkpoint("m2ugen", None, toys.M2UGEN, held)), dtype=dtype)
        for weight, name in zip((model.llama.model.embed_tokens.weight, model.llama.lm_head.weight), table,
                                strict=True):
            assert weight.shape == (48, 16) and not weight[40:].any() and torch.equal(weight[:40].half(),
                                                                                     tensors[name][:40])
            weight.data.fill_(7)
        del model, weight


def test_joined_pieces_keep_what_each_holds():
    half = stored.in_memory("a", torch.ones(2, 3).half())
    single = stored.in_memory("b", torch.full((1, 3), 1e5 + 1 / 64))
    with pytest.raises(ValueError, match=r"b: a piece of torch\.float32 does not fit into a tensor of torch\.float16"):
        stored.joined([half, single], 0)
    both = stored.joined([half, single], 0, torch.float32)
    assert both.dtype == both.load().dtype == torch.float32 and torch.equal(both.load()[2:], single.load())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused(value):
    tensors = toys.checkpoint(toys.M2UGEN)
    tensors["iu_vit_proj.weight"][3, 2] = value
    held = {name: stored.in_memory("toy.pth", one) for name, one in tensors.items()}
    ours = published.ours(published.Checkpoint("m2ugen", None, toys.M2UGEN, held))
    with pytest.raises(ValueError, match=r"toy\.pth: 'adapters\.image\.project\.weight' holds NaN or infinity"):
        fill(M2UGen(toys.M2UGEN), ours)


def test_wrong_tensors_change_nothing():
    tensors, _ = made(toys.M2UGEN)
    sizes = {own.name: shapes(toys.M2UGEN)[theirs] for theirs, own in names.published(toys.M2UGEN).items()}
    held = {name: stored.in_memory("toy.pth", torch.ones(shape)) for name, shape in sizes.items()}
    held["prefix.query"] = stored.in_memory("toy.pth", tensors["prefix_query.weight"][:3])
    short = {**held, "llama.lm_head.weight": stored.in_memory("toy.pth", torch.ones(39, 16))}
    with pytest.raises(ValueError, match=r"llama\.lm_head\.weight is \[39, 16\] and not \[48, 16\]"):
        fill(M2UGen(toys.M2UGEN), {**short, "prefix.query": stored.in_memory("toy.pth", torch.ones(18, 16))})
    model = M2UGen(toys.M2UGEN)
    before = model.prefix.gates[4].clone()
    with pytest.raises(ValueError, match=r"toy\.pth: .*prefix\.query is \[3, 16\] and not \[18, 16\]"):
        fill(model, held)
    assert torch.equal(model.prefix.gates[4], before)


COUNT, SIDE = 40, 1024   # 160 MiB in float32

MEASURE = """
import re, sys
import torch
from torch import nn
from training.fill import fill
from training.weights import open_weights

def peak():  # of this process alone (ru_maxrss has what its parent had), mapped files included
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

# A first, small round brings in what is loaded on first use.
small = torch.nn.Module(); small.layers = nn.ModuleList([nn.Linear(4, 4, bias=False, device="meta")])
fill(small, open_weights(sys.argv[1]).tensors)
model = torch.nn.Module()
model.layers = nn.ModuleList(nn.Linear({side}, {side}, bias=False, device="meta") for _ in range({count}))
before = peak()
fill(model, open_weights(sys.argv[2]).tensors, dtype=eval(sys.argv[3]))
size = sum(one.numel() * one.element_size() for one in model.parameters())
print((peak() - before) / size, size, float(model.layers[{count} - 1].weight[0, 1]))
"""


def tensors(count: int, side: int, value: float = 0.0) -> dict:
    return {f"layers.{number}.weight": torch.full((side, side), float(number + value)) for number in range(count)}


@pytest.mark.parametrize(("form", "dtype"), [("zip", "torch.float32"), ("legacy", "torch.float32"),
                                             ("safetensors", "torch.float32"), ("sharded", "torch.bfloat16")])
def test_loading_takes_little_more_than_the_model_s_own_size(tmp_path, form, dtype):
    from safetensors.torch import save_file
    small, big = tmp_path / "small", tmp_path / "big"
    for path, held in ((small, tensors(1, 4)), (big, tensors(COUNT, SIDE, 0.5))):
        if form == "safetensors":
            save_file(held, path)
        elif form == "sharded":
            path.mkdir()
            placed = {name: f"shard{number % 2}" for number, name in enumerate(held)}
            for shard in set(placed.values()):
                save_file({name: one for name, one in held.items() if placed[name] == shard}, path / shard)
            (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
        else:
            # As in a training checkpoint, the optimiser lies behind the model: it must not be read at all.
            optimizer = {"state": {0: {"exp_avg": torch.ones(COUNT // 2, SIDE, SIDE)}}} if path == big else {}
            torch.save({"model": held, "optimizer": optimizer}, path, _use_new_zipfile_serialization=form == "zip")
        del held
    done = subprocess.run([sys.executable, "-c", MEASURE.format(side=SIDE, count=COUNT), small, big, dtype],
                          cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=True)
    share, size, value = map(float, done.stdout.split())
    assert value == COUNT - 0.5 and size == COUNT * SIDE ** 2 * (4 if dtype == "torch.float32" else 2)
    assert 0.9 < share <= 1.2, f"{share:.2f} of the model's size"


def test_buffers_that_a_state_dict_holds_are_filled_too():
    class WithBuffer(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2, bias=False)
            self.register_buffer("kept", torch.zeros(2))
            self.register_buffer("made", torch.ones(2), persistent=False)
    model = WithBuffer()
    fill(model, {"linear.weight": stored.in_memory("x", torch.ones(2, 2)),
                 "kept": stored.in_memory("x", torch.tensor([3., 4.]))})
    assert model.kept.tolist() == [3, 4] and model.linear.weight.tolist() == [[1, 1], [1, 1]]
