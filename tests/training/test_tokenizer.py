"""LLaMA's tokenizer from either file, byte for byte; the debug size's own, without one."""
import dataclasses
import io
import json
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer as Words
from tokenizers import decoders, models, normalizers

from tests.training import tiny
from training import config, tokenizer
from training.tokenizer import Tokenizer

DEBUG = config.m2ugen("debug")
CORPUS = ["a slow calm guitar song in minor", "### Response: fast loud drums a:) i:) e:)", "the tempo is 120 BPM"] * 20
HOSTILE = ["[AUD0][AUD7]", "</s>", "a</s>b <s> <unk>", "### Response:", "one\n\n\ntwo\n", "if a:\n    b  =  c\n\td",
           ":)", "né 音楽 🎵", "\0\x7f\u200b", "slow", "e\u0301", "a\r\nb", "%d {instruction} \\n"]


def _pieces(count: int = 400, **changed: object) -> bytes:
    """As LLaMA's: BPE, bytes for what has no piece, blanks as they are, no mark but <unk>, <s> and </s>."""
    model = io.BytesIO()
    settings = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "pad_id": -1, **changed}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=count, model_type="bpe", byte_fallback=True,
        num_threads=1, minloglevel=2, hard_vocab_limit=False, **settings)
    return model.getvalue()


def _as_json(pieces: bytes) -> str:
    """tokenizer.json as LLaMA-2's has it: the same pieces, their merges, blanks as ▁ and one put before the text."""
    model = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    vocab = {model.id_to_piece(one): one for one in range(model.vocab_size())}
    merges = [(piece[:cut], piece[cut:]) for piece in vocab for cut in range(1, len(piece))
              if not piece.startswith("<0x") and piece[:cut] in vocab and piece[cut:] in vocab]
    words = Words(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                       decoders.Strip(" ", 1, 0)])
    words.add_special_tokens(["<unk>", "<s>", "</s>"])
    return words.to_str()


PIECES = _pieces()
LLAMA = dataclasses.replace(
    DEBUG, vocabulary=sentencepiece.SentencePieceProcessor(model_proto=PIECES).vocab_size())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: tmp_path_factory.mktemp("tokenizer") for name in ("model", "json")}
    (found["model"] / "tokenizer.model").write_bytes(PIECES)
    (found["json"] / "tokenizer.json").write_text(_as_json(PIECES))
    return found


