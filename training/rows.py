"""The rows of a stage's mixture, one after the other as texts: in the mixture's order, then in that of the shards or of
the published file, whoever reads them. Of our datasets the texts alone are read, a batch at a time.
"""
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

import pyarrow as pa

from manifests import published, records, shards, splits, storage
from manifests.messages import named
from training import samples
from training.samples import PUBLISHED_MUSICQA, Texts, Unusable
from training.sources import Sources
from training.stages import Stage

SPLITS = (splits.TRAIN, splits.EVAL)
EVALUATED = 0.01  # of published datasets, which have no splits of their own
# Name in a mixture: that of the published dataset, its reader, and the field whose hash draws a row's split.
_PUBLISHED = {"coco": ("coco", published.coco, "file"), "alpaca": ("alpaca", published.alpaca, "instruction"),
              "musicqa": (PUBLISHED_MUSICQA, published.musicqa, "audio")}
_TURN = {one.name for one in records.TURN}


@dataclass(frozen=True)
class Part:
    """Where some of a mixture's rows are: in shards of ours, by split, or in a published file. `name` is the mixture's
    word for it, `dataset` what the rows are."""
    name: str
    dataset: str
    shards: Mapping[str, list[str]] = field(default_factory=dict)
    file: str | None = None


def parts(stage: Stage, sources: Sources) -> tuple[list[Part], list[str]]:
    """What there is of the mixture, and notes on what there is not. Raises ValueError where there is nothing of it."""
    found, notes = [], []
    for name in stage.data:
        file = sources.published(_PUBLISHED[name][0]) if name in _PUBLISHED else None
        # Without COCO nothing else shows pictures in stage 1.
        dataset = "muimage" if name == "coco" and file is None and "muimage" not in stage.data else name
        ours = {split: sources.shards(dataset, split) for split in SPLITS}
        if any(ours.values()):
            found.append(Part(name, dataset, ours))
            if dataset != name:
                notes.append(f"no published file of {name} was given: the captions of {dataset}'s pictures stand in")
        if file is not None:
            found.append(Part(name, name, file=file))
        elif not any(ours.values()):
            missing = ["no published file of it was given"] * (name in _PUBLISHED) + [
                f"there is no {storage.join(sources.out, 'datasets', dataset)}"] * (dataset not in ("coco", "alpaca"))
            notes.append(f"{name} is left out: {', and '.join(missing)}")
    if not found:
        raise ValueError(f"stage {stage.number} has nothing to learn from: {'; '.join(notes)}; make the datasets first")
    return found, notes


def files(part: Part) -> list[list]:
    """Split, name, size and time of each of a part's files, in order: as long as they stay, its rows do. Raises OSError
    for one that is gone."""
    urls = [(split, url) for split in part.shards for url in part.shards[split]]
    found = []
    for split, url in urls if part.file is None else [("", part.file)]:
        fs, path = storage.locate(url)
        try:
            with named(url):
                found.append([split, url.rpartition("/")[2], fs.size(path), written(url)])
        except FileNotFoundError as error:
            again = "; build its dataset again" * (part.file is None)
            raise FileNotFoundError(f"{error}{again}") from None
    return found


def texts(part: Part, split: str, stage: int, lose: Callable[[Unusable], None], aside: dict[str, list[Texts]]
          ) -> Iterator[Texts]:
    """What the rows of one split teach; those that are unusable go to `lose`.

    A published file is read once, for training: the texts for evaluation are put `aside` then, and taken from there.
    Raises ValueError for shards and files that cannot be read.
    """
    for url in part.shards.get(split, ()):
        for row in _ours(url, part.dataset, stage, lose):
            try:
                yield from samples.exchanges(stage, part.dataset, row)
            except Unusable as error:
                lose(error)
    if part.file is not None and split == splits.EVAL:
        yield from aside.pop(part.file, ())
    elif part.file is not None:
        _, reader, unit = _PUBLISHED[part.name]
        for number, row in enumerate(reader(part.file)):
            found = samples.exchanges(stage, part.dataset, row, number)
            if splits.fraction(getattr(row, unit), "split") < EVALUATED:
                aside.setdefault(part.file, []).extend(found)
            else:
                yield from found


def _ours(url: str, dataset: str, stage: int, lose: Callable[[Unusable], None]) -> Iterator[dict]:
    """The rows of a shard, without media."""
    numbers = count(1)
    try:
        for batch in shards.batches(url, samples.columns(stage, dataset)):
            _check(url, batch.schema)
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError:  # one by one, for the others' sake
                rows = [_readable(batch.slice(place, 1)) for place in range(batch.num_rows)]
            for row, number in zip(rows, numbers, strict=False):
                if row.get("id"):
                    yield row
                else:
                    lose(Unusable(dataset, f"row {number} of {url.rpartition('/')[2]}", "malformed",
                                  "it has no id, or a text that is not UTF-8"))
    except KeyError as error:
        raise ValueError(f"{error.args[0]}; build {dataset} again") from None


def _check(url: str, schema: pa.Schema) -> None:
    """Raises ValueError for columns of other types than ours have."""
    for one in schema:
        kind = one.type
        if one.name == "conversation":
            sound = pa.types.is_list(kind) and pa.types.is_struct(kind.value_type) and {
                inner.name for inner in kind.value_type} >= _TURN
        else:
            sound = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not sound:
            wanted = f"turns with {', '.join(sorted(_TURN))}" if one.name == "conversation" else "text"
            raise ValueError(f"{url}: its column {one.name} has {kind} in it, but {wanted} should be there")


def _readable(row: pa.RecordBatch) -> dict:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return {}


def written(url: str) -> str:
    """When, as the store tells it; nothing where it knows none."""
    fs, path = storage.locate(url)
    try:
        return str(fs.modified(path))
    except NotImplementedError:
        return ""
