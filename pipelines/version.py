"""A build's version: a hash of what its rows say. Equal rows have equal versions, whoever made them and however.

Names of shards would not do: they hold what a row was made from, and a file's time is part of that.
"""
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping

import pyarrow as pa

from manifests import shards, storage
from manifests.messages import named
from pipelines.write import DATASETS
from training.sources import SPLITS, Sources

_MEDIA = {"bytes", "path"}  # fields of Audio, Image and Video, as `datasets` stores them


def version(out: str, datasets: Collection[str] | None = None) -> str:
    """Twelve hexadecimal digits for all datasets of a build, or some; all of them is read. ValueError where there are
    none, or a shard is broken; OSError where one cannot be read."""
    return together(versions(out, datasets))


def versions(out: str, datasets: Collection[str] | None = None) -> dict[str, str]:
    """The same for each dataset."""
    return {dataset: together({split: _sum(urls) for split in SPLITS if (urls := Sources(out).shards(dataset, split))})
            for dataset in held(out) if datasets is None or dataset in datasets}


def together(found: Mapping[str, object]) -> str:
    """One version of several."""
    return hashlib.sha256(text(found).encode()).hexdigest()[:12]


def held(out: str) -> list[str]:
    """The names of a build's datasets; ValueError where there are none."""
    with named(out):  # clients of object stores have exceptions of their own
        storage.exists(out)
    names = [name for name in DATASETS if any(Sources(out).shards(name, split) for split in SPLITS)]
    if not names:
        raise ValueError(f"{out}: no datasets here; `make datasets OUT={out}` makes them")
    return names


def rows(url: str) -> Iterator[dict]:
    """A shard's rows; of media "sha256" stands for "bytes", so that a row is small."""
    for batch in shards.batches(url):
        media = {field.name for field in batch.schema
                 if pa.types.is_struct(field.type) and {one.name for one in field.type} == _MEDIA}
        for index in range(batch.num_rows):
            yield {name: _medium(column[index]) if name in media else column[index].as_py()
                   for name, column in zip(batch.schema.names, batch.columns, strict=True)}


def text(value) -> str:
    """The one way to write a value of a row: equal texts, equal values."""
    return json.dumps(value, sort_keys=True, default=repr)  # of columns that no build of ours has


def _medium(value: pa.StructScalar) -> dict | None:
    if not value.is_valid:
        return None
    data = value["bytes"]
    return {"path": value["path"].as_py(),
            "sha256": hashlib.sha256(data.as_buffer()).hexdigest() if data.is_valid else None}


def _sum(urls: list[str]) -> tuple[int, str]:
    """Of a split: how many rows, and the sum of their hashes, which no order of them changes."""
    count, total = 0, 0
    for url in urls:
        for row in rows(url):
            count += 1
            total += int.from_bytes(hashlib.sha256(text(row).encode()).digest())
    return count, f"{total % 2**256:064x}"
