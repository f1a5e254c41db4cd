"""Datasets that others made, from their JSON files as published: captions, answers and instructions to train with.

Each reader is a generator of typed rows, in the file's order; paths may be URLs. The JSON files are loaded whole: the
largest, COCO's and MusicQA's, have about 100 MB. Every row is checked: ValueError, when the end is reached, tells the
first ten bad ones, and nothing is given after the first. Rows with a null or empty text are left out, with a warning:
the published files have them (a language model gave no answer), and the released code skips them.

COCO captions: Chen et al., arXiv:1504.00325. Alpaca: Taori et al., github.com/tatsu-lab/stanford_alpaca. MusicQA: Liu
et al., arXiv:2308.11276. MUCaps, MUEdit, MUImage, MUVideo: Hussain et al., arXiv:2311.11255.
"""
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from manifests.checked import file_name, line, read_json, sound, text
from manifests.messages import shown

# What ends the instruction where an Alpaca row has an input: in the prompt's place for the instruction, both together
# read as Alpaca's own prompt with input does ("### Instruction:", "### Input:", "### Response:").
ALPACA_INPUT = "\n\n### Input:\n"

_AUDIO = {".mp3", ".wav", ".flac", ".ogg", ".opus", ".m4a", ".aac"}
_TURNS = ('"conversation": [{"from": "human", "value": "...", "input_modality": "%s"}, '
          '{"from": "gpt", "value": "...", "caption": "...", "output_modality": "%s"}]}')


@dataclass(frozen=True)
class Captioned:
    file: str      # as the dataset names it: below the folder of its media
    caption: str   # one line


@dataclass(frozen=True)
class Exchange:
    instruction: str
    answer: str


@dataclass(frozen=True)
class Question:
    audio: str
    question: str
    answer: str


@dataclass(frozen=True)
class Instruction:
    """A row of MUEdit, MUImage or MUVideo: what goes in, what is asked for, and what comes out."""
    input_file: str
    output_file: str
    instruction: str
    answer: str
    input_modality: str         # "audio" | "image" | "video"
    output_modality: str        # "audio"
    input_caption: str | None   # null where the file has none
    output_caption: str         # of the music: what the output projector learns from


def coco(url: str) -> Iterator[Captioned]:
    """Image files and captions, five or so an image, from the official `annotations/captions_train2017.json`;

    or from the flat {file name: caption} that M²UGen's code reads, one an image.
    """
    example = 'It is like {"images": [{"id": 9, "file_name": "9.jpg"}], "annotations": [{"id": 1, "image_id": 9, ' \
              '"caption": "..."}]}, or {"9.jpg": "..."}'
    match read_json(url, "COCO's captions_*.json"):
        case {"images": [*images], "annotations": [*annotations]}:
            names: dict[int, str] = {}
            # Images have no rows of their own, so that their names are read before the first caption is given.
            for name in sound(url, _numbered(images, "image"), partial(_image, names=names), example):
                del name
            yield from sound(url, _numbered(annotations, "annotation"),
                             partial(_annotation, names=names, seen=set()), example)
        case {"images": _} | {"annotations": _}:
            raise ValueError(f"{url}: has no lists of both images and annotations. {example}")
        case dict() as flat:
            yield from _flat(url, flat, example)
        case _:
            raise ValueError(f"{url}: no captions. {example}")


def captions(url: str) -> Iterator[Captioned]:
    """Files and captions from M²UGen's {file name: caption}: MUCapsCaptions.json, MUVideoCaptions.json and the like."""
    example = 'It is like {"abc.mp3": "The music is ...", ...}'
    found = read_json(url, "{file name: caption}")
    if not isinstance(found, dict):
        raise ValueError(f"{url}: no object of files and their captions. {example}")
    yield from _flat(url, found, example)


def alpaca(url: str) -> Iterator[Exchange]:
    """Instructions and answers from Alpaca's list of {instruction, input, output}, or from M²UGen's of conversations.

    Where a row has an input it follows the instruction after `ALPACA_INPUT`; "<noinput>" is none.
    """
    yield from sound(url, _list(url, "Alpaca's alpaca_data.json"), _exchange,
                     'A row is like {"instruction": "...", "input": "", "output": "..."}, or {'
                     '"conversation": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}')


def musicqa(url: str) -> Iterator[Question]:
    """Audio files, questions and answers from MusicQA's JSON.

    The file's key is `audio_name`; `image_name`, which the released training code reads, is taken as well.
    """
    yield from sound(url, _list(url, "MusicQA's JSON"), _question,
                     'A row is like {"audio_name": "a.mp3", ' + _TURNS % ("audio", "text"))


