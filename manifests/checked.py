"""Rows of files that others made: checked one by one, and what is wrong with them told together."""
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from manifests import storage
from manifests.messages import named, one_line, shown

Row = TypeVar("Row")
_SHOWN = 10  # bad rows in a message


def sound(url: str, entries: Iterable[tuple[str, object]], parse: Callable[[object], Row | None],
          example: str) -> Iterator[Row]:
    """What `parse` makes of each entry (where it is, what it is); None of it leaves the entry out, which is warned of.

    `parse` raises ValueError for a bad one. A ValueError at the end tells the first ten, with nothing given after the
    first: a list that is silently shorter than it seems gives a dataset that is silently other than it seems.
    """
    count, bad, examples, empty = 0, 0, [], []
    for where, entry in entries:
        try:
            row = parse(entry)
        except ValueError as error:
            bad += 1
            if len(examples) < _SHOWN:
                examples.append(f"{where}: {error}")
            continue
        if row is None:
            empty.append(where)
            continue
        count += 1
        if not bad:
            yield row
    if bad:
        more = f"; and {bad - len(examples)} more" if bad > len(examples) else ""
        raise ValueError(f"{url}: {bad} bad row{'s' * (bad > 1)} ({'; '.join(examples)}{more}). {example}; "
                         + ("mend or remove these" if count else "is this the right file?"))
    if not count:
        raise ValueError(f"{url}: no {'usable ' * bool(empty)}rows in it. {example}; is this the right file?")
    if empty:
        more = ", ..." if len(empty) > _SHOWN else ""
        warnings.warn(f"{url}: left out what has nothing to learn from (a null or empty text, no tags), "
                      f"{len(empty)} of {count + len(empty)} rows: {', '.join(empty[:_SHOWN])}{more}", stacklevel=2)


def read_json(url: str, kind: str):
    """The whole file, parsed; `kind` is what it should be. ValueError where it is no JSON or says a key twice."""
    with named(url):
        data = storage.read_bytes(url)
    try:
        return json.loads(data.removeprefix(b"\xef\xbb\xbf"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{url}: not valid JSON ({one_line(error)}); {kind} is needed") from error


def _object(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {shown(twice)} is there twice in one object")
    return found


def text(value: object, name: str) -> str:
    """A text without the white space around it, perhaps empty; ValueError where it is none that UTF-8 can hold."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text: {shown(repr(value))}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not UTF-8: {shown(value)}") from None
    return value.strip()


def line(value: object, name: str) -> str:
    """A text as one line: every run of white space is a blank."""
    return " ".join(text(value, name).split())


def file_name(value: object, name: str) -> str:
    """A path below the folder that the media lie in. It is joined to that folder, so it may not leave it."""
    path = text(value, name)
    if (not path or not path.isprintable() or re.match(r"[/\\~]|[A-Za-z]:|\w+://", path)
            or ".." in re.split(r"[/\\]", path)):
        raise ValueError(f"{name} is no file name below a folder: {shown(path)}")
    return path
