"""From stored measurements to pairs of clips with like rhythm, pitch and magnitude (M2UGen, section 4: MUEdit).

A clip is a point of eight dimensions, each in units of a difference that matters (DIMENSIONS); how alike two clips are
is the Euclidean distance between them. N(a) is the first `max_pairs_per_clip` of the clips that may be paired with `a`
(of its split, of another source video, no copy of its recording, within the threshold), by distance, then by the
difference of the hashes of the two ids, then by id. Clips are a pair if each is in the other's N: a local definition,
which brute force can check, and which parts can be computed of without the whole.

A tree proposes, `distance` decides. Clips with equal points are one point of the tree, and stand in it in the order of
their hashes, so that thousands of them cost no more than others. Searches grow while exclusions eat what was found:
n clips take O(n (log n + s)) time, s being how many clips of one source video or recording lie within the threshold of
each other (some microseconds each: 20,000 clips take a second, or twenty if each video has 500 that are all alike), and
O(n + _ROOM) memory.
"""
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from pairing.rhythm import PULSE

VERSION = 1  # of all that decides pairs here: bump it when any changes, and pairs are decided anew


@dataclass(frozen=True)
class Dimension:
    name: str
    unit: str
    scale: float  # the difference, in that unit, that counts as 1
    why: str


DIMENSIONS = (
    Dimension("tempo", "octave", 0.05,
              "3.5 %: ten seconds of two clips at 120 BPM then stay within a beat of each other"),
    Dimension("onset rate", "octave", 1.0, "how busy it is: twice the notes a second is another texture"),
    Dimension("division", "", 0.5,
              "of the beat, from `pulse`: what returns after 1/2 less what returns after 1/3 and 2/3 of it; straight "
              "eighths lie near 0.3, triplets and swing below 0"),
    Dimension("fifths, across", "", 0.75,
              "with the next, the place on the circle of fifths: the 5th Fourier coefficient of the chroma, 0.2 to 0.5 "
              "from the centre where there is a key; neighbouring keys are near, and no key is decided"),
    Dimension("fifths, up", "", 0.75, "the circle's other axis"),
    Dimension("register", "semitone", 24.0, "median pitch: a bass line and a flute an octave up are another voice"),
    Dimension("loudness", "LU", 12.0, "magnitude: twice as loud to the ear is 10"),
    Dimension("dynamics", "dB", 12.0, "how far loud and quiet moments lie apart: sustained, or struck and silent"),
)
COLUMNS = ("tempo", "tempo_confidence", "onset_rate", "pulse", "chroma", "pitch_median", "loudness", "dynamics")

_UNPITCHED = 64.0   # MIDI note of what has no pitch: the middle of what has, so that it is far from nothing
_QUIET = -70.0      # LUFS: the absolute gate, below which loudness is null
_FEWEST = 0.25      # onsets per second: log2 of fewer means nothing
_OCTAVE = 1 / DIMENSIONS[0].scale
_FIFTHS = tuple((math.cos(2 * math.pi * 5 * pitch / 12), math.sin(2 * math.pi * 5 * pitch / 12)) for pitch in range(12))
_HALF, _THIRD, _TWO_THIRDS = (PULSE.index(part) for part in (1 / 2, 1 / 3, 2 / 3))

_SPARE = 4          # neighbours asked for beyond k at first: itself, and a few of its own source
_ROOM = 2**20       # candidates looked at at once: some 100 MB
_SLACK = 1e-9       # more than the tree's distances and ours can differ by rounding


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
        return 2 ** (self.threshold * DIMENSIONS[0].scale)


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


