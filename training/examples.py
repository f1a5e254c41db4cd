"""Samples as they lie on disk: token sequences, where what they hear is found, and in what number they come.

One Arrow shard holds a split of a stage's mixture. It is mapped, and a row is read when it is asked for; only lengths
and datasets, five bytes a sample, are held. So memory is flat in the size of the data.
"""
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from manifests import shards
from manifests.messages import one_line
from training.loss import IGNORED
from training.samples import Medium, Sample

SCHEMA = pa.schema([
    ("id", pa.string()),
    ("dataset", pa.int8()),           # its place in the mixture
    ("tokens", pa.binary()),          # int32, little endian
    ("given", pa.int32()),            # how many tokens precede the answer: those that nothing asks for
    ("hears", pa.list_(pa.struct([
        ("modality", pa.string()),
        ("dataset", pa.string()),
        ("id", pa.string()),
        ("place", pa.int64())]))),    # in the modality's precomputed features; null where there are none
    ("music", pa.string()),           # caption of the music that comes out
    ("music_place", pa.int64()),      # in the precomputed features of text
])
_IDS = np.dtype("<i4")


@dataclass(frozen=True)
class Example:
    """`tokens`, `labels` [T] int32, labels IGNORED where not asked for; `tokens` is a read-only view of the file.

    `dataset` is the name in the mixture, that weights go by. `hears`: modality → medium. `places`: its row in the
    precomputed features, by modality, and under "text" that of `music`; only what was precomputed is in it.
    """
    id: str
    dataset: str
    tokens: np.ndarray
    labels: np.ndarray
    hears: dict[str, Medium]
    places: dict[str, int]
    music: str | None


class Samples:
    """The samples of one file: `len()`, and `[number]` gives an Example. Several threads may read.

    `lengths`: tokens of each, int32. `dataset_of`: which of `datasets` each is of, int8.
    """

    def __init__(self, path: str | Path, datasets: Iterable[str]) -> None:
        """Raises ValueError, naming the file, where it is gone, cut off or another one's."""
        self.path, self.datasets = str(path), tuple(datasets)
        try:
            self._file = pa.memory_map(self.path).read_buffer()
            stream = pa.BufferReader(self._file)
            schema, starts, lengths, dataset_of = pa.ipc.read_schema(stream), [], [], []
            if not schema.equals(SCHEMA):
                raise pa.ArrowInvalid("its columns are other ones")
            while (at := stream.tell()) < self._file.size:
                try:
                    batch = pa.ipc.read_record_batch(pa.ipc.read_message(stream), SCHEMA)
                except EOFError:  # the stream's end
                    break
                tokens = batch.column("tokens")
                starts.append(at)
                lengths.append(np.diff(np.frombuffer(tokens.buffers()[1], _IDS, len(tokens) + 1)) // _IDS.itemsize)
                dataset_of.append(batch.column("dataset").to_numpy())
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{self.path}: not the samples that were prepared ({error}); remove it to have them "
                             "prepared again") from error
        self._starts = np.array(starts, np.int64)
        self._firsts = np.cumsum([0, *map(len, lengths)])  # the first row of each batch, and the end
        self.lengths = np.concatenate([np.empty(0, np.int32), *lengths])
        self.dataset_of = np.concatenate([np.empty(0, np.int8), *dataset_of])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> Example:
        """Raises IndexError for a number that no sample has."""
        if not 0 <= number < len(self):
            raise IndexError(f"{self.path}: no sample {number}; it has {len(self)}")
        place = int(np.searchsorted(self._firsts, number, side="right")) - 1
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(self._file.slice(self._starts[place])), SCHEMA)
        row = batch.slice(number - self._firsts[place], 1)
        tokens = np.frombuffer(row.column("tokens")[0].as_buffer(), _IDS)
        said = {name: row.column(name)[0].as_py() for name in ("id", "dataset", "given", "hears", "music",
                                                               "music_place")}
        labels = tokens.copy()
        labels[:said["given"]] = IGNORED
        places = {one["modality"]: one["place"] for one in said["hears"]} | {"text": said["music_place"]}
        return Example(said["id"], self.datasets[said["dataset"]], tokens, labels,
                       {one["modality"]: Medium(one["dataset"], one["id"]) for one in said["hears"]},
                       {kind: place for kind, place in places.items() if place is not None}, said["music"])


def row(sample: Sample, dataset: int, places: dict[str, int]) -> dict:
    """A row of the file: the sample, its dataset's place in the mixture, and where its features are."""
    return {"id": sample.id, "dataset": dataset, "tokens": np.array(sample.tokens, _IDS).tobytes(),
            "given": sample.labels.count(IGNORED),
            "hears": [{"modality": modality, "dataset": medium.dataset, "id": medium.id, "place": places.get(modality)}
                      for modality, medium in sample.hears.items()],
            "music": sample.music, "music_place": places.get("text")}


def write(path: str | Path, rows: Iterable[dict]) -> int:
    """Rows as `row` makes them; the file appears whole or not at all. Returns how many there were. Raises OSError,
    naming the file, where it cannot be written.
    """
    try:
        return shards.write(str(path), SCHEMA, rows)
    except OSError as error:
        if error.errno is None:  # what `rows` raises, of a file of its own
            raise
        raise OSError(f"{path}: cannot be written ({one_line(error)})") from error
