"""Published checkpoints: which model a file holds, whether it is whole, and whether it can hear.

M²UGen's checkpoint.pth in both prefix layouts, MU-LLaMA's, and LLaMA-2 as Hugging Face and as Meta hand it out. What is
missing, unexpected or of a wrong shape is an error that names it: a checkpoint that loads in part answers all the same,
and nobody sees why it answers badly.
"""
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Literal

import torch

from training import names, stored
from training.config import Config
from training.sizes import AUDIO_TOKENS, config_of, shapes
from training.stored import Stored
from training.weights import Weights, open_weights

Kind = Literal["m2ugen", "mullama", "llama-meta", "llama-hf"]
_NO_WEIGHT = re.compile(r"(?:^|\.)(?:rope\.freqs|rotary_emb\.inv_freq)$")  # recomputed by every implementation
_BASELINE = ("image_bind", "adapter_query", "visual_query", "visual_proj", "visual_blocks", "clip.")
_LATER = ("mu_mert_rnn", "mu_mert_attention", "iu_vivit_rnn", "iu_vivit_attention", "iu_vit_rnn", "iu_vit_attention")


@dataclass(frozen=True)
class Checkpoint:
    """`tensors`: the model's own, by published name; `others`: encoders and music decoder, under their published names
    too. `config` is None for a bare LLaMA, whose heads only `weights.params` knows. `epoch` and `args` are in
    `weights.extra`."""

    kind: Kind
    weights: Weights
    config: Config | None
    tensors: Mapping[str, Stored]
    others: Mapping[str, Stored] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return self.weights.path


def open_checkpoint(path: str | Path, config: Config | None = None) -> Checkpoint:
    """Recognise what lies at `path` and check that it is whole; no tensor is read. (`describe` reads the gates.)

    `config`: what it must be; without one, its own shapes say. Raises ValueError or OSError, naming the file and what
    to do.
    """
    return recognise(open_weights(path), config)


def recognise(weights: Weights, config: Config | None = None) -> Checkpoint:
    """The same for weights that are open already."""
    tensors = {name: one for name, one in weights.tensors.items() if not _NO_WEIGHT.search(name)}
    kind = _kind(weights.path, tensors)
    if kind not in ("m2ugen", "mullama"):
        only_floats(weights.path, tensors)
        return Checkpoint(kind, weights, None, tensors)
    prefixes = (*names.ENCODERS.values(), names.DECODER)
    others = {name: one for name, one in tensors.items() if name.startswith(prefixes)}
    tensors = {name: one for name, one in tensors.items() if name not in others}
    only_floats(weights.path, tensors)
    own = config_of(weights.path, kind, tensors)
    if config is not None and config.name != kind:
        raise ValueError(f"{weights.path}: is {kind} and not {config.name}; give that model's checkpoint")
    _whole(weights.path, kind, tensors, shapes(config or own))
    # The wanted config may say what no shape tells (eps, RoPE); all else was just found equal.
    return Checkpoint(kind, weights, config or own, tensors, others)


def group(name: str) -> str:
    """Which part of a model a published tensor belongs to."""
    for table, noun in ((names.ADAPTERS, "adapter"), (names.ENCODERS, "encoder")):
        for modality, prefix in table.items():
            if name.startswith(prefix):
                return f"{modality} {noun}"
    if name.startswith(("prefix_query.", "output_projector.", names.DECODER)):
        return {"p": "prefix", "o": "projector", "g": "music decoder"}[name[0]]
    if name.endswith(".attention.gate"):
        return "gates"
    if ".lora_" in name:
        return "lora"
    if name.endswith(".bias"):
        return "biases"
    return "norms" if name.endswith("norm.weight") else "llama"


def ours(checkpoint: Checkpoint, config: Config | None = None) -> dict[str, Stored]:
    """The model's tensors under our names and in our row order, still unread.

    A bare LLaMA needs the `config` of the model that it goes into, and is held against it; its embeddings keep the rows
    that they have, which lack the audio tokens'.
    """
    config = config or checkpoint.config
    if config is None:
        raise ValueError(f"{checkpoint.where}: a LLaMA by itself goes into a model of a known config; give one")
    if checkpoint.kind == "llama-meta":
        table = names.meta_llama(config)
    elif checkpoint.kind == "llama-hf":
        table = names.hugging_face_llama(config)
    else:
        table = names.published(config)
    if checkpoint.kind.startswith("llama"):
        _same_llama(checkpoint, config)
        want = {ours.name: shape for (name, ours), shape in zip(
            names.published(config).items(), shapes(config).values(), strict=True)}
        for row in (names.published(config)[f"llama.{one}.weight"].name for one in ("tok_embeddings", "output")):
            want[row] = (config.vocabulary, config.dim)
        require(checkpoint.where, checkpoint.tensors, {name: want[own.name] for name, own in table.items()})
    return {table[name].name: _turned(one, table[name].rotated, config, names.to_ours)
            for name, one in checkpoint.tensors.items()}


