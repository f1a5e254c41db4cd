"""A file of the fixtures' format: a public implementation's weights, inputs and outputs, at any size.

Tensors `model.<published name>`, `in.*`, `out.*`, `grad.*`; sizes in the metadata. The weights are recognised as any
published checkpoint is; the metadata adds what no shape tells, and must agree with the shapes in all else.
"""
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from training import names
from training.config import RANGES, SUMMED, Config
from training.fill import fill
from training.m2ugen import M2UGen
from training.published import Checkpoint, ours, recognise
from training.stored import Stored
from training.weights import Weights, open_weights

_QUERY = "prefix_query.weight"


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
    weights = {name.removeprefix("model.").removeprefix(names.WRAPPED): one
               for name, one in file.tensors.items() if name.startswith("model.")}
    if not weights:
        raise ValueError(f"{path}: not a reference of M²UGen or MU-LLaMA: it has no weights (model.*)")
    model = _recognised(file.path, weights)
    try:
        config = _told(file.extra.get("metadata", {}), model.config, model.tensors[_QUERY].shape[0])
    except ValueError as error:
        raise ValueError(f"{path}: not a reference of M²UGen or MU-LLaMA: {error}") from None
    others = {name: one.load() for name, one in file.tensors.items() if not name.startswith("model.")}
    return Reference(replace(model, config=config), others)


def build(reference: Reference) -> M2UGen:
    """The model that the file holds, loaded as published checkpoints are, in float32."""
    with torch.device("meta"):
        model = M2UGen(reference.config)
    fill(model, ours(reference.model), dtype=torch.float32)
    return model


def _recognised(path: str, weights: Mapping[str, Stored]) -> Checkpoint:
    """As production recognises it; its `config` may have fewer prefix rows than the tensor.

    Of M²UGen two prefixes were published, and production takes no other that three modalities cannot share. So a prefix
    of another count goes in with as many rows as they can; `_told` says what it really is.
    """
    query, seen = weights.get(_QUERY), dict(weights)
    several = any(name.startswith(names.ADAPTERS["image"]) for name in weights)
    if several and query is not None and query.shape and query.shape[0] % len(names.ADAPTERS):
        shared = max(query.shape[0] // len(names.ADAPTERS), 1) * len(names.ADAPTERS)
        seen[_QUERY] = replace(query, shape=(shared, *query.shape[1:]))
    found = recognise(Weights(path, seen))
    if found.config is None:
        raise ValueError(f"{path}: its weights are a bare LLaMA's; a reference holds all of M²UGen or MU-LLaMA")
    return replace(found, tensors={name: weights[name] for name in found.tensors})


def _told(metadata: Mapping[str, str], own: Config, rows: int) -> Config:
    """The config that shapes made, with what only the metadata tells. ValueError where the two disagree."""
    if own.projector is not None and "audio_tokens" not in metadata:
        raise ValueError("its metadata lacks audio_tokens, which says how many of the last rows are [AUD0] and so on")
    audio_tokens = _integer(metadata, "audio_tokens", 0)
    projector = own.projector
    if projector is not None:
        projector = replace(projector, heads=_integer(metadata, "projector_heads", projector.heads))
    config = replace(
        own, vocabulary=own.all_tokens - audio_tokens, audio_tokens=audio_tokens, prefix_rows=rows,
        prefix_layout=_layout(rows, _integer(metadata, "query_layer", None), len(own.modalities)), projector=projector,
        norm_eps=_number(metadata, "norm_eps", own.norm_eps), rope_theta=_number(metadata, "rope_theta",
                                                                                 own.rope_theta))
    wide = {one.name: one.width for one in config.modalities}
    sizes = {"dim": config.dim, "n_layers": config.layers, "n_heads": config.heads, "vocab": config.vocabulary,
             "lora_rank": config.lora_rank, "adapter_ratio": config.adapter_ratio, "mert_hidden": wide["audio"]}
    if projector is not None:
        sizes |= {"projector_hidden": projector.width, "num_output_tokens": projector.queries,
                  "output_dim_tokens": projector.out, "vit_hidden": wide["image"]}
    if wrong := [name for name, size in sizes.items() if _integer(metadata, name, size) != size]:
        raise ValueError(f"its metadata says {wrong[0]} = {metadata[wrong[0]]}, its tensors say {sizes[wrong[0]]}")
    return config


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
        value = float(metadata.get(name, default))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"its metadata says {name} = {metadata[name]}, which is no number above 0")
    return value
