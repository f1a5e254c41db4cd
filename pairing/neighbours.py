"""The nearest clips of each clip that it may be paired with, exactly: a tree proposes, `points.distance` decides.

Clips with equal points are one point of the tree, and stand in it in the order of their hashes, so that thousands of
them cost no more than others. Searches grow while exclusions eat what was found: n clips take O(n (log n + s)) time, s
being how many clips of one source video or recording lie within the threshold of each other (some microseconds each:
20,000 clips take a second, or twenty if each video has 500 that are all alike), and O(n + _ROOM) memory.
"""
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from pairing.points import OCTAVE, distance

if TYPE_CHECKING:
    from pairing.match import Clips, Settings

_SPARE = 4          # neighbours asked for beyond k at first: itself, and a few of its own source
_ROOM = 2**20       # candidates looked at at once: some 100 MB
SLACK = 1e-9       # more than the tree's distances and ours can differ by rounding


class Tree:
    """A tree of the different points, and behind each its clips in the order of their hashes."""

    def __init__(self, clips: "Clips", settings: "Settings"):
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
        self.shifts = (-OCTAVE, 0.0, OCTAVE) if settings.half_double else (0.0,)

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
            far, point = self.tree.query(query, k=range(1, wide + 1), distance_upper_bound=settings.threshold + SLACK)
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
        sure = np.isinf(unseen) | (limit < unseen - SLACK)
        for cut, beyond in ((low > self.start[point], low - 1), (high < self.end[point], high)):
            at = row[cut]
            edge = _gap(clips.tie[rows[at]], clips.tie[self.order[beyond[cut]]])
            first = (far[cut] < limit[at]) | ((far[cut] == limit[at]) & (edge <= last[at]))
            sure[at[first]] = False
        return near, distances, sure


def _gap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The difference of two hashes, without a sign."""
    return np.where(one > other, one - other, other - one)
