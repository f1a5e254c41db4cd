"""What each of the three stages trains, on which rows and with which values: one table for code, README and tests.

Training proceeds as in M²UGen's appendix B: the adapters learn to caption, the output projector learns to ask for the
music of a caption, and at last all learn to converse, with LoRA. The paper's values are the defaults; where it is
silent they are the released code's.

Of the token tables the paper trains the audio tokens' rows alone. A mask on the gradients would not do: AdamW's decay
moves rows without a gradient too, and its states would be 32,000 rows that never change. So `train` puts the rows into
parameters of their own, beside the frozen tables, which are read for all the other tokens only. They are no view of the
table: those do not survive `.to(device)`, and would be bfloat16 where the table is. In a state dict table and rows are
one again, under the table's name, so that checkpoints know nothing of this.
"""
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.config import Config
from training.m2ugen import M2UGen

Recipe = Literal["paper", "released"]

PARTS = {
    "adapters": "understanding adapters",
    "queries": "prefix queries",
    "gates": "gates of the layers with a prefix",
    "projector": "output projector",
    "rows": "the audio tokens' rows of embedding and output",
    "lora": "LoRA",
    "embeddings": "embeddings of all tokens",
    "norms": "LLaMA's norms",
    "biases": "LLaMA's biases",
    "output": "LLaMA's output",
    "linears": "LLaMA's linears",
}
"""Every parameter belongs to one part; `rows` are told apart from their tables only where they alone are trained."""

_HEARING = frozenset({"adapters", "queries", "gates"})
_SPEAKING = frozenset({"projector", "rows"})
_RELEASED = frozenset({"norms", "biases", "lora", "queries", "gates"})  # its gates, in truth, are never trained

TRAINED: Mapping[str, Mapping[int, frozenset[str]]] = {
    "paper": {1: _HEARING, 2: _SPEAKING, 3: _HEARING | _SPEAKING | {"lora"}},
    "released": {1: _RELEASED | {"embeddings", "adapters", "projector"}, 2: _RELEASED | {"embeddings", "projector"},
                 3: _RELEASED},
}
"""Recipe → stage → parts."""


def _within(value: object, above: float | None = None) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf and (above is None or value > above)


