"""What a step of training asks of a device: FLOPs and memory.

FLOPs are those that the mathematics asks for, counted by walking the model as autograd does: a product of two matrices
costs its like again for each factor whose gradient is wanted. So nothing is counted for the weights of frozen layers,
nor below the lowest thing trained; nor recomputation, padding, or products that an implementation does and a better one
would not (pairs of tokens that a causal mask or a segment's end hides, gradients of frozen rows of a table, logits
where nothing is asked).
"""
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from training import packing
from training.adapters import BLOCKS
from training.config import Config, Projector
from training.llama import BIASED, LINEARS
from training.m2ugen import Encoded, M2UGen
from training.packing import IGNORED
from training.stages import PARTS, part

PEAKS = {  # bf16, dense, with float32 sums, by NVIDIA's data sheets; V100 has float16 only
    r"NVIDIA H100 80GB HBM3|NVIDIA H200|NVIDIA GH200 .*": 989.4e12, r"NVIDIA H100 NVL|NVIDIA H200 NVL": 835.5e12,
    r"NVIDIA H100 PCIe": 756e12, r"(NVIDIA )?A100(-SXM4-\d+GB|-PCIE-\d+GB| 80GB PCIe)": 312e12,
    r"NVIDIA L40S": 362.05e12, r"NVIDIA GeForce RTX 4090": 165.2e12, r"Tesla V100-SXM[23]-\d+GB.*": 125e12,
    r"Tesla V100-PCIE-\d+GB": 112e12}


@dataclass(frozen=True)
class Work:
    """A batch, in numbers. `lengths`: tokens of each sample (for memory: with its padding); `heard`: how many samples
    bring each modality; `music`: how many have a music target; `logits`: at how many positions (None: at all, which is
    what `M2UGen` takes memory for); `masked`: rows × width² where segments reach SDPA, as each layer keeps a mask."""
    lengths: Sequence[int]
    heard: Mapping[str, int] = field(default_factory=dict)
    music: int = 0
    logits: int | None = None
    masked: int = 0

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


@dataclass(frozen=True)
class Flops:
    forward: int
    backward: int

    @property
    def total(self) -> int:
        return self.forward + self.backward


@dataclass(frozen=True)
class Needed:
    """Bytes on one device that shards nothing. What is held at the top of the backward pass, where it is most:
    `activations` are kept for that pass, `logits` are, in float32, their log-softmax and two gradients.
    """
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def line(self) -> str:
        parts = ", ".join(f"{name} {gib(size)}" for name, size in vars(self).items())
        return f"memory needed: {gib(self.total)} ({parts})"


def work(batch: packing.Batch, encoded: Encoded, targets: Sequence[Tensor | None]) -> Work:
    """What a batch asks for: its tokens without padding, and logits where there are labels.

    `encoded` (by modality) and `targets` have an entry, or None, for each of the batch's samples. Of a batch on a GPU
    the host would wait for its numbers: ask before it goes there.
    """
    owners = packing.owners(batch.segments)
    lengths = owners[owners >= 0].bincount(minlength=packing.count(batch.segments)).tolist()
    heard = {name: sum(one is not None for one in each) for name, each in encoded.items()}
    music = sum(one is not None for one in targets)
    return Work(lengths, heard, music, int((batch.labels != IGNORED).sum()))


def peak(device: str, override: float | None = None) -> float | None:
    """FLOP/s of a device by its name (`torch.cuda.get_device_name`), or the one given; None where nobody knows."""
    if override is not None:
        return override
    return next((value for names, value in PEAKS.items() if re.fullmatch(names, device)), None)


def flops(config: Config, trained: Iterable[str], work: Work) -> Flops:
    """Of one forward and backward pass over a batch. `trained`: parts, by the names of `stages.PARTS`.

    Of a model as `stages.train` leaves it: `{stages.part(name) for name in trained.parameters}`. Raises ValueError for
    what is no part, and for `rows` beside the tables that hold them.
    """
    walk = _walked(config, _checked(config, trained), work, 0)
    return Flops(walk.forward, walk.backward)


