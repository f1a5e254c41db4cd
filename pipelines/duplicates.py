"""duplicates: a global stage. One clip of each recording is kept, over all datasets of a build and both splits."""
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from manifests import shards, splits, storage
from manifests.outcomes import DONE
from pairing import fingerprint
from pipelines.marks import Entry

VERSION = 2
_WHOLE = 0.9  # of the longest copy: re-encoding pads and trims a little
_SCHEMA = pa.schema([("id", pa.string()), ("kept", pa.string())])


def find(out: str, kept: Iterable[str], segments: Mapping[str, dict], index: Mapping[str, Mapping[str, Entry]],
         split: Mapping[str, str], threshold: float) -> dict[str, Entry]:
    """What became of each of `kept`. Cached by its input, so that a finished build reads one small file.

    Of clips that sound alike, one in the evaluation split stays before one in the training split (a copy must not
    straddle the splits), then a whole before its excerpt, then the smallest id. A whole track and a segment of the
    same video, which different datasets want, are no copies of each other: of each kind one stays.
    """
    kept = sorted(kept)
    source = {key: (segments[key]["source_id"], segments[key]["start"] is None) for key in kept}
    fetched, measured = index["fetch"], index["measure"]
    asked = json.dumps([VERSION, fingerprint.VERSION, threshold,
                        [[key, fetched[key].sha256, measured[key].digest, split[key], *source[key]] for key in kept]])
    folder, name = storage.join(out, "stages", "duplicates"), f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.arrow"
    url = storage.join(folder, name)
    if not storage.exists(url):
        shards.write(url, _SCHEMA, _decide(kept, source, fetched, measured, split, threshold))
        for older in storage.names(folder):
            if older != name:
                storage.remove(storage.join(folder, older))
    repeats = {row["id"]: told(row["kept"]) for row in shards.read(url)}
    return {key: Entry(url, "", "duplicate" if key in repeats else DONE, "", repeats.get(key, ""), None, None, {})
            for key in kept}


def told(kept: str) -> str:
    """The detail in the ledger of a clip that repeats `kept`."""
    return f"same recording as {kept}"


def _decide(kept: list[str], source: Mapping[str, tuple[str, bool]], fetched: Mapping[str, Entry],
            measured: Mapping[str, Entry], split: Mapping[str, str], threshold: float) -> Iterator[dict]:
    prints, durations = _prints(kept, measured)
    pairs = fingerprint.duplicates(prints, threshold)
    # Equal files are equal, even where there is too little change in them for a fingerprint to know.
    first: dict[str | None, int] = {}
    pairs += [(first[fetched[key].sha256], index, 0.0) for index, key in enumerate(kept)
              if first.setdefault(fetched[key].sha256, index) != index]
    if not pairs:
        return
    left, right, _ = zip(*pairs, strict=True)
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(len(kept), len(kept)))
    _, label = connected_components(graph, directed=False)
    alike = sorted({*left, *right}, key=lambda one: (label[one], one))
    for _, group in itertools.groupby(alike, key=lambda one: label[one]):
        group = list(group)
        candidates = [one for one in group if split[kept[one]] == splits.EVAL] or group
        longest = max(durations[one] for one in candidates)
        winner = min((one for one in candidates if durations[one] > _WHOLE * longest), key=lambda one: kept[one])
        video, whole = source[kept[winner]]
        beside = min((one for one in group if source[kept[one]] == (video, not whole)), default=winner)
        for loser in group:
            if loser not in (winner, beside):
                yield {"id": kept[loser], "kept": kept[winner]}


def _prints(kept: list[str], measured: Mapping[str, Entry]) -> tuple[list[np.ndarray], np.ndarray]:
    """Fingerprints and durations (s), in the order of `kept`."""
    position = {key: index for index, key in enumerate(kept)}
    prints, durations = [np.empty(0, np.uint32)] * len(kept), np.zeros(len(kept))
    for url in sorted({measured[key].url for key in kept}):
        for batch in shards.batches(url, ["id", "fingerprint", "duration"]):
            for key, words, duration in zip(batch["id"].to_pylist(), batch["fingerprint"],
                                            batch["duration"].to_pylist(), strict=True):
                if key in position and measured[key].url == url:
                    prints[position[key]] = words.values.to_numpy().copy()  # not a view: the batch can go
                    durations[position[key]] = duration
    return prints, durations
