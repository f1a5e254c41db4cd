"""COCO, Alpaca, MusicQA and M²UGen's own JSON, in the published formats."""
import json

import fsspec
import pytest

from manifests import published
from manifests.published import Captioned, Exchange, Instruction, Question


def write(tmp_path, value) -> str:
    path = tmp_path / "data.json"
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return str(path)


def talk(asked="What is it?", answer="A tune.", human=(), gpt=()):
    return [{"from": "human", "value": asked, **dict(human)}, {"from": "gpt", "value": answer, **dict(gpt)}]


COCO = {"info": {"year": 2017}, "licenses": [],
        "images": [{"id": 203564, "file_name": "000000203564.jpg", "height": 400, "width": 500},
                   {"id": 9, "file_name": "000000000009.jpg"}],
        "annotations": [{"image_id": 203564, "id": 37, "caption": "A bicycle replica with a clock.\n"},
                        {"image_id": 9, "id": 38, "caption": "A  table."},
                        {"image_id": 203564, "id": 39, "caption": "A clock."}]}
EDIT = {"input_file": "a.mp3", "output_file": "b.mp3", "conversation": talk(
    "Make it faster", "Here is a music that is fast", {"input_modality": "audio", "caption": "Slow."},
    {"caption": "Fast.", "output_modality": "audio"})}


def test_coco_gives_each_caption_with_its_image(tmp_path):
    assert list(published.coco(write(tmp_path, COCO))) == [
        Captioned("000000203564.jpg", "A bicycle replica with a clock."), Captioned("000000000009.jpg", "A table."),
        Captioned("000000203564.jpg", "A clock.")]


def test_flat_captions_are_read_as_coco_and_as_mucaps(tmp_path):
    url = write(tmp_path, {"a.jpg": "One.", "sub/b.jpg": "Two\nlines."})
    expected = [Captioned("a.jpg", "One."), Captioned("sub/b.jpg", "Two lines.")]
    assert list(published.coco(url)) == list(published.captions(url)) == expected


def test_alpaca_official_and_m2ugens(tmp_path):
    url = write(tmp_path, [{"instruction": "Add.", "input": "1 and 2", "output": "3"},
                           {"instruction": "Say hi.", "input": "", "output": "Hi.\nThere."},
                           {"instruction": "Go.", "input": "<noinput>", "output": "Gone."},
                           {"conversation": talk("Q", "A")}])
    rows = list(published.alpaca(url))
    assert rows == [Exchange("Add.\n\n### Input:\n1 and 2", "3"), Exchange("Say hi.", "Hi.\nThere."),
                    Exchange("Go.", "Gone."), Exchange("Q", "A")]
    # In the prompt without input, this reads as Alpaca's prompt with input.
    assert f"### Instruction:\n{rows[0].instruction}\n\n### Response:" == (
        "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:")


def test_musicqa_by_either_key(tmp_path):
    turns = talk(human={"input_modality": "audio"}, gpt={"caption": "", "output_modality": "text"})
    url = write(tmp_path, [{"audio_name": "x.mp3", "conversation": turns},
                           {"image_name": "y.mp3", "conversation": turns}])
    assert list(published.musicqa(url)) == [Question("x.mp3", "What is it?", "A tune."),
                                            Question("y.mp3", "What is it?", "A tune.")]


def test_instructions_and_muimages_files_in_the_wrong_places(tmp_path):
    image = {"conversation": talk("Generate", "Here", {"input_modality": "image", "caption": "A cat."},
                                  {"caption": "Fast.", "output_modality": "audio"})}
    url = write(tmp_path, [EDIT, {"input_file": "c.mp3", "output_file": "c.jpg", **image},
                           {"input_file": "d.jpg", "output_file": "d.mp3", **image}])
    rows = list(published.instructions(url))
    assert rows[0] == Instruction("a.mp3", "b.mp3", "Make it faster", "Here is a music that is fast", "audio", "audio",
                                  "Slow.", "Fast.")
    assert [(row.input_file, row.output_file, row.input_modality) for row in rows[1:]] == [
        ("c.jpg", "c.mp3", "image"), ("d.jpg", "d.mp3", "image")]


