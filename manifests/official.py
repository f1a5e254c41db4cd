"""AudioSet's own lists and ontology, downloaded once into the user's cache, and checked."""
import base64
import hashlib
import http.client
import os
import re
import sys
import urllib.request
from collections.abc import Callable, Collection, Iterable
from functools import partial

from manifests import storage
from manifests.audioset import blocks, rows
from manifests.messages import one_line, shown
from manifests.ontology import load

LISTS_URL = "https://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"
ONTOLOGY_URL = "https://raw.githubusercontent.com/audioset/ontology/master/ontology.json"
_ONTOLOGY_SHA256 = "9c685f4403eecc3ca9be37fd7285cf212feaaea6ff7229d3e7ca89e0d1f2d15d"
# Rows of the official lists, and the SHA-256 of what they say (`_check_list`) where it is known.
_OFFICIAL = {
    "balanced_train": (22160, "c4d07fafe0e67a56ea97b1981654519b69be845155d2221f42eb3be166032261"),
    "unbalanced_train": (2041789, None),
    "eval": (20371, "2cb4e906573c737c8ba1d226bbef123337cfb0996d010b8ee2bd6a1e37e24c2a"),
}
_AGENT = "m2ugen-factory (dataset tool; fetches each list once)"
_TIMEOUT = 30           # s without a byte
_MOST_BYTES = 2**30     # of a download; the largest list has 0.1 of it


def official(names: Iterable[str] = tuple(_OFFICIAL), base: str = LISTS_URL,
             ontology: str = ONTOLOGY_URL) -> tuple[list[str], str]:
    """Paths of AudioSet's own lists and ontology, downloaded once into the user's cache and checked on each use.

    ValueError for what is not as it was published (it is removed), OSError where nothing can be downloaded.
    """
    names = list(names)
    if unknown := [name for name in names if name not in _OFFICIAL]:
        raise ValueError(f"there is no official list {shown(unknown[0])}; there are {', '.join(_OFFICIAL)}")
    kept = os.environ.get("XDG_CACHE_HOME", "")
    folder = os.path.join(kept if os.path.isabs(kept) else os.path.expanduser("~/.cache"), "m2ugen-factory", "audioset")
    ontology = _cached(ontology, os.path.join(folder, "ontology.json"), _check_ontology)
    known = {mid.encode() for mid in load(ontology)}
    return [_cached(f"{base}/{name}_segments.csv", os.path.join(folder, f"{name}_segments.csv"),
                    partial(_check_list, name=name, known=known)) for name in names], ontology


def _cached(url: str, path: str, check: Callable[[str], None]) -> str:
    """The file at `path`, downloaded from `url` if need be. Its note, written last, says that it was checked."""
    note = f"{path}.json"
    noted = storage.read_json(note) if storage.exists(note) and storage.exists(path) else None
    if isinstance(noted, dict) and noted.get("url") == url:
        if (found := _measured(path) | {"url": url}) == noted:
            return path
        storage.remove(note)
        storage.remove(path)
        raise ValueError(f"{path}: has {found['size']} bytes with SHA-256 {found['sha256']}, where {noted.get('size')} "
                         f"with {noted.get('sha256')} came; it was removed, and the next run downloads it again")
    if sys.stderr.isatty():
        print(f"downloading {url} to {path}", file=sys.stderr)
    with storage.create(path) as file:
        _download(url, file)
    try:
        check(path)
    except ValueError as error:
        storage.remove(path)
        raise ValueError(f"{error}; {url} gave it, and it was removed") from error
    storage.write_json(note, _measured(path) | {"url": url})
    return path


def _measured(path: str) -> dict:
    with open(path, "rb") as file:
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _download(url: str, file) -> None:
    """Stream `url` into `file`; the bytes are those that the store says it sent, where it says so."""
    size, md5 = 0, hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"User-Agent": _AGENT}),
                                    timeout=_TIMEOUT) as response:
            while block := response.read(2**20):
                file.write(block)
                md5.update(block)
                if (size := size + len(block)) > _MOST_BYTES:
                    raise ValueError(f"{url}: more than {_MOST_BYTES} bytes, which no list of AudioSet's has")
            length = response.headers.get("Content-Length", "")
            sums = ",".join(response.headers.get_all("x-goog-hash", []))
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{url}: cannot be downloaded ({one_line(error)}); where there is no network, name copies of "
                      "your own: SEGMENTS= and ONTOLOGY=, or --segments and --ontology") from error
    if length.isdigit() and size != int(length):
        raise OSError(f"{url}: broke off after {size} of {length} bytes; try again")
    found = base64.b64encode(md5.digest()).decode()
    for expected in re.findall(r"md5=([^,\s]+)", sums):
        if expected != found:
            raise ValueError(f"{url}: what came has the MD5 {found}, where {shown(expected)} was announced; try again")


def _check_ontology(path: str) -> None:
    if (found := _measured(path)["sha256"]) != _ONTOLOGY_SHA256:
        raise ValueError(f"{path}: its SHA-256 is {found}, where AudioSet's ontology has {_ONTOLOGY_SHA256}")


def _check_list(path: str, name: str, known: Collection[bytes]) -> None:
    """ValueError unless it says what the official list says, in whatever way it is spaced and headed."""
    expected, digest = _OFFICIAL[name]
    count, content = 0, hashlib.sha256()
    for key, start, end, labels in rows(path, known):
        count += 1
        content.update(b"%b\t%.3f\t%.3f\t%b\n" % (key, start, end, b",".join(labels)))
    head = re.search(rb"^#.*\bnum_ytids=(\d+), *num_segs=(\d+)", next(blocks(path))[:1000], re.MULTILINE)
    for found in (count, *map(int, head.groups() if head else ())):
        if found != expected:
            raise ValueError(f"{path}: {found} segments, where the official list has {expected}")
    if digest and content.hexdigest() != digest:
        raise ValueError(f"{path}: the SHA-256 of its segments is {content.hexdigest()}, where the official list has "
                         f"{digest}")
