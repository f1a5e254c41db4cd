"""How well a training run uses its devices: one reading for all processes, every so many steps.

MFU is as in PaLM (Chowdhery et al. 2022, appendix B): the FLOPs that `training.cost` counts, by the clock on the wall,
over what the devices could do.
"""
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from training.cost import Flops, Work, gib
from training.loss import Losses


@dataclass(frozen=True)
class Reading:
    """One interval, of all processes together.

    `seconds` is without pauses, `waiting` those of them spent on waiting for data, `memory` in bytes: of the process
    that has the most, as the others wait for it. `norm` is the mean over the interval's steps.
    """
    steps: int
    tokens: int
    samples: int
    flops: float
    seconds: float
    waiting: float
    text: float | None   # None: no sample was there to learn from
    music: float | None  # None: no sample had a target
    norm: float
    rate: float
    mfu: float | None    # None: nobody knows what the devices could do
    memory: int

    def scalars(self) -> dict[str, float]:
        """For TensorBoard, under these names; without what is None."""
        values = {"loss/text": self.text, "loss/music": self.music, "train/lr": self.rate,
                  "train/gradient_norm": self.norm, "speed/tokens_per_second": self.tokens / self.seconds,
                  "speed/samples_per_second": self.samples / self.seconds, "speed/mfu": self.mfu,
                  "speed/waiting": self.waiting / self.seconds, "memory/peak_bytes": float(self.memory)}
        return {name: value for name, value in values.items() if value is not None}

    def line(self) -> str:
        text = "of no sample" if self.text is None else f"{self.text:.4f}"
        music = "" if self.music is None else f", MSE {self.music:.4f}"
        mfu = "unknown" if self.mfu is None else f"{self.mfu:.1%}"
        return (f"CE {text}{music}, lr {self.rate:.2e}, gradient {self.norm:.3f}, "
                f"{self.tokens / self.seconds:,.0f} tokens/s, {self.samples / self.seconds:,.1f} samples/s, MFU {mfu}, "
                f"{self.waiting / self.seconds:.0%} waiting for data, {gib(self.memory)}")


class Meter:
    """Measures from one `read` to the next. `peak`: of this process's `device`, in FLOP/s; `clock` in seconds.

    What is neither waiting nor paused is computing. A GPU computes on while the host waits, so the share of waiting is
    what the device loses at most. Losses are read, and so waited for, only by `read` and `paused`.
    """

    def __init__(self, peak: float | None = None, device: torch.device | str = "cpu",
                 clock: Callable[[], float] = time.perf_counter,
                 memory: Callable[[torch.device], int] | None = None) -> None:
        self.peak, self.device, self._clock, self._memory = peak, torch.device(device), clock, memory or peak_memory
        self._begin(clock())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the next batch's coming."""
        start = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no training (validation, a checkpoint): its time is not counted."""
        self._settle()
        start = self._clock()
        try:
            yield
        finally:
            self._away += self._clock() - start

    def add(self, work: Work, cost: Flops, losses: Losses, share: float) -> None:
        """A micro-batch, as its gradient is added with this `share`; at 0 it only kept processes in step, and its
        samples are another's: its time counts, and nothing else of it."""
        if share:
            self._tokens += work.tokens
            self._samples += len(work.lengths)
            self._targets += work.music
            self._flops += cost.total
            self._text = self._text + losses.text.detach().sum()
            self._music = self._music + losses.music.detach().sum()

    def stepped(self, norm: float | Tensor, rate: float) -> None:
        """A step of the optimizer: its gradient's norm before clipping, the same in every process, and its lr."""
        self._steps, self._norm, self._rate = self._steps + 1, self._norm + norm, rate

    def read(self) -> Reading:
        """What all processes measured, each sample counting alike; the next interval begins.

        Every process must call it, after the same step, and gets the same reading. Time goes by the slowest of them.
        Raises ValueError, in all of them, where no step was taken since the last reading.
        """
        self._settle()
        now = self._clock()
        summed = self._over([self._tokens, self._samples, self._targets, self._flops, self._text, self._music,
                             self.peak or math.nan], distributed.ReduceOp.SUM)
        most = self._over([now - self._start - self._away, self._waited, self._memory(self.device), self._steps],
                          distributed.ReduceOp.MAX)
        tokens, samples, targets, flops, text, music, peak = summed
        seconds, waiting, memory, steps = most
        if not steps:
            raise ValueError("nothing has been measured since the last reading: no step was taken")
        reading = Reading(
            int(steps), int(tokens), int(samples), flops, seconds, waiting, text / samples if samples else None,
            music / targets if targets else None, self._norm / steps, self._rate,
            None if math.isnan(peak) else flops / seconds / peak, int(memory))
        self._begin(now)  # not later: reading takes time too
        return reading

    def _over(self, values: list[float], operation: distributed.ReduceOp.RedOpType) -> list[float]:
        """Of all processes. In double precision: FLOPs are many."""
        if not distributed.is_initialized():
            return values
        held = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(held, operation)
        return held.tolist()

    def _settle(self) -> None:
        self._text, self._music, self._norm = float(self._text), float(self._music), float(self._norm)

    def _begin(self, now: float) -> None:
        self._steps = self._tokens = self._samples = self._targets = self._flops = 0
        self._waited = self._away = self._rate = 0.0
        self._text: float | Tensor = 0.0
        self._music: float | Tensor = 0.0
        self._norm: float | Tensor = 0.0
        self._start = now


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held so far: of a GPU, or for another device of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
