"""write: a global stage. Rows of a dataset, in shards by the hash of their ids, that `datasets` opens directly.

What a shard holds depends on ids alone, never on workers; its name carries a hash of its content. So an unchanged
shard is not written again, and `load_dataset`, which caches by name, never serves the rows of an older build.
"""
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import apache_beam as beam

from manifests import shards, splits, storage
from pipelines import mucaps
from pipelines.stage import Entry, to_the_end

DATASETS = {mucaps.NAME: mucaps}
SHARD_BYTES = 128 * 2**20
_MAX_SHARDS = 1 << 16
_OURS = (splits.TRAIN, splits.EVAL, "dataset_dict.json", "README.md")  # in a dataset's folder; the rest is the user's


@dataclass(frozen=True)
class Row:
    """Where the parts of one row lie."""
    id: str
    clip: str
    measurement: str
    caption: str


@dataclass(frozen=True)
class Shard:
    dataset: str
    split: str
    name: str            # file name, content hash included
    rows: tuple[Row, ...]

    def url(self, out: str) -> str:
        return storage.join(out, "datasets", self.dataset, self.split, self.name)

    def marker(self, out: str) -> str:
        return storage.join(out, "stages", "write", self.dataset, f"{self.split}-{self.name}.json")


def order(key: str) -> float:
    """Rows and clips lie in the order of this hash: a shuffle that is the same for everyone."""
    return splits.fraction(key, "order")


def plan(dataset: str, split_of: Mapping[str, str], fetched: Mapping[str, Entry], measured: Mapping[str, Entry],
         captioned: Mapping[str, Entry]) -> list[Shard]:
    """The shards that hold the ids of `split_of`. How many is a power of two, so that growth seldom moves rows."""
    version = [DATASETS[dataset].VERSION, str(DATASETS[dataset].features().arrow_schema)]
    planned = []
    for split in (splits.TRAIN, splits.EVAL):
        keys = [key for key in split_of if split_of[key] == split]
        size = sum(fetched[key].bytes for key in keys)
        count = 1
        while count * SHARD_BYTES < size and count < _MAX_SHARDS:
            count *= 2
        buckets: list[list[str]] = [[] for _ in range(count)]
        for key in sorted(keys, key=lambda key: (order(key), key)):
            buckets[int(order(key) * count)].append(key)
        for index, bucket in enumerate(buckets):
            if bucket:
                parts = [[key, fetched[key].digest, measured[key].digest, captioned[key].digest] for key in bucket]
                content = hashlib.sha256(json.dumps([version, parts]).encode()).hexdigest()[:12]
                rows = tuple(Row(key, fetched[key].url, measured[key].url, captioned[key].url) for key in bucket)
                planned.append(Shard(dataset, split, f"data-{index:05d}-of-{count:05d}-{content}.arrow", rows))
    return planned


def written(out: str, shard: Shard) -> bool:
    if not (storage.exists(shard.marker(out)) and storage.exists(shard.url(out))):
        return False
    return storage.read_json(shard.marker(out))["bytes"] == storage.size(shard.url(out))


def run(out: str, planned: list[Shard], pipeline: beam.Pipeline) -> None:
    """Write the shards, in one Beam pipeline. Only names cross the shuffle; media goes from shard to shard."""
    _ = pipeline | "shards" >> beam.Create(planned) | beam.Reshuffle() | "write" >> beam.Map(_write, out=out)
    to_the_end(pipeline)


def _write(shard: Shard, out: str) -> None:
    wall, cpu = time.time(), time.process_time()
    shards.write(shard.url(out), DATASETS[shard.dataset].features().arrow_schema, _rows(shard))
    storage.write_json(shard.marker(out), {
        "rows": len(shard.rows), "bytes": storage.size(shard.url(out)), "started": wall, "seconds": time.time() - wall,
        "cpu_seconds": time.process_time() - cpu}, indent=None)


def _rows(shard: Shard) -> Iterator[dict]:
    """Joined rows in the shard's order. Clips are held as views of mapped files, small records as dicts."""
    maker = DATASETS[shard.dataset]
    measurements = _small({row.id: row.measurement for row in shard.rows}, list(maker.MEASUREMENT_COLUMNS))
    captions = _small({row.id: row.caption for row in shard.rows}, None)
    clips = {}
    wanted = {row.id: row.clip for row in shard.rows}
    for url in dict.fromkeys(wanted.values()):
        for batch in shards.batches(url, ["id", "outcome", "source_id", "audio", "audio_format"]):
            for index, key in enumerate(batch["id"].to_pylist()):
                if wanted.get(key) == url:
                    clips[key] = batch.slice(index, 1)
    for row in shard.rows:
        yield maker.row(clips.pop(row.id).to_pylist()[0], measurements[row.id], captions[row.id])


def _small(wanted: Mapping[str, str], columns: list[str] | None) -> dict[str, dict]:
    return {row["id"]: row for url in dict.fromkeys(wanted.values()) for row in shards.read(url, columns)
            if wanted.get(row["id"]) == url}


def finish(out: str, dataset: str, planned: list[Shard], card: str) -> None:
    """Make the folder a dataset: card, `load_from_disk`'s files, and nothing that an earlier build left."""
    root = storage.join(out, "datasets", dataset)
    files = {}
    present = [split for split in (splits.TRAIN, splits.EVAL) if any(shard.split == split for shard in planned)]
    for split in present:
        names = [shard.name for shard in planned if shard.split == split]
        state = {"_data_files": [{"filename": name} for name in names],
                 "_fingerprint": hashlib.sha256("".join(names).encode()).hexdigest()[:16], "_format_columns": None,
                 "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": split}
        files[split] = {*names, "state.json", "dataset_info.json"}
        storage.write_json(storage.join(root, split, "state.json"), state)
        storage.write_json(storage.join(root, split, "dataset_info.json"),
                           {"features": DATASETS[dataset].features().to_dict()})
    if present:
        storage.write_json(storage.join(root, "dataset_dict.json"), {"splits": present})
        storage.write_bytes(storage.join(root, "README.md"), card.encode())
        files[""] = {*present, "dataset_dict.json", "README.md"}
    # Readers of the old card lose its shards only now, when the new card is there.
    for name in storage.names(root):
        if name in _OURS and name not in files.get("", ()):
            storage.remove(storage.join(root, name))
    for split in present:
        for name in storage.names(storage.join(root, split)):
            if name not in files[split]:
                storage.remove(storage.join(root, split, name))
    storage.sweep(root)
    if not storage.names(root):
        storage.remove(root)
    # A marker whose shard is gone would hide that it was made again.
    valid = {shard.marker(out).rpartition("/")[2] for shard in planned}
    folder = storage.join(out, "stages", "write", dataset)
    for name in storage.names(folder):
        if name not in valid:
            storage.remove(storage.join(folder, name))
