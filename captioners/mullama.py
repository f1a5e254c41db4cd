"""MU-LLaMA (Liu et al., 2023): music in, a caption out. The model is that of `training`, asked as the paper asks it.

What was trained may lie with the LLaMA-2 below it, or without; MERT is read from its own repository. The published
cache of ImageBind's features, which are not MERT's, is left out.
"""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manifests import checked
from training import tokenizer
from training.loading import quiet

if TYPE_CHECKING:
    import torch

    from training.config import Config
    from training.encoders import Encoders
    from training.m2ugen import M2UGen
    from training.stored import Stored

VERSION = 1
MODEL = "mu-llama/MU-LLaMA"
ROLES = {"mullama": MODEL, "llama": "meta-llama/Llama-2-7b-hf", "mert": "m-a-p/MERT-v1-330M"}
SIZE = 32
WINDOWS_AT_ONCE = 4  # that MERT hears: the first layer's output is 0.6 GB for a minute, in float32
QUESTION = "Describe the music in detail, including aspects such as instruments used, tempo, and the mood of the song"
# The odd input is part of it: the published weights were trained behind these very words.
TEMPLATE = ("Below is an instruction that describes a task, paired with an input that provides further context. Write "
            "a response that appropriately completes the request.\n\n### Instruction:\n{question}\n\n### Input:\n"
            "<built-in function input>\n\n### Response:")
_CHECKPOINTS = ("checkpoint.pth", "checkpoint.safetensors")  # not 7B.pth, which is a baseline


@dataclass(frozen=True)
class Settings:
    """Temperature and top-p are those of M²UGen's captioning, `max_new` MU-LLaMA's own default. `windows`: minutes of a
    longer track that are heard, as `captioners.inputs.music` takes them; 1 is the first alone, as published."""
    question: str = QUESTION
    temperature: float = 0.4
    top_p: float = 1.0
    max_new: int = 256
    windows: int = 1


def needed(role: str, folders: Mapping[str, Path]) -> bool:
    """Whether a repository must be there, given `folders` of others: LLaMA-2 need not where MU-LLaMA's holds it, with
    its tokenizer. Raises ValueError as `load` does."""
    if role != "llama" or "mullama" not in folders:
        return True
    path = _checkpoint(folders["mullama"])
    return not _stands_alone(path) or not any((_beside(path) / name).is_file() for name in tokenizer.FILES)


def load(folders: Mapping[str, Path], settings: Settings, *, dtype: "torch.dtype | None" = None,
         device: "str | torch.device" = "cpu", quantize: str = "") -> "MULLaMA":
    """`folders`: mullama (a folder with checkpoint.pth, the file itself, or a folder of `training.checkpoint`), llama
    (LLaMA-2 7B, as Meta or Hugging Face hands it out; of one that MU-LLaMA holds itself only the tokenizer is read, and
    nothing where that lies beside MU-LLaMA too) and mert.

    All of it in `dtype` (default float32). `quantize`: 4bit (NF4) or 8bit, of LLaMA's linear layers, but for those
    through which music comes in. Raises ValueError, naming the file and what to do; also where the gates are zero.
    """
    import torch

    with quiet():
        from training import encoders, pretrained
    if quantize not in ("", "4bit", "8bit"):
        raise ValueError(f"weights cannot be held in {quantize!r}; choose 4bit or 8bit")
    dtype = dtype or torch.float32
    path = _checkpoint(folders["mullama"])
    try:
        below = None if _stands_alone(path) else _llama(folders)
        config, tensors = _opened(path, below)
        _hears(path, config, tensors)
        places = [_beside(place) for place in (path, folders.get("llama")) if place]
        _, encode, decode = tokenizer.read(places, config)
        with quiet():
            ears = encoders.hearing(folders["mert"], dtype)
        _same_states(folders["mert"], ears, config)
        model, _ = pretrained.load(path, below, dtype=dtype, device="cpu" if quantize else device)
    except OSError as error:
        raise ValueError(str(error)) from error
    if quantize:
        _quantize(model, quantize, dtype, device)
    prompt = [config.bos, *encode(TEMPLATE.format(question=settings.question))]
    return MULLaMA(model.eval().to(device), ears.to(device), prompt, decode, settings)


