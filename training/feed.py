"""Batches to train on: what each step computes, dealt to processes, in an order that can be gone on with anywhere.

Which samples a step holds depends on the samples, the seed and the epoch alone. How its rows are cut into micro-batches
and shared among processes changes nothing in what is learned: each micro-batch says what its samples count for. A
thread prepares the next steps while one is computed.

An epoch's plan is a few flat arrays, 4 bytes a sample and 8 a row: a million samples are planned in half a second, or
packed in two.
"""
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from threading import Event
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from manifests.messages import one_line
from manifests.outcomes import Loss
from training import packing
from training.config import MODALITIES
from training.examples import Example, Samples
from training.features import Features
from training.frozen import Frozen, decode, load
from training.packing import Batch, Rows
from training.sources import Media, Sources

AHEAD = 2       # steps that are prepared while one is computed
ELSEWHERE = 10  # files of a published dataset that are not there, with none that is
_WEIGHTS = 1  # tells the draw of rows by weight from that of their order


class Read(Protocol):
    """Where what frozen models make of a sample comes from: bfloat16, on the CPU. `encoded` raises Loss for a medium
    that cannot be used; the sample is left out then."""

    def encoded(self, modality: str, example: Example) -> Tensor: ...

    def target(self, example: Example) -> Tensor: ...


@dataclass(frozen=True)
class Micro:
    """What one process computes at once. The lists go by sample, as the batch numbers them.

    `share`: what each sample's loss counts for, 1 / samples of the step (of all processes); 0.0 where the micro-batch
    only keeps this process in step with the others.
    """
    batch: Batch
    encoded: dict[str, list[Tensor | None]]  # by modality; those alone that a sample hears
    targets: list[Tensor | None]
    names: list[str]                         # "dataset id"
    share: float


