"""From a dataset's row to what LLaMA learns from: token ids, and which of them are asked for.

Two steps. `exchanges` reads a row of a stage's mixture as texts, an instruction and an answer each (paper, B.1);
`sample` writes such texts in tokens, behind M²UGen's prompt: BOS, prompt, answer, audio tokens where music is the
output, EOS. Labels begin with the answer. What cannot be used is raised as `Unusable`, to be counted.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from manifests import checked
from manifests.messages import shown
from manifests.published import Captioned, Exchange, Question
from training.config import MODALITIES
from training.loss import IGNORED
from training.tokenizer import Tokenizer

# M²UGen's prompt, up to the instruction and from there to the answer, which follows directly.
BEFORE = ("Below is an instruction that describes a task. Write a response that appropriately completes the request."
          "\n\n### Instruction:\n")
AFTER = "\n\n### Response:"
# Stage 1: what is described, which is the column of the medium too, and the column of the description.
CAPTIONS = {"mucaps": ("audio", "caption"), "muimage": ("image", "image_caption"),
            "muvideo": ("video", "video_caption")}
PUBLISHED_MUSICQA = "musicqa-published"  # a medium's dataset: MusicQA as others published it, beside a build's own


@dataclass(frozen=True)
class Medium:
    """Which row of which dataset has it, in the column that its modality names; of published datasets (coco and
    PUBLISHED_MUSICQA), the file.
    """
    dataset: str
    id: str


@dataclass(frozen=True)
class Texts:
    """An instruction, None where there is to be none, and its answer. `music`: the caption of the music that is to come
    out, or None; `gap`: what stands between the answer and the audio tokens."""
    id: str
    dataset: str
    instruction: str | None
    answer: str
    hears: Mapping[str, Medium]
    music: str | None = None
    gap: str = ""


@dataclass(frozen=True)
class Sample:
    """`tokens` and `labels` [T], IGNORED where not asked for; unpadded. `music`: the caption whose encoding is the
    target of the output projector, or None. `shortened`: how many tokens of text did not fit."""
    id: str
    dataset: str
    tokens: tuple[int, ...]
    labels: tuple[int, ...]
    hears: Mapping[str, Medium]  # by modality: audio, image, video
    music: str | None
    shortened: int


class Unusable(ValueError):
    """A row, or one of its exchanges, that nothing can be learned from. `reason` is empty, malformed or too_long (or
    that for which its features were lost); `detail` tells a person.
    """

    def __init__(self, dataset: str, id: str, reason: str, detail: str) -> None:
        super().__init__(f"{dataset} {id}: {detail}")
        self.dataset, self.id, self.reason, self.detail = dataset, id, reason, detail


def exchanges(stage: int, dataset: str, row: Mapping | Captioned | Exchange | Question, number: int = 0) -> list[Texts]:
    """What a row teaches in stage 1, 2 or 3: one exchange, of MusicQA one a question. Texts are not looked at yet.

    `row`: of a dataset of ours its columns by name (id and texts are enough), or a record of `manifests.published` for
    coco, alpaca and musicqa. These have no ids: `number` is their place in the file. Raises Unusable for a conversation
    that is none, ValueError for what is not in the stage's mixture.
    """
    match stage, dataset, row:
        case 1, "coco", Captioned():
            key = f"{row.file}#{number}"
            return [Texts(key, dataset, None, row.caption, {"image": Medium(dataset, row.file)})]
        case 1, "mucaps" | "muimage" | "muvideo", Mapping():
            modality, column = CAPTIONS[dataset]
            return [Texts(row["id"], dataset, None, row[column] or "", {modality: Medium(dataset, row["id"])})]
        case 2, "mucaps", Mapping():  # nothing is heard: the caption is to become music
            caption = row["caption"] or ""
            return [Texts(row["id"], dataset, caption, caption, {}, caption)]
        case 3, "alpaca", Exchange():
            return [Texts(str(number), dataset, row.instruction, row.answer, {})]
        case 3, "musicqa", Question():
            key = f"{row.audio}#{number}"
            return [Texts(key, dataset, row.question, row.answer, {"audio": Medium(PUBLISHED_MUSICQA, row.audio)})]
        case 3, "musicqa" | "muimage" | "muvideo" | "muedit", Mapping():
            return _conversation(dataset, row["id"], row["conversation"] or [])
    raise ValueError(f"stage {stage} does not learn from {dataset} as {type(row).__name__}")


def columns(stage: int, dataset: str) -> list[str]:
    """The columns that `exchanges` reads of a dataset of ours: texts, never media."""
    return ["id", {1: CAPTIONS.get(dataset, ("", "caption"))[1], 2: "caption", 3: "conversation"}[stage]]


def kinds(stage: int, dataset: str) -> frozenset[str]:
    """What a dataset's samples need of the frozen models: modalities that are heard, "text" where music comes out."""
    if stage == 3:
        heard = {"alpaca": (), "muimage": ("image",), "muvideo": ("video",)}.get(dataset, ("audio",))
        return frozenset((*heard, *(() if dataset in ("alpaca", "musicqa") else ("text",))))
    return frozenset(["text"] if stage == 2 else ["image"] if dataset == "coco" else [CAPTIONS[dataset][0]])


