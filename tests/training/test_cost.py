"""FLOPs against torch's own counter, memory against torch's own accounting."""
import dataclasses
from collections.abc import Collection
from itertools import accumulate

import pytest
import torch
from peft.helpers import disable_input_dtype_casting
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.training import tiny
from training import cost, packing, stages
from training.config import Config, mullama
from training.cost import Flops, Needed, Work, flops, needed, peak
from training.loss import IGNORED, losses
from training.m2ugen import M2UGen
from training.stages import PARTS, STAGES, part

EVERYTHING = tuple(one for one in PARTS if one != "rows")
PAPER = stages.TRAINED["paper"]
TRAINED = {
    "everything": EVERYTHING, "lora": ("lora",), "stage 1": PAPER[1], "stage 2": PAPER[2], "stage 3": PAPER[3],
    "projector": ("projector",), "rows": ("rows",), "projector and embeddings": ("projector", "embeddings"),
    "released 1": stages.TRAINED["released"][1], "released 3": stages.TRAINED["released"][3],
    "gates": ("gates",), "norms": ("norms",), "biases": ("biases",), "output": ("output",), "linears": ("linears",)}
LENGTH = 24
HEARD = {"audio": 2, "video": 1}


def _model(config: Config, trained: Collection[str]) -> M2UGen:
    """Where rows are trained, tables are split as a stage splits them."""
    model = tiny.model(config).train()
    if "rows" in trained:
        stages.train(model, STAGES[3])
    for name, parameter in model.named_parameters():
        deaf = part(name) == "gates" and int(name.rpartition(".")[2]) < config.prefix_start
        parameter.requires_grad_(part(name) in trained and not deaf)
    return model


def _batch(config: Config, samples: int = 3, length: int = LENGTH) -> tuple[Tensor, dict[str, list[Tensor | None]]]:
    """Each sample ends in the audio tokens, where there are any."""
    rows = [tiny.tokens(length - config.audio_tokens, row, config) + list(config.audio_ids) for row in range(samples)]
    present = {one.name: HEARD.get(one.name, 0) for one in config.modalities}
    return torch.tensor(rows), {name: [tiny.encoded(config, name, row) if row < count else None
                                       for row in range(samples)] for name, count in present.items() if count}


def _loss(model: M2UGen, tokens: Tensor, encoded: dict[str, list[Tensor | None]]) -> Tensor:
    """Two samples have a music target, where the model makes music."""
    shape = model.config.projector
    targets = None if shape is None else [torch.ones(shape.queries, shape.out)] * 2 + [None] * (len(tokens) - 2)
    return losses(model, model(tokens, encoded=encoded), tokens, targets).total


def _work(config: Config, samples: int = 3, length: int = LENGTH) -> Work:
    return Work([length] * samples, {one.name: HEARD.get(one.name, 0) for one in config.modalities},
                2 if config.projector else 0)


def _counted(config: Config, trained: Collection[str]) -> Flops:
    model = _model(config, trained)
    with sdpa_kernel(SDPBackend.MATH):  # which torch counts, and of which it counts every pair of tokens
        with FlopCounterMode(display=False) as forward:
            loss = _loss(model, *_batch(config))
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return Flops(forward.get_total_flops(), backward.get_total_flops())


@pytest.mark.parametrize(("config", "name"), [
    *((tiny.M2UGEN, name) for name in TRAINED), (tiny.OLDER, "stage 1"),
    *((tiny.MULLAMA, name) for name in ("everything", "stage 1", "stage 3", "rows"))])
