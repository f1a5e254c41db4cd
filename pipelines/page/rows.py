"""Which rows of a build a page shows, and what it says of them."""
import heapq
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from captioners.vocabulary import HEDGED
from manifests import shards, splits, storage
from manifests.outcomes import DONE
from pipelines.columns import AGREEMENT

MEASURED = ("tempo", "tempo_confidence", "key", "mode", "key_confidence", "loudness")
_KINDS = {"audio": "audio", "target_audio": "audio", "image": "image", "video": "video"}


def shards_of(out: str, dataset: str) -> Iterator[tuple[str, str]]:
    """Split and URL of each shard that the dataset's own files name: a build in flight may have written others."""
    root = storage.join(out, "datasets", dataset)
    for split in (splits.TRAIN, splits.EVAL):
        state = storage.join(root, split, "state.json")
        if storage.exists(state):
            yield from ((split, storage.join(root, split, file["filename"]))
                        for file in storage.read_json(state)["_data_files"])


class Sample:
    """At most `size` rows of a dataset, by a hash: of each split and kind of edit about as many, as far as there are.

    The source's hash comes first, so that the datasets of a build show the same clips.
    """

    def __init__(self, size: int):
        self.size = size
        self._kept: dict[tuple[str, str], list] = {}

    def add(self, split: str, url: str, row: Mapping) -> None:
        kept = self._kept.setdefault((split, row.get("edit") or ""), [])
        # The largest hash is the smallest number: what a heap gives up first.
        heapq.heappush(kept, (-splits.fraction(row["source_id"], "page"), -splits.fraction(row["id"], "page"),
                              row["id"], split, url))
        if len(kept) > self.size:
            heapq.heappop(kept)

    def chosen(self) -> list[tuple[str, str, str]]:
        """Id, split and URL of each row, in the order of the page."""
        turns = zip_longest(*(sorted(kept, reverse=True) for _, kept in sorted(self._kept.items())))
        found = [one for turn in turns for one in turn if one is not None][:self.size]
        return [one[2:] for one in sorted(found, reverse=True)]


def read(chosen: list[tuple[str, str, str]]) -> Iterator[tuple[str, dict]]:
    """Split and row of each, media and all, as they lie: one look at each shard, one row in memory at a time."""
    for url in sorted({url for _, _, url in chosen}):
        wanted = {key: split for key, split, where in chosen if where == url}
        for batch in shards.batches(url):
            for place, key in enumerate(batch.column("id").to_pylist()):
                if key in wanted:
                    yield wanted[key], batch.slice(place, 1).to_pylist()[0]


def measured(out: str, stats: Mapping, ids: set[str]) -> dict[str, dict]:
    """What was measured of clips, from the build's stages; of datasets whose rows do not hold it."""
    found = {}
    folder = storage.join(out, "stages", "measure", stats["made"]["stages"]["measure"])
    for name in storage.names(folder) if ids else ():
        if name.endswith(".arrow") and storage.exists(storage.join(folder, name.removesuffix("arrow") + "json")):
            for row in shards.read(storage.join(folder, name), ["id", "outcome", *MEASURED]):
                if row["id"] in ids and row["outcome"] == DONE:
                    found[row["id"]] = row
    return found


def told(dataset: str, split: str, row: Mapping, facts: Mapping | None) -> dict:
    """What the page says of a row; its media apart."""
    facts = row if "tempo" in row else facts or {}
    return {
        "dataset": dataset, "split": split, "id": row["id"], "edit": row.get("edit"), "amount": row.get("amount"),
        "distance": row.get("distance"), "source": _side(row, facts, ""),
        "target": _side(row, row, "target_") if "target_audio" in row else None,
        "seen": row.get("image_caption") or row.get("video_caption"), "tags": row.get("tags") or [],
        "description": row.get("description"),
        "turns": [[turn["from"], turn["value"]] for turn in row.get("conversation") or []],
        "instructor": _who(row, "instructor")}


def _side(row: Mapping, facts: Mapping, prefix: str) -> dict:
    """A clip of the row. What the captions do not dare to say is left out."""
    sure = {name: (facts.get(f"{prefix}{name}_confidence") or 0) >= HEDGED for name in ("tempo", "key")}
    tempo, key, mode = (facts.get(f"{prefix}{name}") for name in ("tempo", "key", "mode"))
    checks = row.get(f"{prefix}agreement") or {}
    return {"source_id": row.get(f"{prefix}source_id"), "duration": row.get(f"{prefix}duration"),
            "tempo": tempo if sure["tempo"] else None, "key": f"{key} {mode}" if sure["key"] and key else None,
            "loudness": facts.get(f"{prefix}loudness"), "caption": row.get(f"{prefix}caption"),
            "captioner": _who(row, f"{prefix}captioner"),
            "checks": {name: checks[name] for name in AGREEMENT if checks.get(name)}}


def _who(row: Mapping, column: str) -> str | None:
    return f"{row[column]} {row[f'{column}_revision'][:12]}" if row.get(column) else None


def media(row: Mapping) -> Iterator[tuple[str, str, bytes]]:
    """Column, kind and bytes of each medium of the row."""
    return ((column, kind, row[column]["bytes"]) for column, kind in _KINDS.items() if column in row)
