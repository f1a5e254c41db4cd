"""What training minimises: cross-entropy of the answer, plus the distance to the music decoder's own text encoding."""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.m2ugen import M2UGen, Output
from training.projector import FACTOR

IGNORED = -100


@dataclass(frozen=True)
class Losses:
    """Per sample [B], in float32; 0 where a sample has no labels, or no music to compare with."""
    text: Tensor
    music: Tensor

    @property
    def total(self) -> Tensor:
        """The mean over samples of both: what training on the samples one by one, accumulated, would descend."""
        return (self.text + self.music).mean()


def ignore_zero(labels: Tensor) -> Tensor:
    """Labels where 0 means ignored (the released code, in which it is <unk> too) → labels where IGNORED does."""
    return labels.masked_fill(labels == 0, IGNORED)


def losses(model: M2UGen, output: Output, labels: Tensor, targets: Sequence[Tensor | None] | None = None) -> Losses:
    """labels [B, T] (IGNORED where not asked for); targets: per sample the decoder's text encoding, or None.

    A target has as many numbers as the projector emits, in its order; `FACTOR` is applied here. Raises ValueError for a
    target whose sample's labels do not hold [AUD0], [AUD1], ... in a row, once.
    """
    text = cross_entropy(output.logits, labels)
    music = torch.zeros_like(text)
    rows = [] if targets is None else [row for row, target in enumerate(targets) if target is not None]
    if rows:
        emitted = model.conditions(music_states(model, output.hidden, labels, rows))
        wanted = torch.stack([targets[row].reshape(emitted.shape[1:]) for row in rows]).to(emitted.device)
        error = functional.mse_loss(emitted.float(), FACTOR * wanted.float(), reduction="none").mean((1, 2))
        music = music.index_add(0, torch.tensor(rows, device=music.device), error)
    return Losses(text, music)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """[B]: each sample's mean over its labels of -log p(label | what precedes it)."""
    wanted = labels[:, 1:]
    each = functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), wanted, ignore_index=IGNORED,
                                    reduction="none")
    return each.sum(1) / (wanted != IGNORED).sum(1).clamp(min=1)


def music_states(model: M2UGen, hidden: Tensor, labels: Tensor, rows: Sequence[int]) -> Tensor:
    """hidden [B, T, dim] at the positions that predict [AUD0], [AUD1], ... of `rows`: [rows, audio tokens, dim]."""
    count = model.config.audio_tokens
    ids = torch.tensor(model.config.audio_ids, device=labels.device)
    wanted = labels[rows]
    if wanted.shape[1] <= count:
        raise ValueError(f"labels of {wanted.shape[1]} tokens cannot hold a prompt and {count} audio tokens")
    runs = (wanted.unfold(1, count, 1) == ids).all(2)[:, 1:]  # from 1: the first token is predicted by nothing
    counts = runs.sum(1).tolist()
    if wrong := [row for row, found in zip(rows, counts, strict=True) if found != 1]:
        raise ValueError(f"row {wrong[0]} of the batch has a music target, but its labels hold [AUD0] to "
                         f"[AUD{count - 1}] {counts[rows.index(wrong[0])]} times instead of once")
    starts = runs.int().argmax(1)  # of the state that predicts [AUD0], as runs begin at position 1
    places = starts[:, None] + torch.arange(count, device=starts.device)
    return hidden[torch.tensor(rows, device=hidden.device)[:, None], places]
