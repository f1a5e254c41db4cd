"""Captions in, conversations out: the one interface that the template writer and any language model share.

A writer answers prompts; this file asks it, has the answers checked, asks again with another seed where one does not
hold, and lays the sides out as the published instruction files do.
"""
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from captioners import answers, lexicon, numbered
from manifests import prompts
from manifests.outcomes import Loss

ATTEMPTS = 3
LONGEST = 5_000           # letters of what a conversation is written from: people's captions have hundreds
_LONGEST_ANSWER = 16_000  # of ten parts at most

# The texts that each dataset's `given` must hold; musicqa takes a caption or tags.
NEEDED = {"muedit": ("source", "target"), "muimage": ("music", "image"), "muvideo": ("music", "video"), "musicqa": ()}
INPUTS = {"muedit": ("audio", "source", "target"), "muimage": ("image", "image", "music"),
          "muvideo": ("video", "video", "music")}  # input modality, its caption, the output's caption


@dataclass(frozen=True)
class Prompt:
    """One question to a writer. `given` is what the texts were made of, for writers that do not read prompts."""

    dataset: str
    side: str      # "human" | "model"; musicqa: "closed" | "open"
    system: str
    user: str
    given: Mapping


class Writer(Protocol):
    """Answers prompts. Answer i may depend on prompt i, its seed and the writer's version, and on nothing else.

    An exception in the place of an answer: this prompt cannot be answered, with whatever seed.
    """

    name: str
    revision: str

    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[str | Exception]: ...


class Item(NamedTuple):
    """A conversation to be written. `given` is described at `manifests.prompts.user`."""

    dataset: str
    given: Mapping
    seed: int


@dataclass(frozen=True)
class Conversation:
    """A conversation in the published layout, and where it comes from.

    `turns` alternate human and gpt, and have the keys from, value, input_modality, output_modality and caption each;
    None where one does not apply.
    """

    turns: list[dict]
    writer: str
    revision: str
    prompt_version: int
    seed: int


def converse(dataset: str, given: Mapping, writer: Writer, seed: int) -> Conversation:
    """Write one conversation. Raises Loss("instruction_failed") where no answer held, ValueError on a bad `given`, and
    what the writer has in the place of an answer."""
    found = converse_all([Item(dataset, given, seed)], writer)[0]
    if isinstance(found, Exception):
        raise found
    return found


def converse_all(items: Sequence[Item], writer: Writer) -> list[Conversation | Exception]:
    """Write many conversations, in batches as large as they come; each is what `converse` would give on its own, or
    the exception that it would raise."""
    asked = [(index, side) for index, item in enumerate(items) for side in _sides(item)]
    found: dict[tuple[int, str], object] = {}
    lost: dict[int, Exception] = {index: Loss("instruction_failed", f"{item.dataset}: {why}")
                                  for index, item in enumerate(items) if (why := _ungrounded(item))}
    asked = [(index, side) for index, side in asked if index not in lost]
    why = {}
    for attempt in range(ATTEMPTS):
        if not asked:
            break
        texts = _write(writer, [_prompt(items[index], side) for index, side in asked],
                       [_seed(items[index].seed, side, attempt) for index, side in asked])
        missed = []
        for (index, side), text in zip(asked, texts, strict=True):
            if isinstance(text, Exception):
                lost.setdefault(index, text)
                continue
            try:
                found[index, side] = _read(items[index], side, text)
            except answers.Unfit as fault:
                why[index, side] = str(fault)
                missed.append((index, side))
        asked = [(index, side) for index, side in missed if index not in lost]
    for index, side in reversed(asked):  # the first side that failed names the loss
        lost[index] = Loss("instruction_failed", f"{items[index].dataset} {side}: {why[index, side]}")
    return [lost[index] if index in lost else
            Conversation(_turns(item, {side: found[index, side] for side in prompts.SIDES[item.dataset]}),
                         writer.name, writer.revision, prompts.VERSION, item.seed)
            for index, item in enumerate(items)]


def rows(items: Sequence[Item], writer: Writer) -> list[dict | Exception]:
    """`converse_all`, as fields of manifests.records.INSTRUCTION."""
    return [found if isinstance(found, Exception) else
            {"conversation": found.turns, "instructor": found.writer, "instructor_revision": found.revision,
             "prompt_version": found.prompt_version, "instruction_seed": found.seed}
            for found in converse_all(items, writer)]


