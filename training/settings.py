"""All that a training run is told: typed, with the paper's values as defaults, and the command line that fills it."""
import argparse
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import torch

from training.config import MusicDecoder, Size
from training.sources import Sources
from training.stages import STAGES, TRAINED, Recipe, Stage

# A model of 64 dimensions learns little at the paper's rate, and its corpus is small: for minutes, not days.
_DEBUG = {"rate": 3e-3, "batch": 8, "micro": 8}
_7B = {"rate": 1e-4, "batch": 32, "micro": 4}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """`batch` rows make a step of all processes, `micro` of them at a time on each device. A row is a sample; with
    `pack`, samples in a row of at most so many tokens."""
    stage: Stage
    sources: Sources
    run: Path                        # where stages' folders go
    size: Size = "debug"
    music_decoder: MusicDecoder = "musicgen"
    llama: str | None = None         # a Hub id or a directory
    frozen: Mapping[str, str | None] = field(default_factory=dict)  # encoders by kind, where features are not there
    recipe: Recipe = "paper"
    freeze_gates: bool = False
    batch: int = 8
    micro: int = 8
    pack: int | None = None
    longest: int = 512               # tokens of a sample
    dtype: torch.dtype = torch.float32  # of what is frozen, and of the arithmetic
    checkpointing: bool = False
    compile: bool = False
    device: str | None = None
    seed: int = 0
    log_every: int = 10              # steps
    save_every: int = 200            # steps
    keep: int = 2                    # checkpoints

    def identity(self) -> dict[str, object]:
        """What the weights that come out depend on, but for rounding: a resumed run must have the same."""
        stage = {f"stage {name}": list(value) if isinstance(value, tuple) else value  # as JSON gives it back
                 for name, value in self.stage.as_dict().items()}
        return {**stage, "recipe": self.recipe, "freeze_gates": self.freeze_gates,
                "size": self.size, "music_decoder": self.music_decoder, "batch": self.batch, "pack": self.pack,
                "longest": self.longest, "dtype": str(self.dtype).removeprefix("torch."), "seed": self.seed}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stage", type=int, choices=tuple(STAGES), required=True)
    parser.add_argument("--out", required=True, help="the build whose datasets are trained on (OUT of make datasets)")
    parser.add_argument("--run", help="where checkpoints go (default: OUT/runs)")
    parser.add_argument("--size", choices=get_args(Size), default="debug", help="default: debug")
    parser.add_argument("--llama", help="LLaMA-2 7B, a Hub id or a directory, Meta's or Hugging Face's "
                        "(debug: one of its size; default: a random one)")
    parser.add_argument("--decoder", choices=get_args(MusicDecoder), default="musicgen", help="default: musicgen")
    data = parser.add_argument_group("data")
    for name, what in (("coco", "captions of pictures, stage 1"), ("alpaca", "instructions, stage 3"),
                       ("musicqa", "questions about music, stage 3")):
        data.add_argument(f"--{name}", metavar="FILE[,MEDIA]" if name != "alpaca" else "FILE",
                          help=f"the published JSON ({what})" + (" and the folder of its media" if name != "alpaca"
                                                                 else ""))
    data.add_argument("--weights", metavar="NAME=W,...", help="how often each row of a dataset comes in an epoch "
                                                              "(default: once)")
    data.add_argument("--longest", type=_count, default=512, help="tokens of a sample; longer text is shortened, never "
                                                                  "audio tokens (default: 512)")
    data.add_argument("--pack", type=_count, metavar="TOKENS", help="several samples in a row of so many tokens "
                                                                    "(default: a row each, like lengths together)")
    for kind, what in (("mert", "audio"), ("vit", "image"), ("vivit", "video"), ("text-encoder", "text")):
        data.add_argument(f"--{kind}", metavar="MODEL", help=f"encodes {what} where `make features` did not, a Hub id "
                                                            "or a directory")
    how = parser.add_argument_group("how")
    how.add_argument("--recipe", choices=tuple(TRAINED), default="paper",
                     help="what is trained: the paper's choice, or the released code's (default: paper)")
    how.add_argument("--freeze-gates", action="store_true", help="as the released code does, by mistake: nothing is "
                                                                 "heard then; for comparison")
    how.add_argument("--epochs", type=_count, help="default: 5, 5, 2")
    how.add_argument("--rate", type=float, help=f"learning rate (default: {_7B['rate']:g}; debug: {_DEBUG['rate']:g})")
    how.add_argument("--warm-up", type=int, metavar="STEPS", help="default: 0")
    how.add_argument("--weight-decay", type=float, help=f"default: {STAGES[1].weight_decay:g}")
    how.add_argument("--clip", type=float, metavar="NORM", help="the largest norm of the gradient (default: any)")
    how.add_argument("--batch", type=_count, metavar="ROWS", help=f"of a step, on all devices together (default: "
                                                                  f"{_7B['batch']}; debug: {_DEBUG['batch']})")
    how.add_argument("--micro", type=_count, metavar="ROWS", help="at a time on a device; gradients are added up "
                     f"(default: {_7B['micro']}; debug: {_DEBUG['micro']})")
    how.add_argument("--dtype", choices=tuple(_DTYPES), help="of what is frozen, and of the arithmetic; what is "
                                                             "trained is float32 (default: bfloat16; debug: float32)")
    how.add_argument("--checkpointing", action="store_true", help="compute layers again in the backward pass: less "
                                                                  "memory, a third more time")
    how.add_argument("--compile", action="store_true", help="torch.compile for LLaMA's feed-forward layers")
    how.add_argument("--device", help="default: a GPU where there is one")
    how.add_argument("--seed", type=int, default=0, help="of the order, and of new parts (default: 0)")
    how.add_argument("--log-every", type=_count, metavar="STEPS", default=10, help="default: 10")
    how.add_argument("--save-every", type=_count, metavar="STEPS", default=200, help="default: 200")
    how.add_argument("--keep", type=_count, metavar="CHECKPOINTS", default=2, help="default: 2")


