"""Music that others described by captions or tags: MusicCaps, MagnaTagATune and MTG-Jamendo, from their own tables.

Tables are streamed; paths may be URLs. As for `manifests.published`: a ValueError at the end tells the first ten bad
rows, by the line that each begins on, and nothing is given after the first.

MusicCaps: Agostinelli et al., arXiv:2301.11325. MagnaTagATune: Law et al., ISMIR 2009. MTG-Jamendo: Bogdanov et al.,
ML4MD at ICML 2019, github.com/MTG/mtg-jamendo-dataset.
"""
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass

from manifests import storage
from manifests.checked import file_name, line, sound
from manifests.messages import named, shown

MUSICCAPS = ("ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id",
             "is_balanced_subset", "is_audioset_eval")
JAMENDO = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
KINDS = {
    "musiccaps": f"MusicCaps' CSV ({','.join(MUSICCAPS)})",
    "magnatagatune": "MagnaTagATune's annotations_final.csv (clip_id, a column a tag, mp3_path; parted by tabs)",
    "jamendo": f"MTG-Jamendo's autotagging*.tsv ({' '.join(JAMENDO)}; parted by tabs)",
}

_LONGEST_LINE = 2**17
_LONGEST_LIST = 2**13  # letters: MusicCaps' longest has some hundreds
# Python's way to write a list of texts: what `repr` gives, read without executing anything.
_STRING = r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\""
_LITERAL = re.compile(rf"\s*\[\s*(?:(?:{_STRING})(?:\s*,\s*(?:{_STRING}))*\s*,?)?\s*\]\s*")
_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)")
_PLAIN = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}


@dataclass(frozen=True)
class MusicCap:
    """A row of MusicCaps. The published file has every video once."""
    ytid: str
    start: float               # s into the video
    end: float
    labels: tuple[str, ...]    # ids of AudioSet's classes
    aspects: tuple[str, ...]
    caption: str               # one line
    author: int
    balanced: bool             # in the subset that is balanced by genre
    evaluation: bool           # in AudioSet's evaluation list; the others are in its training list


@dataclass(frozen=True)
class Tagged:
    """A row of MagnaTagATune or MTG-Jamendo."""
    path: str                     # of the audio, as the file writes it
    tags: tuple[str, ...]         # in the file's order; of MagnaTagATune perhaps none
    categories: tuple[str, ...]   # of each tag: "genre", "instrument", "mood/theme"; "" where the dataset has none


@dataclass(frozen=True)
class Description:
    """What is known of a piece: a caption, or tags, or both."""
    caption: str | None
    tags: tuple[str, ...]
    kind: str                     # of `KINDS`
    categories: tuple[str, ...] = ()   # of each tag, where the dataset has them
    start: float | None = None    # s into the source, of the excerpt that is meant; None: all of it


def descriptions(url: str) -> dict[str, Description]:
    """What a table of one of `KINDS`, told by its header, says of each piece; ValueError for any other table.

    The keys are MusicCaps' `ytid` (each is there once, and a second is an error) or the audio's path as the file
    writes it. Pieces without caption and tags, of which MagnaTagATune has some thousands, are left out with a warning.
    """
    found = kind(url)
    if found == "musiccaps":
        return {row.ytid: Description(row.caption, row.aspects, found, start=row.start) for row in musiccaps(url)}
    rows = {"magnatagatune": magnatagatune, "jamendo": jamendo}[found](url)
    told = sound(url, ((row.path, row) for row in rows), lambda row: row if row.tags else None, KINDS[found])
    return {row.path: Description(None, row.tags, found, row.categories if found == "jamendo" else ())
            for row in told}


def kind(url: str) -> str:
    """Which of `KINDS` a table is, by its header."""
    header = next(_lines(url), "")
    for found, delimiter in (("musiccaps", ","), ("magnatagatune", "\t"), ("jamendo", "\t")):
        if _fits(found, _split(header, delimiter)):
            return found
    raise ValueError(f"{url}: its header is none that is known: {shown(header)}. Known are {'; '.join(KINDS.values())}")


def musiccaps(url: str) -> Iterator[MusicCap]:
    """Rows of musiccaps-public.csv."""
    seen: set[str] = set()

    def parse(fields: list[str]) -> MusicCap:
        if len(fields) != len(MUSICCAPS):
            raise ValueError(f"{len(fields)} fields, not {len(MUSICCAPS)}: {shown(','.join(fields))}")
        key, start, end, labels, aspects, said, author, balanced, evaluation = fields
        if not re.fullmatch(r"[A-Za-z0-9_-]{11}", key):
            raise ValueError(f"ytid is no YouTube id: {shown(key)}")
        start, end = _number(start, "start_s"), _number(end, "end_s")
        if end <= start:
            raise ValueError(f"ends at {end:g} s, but starts at {start:g} s")
        if not re.fullmatch(r"/[a-z]/[a-z0-9_]+(?:,/[a-z]/[a-z0-9_]+)*", labels):
            raise ValueError(f"audioset_positive_labels are no ids of classes: {shown(labels)}")
        if not re.fullmatch(r"\d{1,9}", author):
            raise ValueError(f"author_id is no number: {shown(author)}")
        for flag in (balanced, evaluation):
            if flag not in ("True", "False"):
                raise ValueError(f"is neither True nor False: {shown(flag)}")
        if not (caption := line(said, "caption")):
            raise ValueError("the caption is empty")
        found = MusicCap(key, start, end, tuple(labels.split(",")), _texts(aspects), caption, int(author),
                         balanced == "True", evaluation == "True")
        _once(key, seen)
        return found

    return sound(url, _rows(url, "musiccaps", ","), parse, KINDS["musiccaps"])


