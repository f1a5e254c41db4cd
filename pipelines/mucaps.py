"""MUCaps: music and its caption (M²UGen, arXiv 2311.11255, section 4.1). One row a clip that passed the filter."""
from collections.abc import Mapping

from datasets import Audio, Features, List, Value

NAME = "mucaps"
TITLE = "MUCaps"
ABOUT = "Music clips, each with a caption and the measurements that it rests on (M²UGen, arXiv 2311.11255)."
VERSION = 1
# What it takes from the measurements: everything but the fingerprint, which is nobody's business but ours.
_MEASURED = {"duration": "float64", "tempo": "float64", "tempo_confidence": "float64", "onset_rate": "float64",
             "key": "string", "mode": "string", "key_confidence": "float64", "pitch_median": "float64",
             "pitch_low": "float64", "pitch_high": "float64", "pitch_salience": "float64", "loudness": "float64",
             "rms": "float64", "dynamics": "float64", "centroid": "float64", "flatness": "float64",
             "percussiveness": "float64", "speech": "float64"}
_CAPTION = {"captioner": "string", "captioner_revision": "string", "caption_prompt": "string", "caption_seed": "int64"}
MEASUREMENT_COLUMNS = ("id", "outcome", *_MEASURED, "beats", "chroma")


def features() -> Features:
    """Columns of a row. Times are seconds, tempo BPM, pitches MIDI note numbers, levels dBFS and LUFS."""
    return Features({"id": Value("string"), "source_id": Value("string"), "audio": Audio(), "caption": Value("string"),
                     **{name: Value(kind) for name, kind in _MEASURED.items()},
                     "beats": List(Value("float32")), "chroma": List(Value("float32")),
                     **{name: Value(kind) for name, kind in _CAPTION.items()}})


def row(clip: Mapping, measurement: Mapping, caption: Mapping) -> dict:
    """A row from the clip store's, the measurement's and the caption's; `audio` as `datasets` stores it."""
    path = clip["id"].removesuffix(f".{clip['audio_format']}")
    return {"id": clip["id"], "source_id": clip["source_id"],
            "audio": {"bytes": clip["audio"], "path": f"{path}.{clip['audio_format']}"},
            "caption": caption["caption"],
            **{name: measurement[name] for name in (*_MEASURED, "beats", "chroma")},
            **{name: caption[name] for name in _CAPTION}}
