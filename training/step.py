"""One step of the optimiser over a step's micro-batches, and the measuring of the evaluation rows."""
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from manifests.messages import one_line, shown
from training import cost, loss, packing
from training.feed import Feed, Micro
from training.m2ugen import M2UGen
from training.meter import Meter
from training.parallel import Processes
from training.settings import Settings
from training.stages import Trained


class Stopped(RuntimeError):
    """Training cannot go on; the message says what to do."""


@contextmanager
def room(settings: Settings, where: str = "") -> Iterator[None]:
    """Too little memory for what is done here, as Stopped."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        short = isinstance(error, torch.OutOfMemoryError | MemoryError) or (  # of a CPU's torch says it in words alone
            "DefaultCPUAllocator" in str(error) and not isinstance(error, Stopped))
        if not short:
            raise
        raise Stopped(f"{where}too little memory, with {settings.micro} rows at a time ({one_line(error)}); take "
                      "--micro 1, or --checkpointing, and run it again, which goes on from the last checkpoint; or a "
                      "smaller --longest (with another RUN)") from error


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM was asked for meanwhile: raised anywhere, it may leave a lock behind that is waited for
    ever. Asked for twice, it is raised. Not where others hold the handlers: another thread, several processes."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    alone = threading.current_thread() is threading.main_thread() and "WORLD_SIZE" not in os.environ
    former = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)
              if alone and signal.getsignal(number) is not signal.SIG_IGN}  # as in the background of a shell
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Steps:
    """`wrapped` is the model, or what adds up the gradients of several processes around it."""
    settings: Settings
    here: Processes
    model: M2UGen
    wrapped: nn.Module
    trained: Trained
    parts: list[str]
    optimizer: torch.optim.Optimizer

    def step(self, number: int, micros: list[Micro], rate: float, meter: Meter) -> float:
        """The norm of the gradient before it is clipped. Raises Stopped, with no parameter changed, where that is no
        number, and where the memory is too little."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seen = []
        with room(self.settings, f"step {number}: "):
            for micro in micros:
                alone = self.here.world == 1 or micro is micros[-1]
                with nullcontext() if alone else self.wrapped.no_sync():
                    found = self._losses(self.wrapped, micro)
                    # DDP takes the mean over the processes of what the shares make a sum.
                    share = micro.share * self.here.world
                    ((found.text + found.music).sum() * share + self.trained.anchor()).backward()
                work = cost.work(micro.batch, micro.encoded, micro.targets)
                meter.add(work, cost.flops(self.model.config, self.parts, work), found, micro.share)
                seen.append((micro.names, (found.text + found.music).detach()))
        self.trained.leave_unreached()
        norm = float(nn.utils.clip_grad_norm_(list(self.trained.parameters.values()),
                                              self.settings.stage.clip or float("inf")))
        if not norm < float("inf"):
            wrong = _unsound(micros)
            names = wrong or [name for some, values in seen for name, value in zip(some, values.tolist(), strict=True)
                              if not value < float("inf")]
            told = ", ".join(map(shown, names[:10]))
            of = f", and so {'are the features' if wrong else 'is the loss'} of {told}" * bool(names)
            raise Stopped(f"step {number}: the gradient is {norm}{of}. Nothing of this step was taken, and the "
                          "last checkpoint stands. Take a lower --rate or a --clip (with another RUN), or look at "
                          "those rows")
        with room(self.settings, f"step {number}: "):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    @torch.no_grad()
    def validate(self, feed: Feed, datasets: Sequence[str]) -> dict[str, object]:
        """Means over all samples: `text` (CE), `music` (MSE; None where none is music), and of each dataset CE."""
        names = list(datasets)
        sums = torch.zeros(len(names), 4, dtype=torch.float64)  # CE, samples, MSE, targets
        self.model.eval()
        for micro in chain.from_iterable(feed.epoch(0)):
            found = self._losses(self.model, micro)
            for place, name in enumerate(micro.names if micro.share else ()):
                sums[names.index(name.partition(" ")[0])] += torch.tensor(
                    [float(found.text[place]), 1, float(found.music[place]), micro.targets[place] is not None])
        self.model.train()
        sums = self.here.added(sums.to(self.here.device)).cpu()
        text, samples, music, targets = sums.sum(0).tolist()
        return {"text": text / max(samples, 1), "music": music / targets if targets else None,
                "by_dataset": {name: row[0] / row[1] for name, row in zip(names, sums.tolist(), strict=True) if row[1]}}

    def _losses(self, model: nn.Module, micro: Micro) -> loss.Losses:
        device, dtype = self.here.device, self.settings.dtype
        encoded = {kind: [one if one is None else one.to(device, non_blocking=True) for one in some]
                   for kind, some in micro.encoded.items()}
        targets = [one if one is None else one.to(device, non_blocking=True) for one in micro.targets]
        tokens, labels, segments, at = (one.to(device, non_blocking=True) for one in (
            micro.batch.tokens, micro.batch.labels, micro.batch.segments,
            packing.asked(micro.batch.labels, micro.batch.segments)))
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return loss.losses(self.model, model(tokens, encoded=encoded, segments=segments, at=at), labels, targets)


def _unsound(micros: Sequence[Micro]) -> list[str]:
    """Samples whose features or target are no numbers. Others' loss is none beside them: attention's 0 times nan."""
    return [name for micro in micros for place, name in enumerate(micro.names)
            if any(one is not None and not one.isfinite().all()
                   for one in (*(some[place] for some in micro.encoded.values()), micro.targets[place]))]


def wrapped(model: M2UGen, settings: Settings, here: Processes) -> nn.Module:
    """The model as it is trained: with what saves memory or time, and gradients that are those of all processes."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):  # peft would make LoRA's input float32, which autocast need not be told
            module.cast_input_dtype_enabled = False
    if settings.checkpointing:
        model.llama.activation_checkpointing_enable()
    if settings.compile:
        for layer in model.llama.model.layers:  # the attention beside it has hooks, at which a graph would break
            layer.mlp.compile()
    return here.joined(model)
