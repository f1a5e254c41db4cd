"""caption: text for music, pictures and films, by the measured captioners or by models.

What a measured caption rests on is measurements; what a model's does is the media alone, so that the same media has the
same caption, whatever its key, and is not captioned again.
"""
import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial

from captioners import device, looks, measured, model, seen
from captioners.model import Spec
from manifests import records
from manifests.outcomes import Loss
from pipelines import sandbox
from pipelines.options import Options
from pipelines.stage import Batch, Stage, tag
from pipelines.work import Work

VERSION = 1
_HEARD = tuple(name for name in records.MEASUREMENT.names
               if name not in ("id", "outcome", "detail", "beats", "chroma", "pulse", "fingerprint"))
# What each kind of caption rests on, the part that counts first: of a row that was measured, and for a model.
_MEASURED = {"music": {"measurement": _HEARD}, "image": {"frame": looks.PICTURE}, "video": {"film": looks.FILM}}
_MEDIA = {"music": {"clip": ("audio",), "measurement": ("duration",)}, "image": {"frame": ("image",)},
          "video": {"film": ("video",), "clip": ("video",)}}
_THREADS = 8  # at most, that decode ahead of a GPU


def stage(name: str, kind: str, options: Options) -> Stage:
    """`kind`: music, image or video, by whatever captions it in this build."""
    spec, seed = options.models.get(kind), options.seed
    if spec is None:
        version = (measured if kind == "music" else seen).VERSION
        return Stage(name, tag(version, {"captioner": measured.NAME, "seed": seed}), records.CAPTION,
                     partial(say, kind=kind, seed=seed), parts=_MEASURED[kind], cost=0.0006)
    cards = device.there()
    batch = Batch(partial(ask, spec=spec, seed=seed), spec.batch, _length,
                  {"measurement": ("duration",)} if kind == "music" else {}, partial(load, spec),
                  min(_THREADS, os.cpu_count() or 1) if cards else 1)
    decode = partial(ready, kind=kind, decode=model.decoder(spec), limits=options.limits)
    return Stage(name, tag(VERSION, spec.version() | {"seed": seed}), records.CAPTION, decode, parts=_MEDIA[kind],
                 batch=batch, shared=True, cost=2.0, least=spec.batch, processes=cards)


def rows(work: Work, name: str, keys: Collection[str], **stages: str) -> dict[str, dict]:
    """The stage's rows for `Work.ask`; `stages` has what each part may come from: clip="fetch", film="video" ..."""
    one = work.stages[name]
    parts = {part: stages[part] for part in one.parts}
    return {key: work.row(key, {part: (stage, key) for part, stage in parts.items()},
                          media=next(iter(parts)) if one.shared else "") for key in keys}


def say(row: dict, kind: str, seed: int) -> dict:
    """Fields of records.CAPTION, of what was measured. Raises Loss("caption_failed") where nothing can be said."""
    own = key_seed(row["id"], seed)
    if kind != "music":
        return seen.caption(row["frame" if kind == "image" else "film"], own, kind)
    return {"caption": measured.caption(row["measurement"], own), "captioner": measured.NAME,
            "captioner_revision": str(measured.VERSION), "caption_prompt": "", "caption_seed": own}


def ready(row: dict, kind: str, decode: Callable[[bytes], dict], limits: sandbox.Limits) -> dict:
    """What a model takes (captioners.inputs) of a row's media, and the row's revision, which is the media's."""
    if kind == "video":  # a film that was fit as it came was not stored a second time
        media = row["film"]["video"] if row["film"]["video"] is not None else row["clip"]["video"]
    else:
        media = row["clip"]["audio"] if kind == "music" else row["frame"]["image"]
    return sandbox.call(decode, media, limits=limits) | {"revision": row["revision"]}


def ask(inputs: list[dict], spec: Spec, seed: int) -> list[dict | Loss]:
    """Fields of records.CAPTION for each; Loss("caption_failed") where the model says nothing."""
    with model.asking(spec) as captioner:
        return model.captions(spec, captioner, inputs, [key_seed(one["revision"], seed) for one in inputs])


def load(spec: Spec) -> None:
    """Have the model here. It works on one thread: workers are the parallelism, and sums must not depend on the number
    of cores."""
    import torch
    torch.set_num_threads(1)
    with model.asking(spec):
        pass


def key_seed(key: str, seed: int) -> int:
    """Nothing is random without a seed that follows from the key: 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:4], "big")


def _length(row: Mapping) -> float:
    return row["measurement"]["duration"] if "measurement" in row else 0.0
