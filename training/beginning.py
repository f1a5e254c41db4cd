"""Where a stage begins: the first with LLaMA and new parts, the others with what the stage before them ended in."""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from training import checkpoint, pinned, pretrained, stages
from training.config import Config, MusicDecoder, Size, m2ugen
from training.m2ugen import M2UGen, start_audio_tokens
from training.pinned import Pinned
from training.stages import Recipe
from training.tokenizer import Tokenizer, debug, load

MODEL = "model"  # in a stage's folder: its result
_TABLES = ("embeddings", "output")


@dataclass(frozen=True)
class Beginning:
    """What is known before anything large is read. `revision` tells the weights; `encoders` and `trained` are what the
    stages before have heard by and have done; `llama` is None where the debug size's LLaMA is made here, at random."""
    stage: int
    size: Size
    config: Config
    revision: str
    llama: Pinned | None
    previous: Path | None
    encoders: Mapping[str, Mapping[str, str]]
    trained: tuple[str, ...]

    @property
    def base(self) -> dict[str, str] | None:
        """How checkpoint.save names the LLaMA that it leaves out."""
        return self.llama and {"id": self.llama.title, "revision": self.llama.revision}

    def told(self) -> str:
        upon = f", upon {self.llama.title}" if self.llama else ""
        return f"begins with {self.previous}{upon}" if self.previous else (
            f"begins with {self.llama.title} and new parts" if self.llama else
            "begins with a small random model (SIZE=debug)")


def find(run: Path, stage: int, size: Size, music_decoder: MusicDecoder, llama: str | None, seed: int,
         recipe: Recipe = "paper") -> Beginning:
    """Raises ValueError that says what to do where LLaMA is not named, or the stage before has not ended."""
    config = m2ugen(size, music_decoder)
    if size == "7b" and llama is None:
        raise ValueError("7b stands on LLaMA-2 7B: say where it is, LLAMA=meta-llama/Llama-2-7b-hf or a directory")
    below = pinned.pin(llama) if llama else None
    if stage == 1:
        return Beginning(1, size, config, f"{below.revision if below else 'debug'} seed {seed}", below, None, {}, ())
    previous = folder(run, stage - 1) / MODEL
    if not previous.is_dir():
        raise ValueError(f"{previous}: stage {stage} goes on from stage {stage - 1}, which has not ended there; run "
                         f"`make train-stage{stage - 1}` with the same OUT and RUN first")
    found, _, _, about = checkpoint.opened(previous)
    if found != config:
        raise ValueError(f"{previous}: was trained with another SIZE or DECODER ({found.dim} dimensions, "
                         f"{found.music_decoder}); take the same, or another RUN")
    if not (last := about["trained"][-1:] or [""])[0].startswith(told(stage - 1, recipe)):
        raise ValueError(f"{previous}: is of {last[0] or 'another training'}, and not of stage {stage - 1} by the "
                         f"recipe {recipe}: going on would round or leave out what that has trained; take the same "
                         "recipe, or another RUN")
    if about["base"] and below and about["base"]["revision"] != below.revision:
        raise ValueError(f"{previous}: stands on {about['base']['id']} at {about['base']['revision']}, and "
                         f"{llama} is at {below.revision}; give the LLaMA that it was trained on")
    return Beginning(stage, size, config, pinned.pin(str(previous)).revision, below, previous, about["encoders"],
                     tuple(about["trained"]))


def told(stage: int, recipe: Recipe, parts: Sequence[str] = ()) -> str:
    """A stage, as `trained` in a checkpoint has it; without `parts` what that begins with."""
    return f"stage {stage} ({recipe}): {', '.join(parts)}"


def folder(run: Path, stage: int) -> Path:
    return run / f"stage{stage}"


def words(beginning: Beginning) -> Tokenizer:
    """LLaMA's tokenizer; the debug size's own for any LLaMA of that size."""
    if beginning.size == "debug":
        return debug(beginning.config)
    place = pinned.folder(beginning.llama)
    return load([place if place.is_dir() else place.parent], beginning.config)


def model(beginning: Beginning, recipe: Recipe, dtype: torch.dtype, device: torch.device, seed: int) -> M2UGen:
    """What no stage of the recipe trains is in `dtype`; the rest float32, also where this stage leaves it as it is:
    rounded, it would not be what an earlier stage made of it."""
    config, kind = beginning.config, _dtype(beginning, recipe, dtype)
    if beginning.previous is None and beginning.llama is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = M2UGen(config)
        start_audio_tokens(made, seed)
        for name, one in made.named_parameters():
            one.data = one.data.to(device, kind(name))
        return made.to(device)
    below = beginning.llama and pinned.folder(beginning.llama)
    if beginning.previous is None:
        return pretrained.load(below, dtype=kind, device=device, config=config, seed=seed)[0]
    return pretrained.load(beginning.previous, below, dtype=kind, device=device)[0]


def lighten(made: M2UGen, dtype: torch.dtype) -> None:
    """After `stages.train`: tables whose trained rows are parameters of their own need be no more than `dtype`."""
    for table in (made.llama.model.embed_tokens, made.llama.lm_head):
        if hasattr(table, "rows"):
            table.weight.data = table.weight.data.to(dtype)


def _dtype(beginning: Beginning, recipe: Recipe, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    def kind(name: str) -> torch.dtype:
        trained = any(stages.is_trained(name, beginning.config, stage, recipe) for stage in stages.STAGES)
        if trained or (beginning.stage > 1 and stages.part(name) in _TABLES):
            return torch.float32
        return dtype
    return kind