def over(where: str, tensors: Mapping[str, Stored], llama: str | Path, config: Config) -> dict[str, Stored]:
    """A model's tensors (ours by name, from `where`) over those of the LLaMA that lies at `llama`.

    ValueError where it brings frozen weights of its own that are others: what was trained goes with those alone.
    """
    below = ours(open_checkpoint(llama), config)
    for name, one in below.items():
        if name in tensors and name.endswith(".base_layer.weight"):
            mine, other = tensors[name].load(), one.load()
            # Between two dtypes, as far as bfloat16 tells numbers apart.
            same = torch.equal(mine, other) if mine.dtype == other.dtype else torch.allclose(
                mine.float(), other.float(), rtol=2 ** -7, atol=1e-6)
            if not same:
                raise ValueError(f"{where}: brings a LLaMA of its own, and {llama} is another (first in {name}); leave "
                                 "that away, or give the LLaMA that it was trained on")
    return {**below, **tensors}


def theirs(tensors: Mapping[str, Stored], config: Config) -> dict[str, Stored]:
    """The inverse: tensors under our names as published ones, for as many as there are, in the published order."""
    table = names.published(config)
    own = {ours.name for ours in table.values()}
    if unknown := [name for name in tensors if name not in own]:
        raise ValueError(f"no published name for {_some(unknown)}")
    return {name: _turned(tensors[ours.name], ours.rotated, config, names.to_published)
            for name, ours in table.items() if ours.name in tensors}


def require(where: str, found: Mapping[str, Stored], wanted: Mapping[str, tuple[int, ...]],
            optional: Iterable[str] = ()) -> None:
    """ValueError, naming the first ten of each, where tensors are missing, unexpected or of another shape."""
    may_lack = set(optional)
    missing = [name for name in wanted if name not in found and name not in may_lack]
    unexpected = [name for name in found if name not in wanted]
    misshapen = [f"{name} is {list(found[name].shape)} and not {list(wanted[name])}" for name in found
                 if name in wanted and tuple(found[name].shape) != tuple(wanted[name])]
    if not (missing or unexpected or misshapen):
        return
    told = [f"{len(each)} {word}: {_some(each)}" for each, word in
            ((missing, "missing"), (unexpected, "unexpected"), (misshapen, "of a wrong shape")) if each]
    hint = "is it of another size, or cut?"
    rows = [(found[name].shape[0], wanted[name][0]) for name in found if name in wanted and found[name].shape
            and wanted[name] and name.endswith(("tok_embeddings.weight", "embed_tokens.weight"))]
    if rows and abs(rows[0][0] - rows[0][1]) == AUDIO_TOKENS:
        hint = f"its vocabulary is {rows[0][0]} and not {rows[0][1]}: only M²UGen has {AUDIO_TOKENS} audio tokens"
    raise ValueError(f"{where}: tensors do not fit. {'; '.join(told)}. Is this the right file: {hint}")


def _kind(where: str, tensors: Mapping[str, Stored]) -> Kind:
    def some(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in tensors)

    hears = some("mu_mert_")
    if some(*_BASELINE) or (not hears and "prefix_query.weight" in tensors):
        raise ValueError(f"{where}: is the LLaMA-Adapter baseline (ImageBind), which MU-LLaMA's folder has as 7B.pth, "
                         "and not MU-LLaMA. Give checkpoint.pth of that folder")
    if some(*_LATER):
        raise ValueError(f"{where}: is the later MuMu-LLaMA, whose adapters are recurrent; it is not read here. Give "
                         "M²UGen's or MU-LLaMA's checkpoint.pth")
    if some("iu_vit_", "iu_vivit_", "output_projector."):
        return "m2ugen"
    if hears:
        return "mullama"
    if "model.embed_tokens.weight" in tensors and some("model.layers."):
        return "llama-hf"
    if "tok_embeddings.weight" in tensors and some("layers."):
        return "llama-meta"
    raise ValueError(f"{where}: none of M²UGen, MU-LLaMA and LLaMA-2: its tensors are {_some(tensors)}. Is this the "
                     "right file?")


def only_floats(where: str, tensors: Mapping[str, Stored]) -> None:
    """ValueError, naming the first ten, where weights are of a dtype that is none of `stored.FLOATS`."""
    if wrong := [f"{name} ({one.dtype})" for name, one in tensors.items() if one.dtype not in stored.FLOATS]:
        raise ValueError(f"{where}: {len(wrong)} weights are not float16, bfloat16 or float32: {_some(wrong)}. Convert "
                         "them, or take a checkpoint that is not quantised")


