"""What a language model is asked for, to write the two sides of a conversation.

The prompts of the M²UGen paper (section 4, appendix A) and, for MusicQA, of MU-LLaMA, with the defects of the released
chat format mended: MPT's own newlines, and no space before the end mark.
"""
import re
from collections.abc import Mapping

VERSION = 1  # raised by hand when a text below changes: conversations carry it as `prompt_version`

SIDES = {
    "muedit": ("human", "model"),
    "muimage": ("human", "model"),
    "muvideo": ("human", "model"),
    "musicqa": ("closed", "open"),
}

# The four questions as the published MusicQA stores them; the prompts below word them a little differently.
QUESTIONS = (
    "Describe the audio",
    "Describe the audio in detail",
    "What do you hear in the audio?",
    "What can be inferred from the audio?",
)

# Sampling as the authors had it. `temperature` of MusicQA's open side is lower, see `temperature`.
SAMPLING = {"top_p": 1.0, "top_k": 4}

MODEL_SIDE = "Here is a music that is"
HUMAN_SIDE = {"muimage": "Generate a music for the image that is", "muvideo": "Generate a music for the video that is"}

_SYSTEM = {
    ("muedit", "human"): (
        "- You are given description of input and target music",
        "- You will give a single line instruction of the form to change input music to target music",
        "- Give the instruction based on the music descriptions",
    ),
    ("muedit", "model"): (
        "- You are given description of a music",
        f"- You will give a single line answer of the form '{MODEL_SIDE} ....'",
        "- Complete the answer based on the music description",
    ),
    ("muimage", "human"): (
        "- You are given description of a music and an image",
        f"- You will give a single line instruction of the form '{HUMAN_SIDE['muimage']} ....' based on the image",
        "- Complete the instruction based on the music and image description",
    ),
    ("muimage", "model"): (
        "- You are given description of a music and an image",
        f"- You will give a single line answer of the form '{MODEL_SIDE} ....' based on the image",
        "- Complete the answer based on the music and image description",
    ),
    ("muvideo", "human"): (
        "- You are given description of a music and a video",
        f"- You will give a single line instruction of the form '{HUMAN_SIDE['muvideo']} ....'",
        "- Complete the instruction based on the music and video descriptions",
    ),
    ("muvideo", "model"): (
        "- You are given description of a music and a video",
        f"- You will give a single line answer of the form '{MODEL_SIDE} ....'",
        "- Complete the answer based on the music and video descriptions",
    ),
}

_GIVEN = {"caption": "a caption", "tags": "a list of tags"}
# MagnaTagATune's prompt asks for "the music" in its first two questions, the other two corpora's for "the audio".
_NOUN = {"MusicCaps": "audio", "MTT": "music", "MTG": "audio"}
_CLOSED = (
    "- You are given {given} describing an audio",
    "- You will give answers from the audio to these questions based on the {described}",
    "    1. Describe the {noun}",
    "    2. Describe the {noun} in detail",
    "    3. What do you hear in the audio",
    "    4. What can be inferred from the audio",
    "- The answers should be numbered",
)
_OPEN = (
    "- You are given {given} describing an audio",
    "- You will create 5 questions related to the audio based on the sentence along with answers",
    "- The questions should be relating to things like tempo of the music, mood of the music, instruments used, "
    "inference, etc",
    "- The question answers should be long form",
    "- The question answers should be numbered",
)

_MARK = re.compile(r"<\|[^|>]*\|>")


def system(dataset: str, side: str, given: Mapping) -> str:
    """The system prompt of one side. `given` as for `user`."""
    if dataset != "musicqa":
        return "\n".join(_SYSTEM[dataset, side])
    kind = "caption" if "caption" in given or "music" in given else "tags"
    corpus = given.get("corpus", "MusicCaps" if kind == "caption" else "MTG")
    if corpus not in _NOUN:
        raise ValueError(f"unknown corpus {corpus!r}; known: {', '.join(_NOUN)}")
    lines = _CLOSED if side == "closed" else _OPEN
    described = "caption" if kind == "caption" else "list of tags"
    return "\n".join(lines).format(given=_GIVEN[kind], described=described, noun=_NOUN[corpus])


def user(dataset: str, side: str, given: Mapping) -> str:
    """The user's text: the descriptions that the answer is to be based on.

    `given`: muedit {"source", "target", "edit": "pair" | "tempo" | "pitch", "amount"}, and for writers that do not read
    prompts "same", facets in which the two sound the same, told or not; muimage {"music", "image"}; muvideo {"music",
    "video"}; musicqa {"music"} or {"caption"} (a caption), or {"tags"}, optionally with {"corpus": "MusicCaps" | "MTT"
    | "MTG"}. Where a caption and tags are both there, the caption is told, as in the paper.
    """
    if dataset == "muedit":
        if side == "model":  # the paper gives this side the output's caption alone
            return given["target"]
        told = f"Input: {given['source']}, Target: {given['target']}"
        # Ours: the paper has no derived edits, and from two captions alone nobody can tell which change was made.
        if given["edit"] == "pair":
            return told
        return f"{told}\nChange to ask for: {change(given['edit'], given['amount'])}"
    if dataset in ("muimage", "muvideo"):
        seen = dataset.removeprefix("mu")
        return f"Music: {given['music']}\n{seen.capitalize()}: {given[seen]}"
    if dataset == "musicqa":
        caption = given.get("caption", given.get("music"))
        return ", ".join(given["tags"]) if caption is None else caption
    raise ValueError(f"unknown dataset {dataset!r}; known: {', '.join(SIDES)}")


def change(edit: str, amount: float) -> str:
    """A derived edit in one clause: `amount` is the tempo's ratio, or semitones of pitch."""
    if edit == "tempo":
        speed = "slower" if amount < 1 else "faster"
        return (f"the tempo is multiplied by {amount:g}, so the target is {abs(amount - 1):.0%} {speed}; "
                "the pitch and everything else stay the same")
    if edit == "pitch":
        number, way = abs(amount), "up" if amount > 0 else "down"
        return (f"the pitch is shifted {way} by {number:g} semitone{'' if number == 1 else 's'}; "
                "the tempo and everything else stay the same")
    raise ValueError(f"unknown edit {edit!r}; known: tempo, pitch")


def temperature(dataset: str, side: str) -> float:
    """The sampling temperature of the authors' scripts."""
    return 0.4 if (dataset, side) == ("musicqa", "open") else 0.5


def chat(system: str, user: str) -> str:
    """The text that MPT-7B-chat continues with its answer. Marks inside the texts are taken out: only ours count."""
    said, asked = _MARK.sub("", system), _MARK.sub("", user)
    return f"<|im_start|>system\n{said}<|im_end|>\n<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
