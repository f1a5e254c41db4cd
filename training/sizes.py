"""A model's config, read off the shapes in a published checkpoint; and the shapes that a config makes.

What no shape says (norm eps, RoPE, the projector's heads) is as in the released code.
"""
from collections.abc import Mapping
from functools import cache

import torch

from manifests.messages import shown
from training import names
from training.config import RANGES, SUMMED, Config, Modality, Projector, feed_forward
from training.stored import Stored

_MOST = 1 << 24        # of rows, widths and tokens: far above any model's, and products of three fit 64 bits
LLAMA_ROWS = 32000     # LLaMA-2's vocabulary
AUDIO_TOKENS = 8       # that M²UGen adds to it
_MULLAMA_ROWS = 20     # of the prefix; M²UGen's too, for some weeks (2023-12-23 to 2024-01-10)


def possible(config: Config, layers: int, projector_layers: int) -> None:
    """ValueError where a config is of none of our models, or is larger than what was found of it: before a model of
    that size is built, be it of nothing but shapes. `layers`, `projector_layers`: how many of them there are."""
    if config.name not in ("m2ugen", "mullama") or config.music_decoder not in (None, "musicgen", "audioldm2"):
        raise ValueError(f"{shown(str(config.name))} with {shown(str(config.music_decoder))} is none of our models")
    said = config.projector.layers if config.projector else 0
    if (config.layers, said) != (layers, projector_layers):
        raise ValueError(f"{config.layers} layers and {said} of the projector are said, but {layers} and "
                         f"{projector_layers} are there")
    parts = (config, *config.modalities, *([config.projector] if config.projector else []))
    for noun, value in ((noun, value) for one in parts for noun, value in vars(one).items() if type(value) is int):
        if value > _MOST:
            raise ValueError(f"{noun} is {value}; no model has more than {_MOST}")


@cache
def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Published name → shape of every tensor that `names.published` lists. Nothing is allocated."""
    from training.m2ugen import M2UGen  # here: reading a file must not wait for transformers
    with torch.device("meta"):
        state = M2UGen(config).state_dict()
    return {theirs: tuple(state[ours.name].shape) for theirs, ours in names.published(config).items()}


def config_of(where: str, name: str, tensors: Mapping[str, Stored]) -> Config:
    """The config of a checkpoint of `name` (m2ugen or mullama). ValueError where a tensor that tells it is missing, or
    where the vocabulary is not that model's."""
    def size(tensor: str, axis: int) -> int:
        if tensor not in tensors:
            raise ValueError(f"{where}: {tensor} is missing; fetch it again, or is this the right file?")
        if len(tensors[tensor].shape) <= axis:
            raise ValueError(f"{where}: {tensor} is {list(tensors[tensor].shape)}, which has too few axes")
        return tensors[tensor].shape[axis]

    rows, dim = size("prefix_query.weight", 0), size("prefix_query.weight", 1)
    layers = _count(where, tensors, "llama.layers.")
    top = f"llama.layers.{layers - 1}"
    vocabulary, audio_tokens = _vocabulary(where, name, tensors), AUDIO_TOKENS if name == "m2ugen" else 0
    wide = [tensor for tensor in (f"{top}.feed_forward.{one}" for one in ("w1.weight", "w1.bias", "lora_w1_l2.weight"))
            if tensor in tensors]
    rank = f"{top}.attention.lora_wq_l1.weight"
    modalities = tuple(Modality(modality, size(f"{prefix}agg.weight", 1), size(f"{prefix}proj.weight", 1))
                       for modality, prefix in names.ADAPTERS.items()
                       if name == "m2ugen" or modality == "audio")
    projector = None
    if name == "m2ugen":
        inner = "output_projector.tfm.encoder.layers."
        projector = Projector(
            queries=size("output_projector.query_embs", 1), out=size("output_projector.model.weight", 0),
            width=size("output_projector.fc.weight", 0), layers=_count(where, tensors, inner),
            feed_forward=size(f"{inner}0.linear1.weight", 0))
    try:
        config = Config(
            name=name, dim=dim, layers=layers, heads=size(f"{top}.attention.gate", 1),
            feed_forward=size(wide[0], 0) if wide else feed_forward(dim, 256), vocabulary=vocabulary - audio_tokens,
            audio_tokens=audio_tokens, modalities=modalities,
            adapter_ratio=max(1, size(f"{names.ADAPTERS['audio']}f1_1.weight", 0) // max(dim, 1)), prefix_rows=rows,
            prefix_layout=SUMMED if name == "mullama" or rows == _MULLAMA_ROWS else RANGES, projector=projector,
            music_decoder=None if projector is None else "audioldm2" if projector.queries == 1 else "musicgen",
            lora_rank=size(rank, 0) if rank in tensors else 16)
        possible(config, layers, projector.layers if projector else 0)
        return config
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{where}: its shapes make no {shown(name)} ({error}); fetch it again") from error


def _count(where: str, tensors: Mapping[str, Stored], prefix: str) -> int:
    """How many layers are numbered from 0 behind `prefix`. A number that a file claims is not believed: a model of that
    many layers is about to be built."""
    numbers = {one.removeprefix(prefix).partition(".")[0] for one in tensors if one.startswith(prefix)}
    if not numbers or numbers != {str(number) for number in range(len(numbers))}:
        raise ValueError(f"{where}: of {prefix}0, {prefix}1 and so on some or all are missing; fetch it again")
    return len(numbers)


def _vocabulary(where: str, name: str, tensors: Mapping[str, Stored]) -> int:
    found = {one: tensors[one].shape[0] for one in ("llama.tok_embeddings.weight", "llama.output.weight")
             if one in tensors and tensors[one].shape}
    if not found and name == "mullama":
        return LLAMA_ROWS
    counts = sorted(set(found.values()))
    if len(counts) != 1:
        raise ValueError(f"{where}: the embeddings and the output have {' and '.join(map(str, counts)) or 'no'} rows; "
                         "fetch it again")
    if counts[0] < 1 or (name == "m2ugen" and counts[0] in (LLAMA_ROWS, AUDIO_TOKENS)):
        raise ValueError(f"{where}: a vocabulary of {counts[0]} rows lacks M²UGen's {AUDIO_TOKENS} audio tokens "
                         f"({LLAMA_ROWS + AUDIO_TOKENS} are needed); is this LLaMA or MU-LLaMA?")
    if name == "mullama" and counts[0] == LLAMA_ROWS + AUDIO_TOKENS:
        raise ValueError(f"{where}: a vocabulary of {counts[0]} rows, {AUDIO_TOKENS} more than MU-LLaMA has: is this "
                         "M²UGen?")
    return counts[0]