class Feed:
    """The micro-batches of process `rank` of `world`: a step is `rows` rows, each micro-batch `micro` of them.

    A row is a sample, with others of like length, or with `budget` as many as fit so many tokens (rows are that wide
    then: one shape, which compiles once). One step of an epoch may have fewer rows. `weights`: dataset → how often
    each of its rows comes in an epoch; the whole part always, the rest by a draw that differs from epoch to epoch.
    None: each once.

    `lost`: "dataset id" → why, for each sample that a step had to leave out so far. The others of the step count for
    what they would have, so that it makes no difference to which process a lost one was dealt.
    """

    def __init__(self, samples: Samples, read: Read, *, rows: int, micro: int, budget: int | None = None,
                 weights: Mapping[str, float] | None = None, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        """Raises ValueError for a dataset without a weight, and for a sample that no row has room for."""
        if rows < 1 or micro < 1 or not 0 <= rank < world:
            raise ValueError(f"{rows} rows a step, {micro} a micro-batch, process {rank} of {world}: at least one row, "
                             "and a process among them, are needed")
        if weights is not None and (missing := set(samples.datasets) - set(weights)):
            raise ValueError(f"no weight for {', '.join(sorted(missing))}")
        if budget is not None and len(samples) and (longest := int(samples.lengths.max())) > budget:
            name = _name(samples[int(samples.lengths.argmax())])
            raise ValueError(f"{name} has {longest} tokens, but a row has room for {budget}: give rows more room, or "
                             "prepare the data with shorter texts")
        self.lost: dict[str, str] = {}
        self._samples, self._read, self._weights, self._seed = samples, read, weights, seed
        self._rows, self._micro, self._budget, self._rank, self._world = rows, micro, budget, rank, world
        self._steps: dict[int, int] = {}
        self._planned: tuple[int, _Plan] | None = None

    def steps(self, epoch: int) -> int:
        if epoch not in self._steps:
            self._steps[epoch] = len(self._plan(epoch))
        return self._steps[epoch]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Micro]]:
        """For each step from `start`, this process's micro-batches: every process has the same number, at least one.

        What goes wrong in the thread is raised here. Close the generator to end the thread before the epoch's end.
        """
        plan, closing, ahead = self._plan(epoch), Event(), deque()
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as thread:
            try:
                for step in range(start, len(plan)):
                    ahead.append(thread.submit(self._step, plan.step(step), closing))
                    if len(ahead) > AHEAD:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                closing.set()  # what is still to be prepared is nothing then, and the thread ends

    def _plan(self, epoch: int) -> "_Plan":
        if self._planned is None or self._planned[0] != epoch:
            order = self._order(epoch)
            lengths = self._samples.lengths[order]
            # Windows of whole steps: otherwise each would end in a smaller one.
            window = self._rows * max(1, packing.WINDOW // self._rows)
            self._planned = epoch, _plan(order, (
                packing.padded(lengths, self._rows, self._seed, epoch, window) if self._budget is None else
                packing.packed(lengths, self._budget, self._rows, self._seed, epoch)))
        return self._planned[1]

    def _order(self, epoch: int) -> np.ndarray:
        """The numbers of the samples that the epoch shows, each as often as it comes."""
        if self._weights is None:
            return np.arange(len(self._samples), dtype=np.int32)
        generator = np.random.default_rng([self._seed, epoch, _WEIGHTS])
        times = np.zeros(len(self._samples), np.int64)
        for place, name in enumerate(self._samples.datasets):
            members = np.flatnonzero(self._samples.dataset_of == place)
            whole, rest = divmod(self._weights[name], 1)
            times[members] = int(whole)
            # As many as it should be, where that is a whole number; else one more or less, right in the mean.
            times[generator.permutation(members)[:int(rest * len(members) + generator.random())]] += 1
        return np.repeat(np.arange(len(times), dtype=np.int32), times)

    def _step(self, rows: Rows, closing: Event) -> list[Micro]:
        parts = [rows[start:start + self._micro] for start in range(0, len(rows), self._micro)]
        share, made = 1 / sum(map(len, rows)), []
        for place in range(self._rank, -(-len(parts) // self._world) * self._world, self._world):
            if closing.is_set():  # nobody waits for it
                break
            made.append(self._part(parts[place % len(parts)], share if place < len(parts) else 0.0))
        return made

    def _part(self, rows: Rows, share: float) -> Micro:
        examples = {number: self._samples[number] for row in rows for number in row}
        brought = {number: self._brought(example) for number, example in examples.items()}
        kept = [members for row in rows if (members := [number for number in row if brought[number] is not None])]
        if not kept:  # the process must compute something to stay in step: the texts alone, which count for nothing
            kept, share, brought = rows, 0.0, dict.fromkeys(brought, ({}, None))
        texts = {number: (examples[number].tokens.tolist(), examples[number].labels.tolist())
                 for row in kept for number in row}
        batch = packing.collate(kept, texts, self._budget)
        encoded = {modality: [brought[number][0].get(modality) for number in batch.samples] for modality in MODALITIES}
        return Micro(batch, {modality: heard for modality, heard in encoded.items()
                             if any(one is not None for one in heard)},
                     [brought[number][1] for number in batch.samples],
                     [_name(examples[number]) for number in batch.samples], share)

    def _brought(self, example: Example) -> tuple[dict[str, Tensor], Tensor | None] | None:
        """What it hears and what its music is compared with; None where it is lost."""
        try:
            return ({modality: self._read.encoded(modality, example) for modality in example.hears},
                    None if example.music is None else self._read.target(example))
        except Loss as loss:
            self.lost[_name(example)] = f"{loss.reason}: {loss.detail}" if loss.detail else loss.reason
            return None


@dataclass(frozen=True)
class _Plan:
    """`numbers` of samples, row by row; where in them each row ends, and where in the rows each step."""
    numbers: np.ndarray  # int32
    rows: np.ndarray     # int64, from 0
    steps: np.ndarray    # int64, from 0

    def __len__(self) -> int:
        return len(self.steps) - 1

    def step(self, step: int) -> Rows:
        bounds = self.rows[self.steps[step]:self.steps[step + 1] + 1]
        return [self.numbers[first:last].tolist() for first, last in pairwise(bounds)]


def _plan(order: np.ndarray, batches: Iterator[Rows]) -> _Plan:
    """`batches` as they number the places of `order`."""
    places, rows, steps = array("i"), array("q", [0]), array("q", [0])
    for batch in batches:
        for row in batch:
            places.extend(row)
            rows.append(len(places))
        steps.append(len(rows) - 1)
    return _Plan(order[np.asarray(places, np.int32)], np.asarray(rows), np.asarray(steps))


class Precomputed:
    """As `make features` stored it."""

    def __init__(self, features: Mapping[str, Features]) -> None:
        self._features = features

    def encoded(self, modality: str, example: Example) -> Tensor:
        return self._stored(modality, example)

    def target(self, example: Example) -> Tensor:
        return self._stored("text", example)

    def _stored(self, kind: str, example: Example) -> Tensor:
        if kind not in example.places or kind not in self._features:
            raise ValueError(f"{_name(example)} has no precomputed features of {kind}: run make features, and prepare "
                             "the data again")
        # Copied, so that it is the thread that waits for the disk, not who first looks into the mapped file.
        return self._features[kind].read(example.places[kind]).clone()


class Online:
    """Decoded and encoded on the spot, a sample at a time, by the frozen models (by kind: `frozen.choose`)."""

    def __init__(self, sources: Sources, frozen: Mapping[str, Frozen], device: torch.device | str = "cpu") -> None:
        self._media = Media(sources)
        self._models = {kind: load(one, device) for kind, one in frozen.items()}
        self._there: set[str] = set()  # published datasets of which a file was found
        self._gone: Counter[str] = Counter()

    def encoded(self, modality: str, example: Example) -> Tensor:
        """Raises Loss for a medium that cannot be decoded, and for a published file that is not there; OSError where
        none of a dataset's is, which is a wrong folder rather."""
        medium = example.hears[modality]
        try:
            found = self._media.read(modality, medium)
        except FileNotFoundError as error:
            self._gone[medium.dataset] += 1
            if medium.dataset not in self._there and self._gone[medium.dataset] == ELSEWHERE:
                raise OSError(f"{error}, nor were {ELSEWHERE - 1} others before it: give the folder that the media of "
                              f"{medium.dataset} are in, behind its file and a comma") from error
            raise Loss("unreadable", one_line(error)) from error
        self._there.add(medium.dataset)
        return self._models[modality]([decode(modality, found)])[0]

    def target(self, example: Example) -> Tensor:
        return self._models["text"]([{"text": example.music}])[0]


def _name(example: Example) -> str:
    return f"{example.dataset} {example.id}"
