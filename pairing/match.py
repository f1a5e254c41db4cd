"""From stored measurements to pairs of clips with like rhythm, pitch and magnitude (M2UGen, section 4: MUEdit).

A clip is a point of eight dimensions, each in units of a difference that matters (pairing.points); how alike two are
is the Euclidean distance between them. N(a) is the first `max_pairs_per_clip` of the clips that may be paired with `a`
(of its split, of another source video, no copy of its recording, within the threshold), by distance, then by the
difference of the hashes of the two ids, then by id. Clips are a pair if each is in the other's N: a local definition,
which brute force can check, and which parts can be computed of without the whole.

What that takes is told in pairing.neighbours.
"""
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pairing import points
from pairing.neighbours import SLACK, Tree

VERSION = 1  # of all that decides pairs here: bump it when any changes, and pairs are decided anew


@dataclass(frozen=True)
class Settings:
    """What makes a pair. `threshold` is a distance: at 1, tempi of a pair differ by 3.5 % at most (`tempo_ratio`)."""
    threshold: float = 1.0
    max_pairs_per_clip: int = 4         # k
    half_double: bool = False           # tempi an octave apart count as equal
    # Below it a clip has no partner. Of 504 clips of nine sample corpora two were measured an octave off, with 0.56 and
    # 0.68; 17 (3.4 %) lie below 0.75, the other 15 of them right.
    min_tempo_confidence: float = 0.75

    def __post_init__(self) -> None:
        for name, right in (("threshold", 0 < self.threshold <= 100),
                            ("max_pairs_per_clip", self.max_pairs_per_clip > 0),
                            ("min_tempo_confidence", 0 <= self.min_tempo_confidence <= 1)):
            if not right:
                raise ValueError(f"pairing: {name} cannot be {getattr(self, name)!r}; threshold lies above 0 and up to "
                                 "100, max_pairs_per_clip is 1 or more, min_tempo_confidence lies within 0 to 1")

    @property
    def tempo_ratio(self) -> float:
        """The largest ratio that the tempi of a pair can have."""
        return 2 ** (self.threshold * points.DIMENSIONS[0].scale)


@dataclass(frozen=True)
class Clips:
    """n clips that can be paired, in any order: a row is the same clip in all fields."""
    vector: np.ndarray     # float64 [n, 8], of `vectors`
    rank: np.ndarray       # int64 [n]: place of the id among all ids, sorted
    tie: np.ndarray        # uint64 [n], of `ties`
    split: np.ndarray      # int32 [n]: equal numbers are one split, one source video, one recording
    source: np.ndarray
    recording: np.ndarray

    def __len__(self) -> int:
        return len(self.rank)

    def take(self, rows: np.ndarray | slice) -> "Clips":
        return Clips(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Found:
    """Pairs by the ranks of their clips, a < b, sorted; and the ranks of clips that no other is near enough to."""
    a: np.ndarray
    b: np.ndarray
    distance: np.ndarray
    alone: np.ndarray


def steady(vector: np.ndarray, confidence: np.ndarray, settings: Settings) -> np.ndarray:
    """Which clips can be paired: those with a sure tempo."""
    return (confidence >= settings.min_tempo_confidence) & np.isfinite(vector).all(axis=1)


def ties(ids: Iterable[str]) -> np.ndarray:
    """The first 8 bytes of each id's SHA-256. Of equal distances the smaller difference of these comes first: it is
    symmetric, so that equal clips find each other in pairs, and not all of them the same few.
    """
    return np.array([int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") for key in ids], np.uint64)


def pairs(clips: Clips, settings: Settings, buckets: int = 1) -> Found:
    """All pairs. The order of the clips and the number of buckets change nothing."""
    clips = clips.take(np.lexsort((clips.rank, position(clips.vector, settings))))
    found = [bucket(clips, number, buckets, settings) for number in range(buckets)]
    return merge(found)


def merge(found: list[Found]) -> Found:
    """What all buckets found."""
    a, b, far, alone = (np.concatenate([getattr(one, name) for one in found]) for name in Found.__dataclass_fields__)
    order = np.lexsort((b, a))
    return Found(a[order], b[order], far[order], np.sort(alone))


def position(vector: np.ndarray, settings: Settings) -> np.ndarray:
    """Where a clip stands in the order that buckets are cut from: its tempo, within an octave if octaves are equal."""
    return np.mod(vector[:, 0], points.OCTAVE) if settings.half_double else vector[:, 0]


def reach(positions: np.ndarray, number: int, buckets: int, settings: Settings) -> tuple[slice, np.ndarray]:
    """The bucket's core, and the rows that deciding its pairs takes. `positions` ascend.

    A partner lies within the threshold, and what may come before it in the partner's own N within another.
    """
    core = slice(len(positions) * number // buckets, len(positions) * (number + 1) // buckets)
    if core.start == core.stop:
        return core, np.empty(0, np.int64)
    margin = 2 * (settings.threshold + SLACK)
    low, high = positions[core.start] - margin, positions[core.stop - 1] + margin
    inside = np.zeros(len(positions), bool)
    for shift in (-points.OCTAVE, 0.0, points.OCTAVE) if settings.half_double else (0.0,):
        inside[np.searchsorted(positions, low + shift):np.searchsorted(positions, high + shift, "right")] = True
    return core, np.flatnonzero(inside)


def bucket(clips: Clips, number: int, buckets: int, settings: Settings) -> Found:
    """The pairs whose first clip (by id) lies in the bucket's core. `clips` are in the order of their positions."""
    core, rows = reach(position(clips.vector, settings), number, buckets, settings)
    return within(clips.take(rows), (rows >= core.start) & (rows < core.stop), settings)


def within(clips: Clips, core: np.ndarray, settings: Settings) -> Found:
    """The pairs whose first clip is in the core (bool [n]); all that may matter to them must be among `clips`."""
    found = [Found(*(np.empty(0, kind) for kind in (np.int64, np.int64, np.float64, np.int64)))]
    for split in np.unique(clips.split[core]):  # the smaller is not searched for among the many of the larger
        rows = np.flatnonzero(clips.split == split)
        found.append(_within(clips.take(rows), core[rows], settings))
    return merge(found)


def _within(clips: Clips, core: np.ndarray, settings: Settings) -> Found:
    tree = Tree(clips, settings)
    near = np.full((len(clips), settings.max_pairs_per_clip), -1, np.int64)
    far = np.full(near.shape, np.inf)
    asked = np.flatnonzero(core)
    near[asked], far[asked] = tree.nearest(asked)
    alone = clips.rank[asked[near[asked, 0] < 0]]
    a, column = np.nonzero((near >= 0) & core[:, None])
    b = near[a, column]
    first = clips.rank[a] < clips.rank[b]
    a, b, column = a[first], b[first], column[first]
    asked = np.unique(b[~core[b]])  # of the margin, only those that somebody wants
    near[asked], far[asked] = tree.nearest(asked)
    mutual = (near[b] == a[:, None]).any(axis=1)
    a, b, column = a[mutual], b[mutual], column[mutual]
    return Found(clips.rank[a], clips.rank[b], far[a, column], alone)
