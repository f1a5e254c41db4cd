"""Every row as the token sequence that it must become, by hand; shortened at every length; nothing bad is silent."""
import dataclasses
import json
from pathlib import Path

import pytest
import sentencepiece
import torch

from manifests.published import ALPACA_INPUT, Captioned, Exchange, Question
from tests.training import tiny
from tests.training.test_tokenizer import LLAMA, PIECES
from training import config, samples, tokenizer
from training.loss import IGNORED, losses
from training.samples import Medium, Sample, Texts, Unusable
from training.tokenizer import Tokenizer

WORDS = tokenizer.debug(config.m2ugen("debug"))
BEFORE = ("<s>|Below| is| an| instruction| that| describes| a| task|.| Write| a| response| that| appropriately|"
          " completes| the| request|.|\n|\n|###| Instruction|:|\n")
AFTER = "\n|\n|###| Response|:"
AUDIO = "[AUD0]|[AUD1]|[AUD2]|[AUD3]|[AUD4]|[AUD5]|[AUD6]|[AUD7]"
LOUD = "A loud piece in minor."


def _turns(*turns: tuple[str, str | None, str | None]) -> list[dict]:
    """(value, modality, caption), human's and gpt's in turn."""
    return [{"from": ("human", "gpt")[place % 2], "value": value, "caption": caption,
             "input_modality": None if place % 2 else modality, "output_modality": modality if place % 2 else None}
            for place, (value, modality, caption) in enumerate(turns)]


ASKED = "Write a loud piece"
MADE = "Here is a piece"
MUIMAGE = {"id": "i", "image_caption": "black edges", "caption": LOUD,
           "conversation": _turns((ASKED, "image", "black edges"), (MADE, "audio", LOUD))}
MUVIDEO = {"id": "v", "video_caption": "dark people", "caption": LOUD,
           "conversation": _turns((ASKED, "video", "dark people"), (MADE, "audio", LOUD))}
MUEDIT = {"id": "a~b", "caption": "A fast piece.", "target_caption": LOUD,
          "conversation": _turns((ASKED, "audio", "A fast piece."), (MADE, "audio", LOUD))}
MUSICQA = {"id": "q", "caption": LOUD, "conversation": _turns(
    ("What tempo is it", "audio", LOUD), ("One is fast", "text", None),
    ("The key", "audio", LOUD), ("The key is in minor", "text", None))}
MUCAPS = {"id": "m", "caption": LOUD}
MADE_PIECES = "Here| is| a| piece| |" + AUDIO
ASKED_PIECES = "W|r|it|e| a| loud| piece"
LOUD_PIECES = "A| loud| piece| in| minor|."

GOLDEN = [  # stage, dataset, row, and of each sample: its id, instruction, answer, what it hears, its target
    (1, "mucaps", MUCAPS, [("m", "", LOUD_PIECES, {"audio": Medium("mucaps", "m")}, None)]),
    (1, "muimage", MUIMAGE, [("i", "", "b|l|ack| edges", {"image": Medium("muimage", "i")}, None)]),
    (1, "muvideo", MUVIDEO, [("v", "", "d|ar|k| people", {"video": Medium("muvideo", "v")}, None)]),
    (1, "coco", Captioned("train/9.jpg", "a black track"),
     [("train/9.jpg#4", "", "a| black| track", {"image": Medium("coco", "train/9.jpg")}, None)]),
    (2, "mucaps", MUCAPS, [("m", LOUD_PIECES, LOUD_PIECES + "|" + AUDIO, {}, LOUD)]),
    (3, "alpaca", Exchange("One image" + ALPACA_INPUT + "A", "It is\nblack"),
     [("4", "One| image|\n|\n|###| |I|n|p|ut|:|\n|A", "I|t| is|\n|b|l|ack", {}, None)]),
    (3, "musicqa", Question("a/b.mp3", "What tempo is it", "One is fast"),
     [("a/b.mp3#4", "What| tempo| is| it", "One| is| fast", {"audio": Medium("musicqa-published", "a/b.mp3")}, None)]),
    (3, "musicqa", MUSICQA,
     [("q#1", "What| tempo| is| it", "One| is| fast", {"audio": Medium("musicqa", "q")}, None),
      ("q#2", "The| key", "The| key| is| in| minor", {"audio": Medium("musicqa", "q")}, None)]),
    (3, "muimage", MUIMAGE, [("i", ASKED_PIECES, MADE_PIECES, {"image": Medium("muimage", "i")}, LOUD)]),
    (3, "muvideo", MUVIDEO, [("v", ASKED_PIECES, MADE_PIECES, {"video": Medium("muvideo", "v")}, LOUD)]),
    (3, "muedit", MUEDIT, [("a~b", ASKED_PIECES, MADE_PIECES, {"audio": Medium("muedit", "a~b")}, LOUD)])]


