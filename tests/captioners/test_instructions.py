import pytest

from captioners.instructions import Item, converse, converse_all
from captioners.template import Template
from manifests import prompts
from manifests.outcomes import Loss

EDIT = {"source": "A slow piano.", "target": "A fast guitar.", "edit": "pair", "amount": None}
IMAGE = {"music": "A slow piano.", "image": "a dark room"}
VIDEO = {"music": "A slow piano.", "video": "a dark room"}
FOUR = "\n".join(f"{n}. This is the answer {word}." for n, word in enumerate(("one", "two", "three", "four"), 1))
FIVE = "\n".join(f"{n}. What is the {word}? It is the {word} of the song."
                 for n, word in enumerate(("tempo", "mood", "key", "style", "voice"), 1))
GOOD = {("muedit", "human"): "Change the music to be faster.", ("muedit", "model"): "Here is a music that is fast.",
        ("muimage", "human"): "Generate a music for the image that is slow and dark.",
        ("muimage", "model"): "Here is a music that is slow.",
        ("muvideo", "human"): "Generate a music for the video that is slow and dark.",
        ("muvideo", "model"): "Here is a music that is slow.",
        ("musicqa", "closed"): FOUR, ("musicqa", "open"): FIVE}


class Scripted:
    """A writer that fails its first `misses` answers to each side, and remembers what it was asked."""

    name, revision = "scripted", "7"

    def __init__(self, misses=None, short=0):
        self.misses, self.short, self.asked = misses or {}, short, []

    def __call__(self, asked, seeds):
        texts = []
        for prompt, seed in zip(asked, seeds, strict=True):
            before = sum(other == prompt for other, _ in self.asked)
            self.asked.append((prompt, seed))
            side = prompt.dataset, prompt.side
            texts.append("As an AI, I refuse." if before < self.misses.get(side, 0) else GOOD[side])
        return texts[:len(texts) - self.short]


@pytest.mark.parametrize("dataset, given, modality, before, after", [
    ("muedit", EDIT, "audio", "A slow piano.", "A fast guitar."),
    ("muimage", IMAGE, "image", "a dark room", "A slow piano."),
    ("muvideo", VIDEO, "video", "a dark room", "A slow piano."),
])
def test_the_two_turns_have_the_published_layout(dataset, given, modality, before, after):
    found = converse(dataset, given, Scripted(), seed=5)
    assert found.turns == [
        {"from": "human", "value": GOOD[dataset, "human"], "input_modality": modality, "output_modality": None,
         "caption": before},
        {"from": "gpt", "value": GOOD[dataset, "model"], "input_modality": None, "output_modality": "audio",
         "caption": after}]
    assert (found.writer, found.revision, found.prompt_version, found.seed) == ("scripted", "7", prompts.VERSION, 5)


@pytest.mark.parametrize("given, caption", [({"music": "A slow piano."}, "A slow piano."),
                                            ({"tags": ["slow", "piano"]}, "slow, piano"),
                                            ({"caption": "A slow piano.", "tags": ["slow"]}, "A slow piano.")])
def test_musicqa_has_nine_questions_each_with_its_answer(given, caption):
    turns = converse("musicqa", given, Scripted(), seed=5).turns
    assert [turn["from"] for turn in turns] == ["human", "gpt"] * 9
    assert [turn["value"] for turn in turns[:8:2]] == list(prompts.QUESTIONS)
    assert turns[1]["value"] == "This is the answer one."
    assert [turn["value"] for turn in turns[8:10]] == ["What is the tempo?", "It is the tempo of the song."]
    assert all(turn["input_modality"] == "audio" and turn["caption"] == caption for turn in turns[::2])
    assert all(turn["output_modality"] == "text" and turn["caption"] is None for turn in turns[1::2])