def test_flops_are_those_that_torch_counts_but_for_the_causal_half(config: Config, name: str) -> None:
    if config.projector is None and name == "rows":  # none of what is named is there
        ours, forward = flops(config, TRAINED[name], _work(config)), flops(config, (), _work(config))
        assert ours == forward and not ours.backward
        return
    theirs, ours = _counted(config, TRAINED[name]), flops(config, TRAINED[name], _work(config))
    hidden = 3 * (LENGTH * LENGTH - LENGTH * (LENGTH + 1) // 2)  # pairs that the mask hides, of three samples
    pair = 2 * config.dim                                        # of one product
    assert theirs.forward - ours.forward == 2 * pair * hidden * config.layers
    products = {  # behind each layer's attention: of scores and values, two gradients each, where they are wanted
        "biases": 4 * config.layers - 2,        # the first layer's keys and values have none
        "stage 1": 4 * (config.prefix_rows - 1), "gates": 4 * (config.prefix_rows - 1),  # it enters behind the first's
        "projector": 0, "output": 0}.get(name, 4 * config.layers)
    assert theirs.backward - ours.backward == pair * hidden * products


@pytest.mark.parametrize(("recipe", "number"), [("paper", 1), ("paper", 2), ("paper", 3), ("released", 1)])
def test_a_packed_batch_costs_what_its_samples_do(recipe: str, number: int) -> None:
    """Five samples in two full rows, as a stage trains on them; torch counts all pairs of a row and all logits."""
    config = tiny.M2UGEN
    model = tiny.model(config).train()
    trained = stages.train(model, STAGES[number], recipe)
    lengths, width, audio = {7: 20, 8: 30, 9: 24, 3: 14, 4: 12}, 50, list(config.audio_ids)
    tokens = {one: tiny.tokens(length - 8, one) + audio for one, length in lengths.items()}
    batch = packing.collate([[7, 8], [9, 3, 4]], {one: (ids, [IGNORED] * (len(ids) - 10) + ids[-10:])
                                                  for one, ids in tokens.items()})
    encoded = {"audio": [tiny.encoded(config, "audio", 0), None, None, tiny.encoded(config, "audio", 1), None],
               "image": [None] * 5, "video": [None, tiny.encoded(config, "video", 2), None, None, None]}
    targets = [None, torch.ones(3, 5), None, None, torch.ones(3, 5)]
    work = cost.work(batch, encoded, targets)
    assert work == Work([20, 30, 24, 14, 12], {"audio": 2, "image": 0, "video": 1}, 2, 5 * 10)
    parts = {part(name) for name in trained.parameters}
    assert parts == stages.TRAINED[recipe][number]
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss = losses(model, model(batch.tokens, encoded=encoded, segments=batch.segments), batch.labels, targets)
        with FlopCounterMode(display=False) as backward:
            loss.total.backward()
    ours = flops(config, parts, work)
    hidden = 2 * width ** 2 - sum(length * (length + 1) // 2 for length in lengths.values())
    pairs, logit = 2 * config.dim * hidden, 2 * config.dim * config.all_tokens
    unasked = 2 * width - 50
    assert forward.get_total_flops() - ours.forward == 2 * pairs * config.layers + unasked * logit
    products = 4 * (config.layers if (recipe, number) != ("paper", 1) else config.prefix_rows - 1)
    rows = 2 * config.dim * config.audio_tokens if "rows" in parts else 0
    assert backward.get_total_flops() - ours.backward == pairs * products + unasked * (logit + rows)


def test_padding_is_no_work() -> None:
    one, wide = (packing.collate([[0], [1]], {0: ([5, 6, 7], [IGNORED, 6, 7]), 1: ([8], [8])}, width)
                 for width in (None, 9))
    assert one.tokens.shape != wide.tokens.shape
    assert cost.work(one, {}, [None, None]) == cost.work(wide, {}, [None, None]) == Work([3, 1], {}, 0, 2)


def test_llama_2_7b_by_hand() -> None:
    """Touvron et al.: 6.74e9 weights, of which 131e6 embeddings and as many at the output."""
    config = dataclasses.replace(mullama("7b"), lora_rank=1)
    work = Work([2048] * 4)
    tokens, weights = 8192, 32 * (4 * 4096 ** 2 + 3 * 4096 * 11008) + 4096 * 32000
    assert weights == 6_607_077_376
    pairs = 4 * 2048 * 2049 // 2
    low = 32 * (8 * 4096 + 3 * (4096 + 11008))  # LoRA of rank 1
    prefix = 20 * 4096 ** 2                     # one row's values, as nothing is heard
    forward = 2 * tokens * (weights + low) + 32 * 4 * 4096 * pairs + 2 * prefix
    every = flops(config, ("embeddings", "norms", "linears", "output", "lora", "queries"), work)
    assert (every.forward, every.backward) == (forward, 2 * forward)
    assert 1 < every.total / (6 * tokens * weights) < 1.1  # 6 N T, to which attention adds its part
    low_only = flops(config, ("lora",), work)
    first = 2 * tokens * (3 * 4096 ** 2 + 3 * 4096)  # nothing is trained below the first layer's queries, keys, values
    products = 2 * tokens * (weights + 2 * low) + 2 * 32 * 4 * 4096 * pairs
    assert low_only.backward == products - first
    assert .66 < low_only.total / every.total < .69  # two thirds, and attention


def test_attention_is_quadratic_within_a_segment_only() -> None:
    config = tiny.M2UGEN
    one, four = (flops(config, EVERYTHING, Work(lengths)) for lengths in ([64], [16] * 4))
    pairs = 64 * 65 // 2 - 4 * 16 * 17 // 2
    assert one.forward - four.forward == 4 * config.dim * config.layers * pairs
    assert one.backward - four.backward == 8 * config.dim * config.layers * pairs


def test_logits_that_are_not_computed_cost_nothing() -> None:
    config = tiny.M2UGEN
    whole, few = flops(config, EVERYTHING, Work([64])), flops(config, EVERYTHING, Work([64], logits=10))
    assert whole.total - few.total == 3 * 2 * 54 * config.dim * config.all_tokens


@pytest.mark.parametrize(("trained", "message"), [(("lora", "gate"), "called gate; its parts are adapters, queries"),
                                                  (("rows", "output"), "of tables that are frozen")])
def test_what_is_no_part_is_named(trained: Collection[str], message: str) -> None:
    for ask in (flops, needed):
        with pytest.raises(ValueError, match=message):
            ask(tiny.M2UGEN, trained, Work([8]))


@pytest.mark.parametrize(("device", "expected"), [
    ("NVIDIA H100 80GB HBM3", 989.4e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989.4e12),
    ("NVIDIA A100-SXM4-40GB", 312e12), ("A100-PCIE-40GB", 312e12), ("NVIDIA A100 80GB PCIe", 312e12),
    ("NVIDIA GeForce RTX 4090", 165.2e12), ("NVIDIA L40S", 362.05e12), ("Tesla V100-SXM2-16GB", 125e12),
    ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None), ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("cpu", None)])
def test_peaks(device: str, expected: float | None) -> None:
    assert peak(device) == expected
    assert peak(device, 1e12) == 1e12


@pytest.mark.parametrize(("name", "states"), [("everything", 2), ("stage 3", 2), ("stage 2", 2), ("stage 1", 1),
                                              ("projector", 0)])
def test_weights_gradients_and_states_are_those_that_torch_holds(name: str, states: int) -> None:
    config = tiny.M2UGEN
    model = _model(config, TRAINED[name]).bfloat16()
    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in chosen:
        parameter.data, parameter.grad = parameter.data.float(), torch.zeros_like(parameter.data, dtype=torch.float32)
    optimizer = {2: torch.optim.AdamW, 1: torch.optim.Adagrad,
                 0: torch.optim.SGD}[states](chosen, lr=1e-3)
    optimizer.step()
    held = [one for state in optimizer.state.values() for one in state.values() if isinstance(one, Tensor)]
    ours = needed(config, TRAINED[name], Work([8]), states=states)
    assert ours.weights == _bytes(list(model.parameters()))
    assert ours.gradients == _bytes([parameter.grad for parameter in chosen])
    assert ours.optimizer == _bytes(held)


@pytest.mark.parametrize("number", STAGES)
def test_what_other_stages_train_may_be_kept_in_float32(number: int) -> None:
    model, config = tiny.model(), tiny.M2UGEN
    parts = set().union(*PAPER.values())
    for name, parameter in model.named_parameters():
        if part(name) not in parts or (part(name) == "gates" and int(name.split(".")[2]) < config.prefix_start):
            parameter.data = parameter.data.bfloat16()
    stages.train(model, STAGES[number])
    assert needed(config, PAPER[number], Work([8]), kept=parts).weights == _bytes(list(model.parameters()))


SHAPE = dataclasses.replace(tiny.M2UGEN, dim=128, heads=4, feed_forward=344, vocabulary=512)


@pytest.mark.parametrize(("how", "trained"), [
    ("float32", EVERYTHING), ("bfloat16", EVERYTHING), ("bfloat16", PAPER[3]),
    *((how, trained) for how in ("float32", "autocast")
      for trained in (PAPER[1], PAPER[2], PAPER[3], ("projector",), TRAINED["released 3"]))])
def test_activations_are_those_that_autograd_keeps(trained: Collection[str], how: str) -> None:
    """To a fifth: small tensors are not counted. Of the logits their log-softmax is kept, if they want a gradient."""
    ours, model = _costed(trained, how)
    softmax = 0 if trained == ("projector",) else 3 * 159 * SHAPE.all_tokens * 4
    assert ours.activations == pytest.approx(_kept(model, how) - softmax, rel=.2)


def test_segments_keep_a_mask_in_each_layer() -> None:
    plain, masked = (needed(SHAPE, ("lora",), Work([160] * 3, masked=pairs)) for pairs in (0, 3 * 160 ** 2))
    model = _model(SHAPE, ("lora",)).bfloat16()
    more = _kept(model, "bfloat16", torch.tensor([1] * 80 + [2] * 80).repeat(3, 1)) - _kept(model, "bfloat16")
    assert masked.activations - plain.activations == SHAPE.layers * 3 * 160 ** 2 * 2 == pytest.approx(more, rel=.15)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("number", "how"), [(1, "autocast"), (2, "autocast"), (3, "autocast"), (3, "float32")])
