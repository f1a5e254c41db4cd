"""MusicQA: questions about music and their answers (MU-LLaMA, arXiv 2308.11276). One row a clip, nine questions each.

Answers rest on the clip's caption, or on what others wrote about it: MusicCaps' captions, MagnaTagATune's or
MTG-Jamendo's tags (`--descriptions FILE`).
"""
from collections.abc import Iterator, Mapping

from datasets import Audio, Features, List, Value

from pipelines import columns, instruct
from pipelines.lines import Line
from pipelines.options import Options
from pipelines.stage import Stage
from pipelines.work import CLIP, Work

NAME = "musicqa"
TITLE = "MusicQA"
ABOUT = ("Music clips, each with the four fixed questions of MusicQA, five open ones and their answers "
         "(MU-LLaMA, arXiv 2308.11276).")
TASK = "audio-text-to-text"  # in the Hub's words
VERSION = 1
STAGES = ("instruct-musicqa",)
PARTS = {"clip": columns.AUDIO, "measurement": ("duration",), "caption": columns.CAPTION, "check": columns.AGREEMENT,
         "instruction": columns.INSTRUCTION}


def stages(options: Options, floor: Mapping[str, Stage]) -> list[Stage]:
    return [instruct.stage(NAME, options, ("music",))]


def lines(work: Work, keys: list[str]) -> Iterator[Line]:
    described = work.options.descriptions and work.described(keys)
    good = work.done(keys, CLIP)
    rows = {}
    for key in good:
        if described is None:
            rows[key] = work.row(key, {"music": ("caption", key)})
        elif key in described:
            rows[key] = work.row(key, {}, given=described[key])
    if good and not rows and described is not None:
        raise ValueError(f"{work.options.descriptions} describes none of {len(good)} clips, such as {good[0]}; it must "
                         "name them by their video (MusicCaps) or by their path under --media")
    work.ask([work.stages[STAGES[0]]], rows)
    for key in keys:
        outcome, detail = work.fate(key, CLIP)
        if outcome == "done" and key not in rows:
            yield Line(key, key, None, "not_described", f"not in {work.options.descriptions}")
            continue
        outcome, detail = work.fate(key, (*CLIP, *STAGES))
        given = {} if described is None else described.get(key, {})
        yield Line(key, key, None, outcome, detail,
                   {"clip": ("fetch", key), "measurement": ("measure", key), "caption": ("caption", key),
                    "check": ("check", key), "instruction": ("instruct-musicqa", key)},
                   {"description": given.get("caption"), "tags": given.get("tags", [])})


def features() -> Features:
    """Columns of a row. `description` and `tags` are what others wrote, where the answers rest on that."""
    return Features({"id": Value("string"), "source_id": Value("string"), "audio": Audio(), **columns.instruction(),
                     "description": Value("string"), "tags": List(Value("string")), "duration": Value("float64"),
                     **columns.texts(columns.CAPTION), **columns.agreement()})


def row(row: Mapping) -> dict:
    return {"id": row["id"], "source_id": row["source_id"],
            "audio": columns.media(row["id"], row["clip"]["audio"], row["clip"]["audio_format"]),
            **row["instruction"], "description": row["description"], "tags": row["tags"],
            "duration": row["measurement"]["duration"], **columns.captioned(row["caption"], row["check"])}