def test_a_side_that_fails_is_asked_again_with_another_seed():
    writer = Scripted({("muedit", "human"): 2})
    assert converse("muedit", EDIT, writer, 5).turns[0]["value"] == GOOD["muedit", "human"]
    sides = [prompt.side for prompt, _ in writer.asked]
    assert sides == ["human", "model", "human", "human"]
    seeds = [seed for _, seed in writer.asked]
    assert len(set(seeds)) == 4 and all(0 <= seed < 2 ** 63 for seed in seeds)


@pytest.mark.parametrize("dataset, side, given", [("muedit", "human", EDIT), ("muimage", "model", IMAGE),
                                                  ("musicqa", "closed", {"tags": ["slow"]}),
                                                  ("musicqa", "open", {"tags": ["slow"]})])
def test_after_three_attempts_the_row_is_lost_and_says_why(dataset, side, given):
    writer = Scripted({(dataset, side): 3})
    with pytest.raises(Loss) as lost:
        converse(dataset, given, writer, 5)
    assert lost.value.reason == "instruction_failed"
    assert lost.value.detail.startswith(f"{dataset} {side}: ")
    assert sum(prompt.side == side for prompt, _ in writer.asked) == 3


def test_a_derived_edit_must_be_stated():
    given = {**EDIT, "edit": "tempo", "amount": 0.5}
    with pytest.raises(Loss) as lost:
        converse("muedit", given, Scripted(), 5)
    assert "by how much" in lost.value.detail


def test_a_row_does_not_depend_on_its_neighbours():
    items = [Item(dataset, given, seed) for seed in range(4) for dataset, given in (
        ("muedit", EDIT), ("muimage", IMAGE), ("muvideo", VIDEO), ("musicqa", {"tags": ["slow", "sad", "piano"]}),
        ("muimage", {"music": "Music: a slow piano.", "image": "a dark room"}), ("muimage", {**IMAGE, "image": " "}))]
    together = converse_all(items, Template())
    alone = [converse_all([item], Template())[0] for item in items]
    reversed_order = converse_all(items[::-1], Template())[::-1]
    for several in (alone, reversed_order):
        assert [repr(one) for one in together] == [repr(one) for one in several]
    lost = [index for index, one in enumerate(together) if isinstance(one, Loss)]
    assert lost and all(index % 6 >= 4 for index in lost)
    assert {index for index in range(24) if index % 6 == 5} <= set(lost)


def test_a_batch_asks_for_everything_at_once():
    calls = []

    def write(asked, seeds):
        calls.append(len(asked))
        return Template()(asked, seeds)
    write.name = write.revision = "counted"
    found = converse_all([Item("muedit", EDIT, seed) for seed in range(50)], write)
    assert calls == [100] and len(found) == 50


@pytest.mark.parametrize("dataset, given", [("muimage", {**IMAGE, "image": ""}), ("muedit", {**EDIT, "target": " \n"}),
                                            ("musicqa", {"music": ""}), ("musicqa", {"tags": []}),
                                            ("musicqa", {"tags": [" "]})])
def test_a_row_without_a_description_is_lost(dataset, given):
    with pytest.raises(Loss) as lost:
        converse(dataset, given, Template(), 5)
    assert lost.value.reason == "instruction_failed" and dataset in lost.value.detail


@pytest.mark.parametrize("dataset, given, said", [
    ("coco", IMAGE, "unknown dataset 'coco'"), ("muimage", {"music": "A piano."}, "needs the caption 'image'"),
    ("musicqa", {"image": "a room"}, "needs 'music'"),
    ("muedit", {"source": "a", "target": "b"}, "pair, tempo or pitch"),
    ("muedit", {**EDIT, "edit": "tempo", "amount": None}, "ratio such as 0.7"),
    ("muedit", {**EDIT, "edit": "tempo", "amount": -0.5}, "ratio such as 0.7"),
    ("muedit", {**EDIT, "edit": "pitch", "amount": 0}, "in whole semitones"),
])
def test_a_callers_mistake_is_an_error(dataset, given, said):
    with pytest.raises(ValueError, match=said):
        converse(dataset, given, Template(), 5)


