"""AudioSet's segment lists: the segments of music in them, without those that hold speech or sound effects as well.

Lists are streamed: memory does not grow with them, but for 12 to 24 bytes a segment given, which tell repetitions.
What a list says is checked row by row before it is used; a row that cannot be right ends the list in a ValueError,
because a list that is silently shorter than it seems gives a dataset that is silently other than it seems.

AudioSet and its ontology: Gemmeke et al., ICASSP 2017, doi:10.1109/ICASSP.2017.7952261.
"""
import csv
import hashlib
import re
import struct
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from manifests import storage
from manifests.messages import named, shown
from manifests.ontology import MUSIC, below, load, resolve

# What a clip of music should not hold besides: speech, other people's noises, animals, things and weather, and labels
# that stand for a sound effect. Of the music in the balanced list, 17 % has speech and 13 % something else of these.
# Not here, because it is the music, or how music is heard: singing, rapping, humming, whistling; clapping, applause,
# cheering and crowds (concerts); rooms, reverberation, echo; radio, television, records; effects units, distortion,
# hiss and hum; harmonics, pulses, sine waves. Nor are "Scratch" and "Roll", which beside music are turntables and rock.
# By id, because names change between editions of the ontology.
EXCLUDED = {
    "/m/09x0r": "Speech", "/m/07p6fty": "Shout", "/m/03qc9zr": "Screaming", "/m/02rtxlg": "Whispering",
    "/m/01j3sz": "Laughter", "/m/0463cq4": "Crying, sobbing", "/m/07qw_06": "Wail, moan", "/m/07plz5l": "Sigh",
    "/m/07s2xch": "Groan", "/m/07r4k75": "Grunt", "/m/01j423": "Yawn", "/m/09hlz4": "Respiratory sounds",
    "/m/0bpl036": "Human locomotion", "/m/0160x5": "Digestive", "/m/01jg02": "Heart sounds, heartbeat",
    "/m/07rkbfh": "Chatter", "/m/07qfr4h": "Hubbub, speech noise, speech babble", "/t/dd00013": "Children playing",
    "/m/0jbk": "Animal", "/m/059j3w": "Natural sounds", "/m/07yv9": "Vehicle", "/m/02mk9": "Engine",
    "/t/dd00071": "Domestic sounds, home sounds", "/m/07pp_mv": "Alarm", "/t/dd00077": "Mechanisms",
    "/m/07k1x": "Tools", "/m/014zdl": "Explosion", "/m/083vt": "Wood", "/m/039jq": "Glass", "/m/04k94": "Liquid",
    "/m/0790c": "Sonar", "/m/04179zz": "Duck call (hunting tool)", "/m/0dl83": "Arrow",
    "/t/dd00133": "Specific impact sounds", "/t/dd00099": "Generic impact sounds", "/t/dd00110": "Deformable shell",
    "/m/05n1m": "Onomatopoeia", "/m/0c1dj": "Sound effect", "/m/06_y0by": "Environmental noise",
    "/m/0chx_": "White noise", "/m/0cj0r": "Pink noise",
}

_LONGEST_SEGMENT = 600.0  # s
_LONGEST_LINE = 2**16     # bytes; all classes on one row would be 7,000
_BLOCK = 2**20
_SHOWN = 10               # bad rows in a message
_TIME = rb"\d{1,9}(?:\.\d{0,20})?"
_ID = rb"[A-Za-z0-9_-]{1,64}"  # may start with a dash; no path separator, no dot
_ROW = re.compile(rb'(?:\xef\xbb\xbf)?[ \t]*("?)(' + _ID + rb')\1[ \t]*,[ \t]*("?)(' + _TIME + rb')\3[ \t]*,[ \t]*("?)('
                  + _TIME + rb')\5[ \t]*,[ \t]*(?:"([^"]+)"|([^",\s]+))[ \t]*\r?')
_HEADER = b"ytid,start_seconds,end_seconds,positive_labels"


class Segment(NamedTuple):
    id: str                   # the video's
    start: float              # s into the video
    end: float
    labels: tuple[str, ...]   # the classes' names, in the list's order


def segments(lists: Iterable[str], ontology: str, exclude: Iterable[str] = EXCLUDED) -> Iterator[Segment]:
    """Segments with a label of Music or below it and none of, or below, the classes in `exclude`, in the lists' order.

    `lists` are paths or URLs of CSVs as AudioSet publishes them, or with a header row; `ontology` is its JSON file.
    `exclude` takes ids and names of any case, also several in one string: "Speech, Crying, sobbing, /m/0jbk" are three.
    What is below Music stays, whoever else its parents are (cowbells are cattle's, too), unless excluded by itself.
    The same id and start is given once, as the first list has it.

    ValueError for a file that is not what it should be and for unknown classes, OSError for one that cannot be read;
    of a list, when its end is reached, with nothing given after the first bad row.
    """
    lists = list(lists)
    if not lists:
        raise ValueError("no segment lists were given")
    classes = load(ontology)
    music = below(classes, MUSIC)
    excluded = set()
    for mid in resolve(exclude, classes, ontology, EXCLUDED):
        excluded |= below(classes, mid) - (set() if mid in music else music)
    for url in lists:  # a missing one is told now, not two million rows later
        with named(url):
            if not storage.exists(url):
                raise FileNotFoundError
    return _select(lists, {mid.encode(): one.name for mid, one in classes.items()},
                   {mid.encode() for mid in music}, {mid.encode() for mid in excluded})


