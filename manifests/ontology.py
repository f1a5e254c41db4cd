"""AudioSet's ontology: its classes, what is below each, and what a user means by their names."""
import difflib
import graphlib
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import NamedTuple

from manifests import storage
from manifests.messages import named, one_line, shown

MUSIC = "/m/04rlf"


class Class(NamedTuple):
    name: str
    children: tuple[str, ...]


def load(url: str) -> dict[str, Class]:
    """The classes by id; ValueError where the file is not an ontology that has Music in it."""
    with named(url):
        data = storage.read_bytes(url)
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{url}: not valid JSON ({one_line(error)}); AudioSet's ontology.json is needed") from error
    if not isinstance(entries, list):
        raise ValueError(f"{url}: no list of classes; AudioSet's ontology.json is needed")
    classes = {}
    for number, entry in enumerate(entries):
        match entry:
            case {"id": str(mid), "name": str(name), "child_ids": [*children]} if all(
                    isinstance(child, str) for child in children):
                # Names go out as columns, joined by "|"; ids come in as comma-separated lists.
                if not re.fullmatch(r"[A-Za-z0-9_/.-]{1,64}", mid) or not name.isprintable() or "|" in name:
                    raise ValueError(f"{url}: class {number}: {shown(mid)} or {shown(name)} is no id or no name")
                if mid in classes:
                    raise ValueError(f"{url}: class {number}: the id {mid} is there twice")
                classes[mid] = Class(name, tuple(children))
            case _:
                raise ValueError(f"{url}: class {number} needs id, name and child_ids, two texts and a list of texts")
    if MUSIC not in classes:
        raise ValueError(f"{url}: no class Music ({MUSIC}); AudioSet's ontology.json is needed")
    for mid, one in classes.items():
        if missing := [child for child in one.children if child not in classes]:
            raise ValueError(f"{url}: {mid} has the child {shown(missing[0])}, which is not there")
    try:
        graphlib.TopologicalSorter({mid: one.children for mid, one in classes.items()}).prepare()
    except graphlib.CycleError as error:
        raise ValueError(f"{url}: classes below themselves: {', '.join(error.args[1][:5])}") from error
    return classes


def below(classes: Mapping[str, Class], mid: str) -> set[str]:
    """The class itself and its descendants."""
    found, ahead = set(), [mid]
    while ahead:
        if (one := ahead.pop()) not in found:
            found.add(one)
            ahead += classes[one].children
    return found


def resolve(exclude: Iterable[str], classes: Mapping[str, Class], url: str,
            optional: Container[str] = ()) -> Iterator[str]:
    """Ids of what `exclude` names; an id in `optional` may be unknown.

    A comma parts names, unless a name goes on over it: the longest name is taken.
    """
    known: dict[str, list[str]] = {}
    for mid, one in classes.items():
        for name in {_joined(_parts(one.name)), _joined([mid])}:
            known.setdefault(name, []).append(mid)
    longest = max(name.count(",") for name in known) + 1
    for item in exclude:
        if item in optional and item not in classes:
            continue  # no row can have it; an ontology need not know all that is excluded by default
        parts = _parts(item)
        while parts:
            tries = [_joined(parts[:size]) for size in range(min(longest, len(parts)), 0, -1)]
            name = next((one for one in tries if one in known), None)
            if name is None:
                close = [match for one in tries for match in difflib.get_close_matches(one, known)]
                close = ", ".join(dict.fromkeys(classes[known[match][0]].name for match in close[:3]))
                raise ValueError(f"there is no class {shown(parts[0])} to exclude; "
                                 + (f"is it one of these: {close}?" if close else f"names and ids are in {url}"))
            yield from known[name]
            parts = parts[name.count(",") + 1:]


def _parts(name: str) -> list[str]:
    return [part.strip() for part in name.split(",")]


def _joined(parts: list[str]) -> str:
    return ", ".join(parts).casefold()