def vectors(measured: Mapping[str, np.ndarray]) -> np.ndarray:
    """Points [n, 8], float64, of COLUMNS [n] (`pulse` [n, 6], `chroma` [n, 12]), NaN being null; NaN without a tempo.

    What has no pitch lies in the middle of the circle of fifths and of the register: percussion is as far from every
    key. Only operations that round alike on every machine and in every place of an array: what is one bit off can be
    another pair.
    """
    measured = {name: np.asarray(measured[name], np.float64) for name in COLUMNS}
    chroma = np.where(np.isnan(measured["chroma"]), 1 / 12, measured["chroma"])
    pulse = measured["pulse"]
    place = np.zeros((2, len(chroma)))
    for shares, weights in zip(chroma.T, _FIFTHS, strict=True):
        for axis, weight in zip(place, weights, strict=True):
            axis += shares * weight
    raw = (
        _log2(measured["tempo"]),
        _log2(np.where(measured["onset_rate"] >= _FEWEST, measured["onset_rate"], _FEWEST)),
        pulse[:, _HALF] - (pulse[:, _THIRD] + pulse[:, _TWO_THIRDS]) / 2,
        *place,
        np.where(np.isnan(measured["pitch_median"]), _UNPITCHED, measured["pitch_median"]),
        np.where(np.isnan(measured["loudness"]), _QUIET, measured["loudness"]),
        measured["dynamics"],
    )
    return np.stack([values / dimension.scale for values, dimension in zip(raw, DIMENSIONS, strict=True)], axis=1)


def _log2(values: np.ndarray) -> np.ndarray:
    # Not np.log2: its last bit may depend on where in the array a number stands, and on the processor.
    return np.array([math.log2(value) if value > 0 else math.nan for value in values.tolist()], np.float64)


def steady(vector: np.ndarray, confidence: np.ndarray, settings: Settings) -> np.ndarray:
    """Which clips can be paired: those with a sure tempo."""
    return (confidence >= settings.min_tempo_confidence) & np.isfinite(vector).all(axis=1)


