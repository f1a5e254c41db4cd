"""The numbers of a page's plots, counted row by row: memory is that of the bars, however many rows there are."""
import math
from collections import Counter
from collections.abc import Mapping

from captioners.vocabulary import HEDGED
from pipelines.columns import AGREEMENT

_PITCHES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# Column, title, unit, width of a bar.
_NUMBERS = (("tempo", "Tempo", "BPM", 5), ("duration", "Duration", "s", None), ("loudness", "Loudness", "LUFS", 1),
            ("words", "Words of a caption", "words", 2), ("distance", "Distance of pairs", "", 0.05))
_LASTS = (0, 2, 5, 8, 12, 15, 20, 30, 60, 120, 300, 600, 1800)  # s, lower edges
_FEWEST = 12  # bars: fewer would look like a category each


class Counts:
    """Of one dataset."""
    COLUMNS = ("duration", "caption", "edit", "amount", "distance", "tempo", "tempo_confidence", "loudness")

    def __init__(self):
        self._bars = {name: Counter() for name, *_ in _NUMBERS}
        self._edits = Counter()

    def add(self, row: Mapping) -> None:
        values = {"duration": row["duration"], "words": len((row["caption"] or "").split()),
                  "loudness": row.get("loudness"), "distance": row.get("distance"),
                  "tempo": row.get("tempo") if (row.get("tempo_confidence") or 0) >= HEDGED else None}
        for name, _, _, width in _NUMBERS:
            if (value := values[name]) is not None:
                self._bars[name][_class(value) if width is None else math.floor(value / width + 1e-9)] += 1
        if row.get("edit"):
            self._edits[row["edit"], row.get("amount") or 0.0] += 1

    def plots(self, stats: Mapping) -> list[dict]:
        """For each: title, unit, of (what is counted), bars [[label, count, axis label or null], …], edges (whether
        those labels mark the bars' lower edges), spread, halves (names). `stats`: the dataset's in stats.json."""
        found = []
        for name, title, unit, width in _NUMBERS:
            counts = self._bars[name]
            spread = stats["captions"]["words"] if name == "words" else stats.get(name)
            if counts and width is None:
                first, last = min(counts), max(counts)
                bars = [[_between(place), counts[place], _between(place)] for place in range(first, last + 1)]
            elif counts:
                bars = _histogram(counts, width, unit)
            elif name == "tempo" and spread:  # its rows do not hold the tempo, but the statistics do, in bands
                bars = _bands(stats["tempo_histogram"])
            else:
                continue
            found.append({"title": title, "unit": unit, "of": "row", "bars": bars, "spread": spread,
                          "edges": width is not None})
        keys = [[f"{pitch} {mode}", stats["keys"].get(f"{pitch} {mode}", 0), pitch if len(pitch) == 1 else None]
                for mode in ("major", "minor") for pitch in _PITCHES]
        if any(count for _, count, _ in keys):
            found.insert(1, {"title": "Key", "unit": "", "of": "clip", "bars": keys, "halves": ["major", "minor"],
                             "spread": None})
        if self._edits:
            found.append({"title": "Edits", "unit": "", "of": "row", "spread": None, "bars": [
                [_edit(kind, amount), count, _short(kind, amount)]
                for (kind, amount), count in sorted(self._edits.items())]})
        return found


def agreement(stats: Mapping) -> list[list]:
    """Facet, captions that agree with what was measured, captions that contradict it."""
    return [[facet, counts.get("agrees", 0), counts.get("contradicts", 0)]
            for facet in AGREEMENT if (counts := stats["agreement"].get(facet))]


def _histogram(counts: Counter, width: float, unit: str) -> list[list]:
    """Bars from the first to the last that is not empty, and around them so that they are _FEWEST."""
    first, last = min(counts), max(counts)
    missing = max(0, _FEWEST - (last - first + 1))
    first = first - missing // 2 if first < 0 else max(0, first - missing // 2)
    last = max(last, first + _FEWEST - 1)
    every = next((step for step in (2, 4, 5, 10, 20, 50, 100) if (last - first + 1) / step <= 6), 200)
    return [[f"{place * width:g} to {(place + 1) * width:g} {unit}".strip(), counts[place],
             f"{place * width:g}" if place % every == 0 else None] for place in range(first, last + 1)]


def _bands(histogram: Mapping[str, int]) -> list[list]:
    """Of stats.json: {"from 060 BPM": count}."""
    edges = [int(name.split()[1]) for name in sorted(histogram)]
    return [[f"{low} to {high} BPM" if high else f"{low} BPM and more", histogram[name], f"{low}"]
            for name, low, high in zip(sorted(histogram), edges, [*edges[1:], None], strict=True)]


def _class(seconds: float) -> int:
    return sum(seconds >= edge for edge in _LASTS) - 1


def _between(place: int) -> str:
    low = _LASTS[place]
    return f"{low}–{_LASTS[place + 1]}" if place + 1 < len(_LASTS) else f"{low}+"


def _edit(kind: str, amount: float) -> str:
    return {"tempo": f"tempo × {amount:g}", "pitch": f"pitch {amount:+g} semitones"}.get(kind, kind)


def _short(kind: str, amount: float) -> str:
    return {"tempo": f"×{amount:g}", "pitch": f"{amount:+g}".replace("-", "−")}.get(kind, kind)