def prompt(tokenizer: Tokenizer, instruction: str | None) -> list[int]:
    """BOS and the prompt's ids, for the model to go on from: those that samples begin with. None: without an
    instruction, as stage 1 has it."""
    before, after = _frame(tokenizer)
    return [*before, *([] if instruction is None else tokenizer.follow(instruction.strip())), *after]


def sample(texts: Texts, tokenizer: Tokenizer, longest: int) -> Sample:
    """At most `longest` ids. The text alone gives way, never the prompt around it, the audio tokens or EOS: the longer
    of instruction and answer loses its end until both are equal, then both do, so that a long answer costs no word of
    a short question, nor the other way round, and the caption that stage 2 repeats stays a copy.

    Raises Unusable for empty texts, and where not a token of each fits.
    """
    asked = [] if texts.instruction is None else tokenizer.follow(_text(texts, "instruction", texts.instruction))
    answer = asked if texts.answer == texts.instruction else tokenizer.follow(_text(texts, "answer", texts.answer))
    before, after = _frame(tokenizer)
    music, end = None, [tokenizer.eos]
    if texts.music is not None:
        music = _text(texts, "caption of the music", texts.music)
        end = [*tokenizer.follow(texts.gap), *tokenizer.audio_ids, *end]
    room = longest - len(before) - len(after) - len(end)
    counts = _share(len(asked), len(answer), room)
    kept_asked, kept = _first(tokenizer, asked, counts[0]), _first(tokenizer, answer, counts[1])
    if not kept or (asked and not kept_asked):
        raise Unusable(texts.dataset, texts.id, "too_long",
                       f"{longest} tokens hold nothing of its text beside the prompt and what ends it")
    head, tail = [*before, *kept_asked, *after], [*kept, *end]
    return Sample(texts.id, texts.dataset, (*head, *tail), (*[IGNORED] * len(head), *tail), texts.hears, music,
                  len(asked) + len(answer) - len(kept_asked) - len(kept))


def _conversation(dataset: str, key: str, turns: Sequence[Mapping]) -> list[Texts]:
    speakers = [turn and turn["from"] for turn in turns]
    if not turns or speakers != ["human", "gpt"] * (len(turns) // 2):
        raise Unusable(dataset, key, "malformed", f"its turns are not human's and gpt's in turn, but "
                       f"{shown(str(speakers))}")
    found = []
    for place, (human, gpt) in enumerate(zip(turns[::2], turns[1::2], strict=True), 1):
        goes, comes = human["input_modality"], gpt["output_modality"]
        if goes not in MODALITIES or comes not in ("audio", "text"):
            raise Unusable(dataset, key, "malformed", f"from {shown(str(goes))} to {shown(str(comes))} is not known; "
                           f"it may be from {', '.join(MODALITIES)} to audio or text")
        music = comes == "audio"
        found.append(Texts(
            key if len(turns) == 2 else f"{key}#{place}", dataset, human["value"] or "", gpt["value"] or "",
            {goes: Medium(dataset, key)}, (gpt["caption"] or "") if music else None, " " if music else ""))
    return found


@lru_cache(maxsize=4)  # the same before and after every instruction
def _frame(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (tokenizer.bos, *tokenizer.encode(BEFORE)), tuple(tokenizer.follow(AFTER))


def _text(texts: Texts, name: str, value: str) -> str:
    """Without white space around it."""
    try:
        found = checked.text(value, f"its {name}")
    except ValueError as error:
        raise Unusable(texts.dataset, texts.id, "malformed", str(error)) from None
    if not found:
        raise Unusable(texts.dataset, texts.id, "empty", f"its {name} is empty")
    return found


def _share(asked: int, answer: int, room: int) -> tuple[int, int]:
    """How many tokens of instruction and answer are kept."""
    room = max(room, 0)
    half = room // 2
    if asked + answer <= room:
        return asked, answer
    if asked <= half:
        return asked, room - asked
    if answer <= half:
        return room - answer, answer
    return half, half


def _first(tokenizer: Tokenizer, ids: list[int], count: int) -> list[int]:
    """As many, less the bytes of a character that would be cut in two."""
    kept = ids[:count]
    while len(kept) < len(ids) and kept and tokenizer.decode(kept).endswith("\ufffd"):
        kept = kept[:-1]
    return kept