def needed(config: Config, trained: Iterable[str], work: Work, *, dtype: torch.dtype = torch.bfloat16,
           trained_dtype: torch.dtype = torch.float32, kept: Iterable[str] = (), states: int = 2,
           checkpointing: bool = False) -> Needed:
    """Memory of training on batches like `work`, the largest that is to come. ValueError as `flops`.

    `dtype`: of frozen weights and activations; `trained_dtype`: of what is trained, its gradients and states (where it
    is another, autocast keeps a copy in `dtype` for the length of a pass); `kept`: parts that are held in it even where
    they are not trained; `states`: how many numbers the optimizer keeps for each (AdamW: 2). Weights, gradients and
    states are exact. Activations are those of attention that keeps no scores (flash, SDPA), and of LoRA under peft's
    `disable_input_dtype_casting` (around the backward pass too, where it computes layers again). Under autocast more is
    kept without it, or where norms are trained, whose results are then float32: a copy of most linears' input.
    """
    chosen, kept, sizes = _checked(config, trained), frozenset(kept), _sizes(config)
    numbers, tensors = (sum(sizes[one][place] for one in chosen) for place in (0, 1))
    frozen = sum(count * (trained_dtype if one in kept else dtype).itemsize for one, (count, _) in sizes.items()
                 if one not in chosen and one != "rows")
    walk = _walked(config, chosen, work, dtype.itemsize, checkpointing)
    rows = work.tokens if work.logits is None else work.logits
    logits = rows * config.all_tokens * 3 * 4
    wide = trained_dtype.itemsize
    steps = 4 * tensors if states else 0  # torch counts each tensor's steps in a float32
    copies = numbers * dtype.itemsize if trained_dtype != dtype else 0
    more = max(walk.again - (walk.saved - walk.below) - logits, 0)  # what follows the layers is gone by then
    return Needed(frozen + numbers * wide, numbers * wide, states * numbers * wide + steps,
                  walk.saved + copies + more, logits)


@dataclass
class _Walk:
    """The counts of a walk through the model. `live` below: this activation's gradient is wanted."""
    width: int                     # of a number, in bytes
    forward: int = 0
    backward: int = 0
    saved: int = 0                 # bytes
    below: int = 0                 # bytes of them, without what follows the last layer
    again: int = 0                 # bytes in use while the largest layer is computed again

    def product(self, size: int, *wanted: bool) -> bool:
        self.forward += 2 * size
        self.backward += 2 * size * sum(wanted)
        return any(wanted)

    def linear(self, rows: int, inside: int, outside: int, live: bool, trained: bool, keep: bool = True) -> bool:
        if trained and keep:
            self.save(rows * inside)
        return self.product(rows * inside * outside, live, trained)

    def attention(self, pairs: int, dim: int, query: bool, key: bool, value: bool) -> bool:
        return self.product(pairs * dim, self.product(pairs * dim, query, key), value)

    def save(self, numbers: int, width: int | None = None) -> None:
        self.saved += numbers * (self.width if width is None else width)


def _walked(config: Config, trained: frozenset[str], work: Work, width: int, checkpointing: bool = False) -> _Walk:
    walk = _Walk(width)
    embedded = bool(trained & {"rows", "embeddings"})
    live, heard = embedded, _adapters(walk, config, "adapters" in trained, work)
    for index in range(config.layers):
        before = walk.saved
        live = _layer(walk, config, trained, work, live, heard if index >= config.prefix_start else None)
        if checkpointing:
            passing = 3 * work.tokens * config.feed_forward * width  # results and gradients on their way
            walk.again = max(walk.again, walk.saved - before + passing)
            walk.saved = before + work.tokens * config.dim * width
    walk.below = walk.saved
    rows = work.tokens if work.logits is None else work.logits
    normed = _norm(walk, trained, rows, config.dim, live)
    walk.linear(rows, config.dim, config.all_tokens, normed, "output" in trained)
    if "rows" in trained:
        walk.save(rows * config.dim)
        walk.backward += 2 * rows * config.dim * config.audio_tokens
    if work.music:
        _projector(walk, config, "projector" in trained, work.music, live or embedded)
    return walk


def _adapters(walk: _Walk, config: Config, trained: bool, work: Work) -> bool:
    """Whether what the prefix hears wants a gradient."""
    for one in config.modalities:
        samples = work.heard.get(one.name, 0)
        hidden = config.dim * config.adapter_ratio
        walk.linear(samples, one.tokens * one.width, 1, False, trained)
        for inside, outside in ((one.width, config.dim), *((config.dim, hidden), (config.dim, hidden),
                                                          (hidden, config.dim)) * BLOCKS):
            walk.linear(samples, inside, outside, trained, trained)
    return trained and any(work.heard.values())