def ties(ids: Iterable[str]) -> np.ndarray:
    """The first 8 bytes of each id's SHA-256. Of equal distances the smaller difference of these comes first: it is
    symmetric, so that equal clips find each other in pairs, and not all of them the same few.
    """
    return np.array([int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") for key in ids], np.uint64)


def distance(one: np.ndarray, other: np.ndarray, half_double: bool = False) -> np.ndarray:
    """Between points [..., 8], float64 [...]: the same bits for (a, b) and (b, a), alone or among others."""
    tempo = one[..., 0] - other[..., 0]
    total = tempo * tempo
    if half_double:
        for shift in (-_OCTAVE, _OCTAVE):
            total = np.minimum(total, (tempo + shift) * (tempo + shift))
    for index in range(1, len(DIMENSIONS)):
        difference = one[..., index] - other[..., index]
        total = total + difference * difference
    return np.sqrt(total)


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
    return np.mod(vector[:, 0], _OCTAVE) if settings.half_double else vector[:, 0]


def reach(positions: np.ndarray, number: int, buckets: int, settings: Settings) -> tuple[slice, np.ndarray]:
    """The bucket's core, and the rows that deciding its pairs takes. `positions` ascend.

    A partner lies within the threshold, and what may come before it in the partner's own N within another.
    """
    core = slice(len(positions) * number // buckets, len(positions) * (number + 1) // buckets)
    if core.start == core.stop:
        return core, np.empty(0, np.int64)
    margin = 2 * (settings.threshold + _SLACK)
    low, high = positions[core.start] - margin, positions[core.stop - 1] + margin
    inside = np.zeros(len(positions), bool)
    for shift in (-_OCTAVE, 0.0, _OCTAVE) if settings.half_double else (0.0,):
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
    tree = _Tree(clips, settings)
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


class _Tree:
    """A tree of the different points, and behind each its clips in the order of their hashes."""

    def __init__(self, clips: Clips, settings: Settings):
        self.clips, self.settings = clips, settings
        order = np.lexsort((clips.rank, clips.tie, *clips.vector.T))
        point = clips.vector[order]
        new = np.r_[True, (point[1:] != point[:-1]).any(axis=1)]
        self.order = order
        self.start = np.flatnonzero(new)
        self.end = np.r_[self.start[1:], len(order)]
        self.place = np.empty(len(order), np.int64)     # of a clip in `order`
        self.place[order] = np.arange(len(order))
        # Where a clip's hash stands among all, so that (point, hash) is one number to search for.
        self.height = np.empty(len(order), np.int64)
        self.height[np.lexsort((clips.rank, clips.tie))] = np.arange(len(order))
        self.rung = (np.cumsum(new) - 1) * len(order) + self.height[order]
        self.points = point[new]
        self.tree = cKDTree(self.points)
        self.shifts = (-_OCTAVE, 0.0, _OCTAVE) if settings.half_double else (0.0,)

    def nearest(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """N of each row, [rows, k], in order, and how far they are; -1 and inf where there are fewer."""
        near = np.full((len(rows), self.settings.max_pairs_per_clip), -1, np.int64)
        far = np.full(near.shape, np.inf)
        todo, width = np.arange(len(rows)), self.settings.max_pairs_per_clip + _SPARE
        while len(todo):
            size = max(1, _ROOM // (min(width, len(self.points)) * len(self.shifts)))
            unsure = []
            for start in range(0, len(todo), size):
                some = todo[start:start + size]
                near[some], far[some], sure = self._look(rows[some], width)
                unsure.append(some[~sure])
            todo, width = np.concatenate(unsure), 2 * width
        return near, far

    def _look(self, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """N of each row among its `width` nearest points and at each the 2 x `width` nearest hashes; and whether it is
        sure that no other clip belongs there.
        """
        clips, settings = self.clips, self.settings
        count, wide = len(rows), min(width, len(self.points))
        unseen = np.full(count, np.inf)  # what the tree did not give lies at least so far
        found = []
        for shift in self.shifts:
            query = clips.vector[rows]
            query[:, 0] += shift
            far, point = self.tree.query(query, k=range(1, wide + 1), distance_upper_bound=settings.threshold + _SLACK)
            if wide < len(self.points):
                unseen = np.minimum(unseen, far[:, -1])
            row, column = np.nonzero(point < len(self.points))
            found.append(row * len(self.points) + point[row, column])
        row, point = np.divmod(np.unique(np.concatenate(found)), len(self.points))
        far = distance(clips.vector[rows[row]], self.points[point], settings.half_double)
        close = far <= settings.threshold
        row, point, far = row[close], point[close], far[close]

        middle = np.searchsorted(self.rung, point * len(clips) + self.height[rows[row]])
        low = np.maximum(self.start[point], middle - width)
        high = np.minimum(self.end[point], middle + width + 1)
        ends = np.cumsum(high - low)
        if len(ends) and ends[-1] > 4 * _ROOM and count > 1:
            halves = [self._look(half, width) for half in np.array_split(rows, 2)]
            return tuple(np.concatenate(parts) for parts in zip(*halves, strict=True))
        which = np.repeat(np.arange(len(row)), high - low)
        other = self.order[np.arange(len(which)) - np.repeat(ends - (high - low), high - low) + low[which]]
        one = rows[row[which]]
        allowed = ((one != other) & (clips.source[one] != clips.source[other])
                   & (clips.recording[one] != clips.recording[other]))
        which, one, other = which[allowed], one[allowed], other[allowed]
        gap = _gap(clips.tie[one], clips.tie[other])
        order = np.lexsort((clips.rank[other], gap, far[which], row[which]))
        which, other, gap = which[order], other[order], gap[order]
        number = np.arange(len(which)) - np.searchsorted(row[which], row[which])
        kept = number < settings.max_pairs_per_clip

        near = np.full((count, settings.max_pairs_per_clip), -1, np.int64)
        distances = np.full(near.shape, np.inf)
        last = np.full(count, np.iinfo(np.uint64).max)  # difference of hashes of the k-th
        near[row[which[kept]], number[kept]] = other[kept]
        distances[row[which[kept]], number[kept]] = far[which[kept]]
        full = number == settings.max_pairs_per_clip - 1
        last[row[which[full]]] = gap[full]

        limit = distances[:, -1]
        sure = np.isinf(unseen) | (limit < unseen - _SLACK)
        for cut, beyond in ((low > self.start[point], low - 1), (high < self.end[point], high)):
            at = row[cut]
            edge = _gap(clips.tie[rows[at]], clips.tie[self.order[beyond[cut]]])
            first = (far[cut] < limit[at]) | ((far[cut] == limit[at]) & (edge <= last[at]))
            sure[at[first]] = False
        return near, distances, sure


def _gap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The difference of two hashes, without a sign."""
    return np.where(one > other, one - other, other - one)
