"""Outputs of the frozen models that were computed beforehand: where they lie on disk, read memory-mapped.

Of each kind `OUT/features/KIND.arrow` says in which row of which shard a key's values are, and KIND.json, written last,
which shards these are. In memory there are 16 bytes a key and 8 a row; values are looked at where they lie.
"""
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from manifests import checked, records, shards, storage
from manifests.outcomes import DONE

if TYPE_CHECKING:
    from torch import Tensor

    from training.samples import Medium

FOLDER = "features"
_ROWS = 2**16  # of the index, in a batch
_AGAIN = "run `make features` again"


class Missing(KeyError):
    """Nothing is there for a key. `reason`: not_encoded, where it was never asked for, or the outcome under which it
    was lost; `detail` tells a person what was seen."""

    def __init__(self, key: str, reason: str, detail: str = "") -> None:
        super().__init__(key, reason, detail)
        self.key, self.reason, self.detail = key, reason, detail

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}{f' ({self.detail})' if self.detail else ''}"


class Features:
    """Those of one kind; made by `opened`. `about` and `digest`: what the numbers and the places depend on; `covers` as
    `publish` was told."""

    def __init__(self, out: str, kind: str) -> None:
        told_at = os.path.join(out, FOLDER, f"{kind}.json")
        self.index = os.path.join(out, FOLDER, f"{kind}.arrow")
        told = storage.read_json(told_at)
        try:
            self.about, self.shape, self.digest = told["about"], tuple(told["shape"]), told["digest"]
            self.shards = [os.path.join(out, checked.file_name(one, "a shard")) for one in told["shards"]]
            rows = [int(one) for one in told["rows"]]
            self.covers = None if told["covers"] is None else dict(told["covers"])
            if len(rows) != len(self.shards):
                raise ValueError(f"{len(self.shards)} shards, but {len(rows)} numbers of rows")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{told_at}: does not describe features ({error}); {_AGAIN}") from error
        if not os.path.isfile(self.index) or _digest(self.index, told) != self.digest:
            raise ValueError(f"{self.index}: is not there, or not the one that {kind}.json tells of; {_AGAIN}")
        if gone := [path for path in self.shards if not os.path.isfile(path)]:
            raise ValueError(f"{gone[0]}: is not there, and holds {kind} features"
                             f"{f' (nor are {len(gone) - 1} others)' if gone[1:] else ''}; {_AGAIN}")
        self._starts = np.cumsum([0, *rows])
        self._hashes, self._places = _table(self.index, self._starts)
        self._mapped: list[tuple[Tensor, np.ndarray] | None] = [None] * len(self.shards)
        self._told: list[pa.RecordBatch] = []

    def __len__(self) -> int:
        """How many keys there are, lost ones among them."""
        return len(self._hashes)

    def check(self) -> None:
        """Raises ValueError, naming it, for a shard that is not whole: before a run meets it."""
        for number in range(len(self.shards)):
            self._map(number)

    def place(self, key: str) -> int:
        """The global row number of a key's values, for `read`. Raises Missing."""
        wanted = _hash(key)
        at = int(np.searchsorted(self._hashes, wanted))
        if at == len(self._hashes) or self._hashes[at] != wanted:
            raise Missing(key, "not_encoded")
        if (place := int(self._places[at])) >= 0:
            return place
        self._told = self._told or list(shards.batches(self.index, ["outcome", "detail"]))
        batch, row = divmod(-1 - place, _ROWS)
        raise Missing(key, *(column[row].as_py() for column in self._told[batch].columns))

    def read(self, place: int) -> "Tensor":
        """bfloat16 [*shape]: a view of the mapped shard, of which a write would reach nobody else. Raises ValueError,
        naming it, for a shard that is not there, not whole, or not the one of the index."""
        import torch
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        found = self._mapped[number] or self._map(number)
        offset = int(found[1][place - self._starts[number]])
        if offset < 0:
            raise ValueError(f"{self.shards[number]}: row {place - self._starts[number]} holds no values, though the "
                             f"index says so; {_AGAIN}")
        return found[0][offset:offset + 2 * prod(self.shape)].view(torch.bfloat16).view(self.shape)

    def _map(self, number: int) -> "tuple[Tensor, np.ndarray]":
        """The shard's bytes, and where in them each row's values begin (-1: none)."""
        import torch
        path, rows = self.shards[number], int(self._starts[number + 1] - self._starts[number])
        try:
            # Mapped by torch, since it keeps no descriptor: there may be more shards than a process may open.
            data = torch.from_file(path, shared=False, size=os.path.getsize(path), dtype=torch.uint8)
            offsets = np.concatenate([*_offsets(data, 2 * prod(self.shape)), np.empty(0, np.int64)])
        except (OSError, RuntimeError, ValueError, KeyError) as error:  # Arrow's are ValueErrors
            raise ValueError(f"{path}: not a whole shard of features ({error}); remove it, and {_AGAIN}") from error
        if len(offsets) != rows:
            raise ValueError(f"{path}: has {len(offsets)} rows and not {rows}: it was cut, or another one was written "
                             f"in its place; {_AGAIN}")
        self._mapped[number] = data, offsets
        return data, offsets