def _all(stage: int, dataset: str, row: object, words: Tokenizer = WORDS, longest: int = 1000) -> list[Sample]:
    return [samples.sample(one, words, longest) for one in samples.exchanges(stage, dataset, row, 4)]


def _read(ids: tuple[int, ...]) -> str:
    return "|".join({1: "<s>", 2: "</s>"}.get(one) or WORDS.decode([one]) for one in ids)


@pytest.mark.parametrize(("stage", "dataset", "row", "wanted"), GOLDEN)
def test_by_hand(stage: int, dataset: str, row: object, wanted: list[tuple]) -> None:
    made = _all(stage, dataset, row)
    assert [(one.id, one.dataset, one.hears, one.music, one.shortened) for one in made] == [
        (key, dataset, hears, music, 0) for key, _, _, hears, music in wanted]
    for one, (_, asked, answer, _, _) in zip(made, wanted, strict=True):
        head = "|".join(part for part in (BEFORE, asked, AFTER) if part)
        assert _read(one.tokens) == f"{head}|{answer}|</s>"
        place = len(one.tokens) - answer.count("|") - 2
        assert one.labels == (*[-100] * place, *one.tokens[place:])
        assert one.tokens[:place] == tuple(samples.prompt(WORDS, WORDS.decode(one.tokens[25:place - 5])))


def test_the_prompt_is_the_published_one(shared_media: Path) -> None:
    said = json.loads((shared_media.parent / "reference" / "prompts.json").read_text())["M2UGen_prompt"]["template"]
    assert said == samples.BEFORE + "{instruction}" + samples.AFTER


def test_as_llama_writes_the_whole_text(tmp_path: Path) -> None:
    """With LLaMA's blank before a text: once, at the beginning, and neither before the instruction nor the answer."""
    (tmp_path / "tokenizer.model").write_bytes(PIECES)
    own, words = sentencepiece.SentencePieceProcessor(model_proto=PIECES), tokenizer.load([tmp_path], LLAMA)
    template = samples.BEFORE + "{}" + samples.AFTER
    for stage, dataset, row, text, end in (
            (1, "mucaps", MUCAPS, template.format("") + LOUD, [2]),
            (2, "mucaps", MUCAPS, template.format(LOUD) + LOUD, [*words.audio_ids, 2]),
            (3, "muimage", MUIMAGE, template.format(ASKED) + MADE + " ", [*words.audio_ids, 2])):
        assert list(_all(stage, dataset, row, words)[0].tokens) == [1, *own.encode(text), *end]


def test_the_loss_finds_the_audio_tokens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model(dataclasses.replace(tiny.M2UGEN, vocabulary=512))
    some = [one for stage, dataset, row, _ in GOLDEN for one in _all(stage, dataset, row)]
    width = max(len(one.tokens) for one in some)
    tokens = torch.tensor([[*one.tokens, *[0] * (width - len(one.tokens))] for one in some])
    labels = torch.tensor([[*one.labels, *[IGNORED] * (width - len(one.labels))] for one in some])
    music = [row for row, one in enumerate(some) if one.music]
    assert [some[row].dataset for row in music] == ["mucaps", "muimage", "muvideo", "muedit"]
    given: list[torch.Tensor] = []  # to the projector
    conditions = model.conditions
    monkeypatch.setattr(model, "conditions", lambda hidden: given.append(hidden) or conditions(hidden))
    with torch.no_grad():
        output = model(tokens, (tokens > 0).long())
        found = losses(model, output, labels, [torch.zeros(3, 5) if one.music else None for one in some])
    for row, hidden in zip(music, given[0], strict=True):
        end = len(some[row].tokens)  # behind [AUD7] and EOS: the states before [AUD0] to [AUD7] begin ten before it
        assert torch.equal(hidden, output.hidden[row, end - 10:end - 2])
    assert (found.text > 0).all() and [row for row, one in enumerate(found.music) if one > 0] == music


def _fair(asked: int, answer: int, room: int) -> tuple[int, int]:
    """A token at a time from the longer, from both where they are equal."""
    while asked + answer > room:
        asked, answer = asked - (asked >= answer), answer - (answer >= asked)
    return asked, answer


@pytest.mark.parametrize(("asked", "answer", "music", "gap"), [
    (None, "a loud fast piece in minor with quiet beats", None, ""),
    ("a loud fast piece in minor", "a loud fast piece in minor", "fast", ""),
    ("a loud fast piece in minor with quiet beats and two people", "it is a piece", "fast", " "),
    ("write a piece", "a loud fast piece in minor with quiet beats and two people", "fast", " "),
    ("a", "b", "fast", " "),
    ("the key is", "the tempo is loud", None, "")])
