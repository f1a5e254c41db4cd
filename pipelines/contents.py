"""contents: what a trainer's rows hear and what music they ask for, told by hashes, so that equal content is met once.

A row of this stage is a shard of a dataset, or a few hundred files of a published one. Hashing reads all media, so it
is work for the pipeline, and is remembered as all that a stage does; the launcher handles names and hashes.
"""
import hashlib
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from manifests import checked, published, shards, splits, storage
from pipelines.join import Part
from pipelines.stage import Stage, tag
from training import features, rows, samples
from training.samples import PUBLISHED_MUSICQA, Medium
from training.sources import PUBLISHED, Sources

VERSION = 1
KIND = {"mucaps": "audio", "musicqa": "audio", "muedit": "audio", "muimage": "image", "muvideo": "video",
        "coco": "image", PUBLISHED_MUSICQA: "audio"}
"""What rows of a dataset hear. Of ours it is the column of it, too."""
SPOKEN = {"mucaps": 2, "muedit": 3, "muimage": 3, "muvideo": 3}
"""The stage of training in which music is asked for by a caption, by dataset."""
_HASHED = re.compile(r"data-\d{5}-of-\d{5}-[0-9a-f]{12}\.arrow")
_FILES = 512    # hashed together
_SPEED = 5e8    # bytes hashed in a second

_SCHEMA = pa.schema([
    ("id", pa.string()), ("outcome", pa.string()), ("detail", pa.string()),
    ("revision", pa.string()),
    ("names", pa.list_(pa.string())),      # of media: a row's id, or a file
    ("digests", pa.list_(pa.string())),    # SHA-256 of each; empty where it cannot be read
    ("faults", pa.list_(pa.string())),     # why not; else empty
    ("captions", pa.list_(pa.string())),   # training.features.text_key of those that music is asked for by
    ("owners", pa.list_(pa.string())),     # the row of each
])


@dataclass(frozen=True, slots=True)
class Found:
    """A medium, or a caption, of one row. `digest` is empty where it cannot be read, and `fault` says why."""
    kind: str
    key: str    # as the trainer asks for it
    digest: str
    fault: str
    part: str   # of an encoder's input: "media", of a caption its dataset; empty for a file
    url: str    # of the shard, or the file
    name: str   # of the row

    def row(self) -> dict:
        """An encoder's input (`encode`)."""
        return {"id": self.digest, "url": self.url,
                "parts": {self.part: Part(self.url, self.name)} if self.part else {}}


def stage(asked: Collection[dict]) -> Stage:
    """For `wanted`."""
    cost = sum(row["size"] for row in asked) / _SPEED / max(1, len(asked))
    return Stage("features-contents", tag(VERSION), _SCHEMA, read, cost=cost, least=1, most=8)


def wanted(sources: Sources) -> Iterator[dict]:
    """The stage's input. Raises ValueError or OSError for a published file that is broken or not there."""
    for dataset, split in itertools.product([name for name in KIND if name not in PUBLISHED],
                                            (splits.TRAIN, splits.EVAL)):
        for url in sources.shards(dataset, split):
            size, name = storage.size(url), url.rpartition("/")[2]
            # A build's names hold a hash of what is in them; of others, a change may leave the size as it was.
            told = str(size) if _HASHED.fullmatch(name) else f"{size}-{rows.written(url)}"
            yield {"id": f"{dataset}/{split}/{name}", "revision": told, "size": size, "dataset": dataset, "url": url}
    for dataset, names in (("coco", _names(sources.published("coco"), published.coco, "file")),
                           (PUBLISHED_MUSICQA, _names(sources.published(PUBLISHED_MUSICQA), published.musicqa,
                                                      "audio"))):
        urls = {name: sources.file(Medium(dataset, name)) for name in names}
        changed = _changed(urls.values())
        for start in range(0, len(names), _FILES):
            some = names[start:start + _FILES]
            there = [changed.get(urls[name], ("", 0)) for name in some]
            yield {"id": f"{dataset}/{_told(some)}", "revision": _told([told for told, _ in there]),
                   "size": sum(size for _, size in there), "dataset": dataset,
                   "files": [(name, urls[name]) for name in some]}


def read(row: dict) -> dict:
    """Fields of the stage's row. Raises ValueError for a shard that cannot be read."""
    return _files(row["files"]) if "files" in row else _shard(row["url"], row["dataset"])


def found(asked: dict, made: dict) -> Iterator[Found]:
    """What there is in a row of the stage, `asked` for by one of `wanted`."""
    dataset, urls = asked["dataset"], dict(asked.get("files", ()))
    for name, digest, fault in zip(made["names"], made["digests"], made["faults"], strict=True):
        yield Found(KIND[dataset], features.media_key(Medium(dataset, name)), digest, fault,
                    *(("", urls[name]) if urls else ("media", asked["url"])), name)
    for digest, owner in zip(made["captions"], made["owners"], strict=True):
        yield Found("text", digest, digest, "", dataset, asked["url"], owner)


def captions(dataset: str, row: dict) -> list[str]:
    """By which music is asked for, as the trainer takes them; none of what it cannot use."""
    try:
        texts = [checked.text(one.music, "caption") for one in samples.exchanges(SPOKEN[dataset], dataset, row)
                 if one.music is not None]
    except ValueError:  # samples.Unusable, and what is no UTF-8: the trainer says so of the row
        return []
    return [text for text in texts if text]


def _shard(url: str, dataset: str) -> dict:
    kind, told = KIND[dataset], {name: [] for name in _SCHEMA.names[4:]}
    try:
        for batch in shards.batches(url, ["id", kind]):
            for name, medium in zip(batch["id"].to_pylist(), batch[kind], strict=True):
                data = medium["bytes"] if medium.is_valid else medium
                fit = data.is_valid and len(data.as_buffer()) > 0
                told["names"].append(name)
                told["digests"].append(hashlib.sha256(data.as_buffer()).hexdigest() if fit else "")
                told["faults"].append("" if fit else f"the row holds no {kind}")
        if dataset in SPOKEN:
            for row in shards.read(url, samples.columns(SPOKEN[dataset], dataset)):
                for caption in captions(dataset, row):
                    told["captions"].append(features.text_key(caption))
                    told["owners"].append(row["id"])
    except KeyError as error:
        raise ValueError(f"{error.args[0]}; build {dataset} again") from error
    return told


def _files(files: Sequence[tuple[str, str]]) -> dict:
    digests, faults = [], []
    for _, url in files:
        try:
            digests.append(hashlib.sha256(storage.read_bytes(url)).hexdigest())
            faults.append("")
        except OSError as error:
            digests.append("")
            faults.append(f"{url}: {error.strerror or error}")
    return {"names": [name for name, _ in files], "digests": digests, "faults": faults, "captions": [], "owners": []}


def _names(url: str | None, reader, field: str) -> list[str]:
    """Of the media that a published file names."""
    return [] if url is None else sorted({getattr(row, field) for row in reader(url)})


def _changed(urls: Iterable[str]) -> dict[str, tuple[str, int]]:
    """By URL, of those that are there: what changes where the file does, and its size. A folder is listed once."""
    told = {}
    for folder in sorted({url.rpartition("/")[0] for url in urls}):
        fs, path = storage.locate(folder)
        for one in fs.ls(path, detail=True) if fs.isdir(path) else []:
            written = one.get("mtime") or one.get("ETag") or one.get("LastModified")
            told[f"{folder}/{one['name'].rpartition('/')[2]}"] = f"{one['size']}-{written}", one["size"] or 0
    return told


def _told(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
