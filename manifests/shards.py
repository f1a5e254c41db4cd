"""Arrow shards: IPC streams that `datasets` opens as they are, written whole or not at all, read memory-mapped.

Batches are bounded by bytes: a batch of whole tracks must not fill the memory, a batch of captions need not be tiny.
"""
from collections.abc import Iterable, Iterator

import pyarrow as pa

from manifests import storage

BATCH_ROWS = 50            # what streaming readers like best
BATCH_BYTES = 8 * 2**20


def write(url: str, schema: pa.Schema, rows: Iterable[dict]) -> int:
    """Write `rows` (dicts with the schema's fields) as one shard; returns how many there were.

    Batch borders follow from the rows alone, so equal rows give equal bytes. A row that does not fit the schema is a
    ValueError that names the shard and the row.
    """
    count = 0
    with storage.create(url) as file, pa.ipc.new_stream(file, schema) as sink:
        for batch in _batches(rows):
            try:
                sink.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ValueError(f"{url}: rows {count} to {count + len(batch) - 1} do not fit the schema: {error}"
                                 ) from error
            count += len(batch)
    return count


def batches(url: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The shard's batches; with `columns`, only those are decoded. Local files are mapped, not read."""
    try:
        with _open(url) as file:
            options = None
            if columns is not None:
                schema = pa.ipc.open_stream(file).schema
                if unknown := set(columns) - set(schema.names):
                    raise KeyError(f"{url}: no column {', '.join(sorted(unknown))}; it has {', '.join(schema.names)}")
                options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in columns])
                file.seek(0)
            yield from pa.ipc.open_stream(file, options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{url}: not a readable Arrow shard ({error}); remove it to have it made again") from error


def read(url: str, columns: list[str] | None = None) -> Iterator[dict]:
    """The shard's rows as dicts, one batch in memory at a time."""
    for batch in batches(url, columns):
        names = batch.schema.names
        for index in range(batch.num_rows):
            yield {name: batch.column(name)[index].as_py() for name in names}


def _batches(rows: Iterable[dict]) -> Iterator[list[dict]]:
    batch, size = [], 0
    for row in rows:
        weight = _weight(row)
        if batch and (len(batch) == BATCH_ROWS or size + weight > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += weight
    if batch:
        yield batch


def _weight(value) -> int:
    """Bytes that a value takes, near enough to bound a batch."""
    if isinstance(value, dict):
        return sum(map(_weight, value.values()))
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, (list, tuple)):
        return 8 * len(value)
    return 8


def _open(url: str):
    fs, path = storage.locate(url)
    return pa.memory_map(path) if storage.local_path(url) else pa.PythonFile(fs.open(path, "rb"), mode="r")
