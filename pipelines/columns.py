"""Columns that several datasets share: media, captions with their checks, conversations, provenance."""
from collections.abc import Mapping

from datasets import Features, List, Value

from manifests import records

AUDIO = ("audio", "audio_format")  # of the clip store, and of edits
CAPTION = ("caption", "captioner", "captioner_revision", "caption_prompt", "caption_seed")
AGREEMENT = ("tempo", "key", "mode", "percussion")
INSTRUCTION = ("conversation", "instructor", "instructor_revision", "prompt_version", "instruction_seed")

_KINDS = {"caption_seed": "int64", "instruction_seed": "int64", "prompt_version": "int64"}
_TURN = {field.name: Value("string") for field in records.TURN}


def texts(names: tuple[str, ...], prefix: str = "") -> Features:
    return Features({f"{prefix}{name}": Value(_KINDS.get(name, "string")) for name in names})


def agreement(prefix: str = "") -> Features:
    """Whether the caption "agrees" with or "contradicts" what was measured; null where it does not speak of it."""
    return Features({f"{prefix}agreement": {name: Value("string") for name in AGREEMENT}})


def instruction() -> Features:
    """The conversation in the published layout, and what wrote it."""
    return Features({"conversation": List(_TURN), **texts(INSTRUCTION[1:])})


def media(key: str, data: bytes, suffix: str) -> dict:
    """Audio, Image or Video as `datasets` stores them."""
    return {"bytes": data, "path": f"{key.removesuffix(f'.{suffix}')}.{suffix}"}


def captioned(caption: Mapping, check: Mapping, prefix: str = "") -> dict:
    """Values of `texts(CAPTION)` and `agreement()`."""
    return {**{f"{prefix}{name}": caption[name] for name in CAPTION},
            f"{prefix}agreement": {name: check[name] for name in AGREEMENT}}
