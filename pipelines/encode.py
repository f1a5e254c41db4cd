"""encode: what a frozen model of the trainer says of media and captions, by the hashes of their contents.

Media is decoded in the sandbox and asked about in batches, one process a GPU.
"""
import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from captioners import device, held
from manifests import records, storage
from manifests.outcomes import Loss
from pipelines import contents, sandbox
from pipelines.stage import Batch, Stage, tag
from training import features, frozen, samples
from training.frozen import Frozen

VERSION = 1
_THREADS = 8           # at most, that decode ahead of a GPU
_SHARD = 2**28         # bytes of a shard, at most, but for its last row
_BATCH = {"audio": 8, "image": 64, "video": 4, "text": 64}
_COST = {"debug": {"audio": 0.2, "image": 0.03, "video": 0.3, "text": 0.01},  # CPU s
         "7b": {"audio": 10.0, "image": 0.3, "video": 5.0, "text": 0.3}}


@dataclass(frozen=True)
class Encoder:
    """A frozen model and how it is asked. Plain data that travels to workers."""
    model: Frozen
    dtype: str
    batch: int  # 0: as many as are usual

    @property
    def kind(self) -> str:
        return self.model.kind

    @property
    def name(self) -> str:
        """For a person."""
        return self.model.pinned.title if self.model.pinned else f"the debug size's {self.kind} model"

    @property
    def bytes(self) -> int:
        """Of one output."""
        return 2 * math.prod(self.model.shape)

    def version(self) -> dict:
        """All that the numbers follow from, but for rounding."""
        return {**self.model.about(), "dtype": self.dtype}


def stage(encoder: Encoder, limits: sandbox.Limits) -> Stage:
    """Its keys are SHA-256 of media, of text training.features.text_key of captions."""
    cards, kind = device.there(), encoder.kind
    batch = Batch(partial(ask, encoder=encoder), encoder.batch or _BATCH[kind], _length, {}, partial(load, encoder),
                  min(_THREADS, os.cpu_count() or 1) if cards else 1)
    parts = ({name: tuple(samples.columns(number, name)[1:]) for name, number in contents.SPOKEN.items()}
             if kind == "text" else {"media": (kind,)})
    most = max(1, min(512, _SHARD // encoder.bytes))
    return Stage(f"features-{kind}", tag(VERSION, encoder.version()), records.FEATURE,
                 partial(ready, kind=kind, limits=limits), parts=parts, batch=batch, least=min(batch.size, most),
                 most=most, cost=_COST[encoder.model.size][kind], processes=cards)


def ready(row: dict, kind: str, limits: sandbox.Limits) -> dict:
    """What the model takes of a row: `parts` that were joined, or a `url`. Raises Loss where it is not fit."""
    if kind != "text":
        return sandbox.call(partial(frozen.decode, kind), _media(row, kind), limits=limits)
    dataset = next(name for name in contents.SPOKEN if row[name])
    for caption in contents.captions(dataset, row[dataset] | {"id": row["id"]}):
        if features.text_key(caption) == row["id"]:
            return {"text": caption}
    raise RuntimeError(f"a caption of {dataset} is gone that was there when it was hashed; run it again")


def ask(inputs: list[dict], encoder: Encoder) -> list[dict | Loss]:
    """`values` of records.FEATURE for each; Loss("failed") where the model gives no numbers."""
    import torch
    with held.asking(encoder, _loaded) as model:
        outputs = model(inputs)
    return [{"values": one.contiguous().view(torch.int16).numpy().tobytes()} if torch.isfinite(one).all() else
            Loss("failed", f"{encoder.name} gave what is no number") for one in outputs]


def load(encoder: Encoder) -> None:
    """Have the model here. It works on one thread: workers are the parallelism, and sums must not depend on the number
    of cores."""
    import torch
    torch.set_num_threads(1)
    with held.asking(encoder, _loaded):
        pass


def try_out(encoder: Encoder) -> None:
    """Load it once, in a process of its own. Raises ValueError that says what to do."""
    held.try_out(encoder, _loaded, "--dtype bfloat16")


def _loaded(encoder: Encoder) -> Callable:
    import torch
    return frozen.load(encoder.model, device.claim(), getattr(torch, encoder.dtype))


def _media(row: Mapping, kind: str) -> bytes:
    if row["media"]:
        return row["media"][kind]["bytes"]
    try:
        data = storage.read_bytes(row["url"])
    except OSError as error:
        raise Loss("unreadable", f"{row['url']}: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != row["id"]:
        raise Loss("unreadable", f"{row['url']}: has changed since it was hashed")
    return data


def _length(row: Mapping) -> float:
    """All rows are as long as any other: what is of unequal length is not asked about at once (training.frozen). So
    rows of a shard lie in the order of their ids."""
    return 0.0