def parse(parser: argparse.ArgumentParser, values: argparse.Namespace) -> Settings:
    """Settings, or the parser's error (exit 2) that says what to do."""
    default = _DEBUG if values.size == "debug" else _7B
    given = {name: getattr(values, name) for name in ("epochs", "warm_up", "weight_decay", "clip")
             if getattr(values, name) is not None}
    stage = STAGES[values.stage]
    try:
        stage = dataclasses.replace(stage, rate=default["rate"] if values.rate is None else values.rate,
                                    data=_weights(stage, values.weights), **given)
    except ValueError as error:
        parser.error(str(error))
    for name in ("out", "run", "coco", "alpaca", "musicqa"):
        if (given := getattr(values, name)) == "":
            parser.error(f"--{name}: empty")
        if given:  # in quotes, as make gives it, no shell has seen to ~
            setattr(values, name, ",".join(map(os.path.expanduser, given.split(",", 1))))
    out = values.out
    batch = values.batch or default["batch"]
    if values.pack and values.pack < values.longest:
        parser.error(f"--pack: a row of {values.pack} tokens has no room for a sample of {values.longest} (--longest)")
    if values.run is None and "://" in out:
        parser.error("--run: say where checkpoints go: it must be a folder of this machine's, and OUT is none")
    return Settings(
        stage, Sources(out, values.coco, values.alpaca, values.musicqa),
        Path(os.path.abspath(values.run or os.path.join(out, "runs"))), values.size, values.decoder,
        values.llama,
        {"audio": values.mert, "image": values.vit, "video": values.vivit, "text": values.text_encoder}, values.recipe,
        values.freeze_gates, batch, min(values.micro or default["micro"], batch), values.pack, values.longest,
        _DTYPES[values.dtype or ("float32" if values.size == "debug" else "bfloat16")], values.checkpointing,
        values.compile, values.device, values.seed, values.log_every, values.save_every, values.keep)


def _weights(stage: Stage, text: str | None) -> dict[str, float]:
    """The stage's, with those that are given; 0 leaves a dataset out."""
    weights = dict(stage.data)
    for item in filter(None, (text or "").split(",")):
        name, _, value = item.partition("=")
        if name not in weights:
            raise ValueError(f"--weights: stage {stage.number} has no {name}; it has {', '.join(weights)}")
        try:
            weights[name] = float(value)
        except ValueError:
            raise ValueError(f"--weights: {item}: should be like {name}=0.5") from None
    return {name: weight for name, weight in weights.items() if weight != 0}


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value
