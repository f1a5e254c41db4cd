"""How the small encoders are trained: AdamW, a cosine, clips in random order."""
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

_WARM_UP = 40


def fit(modules: Sequence[nn.Module], error: Callable[[list[int]], Tensor], count: int, order: np.random.Generator, *,
        steps: int, batch: int, rate: float) -> None:
    """Train `modules` to make `error` small, of `batch` of `count` clips by their numbers, which are dealt out in
    turn."""
    parameters = [one for module in modules for one in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, rate, betas=(0.9, 0.98), weight_decay=0.05)
    coming = (place for _ in iter(int, 1) for place in order.permutation(count).tolist())
    for step in range(steps):
        fall = (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / _WARM_UP) * fall
        error([next(coming) for _ in range(batch)]).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