@pytest.mark.parametrize(("read", "rows", "kept"), [
    (published.alpaca, [{"instruction": "a", "input": "", "output": ""}, {"instruction": "b", "output": "c"}], 1),
    (published.musicqa, [{"audio_name": "a.mp3", "conversation": talk(answer=None)},
                         {"audio_name": "a.mp3", "conversation": talk()}], 1),
    (published.instructions, [EDIT, EDIT | {"conversation": [*EDIT["conversation"][:1], EDIT["conversation"][1] | {
        "value": None}]}], 1),
    (published.captions, {"a.mp3": None, "b.mp3": "B."}, 1),
])
def test_rows_without_an_answer_are_left_out_and_told(tmp_path, read, rows, kept):
    with pytest.warns(UserWarning, match=r"data\.json: left out .* 1 of 2 rows: row [12]"):
        assert len(list(read(write(tmp_path, rows)))) == kept


@pytest.mark.parametrize(("read", "value", "words"), [
    (published.coco, COCO | {"annotations": [{"image_id": 5, "id": 1, "caption": "x"}]},
     "annotation 1: there is no image with the id 5"),
    (published.coco, COCO | {"images": [*COCO["images"], {"id": 9, "file_name": "b.jpg"}]},
     "image 3: the id 9 is there twice"),
    (published.coco, COCO | {"images": [{"id": 9, "file_name": "../b.jpg"}]},
     "image 1: file_name is no file name below"),
    (published.coco, COCO | {"annotations": [{"image_id": 9, "caption": "x"}]}, "annotation 1: needs an id"),
    (published.coco, {"images": []}, "has no lists of both"),
    (published.coco, [], "no captions"),
    (published.captions, {"/etc/passwd": "x"}, "row 1: the key is no file name below a folder: '/etc/passwd'"),
    (published.captions, {"a.mp3": ["x"]}, "row 1: the caption of 'a.mp3' is no text"),
    (published.captions, {}, "no rows in it"),
    (published.captions, b'{"a": "x", "a": "y"}', "the key 'a' is there twice"),
    (published.captions, b'{"a": "\\ud800"}', "is not UTF-8"),
    (published.alpaca, {"a": 1}, "no list of rows"),
    (published.alpaca, [{"instruction": "x"}], "row 1: has neither"),
    (published.alpaca, [{"instruction": 3, "output": "x"}], "row 1: instruction is no text: '3'"),
    (published.musicqa, [{"conversation": talk()}], "row 1: has no audio_name"),
    (published.musicqa, [{"audio_name": "C:\\a.mp3", "conversation": talk()}], "audio_name is no file name"),
    (published.musicqa, [{"audio_name": "a.mp3", "conversation": talk() * 2}], "needs a conversation of two turns"),
    (published.musicqa, [{"audio_name": "a.mp3", "conversation": talk(human={"input_modality": "image"})}],
     "input_modality is \"'image'\", not one of audio"),
    (published.instructions, [{"input_file": "a.mp3", "conversation": EDIT["conversation"]}], "output_file is no text"),
    (published.instructions, [EDIT | {"conversation": talk()}], "input_modality is 'None'"),
    (published.alpaca, b"{", "not valid JSON"),
    (published.alpaca, b"[" * 100000, "not valid JSON"),
    (published.alpaca, b"\xff\xfe", "not valid JSON"),
])
def test_what_is_wrong_is_told_with_file_and_row(tmp_path, read, value, words):
    url = write(tmp_path, value)
    with pytest.raises(ValueError) as caught:
        list(read(url))
    assert str(caught.value).startswith(f"{url}: ")
    assert words in str(caught.value)


def test_ten_bad_rows_are_shown_and_nothing_is_given_after_the_first(tmp_path):
    rows = [{"instruction": "a", "output": "b"}, *[{}] * 12, {"instruction": "c", "output": "d"}]
    given = []
    with pytest.raises(ValueError, match=r"12 bad rows \(row 2: .*row 11: .*; and 2 more\).*mend or remove these"):
        for row in published.alpaca(write(tmp_path, rows)):
            given.append(row)
    assert given == [Exchange("a", "b")]


def test_files_may_lie_anywhere_and_a_missing_one_is_named(tmp_path):
    with fsspec.open("memory://published/a.json", "wb") as file:
        file.write(b'\xef\xbb\xbf{"a.mp3": "A."}')
    assert list(published.captions("memory://published/a.json")) == [Captioned("a.mp3", "A.")]
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such file"):
        list(published.captions(str(tmp_path / "none.json")))
