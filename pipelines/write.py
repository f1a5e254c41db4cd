"""write: a global stage. Rows of a dataset, in shards by the hash of their ids, that `datasets` opens directly.

What a shard holds depends on ids alone, never on workers; its name carries a hash of its content. So an unchanged
shard is not written again, and `load_dataset`, which caches by name, never serves the rows of an older build.
"""
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import apache_beam as beam

from manifests import shards, splits, storage
from pipelines import join, mucaps, muedit, muimage, musicqa, muvideo
from pipelines.join import Part
from pipelines.lines import Line
from pipelines.marks import Entry
from pipelines.stage import to_the_end

DATASETS = {one.NAME: one for one in (mucaps, muedit, muimage, muvideo, musicqa)}
SHARD_BYTES = 128 * 2**20
_MAX_SHARDS = 1 << 16
_OURS = (splits.TRAIN, splits.EVAL, "dataset_dict.json", "README.md")  # in a dataset's folder; the rest is the user's


@dataclass(frozen=True)
class Shard:
    dataset: str
    split: str
    name: str            # file name, content hash included
    rows: tuple[dict, ...]  # as pipelines.join takes them
    media: int           # bytes of it, about
    content: tuple[str, ...] = ()  # of what its name follows from: the version, and each row

    def url(self, out: str) -> str:
        return storage.join(out, "datasets", self.dataset, self.split, self.name)

    def marker(self, out: str) -> str:
        return storage.join(out, "stages", "write", self.dataset, f"{self.split}-{self.name}.json")


def order(key: str) -> float:
    """Rows and clips lie in the order of this hash: a shuffle that is the same for everyone."""
    return splits.fraction(key, "order")


def plan(dataset: str, done: Iterable[Line], segments: Mapping[str, dict], split_of: Mapping[str, str],
         index: Mapping[str, Mapping[str, Entry]]) -> list[Shard]:
    """The shards that hold the rows of `done`. How many is a power of two, so that growth seldom moves rows.

    Rows lie in the order of their clips' hashes, as clips do in the clip store.
    """
    version = _digest([DATASETS[dataset].VERSION, str(DATASETS[dataset].features().arrow_schema)])
    by_split: dict[str, list[Line]] = {splits.TRAIN: [], splits.EVAL: []}
    for line in sorted(done, key=lambda line: (order(line.clip), line.clip, line.id)):
        by_split[split_of[line.clip]].append(line)
    planned = []
    for split, lines in by_split.items():
        sizes = [sum(index[stage][key].bytes.get(column, 0) for name, (stage, key) in line.parts.items()
                     for column in DATASETS[dataset].PARTS[name]) for line in lines]
        count = 1
        while count * SHARD_BYTES < sum(sizes) and count < _MAX_SHARDS:
            count *= 2
        buckets: list[list[int]] = [[] for _ in range(count)]
        for place, line in enumerate(lines):
            buckets[int(order(line.clip) * count)].append(place)
        for number, bucket in enumerate(buckets):
            if bucket:
                rows = [_row(lines[place], segments, index) for place in bucket]
                digests = [[index[stage][key].digest for stage, key in lines[place].parts.values()]
                           for place in bucket]
                content = (version, *(_digest([digest, {name: value for name, value in row.items() if name != "parts"}])
                                      for row, digest in zip(rows, digests, strict=True)))
                planned.append(Shard(dataset, split, f"data-{number:05d}-of-{count:05d}-{named(content)}.arrow",
                                     tuple(rows), sum(sizes[place] for place in bucket), content))
    return planned


def named(content: Sequence[str]) -> str:
    """What a shard's name says of its content. The marker has `content`, so that a shard of fewer of the rows gets the
    name that a plan would give it (pipelines.forget)."""
    return hashlib.sha256("\n".join(content).encode()).hexdigest()[:12]


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _row(line: Line, segments: Mapping[str, dict], index: Mapping[str, Mapping[str, Entry]]) -> dict:
    return {"id": line.id, "source_id": segments[line.clip]["source_id"],
            "target_source_id": segments[line.target or line.clip]["source_id"], **line.given,
            "parts": {name: Part(index[stage][key].url, key) for name, (stage, key) in line.parts.items()}}


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
    maker = DATASETS[shard.dataset]
    shards.write(shard.url(out), maker.features().arrow_schema, map(maker.row, join.joined(shard.rows, maker.PARTS)))
    mark(out, shard, wall, time.time() - wall, time.process_time() - cpu)


def mark(out: str, shard: Shard, started: float, seconds: float, cpu_seconds: float) -> None:
    """Note that the shard is written."""
    storage.write_json(shard.marker(out), {
        "rows": len(shard.rows), "bytes": storage.size(shard.url(out)), "started": started, "seconds": seconds,
        "cpu_seconds": cpu_seconds, "content": list(shard.content)}, indent=None)


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
