"""Text to LLaMA's token ids and back, and where M²UGen's audio tokens lie beyond them.

LLaMA's own tokenizer is read from either of its files. The debug size has one of its own, of a fixed list and with no
file: what the list lacks is written in bytes, as LLaMA writes what its vocabulary lacks.
"""
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from manifests import checked
from training.config import Config

FILES = ("tokenizer.model", "tokenizer.json")
_FIRST_BYTE = 3  # LLaMA's ids: <unk>, <s>, </s>, the 256 bytes, then pieces of text
# Frequent in captions and conversations of the embedded writers, in the prompt, and in English.
_WORDS = (
    "A a about active after again Allegro almost Along also an and Andante animal Apart appears appropriately are "
    "articulation as at audio b balanced be beats before Besides black blue BPM bright brightness build busy by c can "
    "caption chang character clip co colour combines completes constant contrast d dark dataset describes detail "
    "differ do dynamic dynamics e each edges entirely even everything excerpt F f fairly fast follow for from g good "
    "green h has have he hear image in inferred Instruction instruction is It it keep key know l level lightly like "
    "little loud m made major marked measure mid minor minute mo moderate moderately mostly moves Music music n "
    "narrow ne neutral no not number of on one or other out over overall p partly passage people percussive picture "
    "piece pitc pitches play probably proceeds quiet range re recording register request Response response rhythm "
    "right round run s said saturated se set sh small so sound st surface t task tempo texture that The the these "
    "this through timbre to tone track two u under video volume w warm wh where with wor would writ Write you"
)
_PARTS = (
    "### Below Generate Here One The This What ack ad ake ame an and ar art as at ay ce ch ed ell en ent er es "
    "escribe et he her ic id igh in ing ir is it ld le ll low ly me on or ou ous ow percussive pitched range re se "
    "second st tempo tion toned ut ve very"
)
# Line ends and runs of blanks (code in Alpaca's answers) must come back; marks and audio tokens as text are text.
_HARD = "Two\n\n  lines\n### Response:\n\ta</s>b<s> [AUD0] \u00e9\U0001f3b5."


@dataclass(frozen=True)
class Tokenizer:
    """Ids are without marks of beginning and end. `encode` takes the beginning of a text; LLaMA puts a blank before it.

    No text becomes a mark or an audio token, whatever it holds. `decode` is the inverse of `encode`; marks are silent
    in it, audio tokens read [AUD0], [AUD1], ...
    """
    encode: Callable[[str], list[int]]
    text: Callable[[Sequence[int]], str]  # of ids below the audio tokens
    audio_ids: range
    bos: int
    eos: int

    @property
    def size(self) -> int:
        """How many ids there are, the audio tokens among them: rows of the embedding table."""
        return self.audio_ids.stop

    def follow(self, text: str) -> list[int]:
        """The ids of a text that follows another directly, without the blank. (A line's end merges with nothing.)"""
        return self.encode("\n" + text)[len(self.encode("\n")):]

    def decode(self, ids: Sequence[int]) -> str:
        said = ""
        for audio, some in groupby(ids, lambda one: one in self.audio_ids):
            if audio:
                said += "".join(f"[AUD{one - self.audio_ids.start}]" for one in some)
            elif said:
                said += self.text([*self.encode("\n"), *some]).removeprefix("\n")
            else:
                said = self.text(list(some))
        return said


def load(places: Sequence[Path], config: Config) -> Tokenizer:
    """LLaMA's tokenizer, as `read` finds it. Raises ValueError as that does, and for a file that does not give texts
    back as they were.
    """
    path, encode, decode = read(places, config)
    made = Tokenizer(encode, decode, config.audio_ids, config.bos, config.eos)
    before, _, after = _HARD.partition("\n")
    if made.decode(ids := encode(_HARD)) != _HARD or ids != [*encode(before + "\n"), *made.follow(after)]:
        raise ValueError(f"{path}: changes blanks, line ends, bytes or marks in a text, which LLaMA's does not; give "
                         "the tokenizer of its LLaMA-2")
    return made


def read(places: Sequence[Path],
         config: Config) -> tuple[Path, Callable[[str], list[int]], Callable[[Sequence[int]], str]]:
    """The first of `places` (folders) that has a file of LLaMA's tokenizer, tokenizer.model going first: the file, text
    → ids, and back, without marks of beginning and end.

    Raises ValueError, naming the file, for one that is not the config's LLaMA's.
    """
    path = next((place / name for place in places for name in FILES if (place / name).is_file()), None)
    if path is None:
        raise ValueError(f"{' and '.join(map(str, places))}: no {' or '.join(FILES)}; put LLaMA-2's there")
    if path.suffix == ".model":
        from sentencepiece import SentencePieceProcessor
        try:
            pieces = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{path}: not a sentencepiece model; fetch it again") from error
        size, ends = pieces.vocab_size(), (pieces.bos_id(), pieces.eos_id())
        encode, decode = pieces.encode, pieces.decode
    else:
        from tokenizers import Tokenizer as Words
        said = checked.read_json(str(path), "a tokenizer")
        model = said.get("model") if isinstance(said, dict) else None
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or not model["vocab"]:
            raise ValueError(f"{path}: not LLaMA's tokenizer: no vocabulary in it; fetch it again")
        words = Words.from_file(str(path))
        words.encode_special_tokens = True  # or "</s>" within a caption would end it
        size, ends = words.get_vocab_size(), (words.token_to_id("<s>"), words.token_to_id("</s>"))
        encode, decode = lambda text: words.encode(text, add_special_tokens=False).ids, words.decode
    if size != config.vocabulary:
        hint = " (M²UGen's code adds its audio tokens to the file)" if size == config.vocabulary + 8 else ""
        raise ValueError(f"{path}: has {size} tokens{hint}, but the model {config.vocabulary}; give the tokenizer of "
                         "its LLaMA-2")
    if ends != (config.bos, config.eos):
        raise ValueError(f"{path}: begins and ends with {ends}, but the model with {(config.bos, config.eos)}; give "
                         "the tokenizer of its LLaMA-2")
    return path, encode, decode


def debug(config: Config) -> Tokenizer:
    """Of the debug size, with no file: pieces of a fixed list, the longest first, and bytes.

    It writes any text, exactly, and puts no blank before it; the list's words take one token each. Raises ValueError
    for a config of another vocabulary.
    """
    pieces = [*(" " + word for word in _WORDS.split()), *_PARTS.split()]
    first = _FIRST_BYTE + 256
    if (size := first + len(pieces)) != config.vocabulary or (config.bos, config.eos) != (1, 2):
        raise ValueError(f"the debug tokenizer has {size} tokens, with 1 and 2 for beginning and end, but the model "
                         f"{config.vocabulary}, with {config.bos} and {config.eos}; give its LLaMA's tokenizer")
    ids = {piece: first + place for place, piece in enumerate(pieces)}
    pattern = re.compile("|".join([*sorted(pieces, key=len, reverse=True), "."]), re.DOTALL)
    said = {first + place: piece.encode() for place, piece in enumerate(pieces)}
    said |= {_FIRST_BYTE + byte: bytes([byte]) for byte in range(256)}

    def encode(text: str) -> list[int]:
        found: list[int] = []
        for piece in pattern.findall(text):
            found += [ids[piece]] if piece in ids else [_FIRST_BYTE + byte for byte in piece.encode()]
        return found

    def decode(some: Sequence[int]) -> str:
        return b"".join(said.get(one, b"") for one in some).decode(errors="replace")

    return Tokenizer(encode, decode, config.audio_ids, config.bos, config.eos)