@pytest.fixture(params=["model", "json", "debug"])
def words(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Tokenizer:
    if request.param == "debug":
        return tokenizer.debug(DEBUG)
    return tokenizer.load([folders[request.param]], LLAMA)


def test_both_files_write_as_sentencepiece_does(folders: dict[str, Path]) -> None:
    own = sentencepiece.SentencePieceProcessor(model_proto=PIECES)
    either = [tokenizer.load([folders["json"].parent, folders[name]], LLAMA) for name in ("model", "json")]
    for text in (*HOSTILE, *CORPUS[:3]):
        wanted = own.encode(text)
        assert [one.encode(text) for one in either] == [wanted, wanted], text
        assert len({tuple(one.follow(text)) for one in either}) == 1


def test_texts_come_back_and_are_only_text(words: Tokenizer) -> None:
    for text in HOSTILE:
        for ids in (words.encode(text), words.follow(text)):
            assert words.decode(ids) == text
            assert min(ids) >= 3 and max(ids) < words.audio_ids.start


def test_marks_and_audio_tokens(words: Tokenizer) -> None:
    first = words.audio_ids.start
    assert list(words.audio_ids) == list(range(first, first + 8)) and words.size == first + 8
    assert (words.bos, words.eos) == (1, 2)
    assert words.decode([1, *words.encode("slow song"), *words.follow(" "), *words.audio_ids, *words.follow(" fast "),
                         first + 7, 2]) == ("slow song [AUD0][AUD1][AUD2][AUD3][AUD4][AUD5][AUD6][AUD7] fast [AUD7]")
    assert words.decode([]) == ""


def test_what_follows_is_what_the_whole_text_has_there(words: Tokenizer) -> None:
    for before, after in (("### Response:", "slow calm"), ("a\n", "### Response:"), ("a", "\n\n### Response:"),
                          ("### Response:", "120 é"), ("slow.", " "), ("in\n", "")):
        assert [*words.encode(before), *words.follow(after)] == words.encode(before + after), (before, after)


def test_a_prompt_is_the_same_whatever_follows(folders: dict[str, Path]) -> None:
    """A colon and what follows it may be one piece, but the model answers behind a colon that is written already."""
    own, words = sentencepiece.SentencePieceProcessor(model_proto=PIECES), tokenizer.load([folders["model"]], LLAMA)
    assert own.encode("Response:)", out_type=str)[-1] == ":)"
    assert [own.id_to_piece(one) for one in (*words.encode("Response:"), *words.follow(")"))][-2:] == [":", ")"]


def test_debug_ids_stay() -> None:
    """Saved models depend on them."""
    words = tokenizer.debug(DEBUG)
    assert words.size == 520 and DEBUG.vocabulary == 512
    assert words.encode("A") == [3 + 65] and words.encode("\n") == [3 + 10]
    assert words.encode(" A") == [259] and words.decode([511]) == "very"
    pieces = [words.decode([one]) for one in range(259, 512)]
    assert len(set(pieces)) == 253 and all(words.encode(piece) == [place] for place, piece in enumerate(pieces, 259))
    assert pieces[:189] == sorted(pieces[:189], key=lambda one: (one.lower(), one))
    assert [words.decode([one]) for one in words.encode("A piece in G# major at 96 BPM, warm-toned.\n### X")] == [
        "A", " piece", " in", " ", "G", "#", " major", " at", " ", "9", "6", " BPM", ",", " warm", "-", "toned", ".",
        "\n", "###", " ", "X"]


def test_debug_writes_every_character() -> None:
    words = tokenizer.debug(DEBUG)
    every = "".join(map(chr, [*range(0x3000), *range(0x1f300, 0x1f600)]))
    assert words.decode(words.encode(every)) == every
    assert words.decode(words.encode("é")[:1]) == "\ufffd"


def test_debug_is_of_its_size_alone() -> None:
    with pytest.raises(ValueError, match="has 512 tokens, with 1 and 2 for beginning and end, but the model 60, with"):
        tokenizer.debug(tiny.M2UGEN)
    with pytest.raises(ValueError, match="the model 512, with 1 and 3;"):
        tokenizer.debug(dataclasses.replace(DEBUG, eos=3))


def _swapped(pieces: str) -> str:
    said = json.loads(pieces)
    names = {"<s>": "</s>", "</s>": "<s>"}
    said["model"]["vocab"] = {names.get(name, name): one for name, one in said["model"]["vocab"].items()}
    for one in said["added_tokens"]:
        one["content"] = names.get(one["content"], one["content"])
    return json.dumps(said)


@pytest.mark.parametrize(("name", "data", "told"), [
    (None, lambda: b"", r"no tokenizer.model or tokenizer.json; put LLaMA-2's there"),
    ("model", lambda: PIECES[:1000], "not a sentencepiece model; fetch it again"),
    ("model", lambda: _pieces(380), r"has \d+ tokens, but the model \d+; give"),
    ("model", lambda: _pieces(LLAMA.vocabulary, bos_id=2, eos_id=1), r"begins and ends with \(2, 1\), but the model"),
    ("model", lambda: _pieces(LLAMA.vocabulary, remove_extra_whitespaces=True), "changes blanks, line ends, bytes"),
    ("json", lambda: b"{", "not valid JSON"),
    ("json", lambda: b"[]", "not LLaMA's tokenizer: no vocabulary in it"),
    ("json", lambda: b'{"model": {"vocab": {}}}', "not LLaMA's tokenizer: no vocabulary in it"),
    ("json", lambda: _swapped(_as_json(PIECES)).encode(), r"begins and ends with \(2, 1\), but the model"),
    ("json", lambda: _with_audio(_as_json(PIECES)).encode(), r"tokens \(M²UGen's code adds its audio tokens")])
def test_what_is_wrong_is_told(tmp_path: Path, name: str | None, data: object, told: str) -> None:
    if name:
        (tmp_path / f"tokenizer.{name}").write_bytes(data())
    with pytest.raises(ValueError, match=told) as raised:
        tokenizer.load([tmp_path], LLAMA)
    assert str(tmp_path) in str(raised.value)


def _with_audio(pieces: str) -> str:
    words = Words.from_str(pieces)
    words.add_tokens([f"[AUD{place}]" for place in range(8)])
    return words.to_str()
