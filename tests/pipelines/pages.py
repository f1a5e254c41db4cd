"""A build without a build: all five datasets, written by hand with real media, for tests of the page that shows it."""
import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from manifests import shards
from pipelines.write import DATASETS
from tests.conftest import encode, tone

HOSTILE = "<script>alert(1)</script></script><img src=x onerror=alert(2)> & \"'`${1}` \u2028 <!-- <b>bold</b>"
CLIPS = 12
SECONDS = 5.0  # of sound: time to play and to look at it while it does
KEYS = (("C", "major"), ("A", "minor"), ("F#", "minor"))
_EDITS = (("pair", None, 0.42), ("tempo", 0.5, None), ("pitch", -2.0, None))


def clip(number: int) -> dict:
    """What is known of a clip."""
    key, mode = KEYS[number % 3]
    return {"id": f"clip-{number:02d}", "split": "eval" if number % 4 == 0 else "train", "tempo": 60.0 + 7.5 * number,
            "tempo_confidence": 0.1 if number == 5 else 0.9, "key": key, "mode": mode, "key_confidence": 0.8,
            "loudness": -10.0 - number, "duration": SECONDS,
            "caption": HOSTILE if number == 1 else f"A calm piece, number {number}."}


@cache
def sound(number: int) -> bytes:
    return encode(tone(SECONDS, hertz=220.0 + 20 * number), 22050, "wav", "pcm_s16le")


@cache
def film() -> bytes:
    return encode(tone(2.0), 22050, "matroska", "aac", pictures=20)


@cache
def frame() -> bytes:
    target = io.BytesIO()
    Image.fromarray(np.linspace(0, 255, 900 * 1600 * 3).astype(np.uint8).reshape(900, 1600, 3)).save(target, "JPEG")
    return target.getvalue()


def rows(dataset: str) -> list[tuple[str, dict]]:
    """Split and row of each, in the order that they are written."""
    found = []
    for number in range(CLIPS):
        one = clip(number)
        key, split = one["id"], one["split"]
        text = {"captioner": "measured", "captioner_revision": "1", "caption": one["caption"],
                "agreement": {"tempo": "agrees", "key": "contradicts", "mode": None, "percussion": None}}
        base = {"id": key, "source_id": key, "audio": {"bytes": sound(number), "path": f"{key}.wav"}} | text
        measured = {name: one[name] for name in ("tempo", "tempo_confidence", "key", "mode", "key_confidence",
                                                 "loudness", "duration")}
        turns = [{"from": side, "value": f"{side} of {dataset} about {key}", "input_modality": None,
                  "output_modality": None, "caption": None} for side in ("human", "gpt")]
        said = {"conversation": turns * (9 if dataset == "musicqa" else 1), "instructor": "template",
                "instructor_revision": "2"}
        if dataset == "mucaps":
            made = base | measured | {"beats": [], "chroma": []}
        elif dataset == "muedit":
            edit, amount, distance = _EDITS[number % 3]
            made = base | measured | said | {f"target_{name}": value for name, value in (measured | text).items()} | {
                "id": f"{key}@{edit}", "target_source_id": key, "edit": edit, "amount": amount, "distance": distance,
                "target_tempo": 200.0, "target_caption": f"What became of {key}.",
                "target_audio": {"bytes": sound(number + 20), "path": "target.wav"}}
        elif dataset in ("muimage", "muvideo"):
            kind = dataset.removeprefix("mu")
            made = base | said | {"duration": SECONDS, f"{kind}_caption": f"A {kind} of {key}.",
                                  kind: {"bytes": frame() if kind == "image" else film(), "path": "seen"}}
        else:
            made = base | said | {"duration": SECONDS, "tags": ["rock", "<i>loud</i>"], "description": None}
        found.append((split, dict.fromkeys(DATASETS[dataset].features()) | made))
    return found


def stats() -> dict:
    spread = {"min": 0, "p5": 1, "median": 2, "p95": 3, "max": 4}
    numbers = {"requested": CLIPS + 3, "done": CLIPS, "lost": {"silent": 1, "network": 2},
               "splits": {"train": 9, "eval": 3}, "clips": CLIPS, "source_videos": CLIPS, "hours": 0.0067,
               "tempo": spread, "duration": spread, "loudness": spread, "captions": {"distinct": 3, "words": spread},
               "tempo_histogram": {"from 000 BPM": 0, "from 060 BPM": 5, "from 120 BPM": 7},
               "keys": {f"{key} {mode}": 4 for key, mode in KEYS},
               "agreement": {"tempo": {"agrees": 12}, "key": {"contradicts": 12}, "mode": {}, "percussion": {}}}
    return {"datasets": dict.fromkeys(sorted(DATASETS), numbers),
            "made": {"source": "folder", "assignment": "shared", "seed": 0, "tagger": None, "descriptions": None,
                     "captioners": {"music": "measured", "image": "measured", "video": "measured",
                                    "instruct": "template"},
                     "edits": {"tempo": 1, "pitch": 1}, "stages": {"measure": "v2-0"}}}


def build(out: Path, files: int = 1, changed=lambda dataset, row: row) -> Path:
    """The datasets in so many shards a split, and what else the page reads of a build; returns `out`."""
    for dataset, maker in DATASETS.items():
        for split in ("train", "eval"):
            held = [changed(dataset, row) for where, row in rows(dataset) if where == split]
            names = [f"data-{number}.arrow" for number in range(files)]
            for number, name in enumerate(names):
                shards.write(str(out / "datasets" / dataset / split / name), maker.features().arrow_schema,
                             held[number::files])
            (out / "datasets" / dataset / split / "state.json").write_text(
                json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (out / "stats.json").write_text(json.dumps(stats()))
    measured = [clip(number) | {"outcome": "done"} for number in range(CLIPS)]
    kinds = {"id": "string", "outcome": "string", "tempo": "double", "tempo_confidence": "double", "key": "string",
             "mode": "string", "key_confidence": "double", "loudness": "double"}
    shards.write(str(out / "stages/measure/v2-0/g0.0.arrow"),
                 pa.schema([(name, pa.string() if kind == "string" else pa.float64()) for name, kind in kinds.items()]),
                 [{name: row[name] for name in kinds} for row in measured])
    (out / "stages/measure/v2-0/g0.0.json").write_text("{}")
    return out


def data(page: str) -> dict:
    """What a page holds, of its text."""
    start = page.index('id="data">') + len('id="data">')
    return json.loads(page[start:page.index("</script>", start)])