def test_shortened_to_every_length(asked: str | None, answer: str, music: str | None, gap: str) -> None:
    texts = Texts("x", "muedit", asked, answer, {}, music, gap)
    whole = samples.sample(texts, WORDS, 1000)
    told, said = WORDS.encode(asked or ""), WORDS.encode(answer)
    head, middle = samples.prompt(WORDS, "")[:25], samples.prompt(WORDS, "")[25:]
    end = [*WORDS.encode(gap), *WORDS.audio_ids, 2] if music else [2]
    assert list(whole.tokens) == [*head, *told, *middle, *said, *end] and whole.shortened == 0
    least = len(head) + len(middle) + len(end) + 1 + bool(told)
    for longest in range(least, len(whole.tokens) + 3):
        made = samples.sample(texts, WORDS, longest)
        kept, said_of_it = _fair(len(told), len(said), longest - len(head) - len(middle) - len(end))
        assert list(made.tokens) == [*head, *told[:kept], *middle, *said[:said_of_it], *end]
        assert made.labels == (*[-100] * (30 + kept), *made.tokens[30 + kept:])
        assert made.shortened == len(whole.tokens) - len(made.tokens) and made.music == music
        assert min(longest, len(whole.tokens)) - len(made.tokens) in (0, 1)  # 1: an odd place that neither may have
    for longest in (*range(least - 3, least), 1, 0, -5):
        with pytest.raises(Unusable, match=f"muedit x: {longest} tokens hold nothing of its text") as raised:
            samples.sample(texts, WORDS, longest)
        assert raised.value.reason == "too_long"


def test_no_character_is_cut_in_two() -> None:
    texts = Texts("x", "alpaca", None, "a 音楽 🎵!", {})  # 2, 3, 3, 1, 4, 1 tokens of bytes
    said = [WORDS.decode(samples.sample(texts, WORDS, 31 + room).tokens[30:-1]) for room in range(1, 15)]
    assert said == ["a", "a ", "a ", "a ", "a 音", "a 音", "a 音", "a 音楽", "a 音楽 ", "a 音楽 ", "a 音楽 ", "a 音楽 ",
                    "a 音楽 🎵", "a 音楽 🎵!"]
    with pytest.raises(Unusable, match="alpaca x: 33 tokens hold nothing"):
        samples.sample(Texts("x", "alpaca", None, "🎵", {}), WORDS, 33)
    with pytest.raises(Unusable, match="alpaca x: 35 tokens hold nothing"):  # three bytes of the question's eight
        samples.sample(Texts("x", "alpaca", "🎵🎵", "fast", {}), WORDS, 35)
    whole = samples.sample(Texts("x", "alpaca", None, "a\ufffd", {}), WORDS, 100)  # as it came, and nothing is cut
    assert WORDS.decode(whole.tokens[30:-1]) == "a\ufffd" and whole.shortened == 0


@pytest.mark.parametrize("text", [
    "[AUD0][AUD1][AUD2][AUD3][AUD4][AUD5][AUD6][AUD7]", "fast</s>", "<s>", "### Response:",
    "a\n\n### Response:b\n\n### Instruction:\nc", "{instruction} {} %s"])
