"""What changed from one build to another: rows added, removed and changed, told by what they say, not by their files.

Builds write the rows of a split in the order of a hash of their clips (pipelines.write), so two builds are read side by
side, one row of each in memory. A row that moved to the other split is removed from one and added to the other.
"""
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from pipelines.version import held, rows, text
from pipelines.write import DATASETS, order
from training.sources import SPLITS, Sources

_SHOWN = 5  # ids of a kind
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@dataclass(frozen=True)
class Change:
    dataset: str
    split: str
    id: str
    change: Literal["added", "removed", "changed"]
    columns: tuple[str, ...] = ()  # that differ, of "changed"


def changes(a: str, b: str) -> Iterator[Change]:
    """Of every row that is not the same in both, by dataset and split. ValueError for a folder without datasets, a
    broken shard, and rows in another order than a build writes them in; OSError for what cannot be read."""
    if not (a and b):
        raise ValueError("which two builds? `make diff A=… B=…` compares what is in two folders")
    there = {*held(a), *held(b)}
    for dataset in filter(there.__contains__, DATASETS):
        for split in SPLITS:
            yield from _split(dataset, split, _ordered(a, dataset, split), _ordered(b, dataset, split))


def lines(found: Iterator[Change]) -> Iterator[str]:
    """For a person: a summary of each split in which something changed, and the first rows of each kind."""
    counts: dict[tuple[str, str], Counter] = {}
    columns: dict[tuple[str, str], Counter] = {}
    first: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        place = one.dataset, one.split
        counts.setdefault(place, Counter())[one.change] += 1
        columns.setdefault(place, Counter()).update(one.columns)
        some = first.setdefault((*place, one.change), [])
        if len(some) < _SHOWN:
            # A shard may be anybody's: what is in it must not garble a terminal.
            some.append(ascii(one.id)[1:-1] + (f": {', '.join(one.columns)}" if one.columns else ""))
    for (dataset, split), kinds in counts.items():
        where = ", ".join(f"{name} in {count}" for name, count in sorted(columns[dataset, split].items()))
        yield (f"{dataset} {split}: " + ", ".join(f"{kinds[kind]} {kind}" for kind in _SIGNS)
               + (f" ({where})" if where else ""))
        for kind, sign in _SIGNS.items():
            shown = first.get((dataset, split, kind), [])
            yield from (f"  {sign} {line}" for line in shown)
            if kinds[kind] > len(shown):
                yield f"  {sign} and {kinds[kind] - len(shown)} more"
    if not counts:
        yield "the same rows"


def tell(a: str, b: str, as_json: bool) -> int:
    """Print it; 0 where nothing differs, else 1, as `diff` has it."""
    differ = False

    def seen() -> Iterator[Change]:
        nonlocal differ
        for one in changes(a, b):
            differ = True
            yield one

    for line in (json.dumps(asdict(one)) for one in seen()) if as_json else lines(seen()):
        print(line)
    return int(differ)


def _split(dataset: str, split: str, before: Iterator[tuple], after: Iterator[tuple]) -> Iterator[Change]:
    old, new = next(before, None), next(after, None)
    while old or new:
        if new is None or (old and old[0] < new[0]):
            yield Change(dataset, split, old[1]["id"], "removed")
            old = next(before, None)
        elif old is None or new[0] < old[0]:
            yield Change(dataset, split, new[1]["id"], "added")
            new = next(after, None)
        else:
            if columns := _differing(old[1], new[1]):
                yield Change(dataset, split, old[1]["id"], "changed", columns)
            old, new = next(before, None), next(after, None)


def _differing(old: dict, new: dict) -> tuple[str, ...]:
    """Columns that only one of them has, or whose values differ."""
    return tuple(name for name in sorted({*old, *new})
                 if name not in old or name not in new or text(old[name]) != text(new[name]))


def _ordered(out: str, dataset: str, split: str) -> Iterator[tuple[tuple, dict]]:
    last = None
    for url in Sources(out).shards(dataset, split):
        for row in rows(url):
            if not isinstance(row.get("id"), str):
                raise ValueError(f"{url}: a row has no id; build {dataset} again, into another OUT, and compare that")
            clip = re.split("[~@]", row["id"])[0]  # of MUEdit's ids (pipelines.muedit)
            place = order(clip), clip, row["id"]
            if last and place <= last:
                raise ValueError(f"{url}: row {row['id']!a} is not where a build puts it; build {dataset} again, "
                                 "into another OUT, and compare that")
            yield place, row
            last = place