class MULLaMA:
    """Captions of music; made by `load`."""

    def __init__(self, model: "M2UGen", ears: "Encoders", prompt: list[int], decode: Callable[[list[int]], str],
                 settings: Settings) -> None:
        self.model, self.ears, self.prompt, self.decode, self.settings = model, ears, prompt, decode, settings

    def __call__(self, inputs: Sequence[dict], seeds: Sequence[int]) -> list[str]:
        """What it says of each of `captioners.inputs.music`'s, "" where nothing; sampled with the row's own seed."""
        import torch

        from training.generate import generate
        if not inputs:
            return []
        with torch.inference_mode(), quiet():
            answers = generate(self.model, [self.prompt] * len(inputs), {"audio": self.hear(inputs)}, seeds=seeds,
                               temperature=self.settings.temperature, top_p=self.settings.top_p,
                               max_new=self.settings.max_new)
        return [self.decode(answer.tokens).strip() for answer in answers]

    def hear(self, inputs: Sequence[dict]) -> "torch.Tensor":
        """[B, states, width]: MERT's states over time, the mean over each track's windows.

        MERT normalises over time, so padding would change what is heard: only equal lengths go together.
        """
        import torch
        waves = [np.frombuffer(window, "<f4") for one in inputs for window in one["windows"]]
        lengths: dict[int, list[int]] = {}
        for place, wave in enumerate(waves):
            lengths.setdefault(len(wave), []).append(place)
        states: dict[int, torch.Tensor] = {}
        for places in lengths.values():
            for start in range(0, len(places), WINDOWS_AT_ONCE):
                some = places[start:start + WINDOWS_AT_ONCE]
                states |= zip(some, self.ears.hear(torch.from_numpy(np.stack([waves[place] for place in some]))),
                              strict=True)
        each = iter(states[place] for place in range(len(waves)))
        return torch.stack([torch.stack([next(each) for _ in one["windows"]]).mean(0) for one in inputs])


def _checkpoint(place: Path) -> Path:
    """The published file, or a folder of ours."""
    from training import checkpoint
    if not place.exists():
        raise ValueError(f"{place}: no such file or directory; give MU-LLaMA's folder, or its checkpoint.pth")
    if place.is_file() or checkpoint.is_ours(place):
        return place
    found = next((place / name for name in _CHECKPOINTS if (place / name).is_file()), None)
    if found is None:
        raise ValueError(f"{place}: no {' or '.join(_CHECKPOINTS)} in it, nor is it a model that was saved here; give "
                         "MU-LLaMA's folder, or its checkpoint.pth")
    return found


def _beside(place: Path) -> Path:
    """Where its tokenizer may lie."""
    return place.parent if place.is_file() else place


def _stands_alone(path: Path) -> bool:
    """Whether it holds the LLaMA below it."""
    from training import published
    if path.is_dir():
        return checked.read_json(str(path / "config.json"), "the config.json of a saved model").get("base") is None
    return "llama.tok_embeddings.weight" in published.open_checkpoint(path).tensors


def _llama(folders: Mapping[str, Path]) -> Path:
    """Where LLaMA-2's weights are: as MU-LLaMA's own instructions have it, in 7B of the folder with its tokenizer."""
    if "llama" not in folders:
        raise ValueError(f"{folders['mullama']}: holds only what was trained; say where LLaMA-2 7B lies")
    if not (place := folders["llama"]).is_dir():
        raise ValueError(f"{place}: no such directory; give LLaMA-2 7B's")
    return place / "7B" if (place / "7B" / "params.json").is_file() else place


def _opened(path: Path, below: Path | None) -> "tuple[Config, Mapping[str, Stored]]":
    """Its config and tensors by our names, unread."""
    from training import checkpoint, published
    if path.is_dir():
        saved = checkpoint.load(path, below)
        config, tensors = saved.config, saved.tensors
    else:
        found = published.open_checkpoint(path)
        if found.config is None:
            raise ValueError(f"{path}: is a LLaMA by itself; give MU-LLaMA, and this as its llama")
        config, tensors = found.config, published.ours(found)
    if config.name != "mullama":
        raise ValueError(f"{path}: is {config.name} and not MU-LLaMA; give {MODEL}")
    return config, tensors


def _hears(path: Path, config: "Config", tensors: "Mapping[str, Stored]") -> None:
    from training import published
    if not published.largest_gates(config, lambda layer: tensors[f"prefix.gates.{layer}"])["audio"]:
        raise ValueError(f"{path}: its gates are zero: it would say the same of any music; give one that was trained")


def _same_states(place: Path, ears: "Encoders", config: "Config") -> None:
    mert = ears.audio.config
    if (states := (mert.num_hidden_layers + 1, mert.hidden_size)) != (
            wanted := (config.modalities[0].tokens, config.modalities[0].width)):
        raise ValueError(f"{place}: gives {states[0]} states of {states[1]}, and MU-LLaMA hears {wanted[0]} of "
                         f"{wanted[1]}; give {ROLES['mert']}")


def _quantize(model: "M2UGen", quantize: str, dtype: "torch.dtype", device: "str | torch.device") -> None:
    """LLaMA's linear layers, below their LoRA. Not v_proj, which the prefix calls in the dtype of its weight."""
    from bitsandbytes import nn as small
    for name, layer in list(model.llama.named_modules()):
        if not name.endswith(".base_layer") or ".v_proj." in name:
            continue
        sizes = (layer.in_features, layer.out_features, layer.bias is not None)
        if quantize == "4bit":
            made = small.Linear4bit(*sizes, compute_dtype=dtype, quant_type="nf4", device="meta")
            made.weight = small.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
        else:
            made = small.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0, device="meta")
            made.weight = small.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        made.bias = layer.bias
        model.llama.get_submodule(name.removesuffix(".base_layer")).base_layer = made.to(device)