def test_activations_and_logits_are_the_most_that_a_pass_takes(number: int, how: str, checkpointing: bool) -> None:
    ours, model = _costed(PAPER[number], how, checkpointing)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    if checkpointing:
        model.llama.activation_checkpointing_enable()
    with torch.profiler.profile(profile_memory=True) as profile, disable_input_dtype_casting(model):
        _pass(model, how).backward()  # which computes layers again as they were
    taken = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert ours.activations + ours.logits == pytest.approx(max(accumulate(taken)), rel=.09 if checkpointing else .04)


def _costed(trained: Collection[str], how: str, checkpointing: bool = False) -> tuple[Needed, M2UGen]:
    dtype = torch.float32 if how == "float32" else torch.bfloat16
    model = _model(SHAPE, trained).to(dtype)
    if how == "autocast":  # a table in float32 would make all that follows it so; rows apart are cast
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and part(name) != "embeddings":
                parameter.data = parameter.data.float()
    return needed(SHAPE, trained, _work(SHAPE, 3, 160), dtype=dtype, checkpointing=checkpointing,
                  trained_dtype=torch.float32 if how == "autocast" else dtype), model


def _pass(model: M2UGen, how: str, segments: Tensor | None = None) -> Tensor:
    with disable_input_dtype_casting(model), torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        tokens, encoded = _batch(SHAPE, 3, 160)
        if segments is not None:  # what is heard, and the targets, are of whole rows
            return losses(model, model(tokens, segments=segments), tokens).total
        return _loss(model, tokens, encoded)


def _kept(model: M2UGen, how: str, segments: Tensor | None = None) -> int:
    """Bytes that autograd keeps for a backward pass, weights apart."""
    storages: dict[int, int] = {}
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _pass(model, how, segments)
    return sum(storages.values())


def _bytes(tensors: list[Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


def test_what_is_needed_is_told() -> None:
    assert Needed(2 ** 30, 2 ** 29, 2 ** 30, 2 ** 31, 2 ** 28).line() == (
        "memory needed: 4.75 GiB (weights 1.00 GiB, gradients 0.50 GiB, optimizer 1.00 GiB, activations 2.00 GiB, "
        "logits 0.25 GiB)")
