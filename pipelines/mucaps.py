"""MUCaps: music and its caption (M²UGen, arXiv 2311.11255, section 4.1). One row a clip that passed the filter."""
from collections.abc import Iterator, Mapping

from datasets import Audio, Features, List, Value

from pipelines import columns
from pipelines.lines import Line
from pipelines.options import Options
from pipelines.stage import Stage
from pipelines.work import CLIP, Work

NAME = "mucaps"
TITLE = "MUCaps"
ABOUT = ("Music clips, each with a caption and the measurements that it rests on "
         "(M²UGen, arXiv 2311.11255, section 4.1).")
TASK = "audio-text-to-text"  # in the Hub's words
VERSION = 2
# What it takes from the measurements: everything but the fingerprint, which is nobody's business but ours.
_MEASURED = {"duration": "float64", "tempo": "float64", "tempo_confidence": "float64", "onset_rate": "float64",
             "key": "string", "mode": "string", "key_confidence": "float64", "pitch_median": "float64",
             "pitch_low": "float64", "pitch_high": "float64", "pitch_salience": "float64", "loudness": "float64",
             "rms": "float64", "dynamics": "float64", "centroid": "float64", "flatness": "float64",
             "percussiveness": "float64", "speech": "float64"}
PARTS = {"clip": columns.AUDIO, "measurement": (*_MEASURED, "beats", "chroma"), "caption": columns.CAPTION,
         "check": columns.AGREEMENT}
STAGES = ()  # of its own


def stages(options: Options, floor: Mapping[str, Stage]) -> list[Stage]:
    return []  # all it needs is done for every dataset


def lines(work: Work, keys: list[str]) -> Iterator[Line]:
    for key in keys:
        outcome, detail = work.fate(key, CLIP)
        yield Line(key, key, None, outcome, detail,
                   {"clip": ("fetch", key), "measurement": ("measure", key), "caption": ("caption", key),
                    "check": ("check", key)})


def features() -> Features:
    """Columns of a row. Times are seconds, tempo BPM, pitches MIDI note numbers, levels dBFS and LUFS."""
    return Features({"id": Value("string"), "source_id": Value("string"), "audio": Audio(),
                     **{name: Value(kind) for name, kind in _MEASURED.items()},
                     "beats": List(Value("float32")), "chroma": List(Value("float32")),
                     **columns.texts(columns.CAPTION), **columns.agreement()})


def row(row: Mapping) -> dict:
    return {"id": row["id"], "source_id": row["source_id"],
            "audio": columns.media(row["id"], row["clip"]["audio"], row["clip"]["audio_format"]),
            **row["measurement"], **columns.captioned(row["caption"], row["check"])}
