"""A file of the fixtures' format: a public implementation's weights, inputs and outputs, at any size.

Tensors `model.<published name>`, `in.*`, `out.*`, `grad.*`; sizes in the metadata. Sizes that shapes tell are read from
the shapes, and the metadata must agree.
"""
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training import names
from training.config import RANGES, SUMMED, Config, Modality, Projector
from training.fill import fill
from training.m2ugen import M2UGen
from training.published import Checkpoint, ours, require
from training.sizes import shapes
from training.weights import Weights, open_weights


@dataclass(frozen=True)
class Reference:
    """`model`: the weights, unread; `tensors`: all others, by their name in the file."""
    model: Checkpoint
    tensors: Mapping[str, Tensor]

    @property
    def path(self) -> str:
        return self.model.where

    @property
    def config(self) -> Config:
        return self.model.config


def read(path: str | Path) -> Reference:
    """Raises ValueError or OSError, naming the file and what is wrong, where it is not of this format."""
    file = open_weights(path)
    metadata = file.extra.get("metadata", {})
    weights = {name.removeprefix("model.").removeprefix(names.WRAPPED): one
               for name, one in file.tensors.items() if name.startswith("model.")}
    skipped = (*names.ENCODERS.values(), names.DECODER)
    weights = {name: one for name, one in weights.items() if not name.startswith(skipped)}
    try:
        config = _config(metadata, {name: one.shape for name, one in weights.items()})
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: not a reference of M²UGen or MU-LLaMA: {error}") from None
    require(file.path, weights, shapes(config))
    others = {name: one.load() for name, one in file.tensors.items() if not name.startswith("model.")}
    return Reference(Checkpoint(config.name, Weights(file.path, weights), config, weights), others)


def build(reference: Reference) -> M2UGen:
    """The model that the file holds, loaded as published checkpoints are, in float32."""
    with torch.device("meta"):
        model = M2UGen(reference.config)
    fill(model, ours(reference.model), dtype=torch.float32)
    return model


def _config(metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> Config:
    if not {"audio_tokens", "adapter_ratio"} & set(metadata):
        raise ValueError("its metadata names neither audio_tokens (M²UGen) nor adapter_ratio (MU-LLaMA)")
    m2ugen = "audio_tokens" in metadata

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise ValueError(f"model.{name} is missing")
        return shapes[name]

    tokens, dim = shape("llama.tok_embeddings.weight")
    audio_tokens = _integer(metadata, "audio_tokens", 0)
    rows = shape("prefix_query.weight")[0]
    heads = shape("llama.layers.0.attention.gate")[1]
    layers = 1 + max(int(found[1]) for name in shapes if (found := re.match(r"llama\.layers\.(\d+)\.", name)))
    modalities = tuple(
        Modality(name, shape(f"{prefix}agg.weight")[1], shape(f"{prefix}proj.weight")[1])
        for name, prefix in names.ADAPTERS.items() if m2ugen or name == "audio")
    projector = None
    if m2ugen:
        width = shape("output_projector.fc.weight")[0]
        depth = len({name.split(".")[4] for name in shapes if name.startswith("output_projector.tfm.encoder.layers.")})
        projector = Projector(
            queries=shape("output_projector.query_embs")[1], out=shape("output_projector.model.weight")[0], width=width,
            layers=depth, feed_forward=shape("output_projector.tfm.encoder.layers.0.linear1.weight")[0])
    sizes = {"dim": dim, "n_layers": layers, "n_heads": heads, "vocab": tokens - audio_tokens,
             "lora_rank": shape("llama.layers.0.attention.lora_wq_l1.weight")[0],
             "adapter_ratio": shape("mu_mert_f1_1.weight")[0] // dim, "mert_hidden": modalities[0].width}
    if projector is not None:
        sizes |= {"projector_hidden": projector.width, "num_output_tokens": projector.queries,
                  "output_dim_tokens": projector.out, "vit_hidden": modalities[1].width}
    if wrong := [name for name, size in sizes.items() if _integer(metadata, name, size) != size]:
        raise ValueError(f"its metadata says {wrong[0]} = {metadata[wrong[0]]}, its tensors say {sizes[wrong[0]]}")
    return Config(
        name="m2ugen" if m2ugen else "mullama", dim=dim, layers=layers, heads=heads,
        feed_forward=shape("llama.layers.0.feed_forward.w1.weight")[0], vocabulary=tokens - audio_tokens,
        audio_tokens=audio_tokens, modalities=modalities, adapter_ratio=sizes["adapter_ratio"], prefix_rows=rows,
        prefix_layout=_layout(rows, _integer(metadata, "query_layer", None), len(modalities)), projector=projector,
        music_decoder=None if projector is None else "audioldm2" if projector.queries == 1 else "musicgen",
        lora_rank=sizes["lora_rank"], norm_eps=_number(metadata, "norm_eps", 1e-5),
        rope_theta=_number(metadata, "rope_theta", 10000.0))


def _layout(rows: int, query_layer: int | None, modalities: int) -> str:
    """`query_layer` counts a modality's layers in M²UGen's newer layout, and all of them in the older and MU-LLaMA's.

    Rows that the modalities cannot share evenly are of the older one, whatever else is said.
    """
    if modalities == 1 or rows % modalities:
        return SUMMED
    if query_layer not in (None, rows, rows // modalities):
        raise ValueError(f"query_layer {query_layer} does not go with a prefix of {rows} rows")
    return SUMMED if rows == query_layer else RANGES


def _integer(metadata: Mapping[str, str], name: str, default: int | None) -> int | None:
    if name not in metadata:
        return default
    try:
        return int(metadata[name])
    except ValueError:
        raise ValueError(f"its metadata says {name} = {metadata[name]}, which is no whole number") from None


def _number(metadata: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(metadata.get(name, default))
    except ValueError:
        raise ValueError(f"its metadata says {name} = {metadata[name]}, which is no number") from None
