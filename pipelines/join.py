"""Joining stored rows by name: how media and texts of several stages, and of several clips, come to one row.

A row names its parts by shard and id, so that only names travel; a worker opens the shards. What is held until its row
comes are views of mapped files, so that memory is the operating system's; of a bucket's shards, copies of those rows.
"""
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from manifests import shards, storage


class Part(NamedTuple):
    """Where a stored row lies."""
    url: str
    id: str


Columns = Mapping[str, tuple[str, ...]]  # by part: what is read of it


def joined(rows: Sequence[dict], columns: Columns) -> Iterator[dict]:
    """`rows`, each with its parts' stored rows (dicts of `columns`) under their names, in place of `parts`.

    `row["parts"]` is {name: Part}; a part that a row does not name is None. RuntimeError where a stored row is gone.
    """
    stored: dict[tuple[str, Part], pa.RecordBatch] = {}
    for name, wanted in columns.items():
        places: dict[str, set[str]] = {}
        for row in rows:
            if name in row["parts"]:
                url, key = row["parts"][name]
                places.setdefault(url, set()).add(key)
        for url, keys in places.items():
            mapped = storage.local_path(url) is not None
            for batch in shards.batches(url, ["id", *wanted]):
                for index, key in enumerate(batch["id"].to_pylist()):
                    if key in keys:  # of what was read into memory, a view would keep all of it
                        row = batch.slice(index, 1) if mapped else batch.take(pa.array([index]))
                        stored[name, Part(url, key)] = row.drop_columns("id")
    for row in rows:
        whole = {name: value for name, value in row.items() if name != "parts"}
        for name in columns:
            part = row["parts"].get(name)
            if part is not None and (name, Part(*part)) not in stored:
                raise RuntimeError(f"{part[0]}: the row of {part[1]} is gone; remove the shard to have it made again")
            whole[name] = None if part is None else stored[name, Part(*part)].to_pylist()[0]
        yield whole
