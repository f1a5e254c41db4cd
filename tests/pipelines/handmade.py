"""Datasets of a build without a build: rows of MUCaps, written as a build writes them, that a test can change."""
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from manifests import shards, storage
from pipelines import mucaps, write


def row(key: str, **changed) -> dict:
    """A row of MUCaps, its audio a few bytes that follow from its id."""
    return dict.fromkeys(mucaps.features()) | {
        "id": key, "source_id": key, "audio": {"bytes": f"sound of {key}".encode(), "path": f"{key}.opus"},
        "duration": 10.0, "tempo": 120.0, "chroma": [0.5, 0.25], "beats": [], "caption": f"A piece, {key}.",
        "agreement": {"tempo": "agrees", "key": None, "mode": None, "percussion": None}} | changed


def dataset(out: Path, by_split: Mapping[str, Iterable[dict]], name: str = "mucaps", files: int = 1) -> Path:
    """The rows, as that dataset, in so many shards a split; returns `out`."""
    for split, rows in by_split.items():
        ordered = sorted(rows, key=lambda one: (write.order(one["id"]), one["id"]))
        size, names = -(-len(ordered) // files), []
        for start in range(0, len(ordered), size):
            content = hashlib.sha256(repr(ordered[start:start + size]).encode()).hexdigest()[:12]
            names.append(f"data-{len(names):05d}-of-{files:05d}-{content}.arrow")
            shards.write(str(out / "datasets" / name / split / names[-1]), mucaps.features().arrow_schema,
                         ordered[start:start + size])
        storage.write_json(str(out / "datasets" / name / split / "state.json"),
                           {"_data_files": [{"filename": file} for file in names]})
    return out
