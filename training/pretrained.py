"""A path → a model that runs: as published, saved here, or a bare LLaMA-2 from which training starts.

What a file brings is filled in tensor by tensor; what it does not have, because nobody trained it yet, is made as if
for training: a model that answers as the LLaMA below it does.
"""
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from math import sqrt
from pathlib import Path

import torch
from torch import Tensor, nn

from training import checkpoint, names, published, stored
from training.adapters import Adapter
from training.config import Config
from training.fill import fill
from training.m2ugen import M2UGen, start_audio_tokens
from training.prefix import Prefix
from training.projector import OutputProjector
from training.sizes import shapes
from training.stored import Stored


def load(path: str | Path, llama: str | Path | None = None, *,
         dtype: torch.dtype | Callable[[str], torch.dtype] = torch.float32, device: str | torch.device = "cpu",
         config: Config | None = None, seed: int = 0) -> tuple[M2UGen, str]:
    """The model at `path`, on `device`, and a report for a person. `dtype`: float32 or bfloat16, of all of it; or what
    says it by a parameter's name, for training, where what is trained is float32 and the rest need not be.

    `path`: a published M²UGen or MU-LLaMA; a folder of ours; or a LLaMA-2 by itself, which goes into a new model of
    `config`. `llama`: the LLaMA-2 below what does not hold its own; where it does, both must be the same. `config`:
    for a published checkpoint, what it must be (see `published.open_checkpoint`). `seed`: of what is made here.

    The report says what was made and not read, and always whether the gates are zero. In memory there is little more
    than the model at any time. Raises ValueError or OSError, naming the file and what to do.
    """
    if isinstance(dtype, torch.dtype) and dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"a model of {dtype} is not made here; choose float32 or bfloat16")
    config, tensors, may_lack = _opened(Path(path), llama, config)
    wanted = {ours.name: shapes(config)[theirs] for theirs, ours in names.published(config).items()}
    new = [name for name in wanted if name not in tensors and may_lack(name)]
    short = dict.fromkeys(_rows(tensors, config), (config.vocabulary, config.dim))
    published.require(str(path), tensors, wanted | short, new)
    with torch.device("meta"):
        model = M2UGen(config)
    fill(model, {**tensors, **_new(config, {name: wanted[name] for name in new}, seed)}, dtype=dtype, device=device)
    model.to(device)  # what no file holds: the rotary frequencies
    made = sorted({_part(name) for name in new})
    if short:
        start_audio_tokens(model, seed)
        made.append(f"{config.audio_tokens} audio tokens")
    gates = published.largest_gates(config, lambda layer: stored.in_memory(str(path), model.prefix.gates[layer]))
    below = "" if llama is None else f", upon {llama}"
    kinds = sorted({str(one.dtype).removeprefix("torch.") for one in model.parameters()})
    return model, "\n".join([
        f"{path}{below}: {config.name}, in {' and '.join(kinds)} on {device}",
        f"made here, not trained: {', '.join(made)}" if made else "all of it was read", *published.told_gates(gates)])


def _opened(path: Path, llama: str | Path | None,
            config: Config | None) -> tuple[Config, dict[str, Stored], Callable[[str], bool]]:
    """What there is, and which names it may lack."""
    if path.is_dir() and checkpoint.is_ours(path):
        saved = checkpoint.load(path, llama)
        if config is not None and config != saved.config:
            raise ValueError(f"{path}: is a {saved.config.name} of another config than the one given; leave that away")
        tensors = dict(saved.tensors)
        if llama is not None and not saved.about["base"]:
            tensors = published.over(str(path), tensors, llama, saved.config)
        return saved.config, tensors, _untrained
    found = published.open_checkpoint(path, config)
    if found.config is None:
        if llama is not None:
            raise ValueError(f"{path}: is a LLaMA by itself, and so is {llama}; give one of them")
        if config is None:
            raise ValueError(f"{path}: is a LLaMA by itself; give the config of the model that is to stand on it")
        below = published.ours(found, config)
        return config, below, lambda name: name not in below
    tensors = published.ours(found)
    if llama is not None:
        tensors = published.over(str(path), tensors, llama, found.config)
    elif "llama.model.embed_tokens.weight" not in tensors:
        raise ValueError(f"{path}: holds only what was trained; say where the LLaMA-2 below it lies")
    return found.config, tensors, _untrained


def _untrained(name: str) -> bool:
    """MU-LLaMA's checkpoint may lack these. (M²UGen's may not: that was noticed when it was opened.)"""
    return ".lora_" in name or name.endswith(".base_layer.bias")


def _rows(tensors: dict[str, Stored], config: Config) -> list[str]:
    """The tables that lack the audio tokens' rows."""
    return [name for name in ("llama.model.embed_tokens.weight", "llama.lm_head.weight")
            if config.audio_tokens and name in tensors and tensors[name].shape[0] == config.vocabulary]


def _part(name: str) -> str:
    if ".lora_" in name:
        return "lora"
    top = name.partition(".")[0]
    return "biases" if top == "llama" else top


def _new(config: Config, wanted: dict[str, tuple[int, ...]], seed: int) -> dict[str, Stored]:
    """Tensors that nothing was read for, each made when it is asked for: LoRA's A as peft makes it and B zero, biases
    zero, adapters, projector and prefix as they are when they are new. The same seed gives the same."""
    @lru_cache(maxsize=1)  # a part's tensors are asked for one after the other
    def fresh(part: str) -> dict[str, Tensor]:
        top, _, modality = part.partition(".")
        with _seeded(seed + 1 + parts.index(part)):
            if top == "prefix":
                made = Prefix(config)
            elif top == "projector":
                made = OutputProjector(config.projector, config.dim)
            else:
                made = Adapter(next(one for one in config.modalities if one.name == modality), config.dim,
                               config.adapter_ratio)
        return made.state_dict()

    parts = ["prefix", "projector", *(f"adapters.{one.name}" for one in config.modalities)]
    found = {}
    for place, (name, shape) in enumerate(wanted.items()):
        part = next((part for part in parts if name.startswith(f"{part}.")), None)
        if part:
            load = partial(lambda part, name: fresh(part)[name.removeprefix(f"{part}.")], part, name)
        elif ".lora_A." in name:
            load = partial(_lora, shape, seed + 100 + place)
        else:
            load = partial(torch.zeros, shape)
        found[name] = Stored("a new model", shape, torch.float32, load)
    return dict(sorted(found.items()))


def _lora(shape: tuple[int, ...], seed: int) -> Tensor:
    made = torch.empty(shape)
    nn.init.kaiming_uniform_(made, a=sqrt(5), generator=torch.Generator().manual_seed(seed))
    return made


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Modules draw from torch's own generator; it goes on afterwards as if nothing had been drawn."""
    before = torch.random.default_generator.get_state()
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.random.default_generator.set_state(before)