def _layer(walk: _Walk, config: Config, trained: frozenset[str], work: Work, live: bool, heard: bool | None) -> bool:
    """One decoder layer; `heard` is None in those without a prefix."""
    tokens, dim, wide = work.tokens, config.dim, config.feed_forward
    lora, base = "lora" in trained, "linears" in trained

    def linear(name: str, live: bool, keep: bool = True) -> bool:
        inside = wide if name == "down_proj" else dim
        outside = wide if name in ("gate_proj", "up_proj") else dim
        if keep and (base or lora):  # the base and LoRA read the same
            walk.save(tokens * inside)
        plain = walk.linear(tokens, inside, outside, live, base, keep=False)
        low = walk.linear(tokens, inside, config.lora_rank, live, lora, keep=False)
        low = walk.linear(tokens, config.lora_rank, outside, low, lora)
        return plain or low or (name in BIASED and "biases" in trained)

    normed = _norm(walk, trained, tokens, dim, live)
    query, key, value = (linear(name, normed, keep=name == "q_proj") for name in LINEARS[:3])
    pairs = sum(length * (length + 1) // 2 for length in work.lengths)
    mixed = walk.attention(pairs, dim, query, key, value)
    if mixed:
        walk.save(4 * tokens * dim)
        walk.save(tokens * config.heads, 4)
        walk.save(work.masked)
    added = False
    if heard is not None:
        rows = len(work.lengths) if any(work.heard.values()) else 1
        spoken = walk.linear(rows, dim, dim, heard or "queries" in trained, base)
        added = spoken or "gates" in trained
    # What o_proj reads is the attention's output, and kept with it, unless a prefix has been added.
    live = linear("o_proj", mixed or added, keep=heard is not None or not mixed) or live
    normed = _norm(walk, trained, tokens, dim, live)
    gate, up = linear("gate_proj", normed), linear("up_proj", normed, keep=False)
    if gate or up:
        walk.save(3 * tokens * wide)
    return linear("down_proj", gate or up) or live


def _norm(walk: _Walk, trained: frozenset[str], rows: int, dim: int, live: bool) -> bool:
    """RMSNorm, computed in float32."""
    if live:
        walk.save(rows * (dim + 1), 4)
    if "norms" in trained:
        walk.save(rows * dim)
    return live or "norms" in trained


def _projector(walk: _Walk, config: Config, trained: bool, samples: int, live: bool) -> None:
    shape, states = config.projector, samples * config.audio_tokens
    live = walk.linear(states, config.dim, shape.width, live, trained)
    for _ in range(shape.layers):
        live = _mixing(walk, shape, samples, config.audio_tokens, config.audio_tokens, live, live, trained)
        live = _feed_forward(walk, shape, states, live, trained)
    queries, asked = samples * shape.queries, trained
    for _ in range(shape.layers):
        asked = _mixing(walk, shape, samples, shape.queries, shape.queries, asked, asked, trained)
        asked = _mixing(walk, shape, samples, shape.queries, config.audio_tokens, asked, live, trained)
        asked = _feed_forward(walk, shape, queries, asked, trained)
    walk.linear(queries, shape.width, shape.out, asked, trained)


def _mixing(walk: _Walk, shape: Projector, samples: int, asking: int, asked: int, live: bool, other: bool,
            trained: bool) -> bool:
    """Attention of `asking` rows to `asked` ones of each sample, both ways' projections, and the norm behind it."""
    width = shape.width
    query = walk.linear(samples * asking, width, width, live, trained)
    key, value = (walk.linear(samples * asked, width, width, other, trained, keep=False) for _ in range(2))
    mixed = walk.attention(samples * asking * asked, width, query, key, value)
    if mixed:
        walk.save(samples * (2 * asked + 3 * asking) * width)  # queries, keys, values, what comes out; the norm's input
    return walk.linear(samples * asking, width, width, mixed, trained) or live


def _feed_forward(walk: _Walk, shape: Projector, rows: int, live: bool, trained: bool) -> bool:
    inner = walk.linear(rows, shape.width, shape.feed_forward, live, trained)
    if inner:
        walk.save(rows * (shape.width + (0 if trained else shape.feed_forward)))  # of the norm, and of ReLU
    return walk.linear(rows, shape.feed_forward, shape.width, inner, trained) or live


@cache
def _sizes(config: Config) -> dict[str, tuple[int, int]]:
    """Part, or `unread` of gates that nothing reads → how many numbers in how many tensors. Nothing is allocated."""
    sizes = dict.fromkeys((*PARTS, "unread"), (0, 0))
    sizes["rows"] = (2 * config.audio_tokens * config.dim, 2)  # of models that have any: see `_checked`
    with torch.device("meta"):
        model = M2UGen(config)
    for name, parameter in model.named_parameters():
        one = part(name) if parameter.requires_grad else "unread"
        sizes[one] = sizes[one][0] + parameter.numel(), sizes[one][1] + 1
    return sizes


def _checked(config: Config, trained: Iterable[str]) -> frozenset[str]:
    found = frozenset(trained)
    if unknown := sorted(found - set(PARTS)):
        raise ValueError(f"nothing of the model is called {', '.join(unknown)}; its parts are {', '.join(PARTS)}")
    if "rows" in found and found & {"embeddings", "output"}:
        raise ValueError("rows are the audio tokens' own, of tables that are frozen; embeddings and output hold them")
    return found if config.audio_tokens else found - {"rows", "projector"}  # which a stage may name all the same


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
