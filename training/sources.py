"""Where a stage's rows and media lie: datasets of ours as Arrow shards, published ones as a JSON file beside a folder.

Media of ours are found by id. The index is made when it is first needed, reads no media, and has 24 bytes a row: a hash
of the id, and where the record batch with the row begins.
"""
import hashlib
from array import array
from collections.abc import Collection
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from manifests import checked, splits, storage
from manifests.messages import named, one_line, shown
from training.samples import PUBLISHED_MUSICQA, Medium

PUBLISHED = {"coco": "coco", "alpaca": "alpaca", PUBLISHED_MUSICQA: "musicqa"}
"""The published datasets, and which of the fields of Sources names each."""
SPLITS = (splits.TRAIN, splits.EVAL)


@dataclass(frozen=True)
class Sources:
    """`out`: a build's, or any folder or URL with `datasets/NAME/SPLIT`. The others: the JSON files as published, each
    "FILE" or "FILE,FOLDER" with the folder of its media. (A file's own name may have no comma.)

    Without FOLDER: of COCO's `annotations/captions_X.json` the folder `X` beside `annotations`, of MusicQA `audios`
    beside the file, where they are there; else the file's own.
    """
    out: str
    coco: str | None = None
    alpaca: str | None = None
    musicqa: str | None = None

    def shards(self, dataset: str, split: str) -> list[str]:
        """URLs, in `state.json`'s order; none where the dataset or the split is not there. Raises ValueError for a
        `state.json` that is none."""
        folder = storage.join(self.out, "datasets", dataset, split)
        state = storage.join(folder, "state.json")
        if not storage.exists(state):
            return []
        try:
            found = [one["filename"] for one in storage.read_json(state)["_data_files"]]
            return [storage.join(folder, checked.file_name(name, "filename")) for name in found]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{state}: names no _data_files; remove it and build the dataset again") from error
        except ValueError as error:
            raise ValueError(f"{state}: {str(error).removeprefix(f'{state}: ')}") from error

    def published(self, dataset: str) -> str | None:
        """The JSON file of one of PUBLISHED, or None where none was given."""
        given = self._given(dataset)
        return None if given is None else given.partition(",")[0]

    def file(self, medium: Medium) -> str:
        """URL of a published medium; whether it is there is not asked. Raises ValueError for a name that leaves its
        folder, and for media of a dataset that was not given, OSError where the folder is not there."""
        given = self._given(medium.dataset)
        if given is None:
            raise ValueError(f"{medium.dataset} was not given, but {shown(medium.id)} of it is needed")
        try:
            name = checked.file_name(medium.id, "the file")
        except ValueError as error:
            raise ValueError(f"{self.published(medium.dataset)}: {error}") from None
        return storage.join(_folder(medium.dataset, given), name)

    def check(self, mixture: Collection[str], encoded: Collection[str]) -> None:
        """Raises OSError, naming it, where a folder of published media is not there that a `mixture` would be read
        from: before hours are spent. Of kinds that are `encoded` no media is read."""
        for dataset, kind in (("coco", "image"), (PUBLISHED_MUSICQA, "audio")):  # Alpaca has none
            if kind not in encoded and PUBLISHED[dataset] in mixture and (given := self._given(dataset)):
                _folder(dataset, given)

    def _given(self, dataset: str) -> str | None:
        if dataset not in PUBLISHED:
            raise ValueError(f"{dataset} is not one of the published datasets, {', '.join(PUBLISHED)}")
        return getattr(self, PUBLISHED[dataset])


@lru_cache
def _folder(dataset: str, given: str) -> str:
    """Of the dataset's media."""
    file, _, folder = given.partition(",")
    own, _, name = file.rpartition("/")
    own = own or ("/" if file.startswith("/") else ".")
    if folder:
        wanted = folder
    elif dataset == "coco":
        above, _, last = own.rpartition("/")
        wanted = storage.join(above or ("/" if own.startswith("/") else "."),
                              name.removeprefix("captions_").removesuffix(".json")) if last == "annotations" else own
    else:
        wanted = storage.join(own, "audios")
    if _is_folder(wanted):
        return wanted
    if not folder and _is_folder(own):
        return own
    raise NotADirectoryError(f"{wanted if folder else own}: no such folder; the media of {dataset} should be in it")


