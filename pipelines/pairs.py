"""pairs: a global stage. Which clips become source and target of MUEdit's rows, decided from stored measurements."""
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests import shards, storage
from pairing import match, points
from pairing.match import Clips, Found, Settings
from pairing.rhythm import PULSE
from pipelines.marks import Entry
from pipelines.stage import to_the_end

VERSION = 1
UNSTEADY = "its tempo is not sure enough (--min-tempo-confidence)"
ALONE = "no clip like it within --pair-threshold"
OUTDONE = "the clips like it have others that are nearer"

FEW = 100_000       # clips that this process pairs in the seconds that starting others takes
_BUCKET = 30_000    # clips: seconds of work, tens of megabytes
_ROWS = 2**16       # of a batch
_LISTS = {"pulse": len(PULSE), "chroma": 12}
_PLAIN = tuple(name for name in points.COLUMNS if name not in _LISTS)

# Of clips that can be paired, in the order that buckets are cut from.
_TABLE = pa.schema([
    ("position", pa.float64()), ("rank", pa.int64()), ("tie", pa.uint64()), ("split", pa.int32()),
    ("source", pa.int32()), ("recording", pa.int32()),
    *((f"v{number}", pa.float64()) for number in range(len(points.DIMENSIONS))),
])
# Clips by their places among the sorted ids: a pair; or with `b` null, one that has no like within the threshold.
_PAIRS = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("distance", pa.float64())])
_RESULT = pa.schema([*_PAIRS, ("detail", pa.string())])  # why `a` is in no pair, where b is null


@dataclass(frozen=True, slots=True)
class Pair:
    a: str           # ids, a < b
    b: str
    distance: float


def find(out: str, keys: Iterable[str], measured: Mapping[str, Entry], source: Mapping[str, str],
         split: Mapping[str, str], recording: Mapping[str, str], settings: Settings,
         pipeline_factory: Callable[[], beam.Pipeline]) -> tuple[list[Pair], dict[str, str]]:
    """All pairs of the clips `keys`, sorted; and of those in none the reason: {id: detail}.

    `source`, `split` and `recording` tell each clip's source video, split, and recording (near-duplicates share one).
    Cached by its input. `pipeline_factory` gives an empty pipeline; few clips are paired in this process.
    """
    keys = sorted(set(keys))
    folder, name = storage.join(out, "stages", "pairs"), _name(keys, measured, source, split, recording, settings)
    url = storage.join(folder, f"{name}.arrow")
    if not storage.exists(url):
        clips = _clips(keys, measured, source, split, recording, settings)
        if len(clips) < FEW:
            found = match.pairs(clips, settings)
        else:
            found = _in_parts(storage.join(folder, name), clips, settings, pipeline_factory)
        _write(url, _result(len(keys), clips.rank, found))
        for older in storage.names(folder):
            if older != f"{name}.arrow":
                storage.remove(storage.join(folder, older))
    return _read(url, keys)


def _name(keys: list[str], measured: Mapping[str, Entry], source: Mapping[str, str], split: Mapping[str, str],
          recording: Mapping[str, str], settings: Settings) -> str:
    """A hash of all that decides."""
    asked = hashlib.sha256(json.dumps([VERSION, match.VERSION, asdict(settings)]).encode())
    for key in keys:
        asked.update(json.dumps([key, measured[key].digest, source[key], split[key], recording[key]]).encode())
    return asked.hexdigest()[:16]


def _clips(keys: list[str], measured: Mapping[str, Entry], source: Mapping[str, str], split: Mapping[str, str],
           recording: Mapping[str, str], settings: Settings) -> Clips:
    """The clips that can be paired, in the order of their positions."""
    vector, confidence = _points(keys, measured)
    rank = np.flatnonzero(match.steady(vector, confidence, settings))
    vector = vector[rank]
    order = np.lexsort((rank, match.position(vector, settings)))
    clips = Clips(vector, rank, match.ties(keys[one] for one in rank.tolist()),
                  *(_numbered(named[keys[one]] for one in rank.tolist()) for named in (split, source, recording)))
    return clips.take(order)


def _numbered(names: Iterable[str]) -> np.ndarray:
    """Equal names, equal numbers."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int32)


def _points(keys: list[str], measured: Mapping[str, Entry]) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, 8] and confidences [n], in the order of `keys`; NaN where a clip has no tempo."""
    place = {key: index for index, key in enumerate(keys)}
    vector = np.full((len(keys), len(points.DIMENSIONS)), np.nan)
    confidence = np.full(len(keys), np.nan)
    for url in sorted({measured[key].url for key in keys}):
        for batch in shards.batches(url, ["id", *points.COLUMNS]):
            ids = batch["id"].to_pylist()
            rows = [row for row, key in enumerate(ids) if key in place and measured[key].url == url]
            if not rows:
                continue
            columns = {name: _numbers(url, batch, name)[rows] for name in points.COLUMNS}
            places = [place[ids[row]] for row in rows]
            vector[places], confidence[places] = points.vectors(columns), columns["tempo_confidence"]
    return vector, confidence