def _whole(where: str, kind: str, tensors: Mapping[str, Stored], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """MU-LLaMA may lack what it did not train: a group as a whole, such as all of LLaMA's own weights."""
    present = {group(name) for name in tensors} | {"gates", "prefix", "audio adapter"}
    require(where, tensors, wanted, [name for name in wanted if kind == "mullama" and group(name) not in present])


def _same_llama(checkpoint: Checkpoint, config: Config) -> None:
    """params.json or config.json must say what the model's config says: heads and RoPE's base show in no shape."""
    params = checkpoint.weights.params
    rope = params.get("rope_parameters") if isinstance(params.get("rope_parameters"), dict) else {}
    known = (("heads", ("num_attention_heads", "n_heads"), config.heads),
             ("key and value heads", ("num_key_value_heads", "n_kv_heads"), config.heads),
             ("norm eps", ("rms_norm_eps", "norm_eps"), config.norm_eps),
             ("RoPE theta", ("rope_theta",), config.rope_theta))
    for noun, keys, want in known:
        got = next((source[key] for source in (params, rope) for key in keys if source.get(key) is not None), want)
        if got != want:
            raise ValueError(f"{checkpoint.where}: has {noun} {got}, the model {want}; give the LLaMA of that one")
    if params.get("rope_scaling"):
        raise ValueError(f"{checkpoint.where}: scales RoPE ({params['rope_scaling']}); give a LLaMA-2")


def _turned(one: Stored, rotated: bool, config: Config, turn: Callable) -> Stored:
    return replace(one, load=lambda: turn(one.load(), True, config)) if rotated else one


def largest_gates(config: Config, gate: Callable[[int], Stored]) -> dict[str, float]:
    """Modality → the largest |tanh(gate)| of the layers that it speaks in; 0 where it changes nothing."""
    found = {}
    for place, modality in enumerate(config.modalities):
        layers = [layer for layer in range(config.prefix_start, config.layers)
                  if config.group(layer) == (place if config.groups > 1 else 0)]
        found[modality.name] = max(float(stored.finite(f"the gate of layer {layer}", gate(layer)).float().tanh().abs()
                                         .max()) for layer in layers)
    return found


def told_gates(gates: Mapping[str, float]) -> list[str]:
    """What `largest_gates` found, in lines; the last one says whether it can hear."""
    deaf = [name for name, gate in gates.items() if gate == 0]
    return [f"largest |tanh(gate)|: {', '.join(f'{name} {gate:.3g}' for name, gate in gates.items())}",
            f"THE GATES ARE ZERO for {', '.join(deaf)}: with this checkpoint, what comes in there changes nothing"
            if deaf else "no modality's gates are zero"]


def describe(checkpoint: Checkpoint) -> str:
    """What a person should know of it, in lines; above all, whether it can hear."""
    lines = [f"{checkpoint.where}: {checkpoint.kind}"]
    if config := checkpoint.config:
        lines.append(f"prefix: {config.prefix_rows} rows, {config.prefix_layout}, layers {config.prefix_start} to "
                     f"{config.layers - 1} of {config.layers}")
        lines.append(f"music decoder: {config.music_decoder or 'none'}")
        gates = largest_gates(config, lambda layer: checkpoint.tensors[f"llama.layers.{layer}.attention.gate"])
        lines += told_gates(gates)
        encoders = Counter(map(group, checkpoint.others))
        # One tensor makes no encoder: files that were cut down keep a stray one.
        present = {group(name) for name in checkpoint.tensors} | {one for one, count in encoders.items() if count > 1}
        lacks = sorted(({group(name) for name in names.published(config)} | {f"{one.name} encoder" for one in
                        config.modalities}) - present)
        if lacks:
            lines.append(f"not in it: {', '.join(lacks)}")
    counts: dict[tuple[str, torch.dtype], list[int]] = {}
    for name, one in (*checkpoint.tensors.items(), *checkpoint.others.items()):
        count = counts.setdefault((group(name) if checkpoint.config else "llama", one.dtype), [0, 0])
        count[0], count[1] = count[0] + 1, count[1] + prod(one.shape)
    lines += [f"{part}: {tensors} tensors, {numbers:,} numbers, {str(dtype).removeprefix('torch.')}"
              for (part, dtype), (tensors, numbers) in counts.items()]
    if "epoch" in checkpoint.weights.extra:
        lines.append(f"epoch: {checkpoint.weights.extra['epoch']}")
    return "\n".join(lines)


def _some(each: Iterable[str], count: int = 10) -> str:
    each = list(each)
    return ", ".join(each[:count]) + (f" and {len(each) - count} more" if len(each) > count else "")
