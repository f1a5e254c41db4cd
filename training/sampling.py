"""Drawing the next token, so that a row's draw is its own: noise from its seed and the step, whatever its batch.

Gumbel: the argmax of logits + noise draws from softmax.
"""
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def choose(logits: Tensor, seeds: Sequence[int] | None, step: int, temperature: float | Tensor, top_p: float = 1.0,
           top_k: int = 0) -> Tensor:
    """The next token of each row, [B], from logits [B, V] of float32.

    `temperature`: of all rows, or [B]; 0 takes the likeliest token, and needs no seeds where it is of all rows.
    `top_k` keeps so many of the likeliest, 0 all; `top_p`, of these, the likeliest up to and with the one at which
    their probabilities exceed it. Seeds are 63 bits. Raises FloatingPointError where logits are not numbers.
    """
    top = logits.amax(-1, keepdim=True)  # not a number where any logit is none
    if not torch.isfinite(top).all():
        raise FloatingPointError(f"the model's logits are not numbers at step {step}")
    each = isinstance(temperature, Tensor)
    if not each and temperature == 0:
        return logits.argmax(-1)
    # From the likeliest down, so that a tiny temperature makes -inf of the others (greedy), and never inf or 0 / 0.
    tiny = torch.finfo(logits.dtype).tiny
    logits = (logits - top) / (temperature.clamp(min=tiny)[:, None] if each else max(temperature, tiny))
    if top_k:
        logits, tokens = logits.topk(min(top_k, logits.shape[1]))
        kept = logits.softmax(-1)
        logits = logits.masked_fill(kept.cumsum(-1) - kept > top_p, -torch.inf)
        return tokens.gather(1, (logits + _hashed(seeds, step, tokens)).argmax(-1, keepdim=True))[:, 0]
    if top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered > top_p
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), -torch.inf)
    noise = torch.stack([_gumbel(seed, step, logits.shape[1]) for seed in seeds])
    return (logits + noise.to(logits.device)).argmax(-1)


def _gumbel(seed: int, step: int, count: int) -> Tensor:
    noise = np.random.default_rng([seed, step]).standard_exponential(count, np.float32)
    return -torch.from_numpy(noise).clamp(min=1e-30).log()


def _hashed(seeds: Sequence[int], step: int, tokens: Tensor) -> Tensor:
    """The noise of a few tokens [B, k], made where they are: a vocabulary's takes a GPU longer to get than its logits.

    Of the token and not of its rank: where rounding swaps two tokens, each keeps its noise, and the draw stays.
    """
    keys = torch.tensor([seed % 2 ** 63 for seed in seeds], device=tokens.device)[:, None]
    bits = _mixed(_mixed(_mixed(keys) + step) + tokens) >> 12 & (1 << 52) - 1
    return -(-((bits.double() + 0.5) / 2 ** 52).log()).log()


def _mixed(bits: Tensor) -> Tensor:
    """SplitMix64 (Steele, Lea and Flood, 2014) of int64, which wraps as its unsigned arithmetic does."""
    bits = bits - 0x61C8864680B583EB
    bits = (bits ^ (bits >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    bits = (bits ^ (bits >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return bits ^ (bits >> 31 & (1 << 33) - 1)