def _numbers(url: str, batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A column as float64, lists as rows; NaN for what is null or an empty list."""
    column = batch[name]
    if name in _PLAIN:
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    length = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    wrong = (length != 0) & (length != _LISTS[name])
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{url}: {batch['id'][row]} has {length[row]} values of `{name}`, not {_LISTS[name]}; "
                         "remove the shard to have it made again")
    found = np.full((len(column), _LISTS[name]), np.nan)
    found[length > 0] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, _LISTS[name])
    return found


def _in_parts(folder: str, clips: Clips, settings: Settings,
              pipeline_factory: Callable[[], beam.Pipeline]) -> Found:
    """By workers, a bucket of tempi each. What they share is one small file; what they find lies beside it, so that a
    killed build's buckets are not searched again.
    """
    count = math.ceil(len(clips) / _BUCKET)
    table = storage.join(folder, "clips.arrow")
    if not storage.exists(table):
        _write(table, pa.table([match.position(clips.vector, settings), clips.rank, clips.tie, clips.split,
                                clips.source, clips.recording, *clips.vector.T.copy()], schema=_TABLE))
    parts = [storage.join(folder, f"{number:05d}-of-{count:05d}.arrow") for number in range(count)]
    todo = [(number, part) for number, part in enumerate(parts) if not storage.exists(part)]
    if todo:
        pipeline = pipeline_factory()
        _ = (pipeline | "buckets" >> beam.Create(todo) | "spread" >> beam.Reshuffle()
             | "pairs" >> beam.Map(_part, table, count, settings))
        to_the_end(pipeline)
    return match.merge([_found(part) for part in parts])


def _part(task: tuple[int, str], table: str, count: int, settings: Settings) -> None:
    """Write one bucket's pairs."""
    number, url = task
    positions = np.concatenate([batch["position"].to_numpy() for batch in shards.batches(table, ["position"])])
    core, rows = match.reach(positions, number, count, settings)
    clips = _load(table, rows)
    _write(url, _pairs(match.within(clips, (rows >= core.start) & (rows < core.stop), settings)))


def _load(table: str, rows: np.ndarray) -> Clips:
    """These rows of the table; of others only what lies between is looked at."""
    taken, before = [], 0
    for batch in shards.batches(table):
        here = rows[np.searchsorted(rows, before):np.searchsorted(rows, before + batch.num_rows)] - before
        taken.append({field: batch[field].to_numpy()[here] for field in _TABLE.names})
        before += batch.num_rows
    columns = {name: np.concatenate([one[name] for one in taken]) for name in _TABLE.names}
    vector = np.stack([columns[f"v{number}"] for number in range(len(points.DIMENSIONS))], axis=1)
    return Clips(vector, *(columns[name] for name in ("rank", "tie", "split", "source", "recording")))


def _pairs(found: Found) -> pa.Table:
    none = pa.nulls(len(found.alone))
    return pa.table([np.r_[found.a, found.alone], pa.chunked_array([found.b, none.cast(pa.int64())]),
                     pa.chunked_array([found.distance, none.cast(pa.float64())])], schema=_PAIRS)


def _found(url: str) -> Found:
    table = _table(url, _PAIRS)
    paired = pc.is_valid(table["b"])
    pairs, alone = table.filter(paired), table.filter(pc.invert(paired))
    return Found(*(pairs[name].to_numpy() for name in ("a", "b", "distance")), alone["a"].to_numpy())


def _result(count: int, steady: np.ndarray, found: Found) -> pa.Table:
    """All pairs, and after them the `count` clips that are in none, in the order of their ids."""
    why = np.full(count, UNSTEADY, object)
    why[steady] = OUTDONE
    why[found.alone] = ALONE
    single = np.setdiff1d(np.arange(count), np.r_[found.a, found.b])
    pairs = _pairs(Found(found.a, found.b, found.distance, single))
    detail = pa.chunked_array([pa.nulls(len(found.a), pa.string()), pa.array(why[single], pa.string())])
    return pairs.append_column(_RESULT.field("detail"), detail)


def _read(url: str, keys: list[str]) -> tuple[list[Pair], dict[str, str]]:
    pairs, single = [], {}
    for batch in shards.batches(url):
        for a, b, far, detail in zip(*(batch[name].to_pylist() for name in _RESULT.names), strict=True):
            if b is None:
                single[keys[a]] = detail
            else:
                pairs.append(Pair(keys[a], keys[b], far))
    return pairs, single


def _table(url: str, schema: pa.Schema) -> pa.Table:
    batches: Iterator[pa.RecordBatch] = shards.batches(url)
    # Copied: what is mapped can go.
    return pa.Table.from_batches([batch.take(np.arange(batch.num_rows)) for batch in batches], schema)


def _write(url: str, table: pa.Table) -> None:
    with storage.create(url) as file, pa.ipc.new_stream(file, table.schema) as sink:
        sink.write_table(table, max_chunksize=_ROWS)
