"""MUVideo: music for a video (M²UGen, arXiv 2311.11255, section 4.4). One row a clip that has a picture.

The clip's own picture goes in, without its sound; the clip's music comes out.
"""
from collections.abc import Iterator, Mapping

from datasets import Audio, Features, List, Value, Video

from pipelines import caption, columns, instruct, video
from pipelines.lines import Line
from pipelines.options import Options
from pipelines.stage import Stage
from pipelines.work import CLIP, Work

NAME = "muvideo"
TITLE = "MUVideo"
ABOUT = ("A video without sound, its music, and a conversation that asks for that music "
         "(M²UGen, arXiv 2311.11255, section 4.4).")
TASK = "text-to-audio"  # in the Hub's words
VERSION = 1
STAGES = ("video", "video-caption", "instruct-muvideo")
_SHAPE = {"width": "int32", "height": "int32", "frames": "int32", "fps": "float64"}
PARTS = {"clip": (*columns.AUDIO, "video", "video_format"), "video": ("video", "video_format", *_SHAPE, "frame_index"),
         "video_caption": columns.CAPTION, "measurement": ("duration",), "caption": columns.CAPTION,
         "check": columns.AGREEMENT, "instruction": columns.INSTRUCTION}


def stages(options: Options, floor: Mapping[str, Stage]) -> list[Stage]:
    videos = video.stage(floor["fetch"], options.limits)
    return [videos, caption.stage("video-caption", "video", options), instruct.stage(NAME, options, ("music", "video"))]


def lines(work: Work, keys: list[str]) -> Iterator[Line]:
    videos, captions, instructions = (work.stages[name] for name in STAGES)
    good = work.done(keys, CLIP)
    work.follow([videos], good)
    work.ask([captions], caption.rows(work, "video-caption", work.done(good, ("video",)), film="video", clip="fetch"))
    seen = work.done(good, STAGES[:2])
    work.ask([instructions], {key: work.row(key, {"music": ("caption", key), "video": ("video-caption", key)})
                              for key in seen})
    for key in keys:
        outcome, detail = work.fate(key, (*CLIP, *STAGES))
        yield Line(key, key, None, outcome, detail,
                   {"clip": ("fetch", key), "video": ("video", key), "video_caption": ("video-caption", key),
                    "measurement": ("measure", key), "caption": ("caption", key), "check": ("check", key),
                    "instruction": ("instruct-muvideo", key)})


def features() -> Features:
    """Columns of a row. `frame_index`: 32 frames, evenly over the video; repeated where it has fewer."""
    return Features({"id": Value("string"), "source_id": Value("string"), "video": Video(), "audio": Audio(),
                     **columns.instruction(), **{name: Value(kind) for name, kind in _SHAPE.items()},
                     "frame_index": List(Value("int32")), "duration": Value("float64"),
                     **columns.texts(columns.CAPTION, "video_"), **columns.texts(columns.CAPTION),
                     **columns.agreement()})


def row(row: Mapping) -> dict:
    # A picture that was fit as it came was not stored a second time.
    held = row["video"] if row["video"]["video"] is not None else row["clip"]
    return {"id": row["id"], "source_id": row["source_id"],
            "video": columns.media(row["id"], held["video"], held["video_format"]),
            "audio": columns.media(row["id"], row["clip"]["audio"], row["clip"]["audio_format"]),
            **row["instruction"], **{name: row["video"][name] for name in (*_SHAPE, "frame_index")},
            "duration": row["measurement"]["duration"],
            **{f"video_{name}": row["video_caption"][name] for name in columns.CAPTION},
            **columns.captioned(row["caption"], row["check"])}
