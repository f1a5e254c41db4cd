"""Tokens from a model: a batch of prompts, each with what it hears and a seed of its own.

A row's tokens depend on its prompt, what it hears and its seed alone: padding is masked, and the noise that samples
comes from the row's seed and the step.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from training.m2ugen import Encoded, M2UGen
from training.projector import FACTOR
from training.sampling import choose

TEMPERATURE, TOP_P, MAX_NEW = 0.6, 0.8, 512  # M²UGen's inference; MU-LLaMA captions at 0.4 and 1.0


@dataclass(frozen=True)
class Generated:
    """One row's answer.

    `tokens` are without what ended it; `ended` is eos, stop or length. `hidden` [n, dim]: the states, before the final
    norm, that predicted its n audio tokens. `condition` [queries, out]: what the music decoder is to be conditioned on,
    in the decoder's own scale (the published factor of 10 undone), or None unless [AUD0], [AUD1], ... came in order.
    """
    tokens: list[int]
    ended: str
    hidden: Tensor
    condition: Tensor | None


@torch.no_grad()
def generate(model: M2UGen, prompts: Sequence[Sequence[int]], encoded: Encoded | None = None, *,
             seeds: Sequence[int] | None = None, temperature: float = TEMPERATURE, top_p: float = TOP_P,
             max_new: int = MAX_NEW, eos: Sequence[int] | None = None, stops: Sequence[Sequence[int]] = (),
             cached: bool = True) -> list[Generated]:
    """Answers to `prompts` (token ids, of any lengths), in their order.

    `temperature` 0 takes the likeliest token and needs no seeds. `top_p` keeps the likeliest tokens up to and with the
    one at which their probabilities exceed it. A row ends at a token of `eos` (default: the config's), after one of the
    sequences `stops`, or after `max_new` tokens. `cached=False` computes every step anew. Raises ValueError for an
    empty prompt, ids that the model does not have, missing seeds or settings out of range, FloatingPointError where
    the model's logits are not numbers.
    """
    _check(prompts, seeds, temperature, top_p, max_new, stops)
    ends = {model.config.eos} if eos is None else set(eos)
    rows = [_Row() for _ in prompts]
    device = model.llama.model.embed_tokens.weight.device
    tokens, mask = _left_padded(prompts, model.config.all_tokens, device)
    training = [(module, module.training) for module in model.modules()]  # parts may be frozen in eval
    model.eval()  # activation checkpointing, where it is on, would leave the cache empty
    try:
        heard = model.heard(encoded, len(rows)) if encoded else None
        cache = DynamicCache(config=model.llama.config) if cached else None
        with model.prefix.remembering():
            for step in range(max_new):
                output = model(tokens, mask, heard=heard, cache=cache, keep=1)
                chosen = choose(output.logits[:, -1].float(), seeds, step, temperature, top_p)
                for row, token, hidden in zip(rows, chosen.tolist(), output.hidden[:, -1], strict=True):
                    row.add(token, hidden, model.config.audio_ids, ends, stops)
                if all(row.ended for row in rows):
                    break
                if mask is not None:
                    mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
                tokens = chosen[:, None] if cached else torch.cat([tokens, chosen[:, None]], 1)
        return [row.finish(model) for row in rows]
    finally:
        for module, flag in training:
            module.training = flag


class _Row:
    """What one row has said so far."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.audio: list[tuple[int, Tensor]] = []
        self.ended = ""

    def add(self, token: int, hidden: Tensor, audio_ids: range, ends: set[int], stops: Sequence[Sequence[int]]) -> None:
        if self.ended:
            return
        if token in ends:
            self.ended = "eos"
            return
        self.tokens.append(token)
        if token in audio_ids:
            self.audio.append((token, hidden))
        for stop in stops:
            if self.tokens[-len(stop):] == list(stop):
                self.tokens, self.ended = self.tokens[:-len(stop)], "stop"
                return

    def finish(self, model: M2UGen) -> Generated:
        wanted = list(model.config.audio_ids)
        said = [token for token, _ in self.audio]
        states = [state for _, state in self.audio]
        hidden = torch.stack(states) if states else torch.zeros(0, model.config.dim, device=model.prefix.query.device)
        condition = None
        for start in range(len(said) - len(wanted) + 1 if wanted else 0):
            if said[start:start + len(wanted)] == wanted:
                condition = model.conditions(hidden[None, start:start + len(wanted)])[0] / FACTOR
                break
        return Generated(self.tokens, self.ended or "length", hidden, condition)


def _check(prompts: Sequence[Sequence[int]], seeds: Sequence[int] | None, temperature: float, top_p: float,
           max_new: int, stops: Sequence[Sequence[int]]) -> None:
    if empty := [row for row, prompt in enumerate(prompts) if not len(prompt)]:
        raise ValueError(f"prompt {empty[0]} is empty; it needs at least its first token (BOS)")
    if not prompts or max_new < 1 or not all(len(stop) for stop in stops):
        raise ValueError("at least one prompt, one new token, and a token in every stop are needed")
    if not 0 <= temperature < math.inf or not 0 < top_p <= 1:
        raise ValueError(f"temperature {temperature} and top-p {top_p}: 0 or more, and above 0 up to 1, are possible")
    if temperature > 0 and (seeds is None or len(seeds) != len(prompts) or min(seeds) < 0):
        raise ValueError("sampling needs a seed, 0 or more, for each prompt; or a temperature of 0")


def _left_padded(prompts: Sequence[Sequence[int]], known: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Tokens and mask [B, T]; no mask where nothing is padded, so that attention may take its fastest way."""
    length = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), length, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        ids = torch.as_tensor(prompt)
        if ids.is_floating_point() or ids.dim() != 1 or ids.min() < 0 or ids.max() >= known:
            raise ValueError(f"prompt {row} is not of token ids, whole numbers from 0 to {known - 1}")
        tokens[row, length - len(prompt):] = ids
        mask[row, length - len(prompt):] = 1
    return tokens.to(device), None if mask.all() else mask.to(device)
