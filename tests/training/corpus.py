"""A small build to train on: datasets as `make datasets` leaves them, features as `make features` does, or media."""
import dataclasses
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from manifests import records, shards, storage
from manifests.outcomes import DONE
from tests.conftest import encode, tone
from training import features, frozen, stages
from training.config import m2ugen
from training.samples import CAPTIONS, Medium
from training.settings import Settings
from training.sources import Sources

DEBUG = m2ugen("debug")
HEARS = {"mucaps": "audio", "muimage": "image", "muvideo": "video", "musicqa": "audio", "muedit": "audio"}
_MEDIUM = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TEMPI, _MODES = ("slow", "fast", "quiet", "loud", "busy"), ("minor", "major")


def describe(number: int) -> str:
    return f"A {_TEMPI[number % 5]} piece in {_MODES[number % 2]}, track {number}."


def row(name: str, key: str, number: int, medium: bytes) -> dict:
    """Of a dataset of ours, as a build writes it."""
    heard = HEARS[name]
    seen = f"The {heard} is {_TEMPI[number % 5]} and {_MODES[number % 2]}"
    caption = f"{describe(number)[:-1]} to {name}." if name != "mucaps" else describe(number)
    turns = [("One is " + _TEMPI[number % 5], None), (f"The key is {_MODES[number % 2]}", None)] if name == "musicqa" \
        else [("Here is a piece", caption)]
    talk = []
    for place, (answer, comes) in enumerate(turns):
        asked = ("What tempo is it", "The key")[place] if name == "musicqa" else f"Write a {_TEMPI[number % 5]} piece"
        talk += [{"from": "human", "value": asked, "caption": seen, "input_modality": heard, "output_modality": None},
                 {"from": "gpt", "value": answer, "caption": comes, "input_modality": None,
                  "output_modality": "audio" if comes else "text"}]
    return {"id": key, heard: {"bytes": medium, "path": key}, "caption": caption, CAPTIONS.get(name, ("", "x"))[1]: (
        caption if name == "mucaps" else seen), "conversation": talk}


def _schema(name: str) -> pa.Schema:
    texts = dict.fromkeys(["caption", CAPTIONS.get(name, ("", "caption"))[1]])
    return pa.schema([("id", pa.string()), (HEARS[name], _MEDIUM), *((text, pa.string()) for text in texts),
                      *([] if name == "mucaps" else [("conversation", pa.list_(records.TURN))])])


def media(modality: str, number: int) -> bytes:
    """A file that can be decoded, and is another one for each number."""
    if modality == "audio":
        return encode(tone(0.3, 8000, 200 + 20 * number), 8000, "wav", "pcm_s16le")
    if modality == "video":
        return encode(tone(0.5, 8000), 8000, "matroska", "aac", pictures=2 + number)
    file = io.BytesIO()
    Image.fromarray(np.full((30, 40, 3), (20 * number % 256, 90, 30), np.uint8)).save(file, "PNG")
    return file.getvalue()


def datasets(out: Path, train: int = 8, held: int = 2, names: Mapping[str, str] = HEARS,
             medium: Callable[[str, int], bytes] = lambda modality, number: b"") -> None:
    """So many rows of each dataset, in two shards to train on and one for validation."""
    for name in names:
        numbers = list(range(train + held))
        for split, parts in (("train", (numbers[:train // 2], numbers[train // 2:train])),
                             ("eval", (numbers[train:],) if held else ())):
            folder = out / "datasets" / name / split
            for place, some in enumerate(parts):
                shards.write(str(folder / f"data-{place:05d}.arrow"), _schema(name), (
                    row(name, f"{name}-{number}", number, medium(HEARS[name], number)) for number in some))
            if parts:
                storage.write_json(str(folder / "state.json"), {"_data_files": [
                    {"filename": f"data-{place:05d}.arrow"} for place in range(len(parts))]})


def features_of(out: Path, count: int = 10, names: Mapping[str, str] = HEARS, wrong: tuple[str, ...] = (),
                **about: str) -> None:
    """Random features of all that `datasets` wrote, a shard a dataset; those of `wrong` (keys) are no numbers. `about`:
    what is told of the models, where it is not the truth."""
    for kind, shape in frozen.shapes(DEBUG).items():
        generator = torch.Generator().manual_seed(len(kind))
        entries = []
        for name in names:
            if kind not in ("text", HEARS[name]):
                continue
            keys = [key(kind, name, number) for number in range(count)]
            path = f"stages/features-{kind}/{name}.0.arrow"
            shards.write(str(out / path), records.FEATURE, (
                {"id": one, "outcome": DONE, "detail": "", "values": _values(
                    torch.randn(shape, generator=generator) * (float("nan") if one in wrong else 0.3))}
                for one in keys))
            entries += [(one, path, place, DONE, "") for place, one in enumerate(keys)]
        features.publish(str(out), kind, frozen.choose(DEBUG, {})[kind].about() | about, shape, entries)


def key(kind: str, name: str, number: int) -> str:
    """By which the features of a row of `datasets` are found."""
    if kind == "text":
        return features.text_key(row(name, "", number, b"")["caption"])
    return features.media_key(Medium(name, f"{name}-{number}"))


def _values(one: torch.Tensor) -> bytes:
    return one.bfloat16().view(torch.uint8).numpy().tobytes()


def settings(out: Path, run: Path, stage: int, *, epochs: int = 1, rate: float = 3e-3,
             data: Mapping[str, float] | None = None, **other: object) -> Settings:
    """Of the debug size, on the CPU: quick, and much said."""
    chosen = dataclasses.replace(stages.STAGES[stage], epochs=epochs, rate=rate,
                                 data=data or stages.STAGES[stage].data)
    return Settings(chosen, Sources(str(out)), run, **{
        "batch": 4, "micro": 4, "device": "cpu", "log_every": 1, "save_every": 2, **other})