def media_key(medium: "Medium") -> str:
    return f"{medium.dataset}/{medium.id}"


def text_key(caption: str) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(caption.encode()).hexdigest()


def publish(out: str, kind: str, about: dict, shape: tuple[int, ...],
            entries: Iterable[tuple[str, str | None, int, str, str]], covers: Mapping[str, int] | None = None) -> None:
    """Write the index of one kind, its JSON last; equal entries give equal bytes. `covers`: of which shards of datasets
    (DATASET/SPLIT/NAME → bytes) the media was encoded; None where nobody knows, and then nobody asks.

    `entries`: key, path of the shard relative to `out` (None where lost), the row in it (-1 where lost), outcome,
    detail. Several keys may have one row. Raises ValueError for a key that comes twice, for a row that no shard has.
    """
    numbers: dict[str, int] = {}
    hashes, last = [np.empty(0, np.uint64)], []  # and of each shard the last row that is asked for

    def columns(key: str, shard: str | None, row: int, outcome: str, detail: str) -> tuple:
        if (shard is not None) != (outcome == DONE):
            raise ValueError(f"{key}: its outcome is {outcome!r}, but its shard {shard}")
        if shard is None:
            return key, _hash(key), -1, -1, outcome, detail
        number = numbers.setdefault(shard, len(numbers))
        if number == len(last):
            last.append(0)
        last[number] = max(last[number], row)
        return key, _hash(key), number, row, outcome, detail

    path = storage.join(out, FOLDER, f"{kind}.arrow")
    with storage.create(path) as file, pa.ipc.new_stream(file, records.FEATURE_PLACE) as sink:
        each = (columns(*one) for one in entries)
        while some := list(islice(each, _ROWS)):
            made = zip(*some, strict=True)
            batch = pa.record_batch([pa.array(column, field.type) for column, field in
                                     zip(made, records.FEATURE_PLACE, strict=True)], schema=records.FEATURE_PLACE)
            hashes.append(batch.column("hash").to_numpy())
            sink.write_batch(batch)
        _unique(np.sort(np.concatenate(hashes)), path)
        rows = [sum(batch.num_rows for batch in shards.batches(storage.join(out, shard), ["id"])) for shard in numbers]
        for shard, count, most in zip(numbers, rows, last, strict=True):
            if most >= count:
                raise ValueError(f"{shard}: has {count} rows, but row {most} is asked of it")
    told = {"about": about, "shape": list(shape), "shards": list(numbers), "rows": rows,
            "covers": None if covers is None else dict(covers)}
    storage.write_json(storage.join(out, FOLDER, f"{kind}.json"), told | {"digest": _digest(path, told)})


def opened(out: str) -> dict[str, Features]:
    """By kind, those that are there; {} where there are none, and for a bucket: they are read memory-mapped. Raises
    ValueError for what is not whole."""
    from training.frozen import KINDS
    folder = storage.local_path(out)
    if folder is None:
        return {}
    return {kind: Features(folder, kind) for kind in KINDS
            if os.path.exists(os.path.join(folder, FOLDER, f"{kind}.json"))}


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _digest(index: str, told: dict) -> str:
    rest = {name: value for name, value in told.items() if name != "digest"}
    whole = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    fs, path = storage.locate(index)
    with fs.open(path, "rb") as file:
        while data := file.read(2**20):
            whole.update(data)
    return whole.hexdigest()


def _table(index: str, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys' hashes, ascending, and the global row of each, or, of what was lost, -1 - its row in the index."""
    hashes, places, before = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0
    for batch in shards.batches(index, ["hash", "shard", "row"]):
        shard, row = batch.column("shard").to_numpy(), batch.column("row").to_numpy()
        lost = -1 - before - np.arange(len(batch))
        hashes.append(batch.column("hash").to_numpy())
        places.append(np.where(shard < 0, lost, starts[shard] + row))
        before += len(batch)
    found = np.concatenate(hashes)
    order = np.argsort(found)
    found = found[order]
    return found, np.concatenate(places)[order]


def _unique(hashes: np.ndarray, index: str) -> None:
    if (hashes[1:] == hashes[:-1]).any():
        raise ValueError(f"{index}: a key is there twice (or two share their 64-bit hash)")


def _offsets(data: "Tensor", size: int) -> Iterator[np.ndarray]:
    """Of each batch, where in `data` the values of its rows begin; each has `size` bytes."""
    for batch in pa.ipc.open_stream(pa.py_buffer(data.numpy())):
        column = batch.column("values")
        _, ends, values = column.buffers()
        there = column.is_valid().to_numpy(zero_copy_only=False)
        if not there.any():
            yield np.full(len(column), -1, np.int64)
            continue
        ends = np.frombuffer(ends, np.int32)[column.offset:column.offset + len(column) + 1].astype(np.int64)
        starts = values.address - data.data_ptr() + ends[:-1]
        if (np.diff(ends)[there] != size).any() or starts[0] < 0 or starts[there].max() + size > len(data):
            raise ValueError(f"its values are not of {size} bytes each")
        yield np.where(there, starts, -1)
