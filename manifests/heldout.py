"""Videos that others measure their models on, and none is trained on here: AudioSet's evaluation list and MusicCaps.

`heldout.bin` beside this file has them: a YouTube id is 64 bits in base64, here 8 bytes, big-endian, in rising order.
To renew it from AudioSet's eval_segments.csv and a file with one MusicCaps id a line, in the project's folder:

    python -c "from manifests import heldout; print(heldout.write(['eval_segments.csv', 'musiccaps_ids.txt']))"
"""
import binascii
import re
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources

from manifests import storage

_FILE = "heldout.bin"
# The last letter has 4 of the 64 bits: in canonical base64 its other two are zero.
_ID = re.compile(r"[A-Za-z0-9_-]{10}[AEIMQUYcgkosw048]")
_STANDARD = str.maketrans("-_", "+/")


def holds(source_id: str) -> bool:
    """Whether the video is held out. False for whatever is not a YouTube id."""
    if not _ID.fullmatch(source_id):
        return False
    ids, wanted = _ids(), int.from_bytes(_pack(source_id), "big")
    place = bisect_left(ids, wanted)
    return place < len(ids) and ids[place] == wanted


def write(lists: Iterable[str], url: str = f"manifests/{_FILE}") -> int:
    """Write the file from `lists`, texts with an id as the first column; returns how many ids it has.

    ValueError, naming the row, where a row has none: a truncated list must not shorten what is held out.
    """
    ids = set()
    for one in lists:
        found = {_pack(name) for name in _names(one)}
        if not found:
            raise ValueError(f"{one}: no ids in it")
        ids |= found
    storage.write_bytes(url, b"".join(sorted(ids)))
    return len(ids)


def _names(url: str) -> Iterator[str]:
    for number, line in enumerate(storage.read_bytes(url).decode("utf-8-sig").splitlines(), 1):
        name = line.partition(",")[0].strip(' "')
        if not name or name.startswith("#") or (number == 1 and name.lower() == "ytid"):
            continue
        if not _ID.fullmatch(name):
            raise ValueError(f"{url}: row {number}: {name[:40]!a} is not a YouTube id")
        yield name


def _pack(name: str) -> bytes:
    return binascii.a2b_base64(name.translate(_STANDARD) + "=")


@cache
def _ids() -> array:
    """The file, in machine order: 184 kB, read once."""
    ids = array("Q", resources.files("manifests").joinpath(_FILE).read_bytes())
    if sys.byteorder == "little":
        ids.byteswap()
    return ids