def _select(lists: list[str], names: Mapping[bytes, str], music: set[bytes], excluded: set[bytes]) -> Iterator[Segment]:
    given = _Given()
    for url in lists:
        for key, start, end, labels in rows(url, names.keys()):
            if not music.isdisjoint(labels) and excluded.isdisjoint(labels) and given.add(key, start):
                yield Segment(key.decode(), start, end, tuple([names[label] for label in labels]))


class _Given:
    """Which segments were given: 64 bits of a hash each, in a table with open addressing (a set takes 8 times as much).

    Among two million, one is taken for another, and lost, with a probability of one in ten million.
    """

    def __init__(self) -> None:
        self.table, self.count = array("Q", bytes(8 * 2**16)), 0

    def add(self, key: bytes, start: float) -> bool:
        """Whether it is new."""
        digest = hashlib.blake2b(key + struct.pack(">d", start), digest_size=8).digest()
        if new := self._put(int.from_bytes(digest, "big") or 1):  # 0 is a free place
            self.count += 1
            if 3 * self.count > 2 * len(self.table):
                marks, self.table = self.table, array("Q", bytes(16 * len(self.table)))
                for mark in filter(None, marks):
                    self._put(mark)
        return new

    def _put(self, mark: int) -> bool:
        table, last = self.table, len(self.table) - 1
        place = mark & last
        while found := table[place]:
            if found == mark:
                return False
            place = (place + 1) & last
        table[place] = mark
        return True


def rows(url: str, known: Collection[bytes]) -> Iterator[tuple[bytes, float, float, list[bytes]]]:
    """Id, start, end and labels of each row; ValueError at the end where one was bad or there is none.

    An unknown label makes a row bad: what is below Music or excluded cannot be told without knowing all its classes.
    """
    known = frozenset(known)
    count, bad, examples = 0, 0, []
    for number, line in enumerate(_lines(url), 1):
        if len(line) <= _LONGEST_LINE and (row := _ROW.fullmatch(line)):
            start, end = float(row[4]), float(row[6])
            labels = (row[7] or row[8]).replace(b", ", b",").split(b",")
            if 0 < end - start <= _LONGEST_SEGMENT and known.issuperset(labels):
                count += 1
                if not bad:
                    yield row[2], start, end, labels
                continue
        plain = line.removeprefix(b"\xef\xbb\xbf").strip()
        if not plain or plain.startswith(b"#") or re.sub(rb'[ "]', b"", plain).lower() == _HEADER:
            continue
        bad += 1
        if len(examples) < _SHOWN:
            examples.append(f"row {number}: {_complaint(plain, known)}")
    if bad:
        more = f"; and {bad - len(examples)} more" if bad > len(examples) else ""
        raise ValueError(f"{url}: {bad} bad row{'s' * (bad > 1)}, counted as the file's lines ({'; '.join(examples)}"
                         f'{more}). A row is like --PJHxphWEs,30.000,40.000,"/m/09x0r,/t/dd00088"; '
                         + ("mend or remove these" if count else "is this one of AudioSet's segment lists?"))
    if not count:
        raise ValueError(f"{url}: no segments in it; is this one of AudioSet's segment lists?")


def _complaint(line: bytes, known: Collection[bytes]) -> str:
    """What is wrong with a row that `_rows` refused."""
    if len(line) > _LONGEST_LINE:
        return f"longer than {_LONGEST_LINE} bytes: {shown(line)}"
    try:
        fields = [field.strip() for field in next(csv.reader([line.decode()], skipinitialspace=True, strict=True))]
    except UnicodeDecodeError:
        return f"not UTF-8: {shown(line)}"
    except csv.Error as error:
        return f"quotes or line ends that do not fit ({error}): {shown(line)}"
    if len(fields) != 4:
        return f"{len(fields)} fields, not 4: {shown(line)}"
    key, start, end, labels = (field.encode() for field in fields)
    if not re.fullmatch(_ID, key):
        return f"not an id of letters, digits, - and _: {shown(key)}"
    for time in (start, end):
        if not re.fullmatch(_TIME, time):
            return f"not a time in seconds: {shown(time)}"
    if not 0 < float(end) - float(start) <= _LONGEST_SEGMENT:
        return f"not longer than 0 and at most {_LONGEST_SEGMENT:g} s: from {start.decode()} to {end.decode()}"
    if unknown := [label for label in labels.replace(b", ", b",").split(b",") if label not in known]:
        return f"not a class of the ontology: {shown(unknown[0])}"
    return f"not in the form of a list: {shown(line)}"


def _lines(url: str) -> Iterator[bytes]:
    """Lines without their ends. Of one that does not end, little more than `_LONGEST_LINE` is kept."""
    rest = b""
    for block in blocks(url):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
        rest = rest[:_LONGEST_LINE + 1]
    yield rest


def blocks(url: str) -> Iterator[bytes]:
    with named(url):
        fs, path = storage.locate(url)
        with fs.open(path, "rb") as file:
            while block := file.read(_BLOCK):
                yield block