def _sides(item) -> tuple[str, ...]:
    if item.dataset not in prompts.SIDES:
        raise ValueError(f"unknown dataset {item.dataset!r}; known: {', '.join(prompts.SIDES)}")
    given = item.given
    for field in NEEDED[item.dataset]:
        if field not in given:
            raise ValueError(f"{item.dataset} needs the caption {field!r}; given: {', '.join(given) or 'nothing'}")
    for field in {"music", "image", "video", "source", "target", "caption"} & given.keys():
        if not isinstance(given[field], str | None):
            raise ValueError(f"{field} is a caption, in words, not {given[field]!r}")
    tags = given.get("tags")
    if tags is not None and (isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags)):
        raise ValueError(f"tags are a list of words, such as ['calm', 'guitar'], not {tags!r}")
    if item.dataset == "musicqa" and not {"music", "caption", "tags"} & given.keys():
        raise ValueError(f"musicqa needs 'music' (a caption) or 'tags'; given: {', '.join(given) or 'nothing'}")
    if item.dataset == "muedit":
        edit, amount = given.get("edit"), given.get("amount")
        if not isinstance(amount, int | float | None):
            raise ValueError(f"an edit's amount is a number, not {amount!r}")
        if edit not in ("pair", "tempo", "pitch"):
            raise ValueError(f"muedit's edit is pair, tempo or pitch, not {edit!r}")
        if edit == "tempo" and not (amount and amount > 0 and amount != 1):
            raise ValueError(f"the amount of a tempo edit is a ratio such as 0.7, not {amount!r}")
        if edit == "pitch" and (not amount or amount != int(amount)):
            raise ValueError(f"the amount of a pitch edit is in whole semitones, such as -2, not {amount!r}")
    return prompts.SIDES[item.dataset]


def _ungrounded(item) -> str:
    """Why there is nothing to write from, "" where there is."""
    if item.dataset != "musicqa":
        told = {field: item.given[field] or "" for field in NEEDED[item.dataset]}
        for field, caption in told.items():
            if not re.search(r"\w", caption):
                return f"there is no word in the caption {field!r}"
    else:
        told = {"caption": item.given.get("caption", item.given.get("music")) or "",
                "tags": ", ".join(item.given.get("tags") or ())}
        if not re.search(r"\w", told["caption"]) and not lexicon.tagged(item.given.get("tags") or ()):
            return "there is no word in a caption or a tag"
    for field, text in told.items():
        if len(text) > LONGEST:
            return f"{field} has {len(text)} letters, over {LONGEST}"
    return ""


def _prompt(item, side) -> Prompt:
    return Prompt(item.dataset, side, prompts.system(item.dataset, side, item.given),
                  prompts.user(item.dataset, side, item.given), item.given)


def _write(writer, asked, seeds) -> list[str | Exception]:
    texts = writer(asked, seeds)
    if len(texts) != len(asked):
        raise ValueError(f"the writer {writer.name} gave {len(texts)} answers to {len(asked)} prompts")
    return texts


def _seed(seed, side, attempt) -> int:
    """63 bits for one answer: sides and attempts of one conversation share no sampling."""
    return int.from_bytes(hashlib.sha256(f"{seed} {side} {attempt}".encode()).digest()[:8], "big") >> 1


def _read(item, side, text):
    """An answer as it is stored: a line, four answers, or five (question, answer). Raises Unfit."""
    if not text.strip():
        raise answers.Unfit("the writer said nothing")
    if len(text) > _LONGEST_ANSWER:
        raise answers.Unfit(f"{len(text)} letters, over {_LONGEST_ANSWER}")
    if item.dataset != "musicqa":
        return answers.line(item.dataset, side, text, item.given)
    system = prompts.system(item.dataset, side, item.given)
    if side == "closed":
        return [answers.prose(answer, system) for answer in numbered.closed(text)]
    return [(answers.prose(question, system, shortest=2), answers.prose(answer, system))
            for question, answer in numbered.opened(text)]


def _turns(item, sides) -> list[dict]:
    if item.dataset == "musicqa":
        caption = item.given.get("caption", item.given.get("music"))
        heard = ", ".join(item.given["tags"]) if caption is None else caption
        asked = [*zip(prompts.QUESTIONS, sides["closed"], strict=True), *sides["open"]]
        return [turn for question, answer in asked
                for turn in (_turn("human", question, input_modality="audio", caption=heard),
                             _turn("gpt", answer, output_modality="text"))]
    modality, before, after = INPUTS[item.dataset]
    return [_turn("human", sides["human"], input_modality=modality, caption=item.given[before]),
            _turn("gpt", sides["model"], output_modality="audio", caption=item.given[after])]


def _turn(speaker, value, input_modality=None, output_modality=None, caption=None) -> dict:
    return {"from": speaker, "value": value, "input_modality": input_modality, "output_modality": output_modality,
            "caption": caption}