def instructions(url: str) -> Iterator[Instruction]:
    """Rows of MUEditInstructions.json, MUImageInstructions.json or MUVideoInstructions.json.

    The script that made MUImage's wrote the music as the input and the picture as the output: where the input should
    be a picture or a video, but is a sound, and the output is none, the two change places.
    """
    yield from sound(url, _list(url, "M²UGen's ...Instructions.json"), _instruction,
                     'A row is like {"input_file": "a.jpg", "output_file": "a.mp3", ' + _TURNS % ("image", "audio"))


def _numbered(entries: list, kind: str) -> Iterator[tuple[str, object]]:
    return ((f"{kind} {number}", entry) for number, entry in enumerate(entries, 1))


def _list(url: str, kind: str) -> Iterator[tuple[str, object]]:
    found = read_json(url, kind)
    if not isinstance(found, list):
        raise ValueError(f"{url}: no list of rows; {kind} is needed")
    return _numbered(found, "row")


def _flat(url: str, found: dict, example: str) -> Iterator[Captioned]:
    return sound(url, ((f"row {number}", item) for number, item in enumerate(found.items(), 1)), _captioned, example)


def _captioned(item: tuple[str, object]) -> Captioned | None:
    name, caption = file_name(item[0], "the key"), _said(item[1], f"the caption of {shown(item[0])}")
    return Captioned(name, " ".join(caption.split())) if caption else None


def _image(entry: object, names: dict[int, str]) -> str:
    match entry:
        case {"id": int(key), "file_name": name} if not isinstance(key, bool):
            if key in names:
                raise ValueError(f"the id {key} is there twice")
            names[key] = file_name(name, "file_name")
            return names[key]
    raise ValueError("needs an id, a whole number, and a file_name")


def _annotation(entry: object, names: dict[int, str], seen: set[int]) -> Captioned | None:
    match entry:
        case {"id": int(key), "image_id": int(image), "caption": said}:
            if image not in names:
                raise ValueError(f"there is no image with the id {image}")
            if key in seen:
                raise ValueError(f"the id {key} is there twice")
            seen.add(key)
            caption = line(said, "the caption")
            return Captioned(names[image], caption) if caption else None
    raise ValueError("needs an id and an image_id, whole numbers, and a caption")


def _exchange(entry: object) -> Exchange | None:
    match entry:
        case {"conversation": _}:
            human, gpt = _turns(entry)
            asked, answer = _said(human["value"], "the human's value"), _said(gpt["value"], "gpt's value")
        case {"instruction": asked, "output": answer}:
            asked, answer = _said(asked, "instruction"), _said(answer, "output")
            given = _said(entry.get("input"), "input")
            if asked and given and given.lower() != "<noinput>":
                asked += ALPACA_INPUT + given
        case _:
            raise ValueError("has neither instruction and output nor a conversation")
    return Exchange(asked, answer) if asked and answer else None


def _question(entry: object) -> Question | None:
    human, gpt = _turns(entry)
    _modality(human, "input_modality", ("audio",))
    _modality(gpt, "output_modality", ("text",))
    match entry:
        case {"audio_name": name} | {"image_name": name}:
            name = file_name(name, "audio_name")
        case _:
            raise ValueError("has no audio_name")
    asked, answer = _said(human["value"], "the human's value"), _said(gpt["value"], "gpt's value")
    return Question(name, asked, answer) if asked and answer else None


def _instruction(entry: object) -> Instruction | None:
    human, gpt = _turns(entry)
    goes, comes = (file_name(entry.get(key), key) for key in ("input_file", "output_file"))
    modality = _modality(human, "input_modality", ("audio", "image", "video"))
    if modality != "audio" and _sounds(goes) and not _sounds(comes):
        goes, comes = comes, goes
    asked, answer = _said(human["value"], "the human's value"), _said(gpt["value"], "gpt's value")
    described = _said(gpt.get("caption"), "gpt's caption")
    if not (asked and answer and described):
        return None
    return Instruction(goes, comes, asked, answer, modality, _modality(gpt, "output_modality", ("audio",)),
                       _said(human.get("caption"), "the human's caption") or None, described)


def _turns(entry: object) -> tuple[dict, dict]:
    """The two turns of a conversation: the human's, then the model's."""
    match entry:
        case {"conversation": [{"from": "human", "value": _} as human, {"from": "gpt", "value": _} as gpt]}:
            return human, gpt
    raise ValueError('needs a conversation of two turns, from "human" and from "gpt", with a value each')


def _modality(turn: dict, name: str, known: tuple[str, ...]) -> str:
    """A turn's modality; where there is only one that it can be, it may be left out."""
    found = turn.get(name, known[0] if len(known) == 1 else None)
    if found not in known:
        raise ValueError(f"{name} is {shown(repr(found))}, not one of {', '.join(known)}")
    return found


def _said(value: object, name: str) -> str:
    """A text; null says as much as an empty one."""
    return "" if value is None else text(value, name)


def _sounds(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _AUDIO
