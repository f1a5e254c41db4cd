"""Parquet of Arrow shards, as the Hub's viewer and `load_dataset` like it: small row groups, `datasets`' columns noted.

The same rows give the same bytes (of one version of pyarrow), so that what was sent once is known by its hash.
"""
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from manifests import shards
from pipelines import verify
from pipelines.verify import Shard

Embed = Literal["none", "media"]
GROUP_ROWS = {"media": 100, "none": 1000}  # the viewer shows a hundred at a time, and reads whole groups
GROUP_BYTES = 64 * 2**20   # before a group ends, unless it is of one batch
FILE_BYTES = 512 * 2**20   # about


def plan(found: Sequence[Shard], embed: Embed) -> list[list[Shard]]:
    """Which shards go into a file together: neighbours, as many as fit into FILE_BYTES; few files, whole shards."""
    files: list[list[Shard]] = []
    room = 0
    for shard in found:
        size = shard.rest + (shard.media if embed == "media" else 0)
        if not files or size > room:
            files.append([])
            room = FILE_BYTES
        files[-1].append(shard)
        room -= size
    return files


def features(schema: pa.Schema, embed: Embed) -> Features:
    """The columns that are published of a shard's."""
    return Features({name: kind for name, kind in Features.from_arrow_schema(schema).items()
                     if embed == "media" or name not in verify.kinds(schema)})


def write(path: Path, urls: Sequence[str], embed: Embed) -> int:
    """One file of these shards' rows; returns how many there are. A group of rows is in memory at a time."""
    columns = features(next(shards.batches(urls[0])).schema, embed)
    schema, count = columns.arrow_schema, 0
    # Chunks that follow content: where a row goes, the Hub's storage keeps what did not change around it.
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_index=True,
                          use_content_defined_chunking=True) as sink:
        for group in _groups(urls, list(columns), embed):
            sink.write_table(pa.Table.from_batches(group, schema))
            count += sum(batch.num_rows for batch in group)
    return count


def _groups(urls: Sequence[str], columns: list[str], embed: Embed) -> Iterator[list[pa.RecordBatch]]:
    """Batches that make a row group together. Where they end follows from the rows alone."""
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for url in urls:
        for batch in shards.batches(url, columns):
            if group and (rows + batch.num_rows > GROUP_ROWS[embed] or size + batch.nbytes > GROUP_BYTES):
                yield group
                group, rows, size = [], 0, 0
            group.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
    if group:
        yield group
