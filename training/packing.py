"""Several samples in one row of a batch, or one a row: which go together, and which position is whose.

What a batch holds is a list of rows of sample numbers: `padded` puts samples of like length together, one a row;
`packed` fills rows of a fixed number of tokens. Both depend on the lengths, the seed and the epoch alone. `collate`
makes tensors of either, with `segments` [B, T]: 0 is padding, 1, 2, ... the samples of a row, each in one piece. The
batch's samples are numbered row by row, and what each hears is given in that order.
"""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100
WINDOW = 1024  # samples that are shuffled together before like lengths are sought among them

Rows = list[list[int]]
"""One batch: for each row, the numbers of its samples."""


@dataclass(frozen=True)
class Batch:
    """`tokens`, `labels`, `segments` [B, T]; `samples`: their numbers, in the order in which the model counts them."""
    tokens: Tensor
    labels: Tensor
    segments: Tensor
    samples: list[int]


def padded(lengths: Sequence[int], rows: int, seed: int, epoch: int, window: int = WINDOW) -> Iterator[Rows]:
    """Every sample once, one a row, `rows` rows a batch (the last batch of a window may have fewer)."""
    lengths = np.asarray(lengths)
    generator = np.random.default_rng([seed, epoch])
    for part in _windows(len(lengths), window, generator):
        part = part[np.argsort(lengths[part], kind="stable")]
        batches = [part[start:start + rows] for start in range(0, len(part), rows)]
        for which in generator.permutation(len(batches)):
            yield [[sample] for sample in batches[which].tolist()]


def packed(lengths: Sequence[int], budget: int, rows: int, seed: int, epoch: int,
           window: int = WINDOW) -> Iterator[Rows]:
    """Every sample once, in rows of at most `budget` tokens, `rows` rows a batch (the last batch may have fewer).

    First-fit decreasing within a window: it leaves at most 11/9 of the fewest rows possible (Johnson, 1973). Raises
    ValueError for a sample that no row has room for: what may be cut from it is not known here.
    """
    lengths = np.asarray(lengths)
    if long := np.flatnonzero(lengths > budget).tolist():
        raise ValueError(f"sample {long[0]} has {lengths[long[0]]} tokens, but a row has room for {budget}: shorten "
                         f"it, or give rows more room ({len(long)} samples are too long)")
    generator = np.random.default_rng([seed, epoch])
    waiting: Rows = []
    for part in _windows(len(lengths), window, generator):
        filled = _first_fit(part[np.argsort(-lengths[part], kind="stable")], lengths, budget)
        waiting += [filled[which] for which in generator.permutation(len(filled))]
        while len(waiting) >= rows:
            yield waiting[:rows]
            waiting = waiting[rows:]
    if waiting:
        yield waiting


def _windows(count: int, window: int, generator: np.random.Generator) -> list[np.ndarray]:
    order = generator.permutation(count)
    return [order[start:start + window] for start in range(0, count, window)]


def _first_fit(order: np.ndarray, lengths: np.ndarray, budget: int) -> Rows:
    """Each sample in the first row that has room for it."""
    free = np.full(len(order), budget)
    rows: Rows = [[] for _ in order]
    for sample in order.tolist():
        row = int((free >= lengths[sample]).argmax())
        free[row] -= lengths[sample]
        rows[row].append(sample)
    return [row for row in rows if row]


def collate(rows: Rows, samples: Mapping[int, tuple[Sequence[int], Sequence[int]]], width: int | None = None) -> Batch:
    """Tensors of one batch. `samples`: for each number its tokens and their labels (IGNORED where nothing is asked).

    Rows are padded at their end to `width` (default: the longest row; a fixed one compiles once). A sample's first
    label is dropped, as nothing of its own predicts it. Raises ValueError for an empty sample, labels that are not as
    many as the tokens, or a row that is wider than `width`.
    """
    for sample in (sample for row in rows for sample in row):
        tokens, labels = samples[sample]
        if not len(tokens) or len(tokens) != len(labels):
            raise ValueError(f"sample {sample} has {len(tokens)} tokens and {len(labels)} labels: as many are needed "
                             "of both, and at least one")
    widest = max(sum(len(samples[sample][0]) for sample in row) for row in rows)
    width = widest if width is None else width
    if widest > width:
        raise ValueError(f"a row of {widest} tokens does not fit a batch that is {width} wide")
    made = torch.zeros(3, len(rows), width, dtype=torch.long)
    made[1] = IGNORED
    for row, members in enumerate(rows):
        end = 0
        for segment, sample in enumerate(members, 1):
            tokens, labels = samples[sample]
            start, end = end, end + len(tokens)
            made[:, row, start:end] = torch.tensor([tokens, labels, [segment] * len(tokens)])
            made[1, row, start] = IGNORED
    return Batch(*made, [sample for row in rows for sample in row])


def count(segments: Tensor) -> int:
    """How many samples a batch holds."""
    return int(segments.amax(1).sum())


def owners(segments: Tensor) -> Tensor:
    """[B, T]: the number of the sample that each position belongs to, as the model counts them; -1 at padding."""
    last = segments.amax(1).cumsum(0)
    return torch.where(segments > 0, segments - 1 + (last - segments.amax(1))[:, None], -1)


def asked(labels: Tensor, segments: Tensor) -> Tensor:
    """[n]: the places, in the flattened batch, that predict a label: the next one's, of the same sample."""
    own = owners(segments)
    wanted = (labels[:, 1:] != IGNORED) & (own[:, 1:] == own[:, :-1]) & (own[:, 1:] >= 0)
    return functional.pad(wanted, (0, 1)).flatten().nonzero()[:, 0]


def positions(segments: Tensor) -> Tensor:
    """[B, T]: from 0 in each segment.

    Padding after a segment counts on: no token sees what follows it, so padding needs no mask, and rows of one sample
    keep the kernels that only a causal mask allows. Padding before the first segment counts by itself.
    """
    place = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    begins = segments.diff(dim=1, prepend=segments[:, :1]) != 0
    return place - (place * (begins & (segments > 0))).cummax(1).values


def varlen(positions: Tensor) -> dict[str, Tensor | int]:
    """Where sequences begin and end when rows are laid end to end, by the names under which transformers asks for it.

    Its flash attention would find them by itself in a batch of one row, layer by layer; with more rows it would take
    each for one sequence.
    """
    begins = (positions.flatten() == 0).nonzero()[:, 0]
    bounds = torch.cat([begins, begins.new_tensor([positions.numel()])]).int()
    longest = int(bounds.diff().max())
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