@dataclass(frozen=True)
class Stage:
    """How one stage is trained, with AdamW; a cosine takes its learning rate from `rate` down to `floor`.

    `data`: dataset → how often each of its rows comes in an epoch. Stage 1 reads the captions of what it names, stage 2
    those of the music, stage 3 conversations.
    """
    number: int
    epochs: int
    data: Mapping[str, float]
    rate: float = 1e-4
    floor: float = 1e-6
    warm_up: int = 0            # steps
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = None   # the largest norm of the gradient; None: any

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be trained with, naming the field."""
        fits = {"number": self.number in (1, 2, 3),
                "epochs": type(self.epochs) is int and self.epochs > 0,
                "data": bool(self.data) and all(_within(weight, above=0) for weight in self.data.values()),
                "rate": _within(self.rate, above=0),
                "floor": _within(self.floor) and self.floor <= self.rate,
                "warm_up": type(self.warm_up) is int and self.warm_up >= 0,
                "weight_decay": _within(self.weight_decay),
                "betas": len(self.betas) == 2 and all(_within(beta) and beta < 1 for beta in self.betas),
                "clip": self.clip is None or _within(self.clip, above=0)}
        if wrong := [name for name, sound in fits.items() if not sound]:
            raise ValueError(f"a stage's {wrong[0]} cannot be {getattr(self, wrong[0])!r}")

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of `step` (from 0) of `steps`: it climbs for `warm_up` steps, and then falls to `floor`."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        done = min(1.0, (step - self.warm_up) / max(1, steps - self.warm_up))
        return self.floor + (self.rate - self.floor) * (1 + math.cos(math.pi * done)) / 2

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


STAGES = {
    1: Stage(1, 5, {"mucaps": 1.0, "coco": 1.0, "muvideo": 1.0}),
    2: Stage(2, 5, {"mucaps": 1.0}),
    3: Stage(3, 2, {"alpaca": 1.0, "musicqa": 1.0, "muimage": 1.0, "muvideo": 1.0, "muedit": 1.0}),
}


def table(recipe: Recipe = "paper") -> str:
    """What is trained, as Markdown: a row a part, a column a stage."""
    trained = _recipe(recipe)
    rows = [f"| {text} | {' | '.join('trained' if name in trained[stage] else '' for stage in trained)} |"
            for name, text in PARTS.items() if any(name in parts for parts in trained.values())]
    return "\n".join([f"| | {' | '.join(f'stage {stage}' for stage in trained)} |", "|---|---|---|---|", *rows])


def part(name: str) -> str:
    """Which of PARTS a parameter belongs to, by its name in M2UGen."""
    top, last = name.partition(".")[0], name.rpartition(".")[2]
    if top in ("adapters", "projector"):
        return top
    if top == "prefix":
        return "queries" if last == "query" else "gates"
    if ".lora_" in name:
        return "lora"
    if last in ("rows", "bias"):
        return {"rows": "rows", "bias": "biases"}[last]
    whole = {"llama.model.embed_tokens.weight": "embeddings", "llama.lm_head.weight": "output"}
    return whole.get(name) or ("norms" if name.endswith("norm.weight") else "linears")


def is_trained(name: str, config: Config, stage: int, recipe: Recipe = "paper", freeze_gates: bool = False) -> bool:
    """Whether a stage trains the parameter of this name as a whole; for a loader too, which gives it its dtype.

    Nothing reads the gates below `prefix_start`: they are never trained. Raises ValueError as `train` does.
    """
    if stage == 2 and config.projector is None:
        raise ValueError(f"stage 2 trains the output projector, and {config.name} has none: it makes no music; train "
                         "it in stages 1 and 3")
    trained = _recipe(recipe)
    if stage not in trained:
        raise ValueError(f"there is no stage {stage!r}; there are {', '.join(map(str, trained))}")
    if part(name) not in trained[stage]:
        return False
    return part(name) != "gates" or (not freeze_gates and int(name.rpartition(".")[2]) >= config.prefix_start)


@dataclass(frozen=True)
class Trained:
    """What `train` made trainable: by name, in the model's order, and in AdamW's `groups`, which hold names as well
    (`optimizer.state_dict()` keeps them as `param_names`). `frozen` are the names of all the others.

    Some parts hear nothing in some batches: an adapter whose modality no row has, the projector where no row is music.
    DistributedDataParallel waits for their gradients. Add `anchor()` to every loss: it is 0, and gives each of them a
    gradient of 0, whatever a process was dealt; neither `find_unused_parameters` nor a loss inside `forward` is needed
    for it. (FSDP2 is not served so: there, what is not used must be used within `forward`.) Before the optimiser's
    step, `leave_unreached()`: otherwise decay and momentum would move what the batch of all processes says nothing
    about. Both are for one process as for several, so that they agree.
    """
    parameters: Mapping[str, nn.Parameter]
    frozen: tuple[str, ...]
    groups: list[dict[str, object]]

    def anchor(self) -> Tensor:
        """A scalar 0 that depends on all parameters which a batch may not reach."""
        device = next(iter(self.parameters.values())).device
        reachable = [one for held in self._parts().values() for one in held]
        return sum((one.flatten()[:0].sum() for one in reachable), torch.zeros((), device=device))

    def leave_unreached(self) -> None:
        """Drop the gradients of each adapter, of the projector, and of the audio tokens' embedding, which are all
        exactly 0."""
        for held in self._parts().values():
            if not any(one.grad is not None and one.grad.any() for one in held):
                for one in held:
                    one.grad = None

    def _parts(self) -> dict[str, list[nn.Parameter]]:
        found: dict[str, list[nn.Parameter]] = {}
        for name, one in self.parameters.items():
            if part(name) in ("adapters", "projector"):
                top, modality = name.split(".")[:2]
                found.setdefault(modality if top == "adapters" else top, []).append(one)
            elif name.endswith("embed_tokens.rows"):  # of no sample without music; the output's rows are of all
                found[name] = [one]
        return found


def train(model: M2UGen, stage: Stage, recipe: Recipe = "paper", freeze_gates: bool = False) -> Trained:
    """Make trainable exactly what `stage` trains, whatever was before. For a model whose weights are loaded.

    `freeze_gates` reproduces the released trainer's defect: at gate 0 no modality is heard, and no adapter learns.
    What is trained becomes float32, the rest stays: bfloat16 has 8 bits, in which steps of 1e-4 are lost. A model of
    both runs under autocast. Save what "released" trains with `checkpoint.save(whole_embeddings=True)`. Raises
    ValueError for stage 2 of a model without an output projector (MU-LLaMA), and for an unknown recipe.
    """
    wanted = {name for name, _ in model.named_parameters()
              if is_trained(name, model.config, stage.number, recipe, freeze_gates)}
    _tables(model, model.config.audio_tokens if "rows" in TRAINED[recipe][stage.number] else 0)
    parameters, frozen = {}, []
    for name, one in model.named_parameters():
        one.grad = None  # of an earlier stage
        one.requires_grad_(name in wanted or part(name) == "rows")
        if one.requires_grad:
            one.data = one.data.float()
            parameters[name] = one
        else:
            frozen.append(name)
    # Neither biases, nor what has one axis, nor gates (one in substance), which decay would close again.
    kept = {name for name, one in parameters.items()
            if one.dim() < 2 or name.endswith("bias") or part(name) == "gates"}
    groups = [{"params": [(name, one) for name, one in parameters.items() if (name in kept) == still],
               "weight_decay": 0.0 if still else stage.weight_decay} for still in (False, True)]
    return Trained(parameters, tuple(frozen), [group for group in groups if group["params"]])


class _Rows(nn.Module):
    """A frozen table `weight` whose last rows are `rows`, a parameter in float32.

    A state dict has a copy of the one table that both make, float32 where it must be to hold what was trained; loading
    takes it apart again. The last rows of `weight` itself are old while `rows` are trained.
    """

    def __init__(self, weight: nn.Parameter, count: int) -> None:
        super().__init__()
        self.weight = weight
        self.rows = nn.Parameter(weight[-count:].detach().float().clone())
        self.below = len(weight) - count

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        whole = torch.cat([self.weight[:self.below], self.rows])
        destination[f"{prefix}weight"] = whole if keep_vars else whole.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        name = f"{prefix}weight"
        if name in state_dict:
            state_dict = {**state_dict, f"{prefix}rows": state_dict[name][self.below:]}
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _Embedding(_Rows):
    def forward(self, ids: Tensor) -> Tensor:
        below = functional.embedding(ids, self.weight)
        rows = functional.embedding((ids - self.below).clamp(min=0), self.rows)  # in every graph: DDP waits for them
        return torch.where((ids >= self.below)[..., None], rows.to(below.dtype), below)


class _Output(_Rows):
    def forward(self, states: Tensor) -> Tensor:
        return torch.cat([functional.linear(states, self.weight[:self.below]),
                          functional.linear(states, self.rows.to(self.weight.dtype))], -1)


@torch.no_grad()
def _tables(model: M2UGen, count: int) -> None:
    """Give the token tables `count` rows of their own; 0 makes them what they were, with what was trained."""
    for owner, name, kind in ((model.llama.model, "embed_tokens", _Embedding), (model.llama, "lm_head", _Output)):
        held = getattr(owner, name)
        if isinstance(held, _Rows):
            held.weight[held.below:] = held.rows.to(held.weight.dtype)
            plain = (nn.Embedding(*held.weight.shape, device="meta") if kind is _Embedding else
                     nn.Linear(*held.weight.shape[::-1], bias=False, device="meta"))
            plain.weight = held.weight
            setattr(owner, name, plain)
        if count:
            setattr(owner, name, kind(getattr(owner, name).weight, count).train(held.training))


def _recipe(recipe: str) -> Mapping[int, frozenset[str]]:
    if recipe not in TRAINED:
        raise ValueError(f"recipe is {recipe!r}; it may be {' or '.join(TRAINED)}")
    return TRAINED[recipe]