def test_a_writer_that_loses_answers_is_an_error():
    with pytest.raises(ValueError, match="scripted gave 1 answers to 2 prompts"):
        converse("muedit", EDIT, Scripted(short=1), 5)


@pytest.mark.parametrize(("given", "why"), [
    ({"music": "..."}, "no word"), ({"music": "。"}, "no word"), ({"tags": ["---", ".", "genre---", "no"]}, "no word"),
    ({"music": "piano " * 1000}, "6000 letters"), ({"tags": ["piano"] * 1000}, "letters, over")])
def test_what_says_nothing_or_too_much_is_lost_with_a_reason_and_alone(given, why):
    sound = Item("musicqa", {"tags": ["rock", "guitar"]}, 1)
    lost, kept = converse_all([Item("musicqa", given, 1), sound], Template())
    assert (lost.reason, why in lost.detail) == ("instruction_failed", True)
    assert kept == converse_all([sound], Template())[0]


class Answering:
    """A writer that answers each (dataset, side) with one thing, whatever it is asked; counts what it was asked."""

    name, revision = "answering", "1"

    def __init__(self, answers):
        self.answers, self.asked = GOOD | answers, []

    def __call__(self, asked, seeds):
        self.asked += asked
        return [self.answers[prompt.dataset, prompt.side] for prompt in asked]


@pytest.mark.parametrize("side", ["human", "model"])
def test_what_a_writer_cannot_answer_is_the_rows_result_and_not_asked_again(side):
    fault = MemoryError("out of memory, even alone")
    writer = Answering({("muimage", side): fault, ("muimage", "human" if side == "model" else "model"): ""})
    edit, image, video = converse_all([Item("muedit", EDIT, 1), Item("muimage", IMAGE, 2), Item("muvideo", VIDEO, 3)],
                                      writer)
    assert image is fault and len(writer.asked) == 6
    assert [one.turns[0]["value"] for one in (edit, video)] == [GOOD["muedit", "human"], GOOD["muvideo", "human"]]
    with pytest.raises(MemoryError, match="even alone"):
        converse("muimage", IMAGE, writer, 2)


@pytest.mark.parametrize("dataset, side, given", [("muedit", "human", EDIT), ("muvideo", "model", VIDEO),
                                                  ("musicqa", "closed", {"tags": ["slow"]}),
                                                  ("musicqa", "open", {"tags": ["slow"]})])
@pytest.mark.parametrize("said", ["", " \n "])
def test_a_writer_that_says_nothing_is_asked_again_and_lost(dataset, side, given, said):
    writer = Answering({(dataset, side): said})
    with pytest.raises(Loss) as lost:
        converse(dataset, given, writer, 5)
    assert (lost.value.reason, lost.value.detail) == ("instruction_failed",
                                                      f"{dataset} {side}: the writer said nothing")
    assert sum(prompt.side == side for prompt in writer.asked) == 3


@pytest.mark.parametrize(("dataset", "given", "said"), [
    ("musicqa", {"tags": "calm, guitar"}, "tags are a list of words"),
    ("musicqa", {"tags": [1, 2]}, "tags are a list of words"), ("musicqa", {"music": 3}, "music is a caption, in"),
    ("muimage", IMAGE | {"image": ["a room"]}, "image is a caption"),
    ("muedit", EDIT | {"edit": "pitch", "amount": "two"}, "amount is a number, not 'two'"),
    ("muedit", EDIT | {"edit": "pitch", "amount": 0.5}, "whole semitones"),
    ("muedit", EDIT | {"edit": "tempo", "amount": None}, "is a ratio such as 0.7")])
def test_what_is_given_is_checked_before_anybody_is_asked(dataset, given, said):
    writer = Scripted()
    with pytest.raises(ValueError, match=said):
        converse(dataset, given, writer, 0)
    assert writer.asked == []