def magnatagatune(url: str) -> Iterator[Tagged]:
    """Rows of annotations_final.csv: the tags whose columns have a 1."""
    header, seen = _split(next(_lines(url), ""), "\t"), set()
    names = [line(name, "a tag") for name in header[1:-1]]

    def parse(fields: list[str]) -> Tagged:
        if len(fields) != len(header):
            raise ValueError(f"{len(fields)} fields, where the header has {len(header)}")
        if not fields[0].isdecimal():
            raise ValueError(f"clip_id is no number: {shown(fields[0])}")
        if odd := set(fields[1:-1]) - {"0", "1"}:
            raise ValueError(f"a tag's value is neither 0 nor 1: {shown(min(odd))}")
        tags = tuple(name for name, value in zip(names, fields[1:-1], strict=True) if value == "1")
        path = file_name(fields[-1], "mp3_path")
        _once(path, seen)
        return Tagged(path, tags, ("",) * len(tags))

    return sound(url, _rows(url, "magnatagatune", "\t"), parse, KINDS["magnatagatune"])


def jamendo(url: str) -> Iterator[Tagged]:
    """Rows of autotagging.tsv, its subsets and splits, and the raw files that it was made from."""
    seen: set[str] = set()

    def parse(fields: list[str]) -> Tagged:
        if len(fields) < len(JAMENDO):
            raise ValueError(f"{len(fields)} fields, not {len(JAMENDO)} or more")
        if not re.fullmatch(r"track_\d{1,12}", fields[0]):
            raise ValueError(f"TRACK_ID is not like track_0000948: {shown(fields[0])}")
        if _number(fields[4], "DURATION") <= 0:
            raise ValueError(f"DURATION is not above 0: {shown(fields[4])}")
        pairs = []
        for field in fields[5:]:
            category, dashes, tag = line(field, "a tag").partition("---")
            if not (category and dashes and tag):
                raise ValueError(f"a tag is not like genre---rock: {shown(field)}")
            pairs.append((category, tag))
        path = file_name(fields[3], "PATH")
        _once(path, seen)
        return Tagged(path, tuple(tag for _, tag in pairs), tuple(category for category, _ in pairs))

    return sound(url, _rows(url, "jamendo", "\t"), parse, KINDS["jamendo"])


def _fits(kind: str, header: list[str]) -> bool:
    if kind == "magnatagatune":
        return (len(header) > 2 and header[0] == "clip_id" and header[-1] == "mp3_path" and all(header)
                and len(set(header)) == len(header))
    return tuple(header) == (MUSICCAPS if kind == "musiccaps" else JAMENDO)


def _rows(url: str, kind: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Where each row begins, and its fields; what the csv module cannot read is a row of one field."""
    lines = csv.reader(_lines(url), delimiter=delimiter, strict=True,
                       quoting=csv.QUOTE_NONE if kind == "jamendo" else csv.QUOTE_MINIMAL)
    header, before = False, 0
    while True:
        try:
            fields = next(lines)
        except StopIteration:
            break
        except csv.Error as error:
            fields = [f"quotes or line ends that do not fit ({error})"]
        where, before = f"line {before + 1}", lines.line_num
        if not header:
            if not _fits(kind, fields):
                raise ValueError(f"{url}: its header is {shown(delimiter.join(fields))}; {KINDS[kind]} is needed")
            header = True
        elif fields:
            yield where, fields
    if not header:
        raise ValueError(f"{url}: empty; {KINDS[kind]} is needed")


def _lines(url: str) -> Iterator[str]:
    """Lines with their ends, of a bounded length each. What is not UTF-8 becomes what `text` refuses."""
    with named(url):
        fs, path = storage.locate(url)
        with fs.open(path, "r", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            while one := file.readline(_LONGEST_LINE):
                yield one


def _split(header: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:
        return []


def _texts(literal: str) -> tuple[str, ...]:
    """The texts of a Python list literal."""
    if len(literal) > _LONGEST_LIST or not _LITERAL.fullmatch(literal):
        raise ValueError(f"aspect_list is no list of texts like ['slow tempo', 'piano']: {shown(literal)}")
    found = (line(_ESCAPE.sub(_unescaped, one[1:-1]), "an aspect") for one in re.findall(_STRING, literal))
    return tuple(filter(None, found))


def _unescaped(match: re.Match) -> str:
    code = match[0][1:]
    if len(code) > 1:
        if int(code[1:], 16) > 0x10FFFF:
            raise ValueError(f"aspect_list has no such character: {shown(match[0])}")
        return chr(int(code[1:], 16))
    return _PLAIN.get(code, match[0])


def _number(value: str, name: str) -> float:
    if not re.fullmatch(r"\d{1,9}(?:\.\d{1,20})?", value):
        raise ValueError(f"{name} is no number of seconds: {shown(value)}")
    return float(value)


def _once(key: str, seen: set[str]) -> None:
    if key in seen:
        raise ValueError(f"{shown(key)} is there twice")
    seen.add(key)
