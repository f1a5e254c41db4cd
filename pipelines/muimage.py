"""MUImage: music for an image (M²UGen, arXiv 2311.11255, section 4.3). One row a clip that has a picture.

A frame of the clip's own video goes in, the clip's music comes out.
"""
from collections.abc import Iterator, Mapping

from datasets import Audio, Features, Image, Value

from pipelines import caption, columns, frame, instruct
from pipelines.lines import Line
from pipelines.options import Options
from pipelines.stage import Stage
from pipelines.work import CLIP, Work

NAME = "muimage"
TITLE = "MUImage"
ABOUT = ("A frame of a video, its music, and a conversation that asks for that music "
         "(M²UGen, arXiv 2311.11255, section 4.3).")
TASK = "text-to-audio"  # in the Hub's words
VERSION = 1
STAGES = ("frame", "image-caption", "instruct-muimage")
PARTS = {"clip": columns.AUDIO, "frame": ("image", "image_format", "frame_time", "width", "height"),
         "image_caption": columns.CAPTION, "measurement": ("duration",), "caption": columns.CAPTION,
         "check": columns.AGREEMENT, "instruction": columns.INSTRUCTION}


def stages(options: Options, floor: Mapping[str, Stage]) -> list[Stage]:
    frames = frame.stage(floor["fetch"], options.limits)
    return [frames, caption.stage("image-caption", "image", options), instruct.stage(NAME, options, ("music", "image"))]


def lines(work: Work, keys: list[str]) -> Iterator[Line]:
    frames, captions, instructions = (work.stages[name] for name in STAGES)
    good = work.done(keys, CLIP)
    work.follow([frames], good)
    work.ask([captions], caption.rows(work, "image-caption", work.done(good, ("frame",)), frame="frame"))
    seen = work.done(good, STAGES[:2])
    work.ask([instructions], {key: work.row(key, {"music": ("caption", key), "image": ("image-caption", key)})
                              for key in seen})
    for key in keys:
        outcome, detail = work.fate(key, (*CLIP, *STAGES))
        yield Line(key, key, None, outcome, detail,
                   {"clip": ("fetch", key), "frame": ("frame", key), "image_caption": ("image-caption", key),
                    "measurement": ("measure", key), "caption": ("caption", key), "check": ("check", key),
                    "instruction": ("instruct-muimage", key)})


def features() -> Features:
    """Columns of a row. `frame_time` is seconds into the clip."""
    return Features({"id": Value("string"), "source_id": Value("string"), "image": Image(), "audio": Audio(),
                     **columns.instruction(), "frame_time": Value("float64"), "width": Value("int32"),
                     "height": Value("int32"), "duration": Value("float64"),
                     **columns.texts(columns.CAPTION, "image_"), **columns.texts(columns.CAPTION),
                     **columns.agreement()})


def row(row: Mapping) -> dict:
    shot = row["frame"]
    return {"id": row["id"], "source_id": row["source_id"],
            "image": columns.media(row["id"], shot["image"], shot["image_format"]),
            "audio": columns.media(row["id"], row["clip"]["audio"], row["clip"]["audio_format"]),
            **row["instruction"], **{name: shot[name] for name in ("frame_time", "width", "height")},
            "duration": row["measurement"]["duration"],
            **{f"image_{name}": row["image_caption"][name] for name in columns.CAPTION},
            **columns.captioned(row["caption"], row["check"])}
