"""What training minimises: cross-entropy of the answer, plus the distance to the music decoder's own text encoding."""
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training import packing
from training.m2ugen import M2UGen, Output
from training.packing import IGNORED
from training.projector import FACTOR


@dataclass(frozen=True)
class Losses:
    """Per sample [samples], in float32; 0 where a sample has no labels, or no music to compare with."""
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

    A sample is a row, or one of the segments that the model was given. A target has as many numbers as the projector
    emits, in its order; `FACTOR` is applied here. Raises ValueError for a target whose sample's labels do not hold
    [AUD0], [AUD1], ... in a row, once, or targets that are not as many as the samples.
    """
    segments = torch.ones_like(labels) if output.segments is None else output.segments
    text = cross_entropy(output.logits, labels, segments, output.at)
    music = torch.zeros_like(text)
    if targets is not None and len(targets) != len(text):
        raise ValueError(f"{len(targets)} targets were given for {len(text)} samples; where one has none, None is due")
    wanting = [] if targets is None else [sample for sample, target in enumerate(targets) if target is not None]
    if wanting:
        emitted = model.conditions(music_states(model, output.hidden, labels, segments, wanting))
        wanted = torch.stack([targets[sample].reshape(emitted.shape[1:]) for sample in wanting]).to(emitted.device)
        error = functional.mse_loss(emitted.float(), FACTOR * wanted.float(), reduction="none").mean((1, 2))
        music = music.index_add(0, torch.tensor(wanting, device=music.device), error)
    return Losses(text, music)


def cross_entropy(logits: Tensor, labels: Tensor, segments: Tensor | None = None, at: Tensor | None = None) -> Tensor:
    """[samples]: each one's mean over its labels of -log p(label | what precedes it in its segment, or its row).

    logits [B, T, tokens], or of the places that `packing.asked` gives, `at` [n], alone: [n, tokens].
    """
    segments = torch.ones_like(labels) if segments is None else segments
    if at is None:
        at = packing.asked(labels, segments)
        logits = logits.flatten(0, 1).index_select(0, at)
    each = functional.cross_entropy(logits.float(), labels.flatten()[at + 1], reduction="none")
    # Not index_add: its order of summing, and with it the last bits, would change from run to run on a GPU.
    own = packing.owners(segments).flatten()[at] == torch.arange(packing.count(segments), device=at.device)[:, None]
    return torch.where(own, each, 0).sum(1) / own.sum(1).clamp(min=1)


def music_states(model: M2UGen, hidden: Tensor, labels: Tensor, segments: Tensor, samples: Sequence[int]) -> Tensor:
    """hidden [B, T, dim] at the positions that predict [AUD0], [AUD1], ...: [samples, audio tokens, dim]."""
    count = model.config.audio_tokens
    ids = torch.tensor(model.config.audio_ids, device=labels.device)
    if labels.shape[1] <= count:
        raise ValueError(f"labels of {labels.shape[1]} tokens cannot hold a prompt and {count} audio tokens")
    owners = packing.owners(segments)
    first = owners[:, :-count]  # of the position that predicts a run's first label; the whole run must be its sample's
    runs = ((labels.unfold(1, count, 1)[:, 1:] == ids) & (owners.unfold(1, count, 1)[:, 1:] == first[..., None])).all(2)
    found = (runs & (first == torch.tensor(samples, device=labels.device)[:, None, None])).flatten(1)
    counts = found.sum(1).tolist()
    if wrong := [place for place, times in enumerate(counts) if times != 1]:
        row, place = (owners == samples[wrong[0]]).nonzero()[0].tolist()
        raise ValueError(f"row {row} of the batch has a music target, but its labels (segment {segments[row, place]}) "
                         f"hold [AUD0] to [AUD{count - 1}] {counts[wrong[0]]} times instead of once")
    starts = found.int().argmax(1)
    rows, starts = starts // first.shape[1], starts % first.shape[1]
    return hidden[rows[:, None], starts[:, None] + torch.arange(count, device=starts.device)]