def _is_folder(url: str) -> bool:
    fs, path = storage.locate(url)
    return fs.isdir(path)


class Media:
    """What media consist of, as bytes, wherever they lie. Threads may share it."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._rows: dict[str, _Rows] = {}

    def read(self, modality: str, medium: Medium) -> bytes:
        """One file as it was published or as the dataset embeds it, in the column that the modality names.

        Raises OSError for a published file that cannot be read, ValueError where a dataset has no such row, no such
        medium, or a shard that cannot be read (or is another than it was).
        """
        if medium.dataset in PUBLISHED:
            url = self._sources.file(medium)
            with named(url):
                return storage.read_bytes(url)
        if medium.dataset not in self._rows:
            urls = [url for split in SPLITS for url in self._sources.shards(medium.dataset, split)]
            if not urls:
                raise ValueError(f"{storage.join(self._sources.out, 'datasets', medium.dataset)}: no such dataset")
            self._rows[medium.dataset] = _index(urls)
        return self._rows[medium.dataset].read(modality, medium)


@dataclass(frozen=True)
class _Rows:
    """By row, in the order of the hashes of their ids: which shard, where its batch begins, which row of that."""
    urls: list[str]
    schemas: list[pa.Schema]
    hashes: np.ndarray   # uint64
    shards: np.ndarray   # int32
    offsets: np.ndarray  # int64, bytes
    rows: np.ndarray     # int32

    def read(self, modality: str, medium: Medium) -> bytes:
        key = np.uint64(_hash(medium.id))
        for place in range(*(int(self.hashes.searchsorted(key, side)) for side in ("left", "right"))):
            url, schema = self.urls[self.shards[place]], self.schemas[self.shards[place]]
            if modality not in schema.names:
                raise ValueError(f"{url}: has no column {modality}; build {medium.dataset} again")
            with _opened(url) as file:
                file.seek(int(self.offsets[place]))
                batch = pa.ipc.read_record_batch(pa.ipc.read_message(file), schema)
                row = int(self.rows[place])
                if row < batch.num_rows and batch.column("id")[row].as_py() == medium.id:
                    found = batch.column(modality)[row].as_py()
                    if found is None or found["bytes"] is None:
                        raise ValueError(f"{url}: row {medium.id} has no {modality} in it; build {medium.dataset} "
                                         "again, or train without it")
                    return found["bytes"]
        raise ValueError(f"{self.urls[0].rpartition('/')[0]}: no row {shown(medium.id)}, or the shards are no longer "
                         "those that they were; begin again")


def _index(urls: list[str]) -> _Rows:
    hashes, shards, offsets, rows = array("Q"), array("i"), array("q"), array("i")
    schemas = []
    for shard, url in enumerate(urls):
        with _opened(url) as file:
            schemas.append(pa.ipc.read_schema(pa.ipc.read_message(file)))
            while True:
                offset = file.tell()
                try:
                    message = pa.ipc.read_message(file)
                except EOFError:
                    break
                ids = pa.ipc.read_record_batch(message, schemas[-1]).column("id").to_pylist()
                hashes.extend(map(_hash, ids))
                shards.extend([shard] * len(ids))
                offsets.extend([offset] * len(ids))
                rows.extend(range(len(ids)))
    found = np.frombuffer(hashes, np.uint64) if hashes else np.empty(0, np.uint64)
    order = np.argsort(found, kind="stable")
    return _Rows(urls, schemas, found[order], *(np.asarray(one)[order] for one in (shards, offsets, rows)))


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


@contextmanager
def _opened(url: str):
    """A shard, mapped where it is local; what Arrow says of it as a ValueError that names it."""
    fs, path = storage.locate(url)
    try:
        with pa.memory_map(path) if storage.local_path(url) else pa.PythonFile(fs.open(path, "rb"), mode="r") as file:
            yield file
    except (pa.ArrowInvalid, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{url}: not a readable Arrow shard ({one_line(error)}); remove it to have it made again"
                         ) from error