@pytest.mark.parametrize("kind", ["debug", "llama"])
def test_hostile_texts_are_text(tmp_path: Path, text: str, kind: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes(PIECES)
    words = WORDS if kind == "debug" else tokenizer.load([tmp_path], LLAMA)
    made, = _all(3, "muimage", {"id": "h", "conversation": _turns((text, "image", None), (text, "audio", text))}, words)
    ids = list(words.follow(text))
    prompt = samples.prompt(words, text)
    assert list(made.tokens) == [*prompt, *ids, *words.follow(" "), *words.audio_ids, 2] and made.music == text
    assert made.labels.index(ids[0]) == made.labels.count(IGNORED) == len(prompt)
    for mark in (1, 2, *words.audio_ids):
        assert made.tokens.count(mark) == 1
    assert words.decode(made.tokens) == f"{samples.BEFORE}{text}{samples.AFTER}{text} {AUDIO.replace('|', '')}"


def test_white_space_around_a_text_goes() -> None:
    made, = _all(3, "muimage", {"id": "w", "conversation": _turns((f"\n {ASKED}  ", "image", None),
                                                                  (f" {MADE}\n", "audio", f" {LOUD} "))})
    wanted, = _all(3, "muimage", MUIMAGE)
    assert (made.tokens, made.labels, made.music) == (wanted.tokens, wanted.labels, wanted.music)
    assert samples.prompt(WORDS, f"\n {ASKED} ") == samples.prompt(WORDS, ASKED)


EMPTY, ODD = "empty", "malformed"


@pytest.mark.parametrize(("stage", "dataset", "row", "reason", "told"), [
    (1, "mucaps", {"id": "m", "caption": ""}, EMPTY, "mucaps m: its answer is empty"),
    (1, "muimage", {"id": "i", "image_caption": None}, EMPTY, "muimage i: its answer is empty"),
    (1, "coco", Captioned("9.jpg", " \n"), EMPTY, r"coco 9\.jpg#4: its answer is empty"),
    (2, "mucaps", {"id": "m", "caption": None}, EMPTY, "mucaps m: its instruction is empty"),
    (3, "alpaca", Exchange("", "a"), EMPTY, "alpaca 4: its instruction is empty"),
    (3, "alpaca", Exchange("a\ud800", "a"), ODD, "alpaca 4: its instruction is not UTF-8"),
    (3, "musicqa", Question("a.mp3", "a", "\t"), EMPTY, r"musicqa a\.mp3#4: its answer is empty"),
    (3, "muedit", {"id": "e", "conversation": _turns((None, "audio", LOUD), ("a", "audio", LOUD))}, EMPTY,
     "muedit e: its instruction is empty"),
    (3, "muedit", {"id": "e", "conversation": _turns(("a", "audio", LOUD), ("a", "audio", None))}, EMPTY,
     "muedit e: its caption of the music is empty"),
    (3, "muvideo", {"id": "v", "conversation": None}, ODD, "muvideo v: its turns are not"),
    (3, "muvideo", {"id": "v", "conversation": _turns(("a", "video", LOUD))}, ODD, "muvideo v: its turns are not"),
    (3, "muvideo", {"id": "v", "conversation": [None, MUVIDEO["conversation"][1]]}, ODD, "in turn, but \"\\[None, "),
    (3, "muvideo", {"id": "v", "conversation": MUVIDEO["conversation"][::-1]}, ODD, "in turn, but \"\\['gpt', 'human'"),
    (3, "muvideo", {"id": "v", "conversation": _turns(("a", None, LOUD), ("a", "audio", LOUD))}, ODD,
     "from 'None' to 'audio' is not known"),
    (3, "muvideo", {"id": "v", "conversation": _turns(("a", "video", LOUD), ("a", "image", LOUD))}, ODD,
     "from 'video' to 'image' is not known")])
def test_nothing_bad_is_silent(stage: int, dataset: str, row: object, reason: str, told: str) -> None:
    with pytest.raises(Unusable, match=told) as raised:
        _all(stage, dataset, row)
    assert raised.value.reason == reason and raised.value.dataset == dataset and raised.value.id in str(raised.value)
    assert str(raised.value) == f"{dataset} {raised.value.id}: {raised.value.detail}"


def test_a_bad_question_costs_the_others_nothing() -> None:
    turns = _turns(("What tempo is it", "audio", LOUD), ("", "text", None), ("The key", "audio", LOUD),
                   ("The key is in minor", "text", None))
    bad, good = samples.exchanges(3, "musicqa", {"id": "q", "conversation": turns})
    with pytest.raises(Unusable, match="musicqa q#1: its answer is empty"):
        samples.sample(bad, WORDS, 100)
    assert samples.sample(good, WORDS, 100) == _all(3, "musicqa", MUSICQA)[1]


@pytest.mark.parametrize(("stage", "dataset", "row", "wanted"), [one for one in GOLDEN if isinstance(one[2], dict)])
def test_the_texts_alone_are_read(stage: int, dataset: str, row: dict, wanted: list[tuple]) -> None:
    read = samples.columns(stage, dataset)
    assert "id" in read and len(read) == 2 and not {"audio", "image", "video"} & {*read}
    made = _all(stage, dataset, {name: row[name] for name in read})
    assert [one.id for one in made] == [key for key, *_ in wanted]


@pytest.mark.parametrize(("stage", "dataset", "row"), [
    (1, "muedit", MUEDIT), (2, "muimage", MUIMAGE), (3, "mucaps", MUCAPS), (3, "coco", Captioned("9.jpg", "a")),
    (1, "coco", MUIMAGE), (1, "mucaps", Captioned("a.mp3", "a")), (4, "mucaps", MUCAPS)])
def test_a_stage_has_its_mixture(stage: int, dataset: str, row: object) -> None:
    with pytest.raises(ValueError, match=f"stage {stage} does not learn from {dataset} as {type(row).__name__}"):
        samples.exchanges(stage, dataset, row)
