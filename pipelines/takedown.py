"""Takedown: source videos leave a build, and the published repository, and no later build brings them back.

They are remembered first (pipelines.forget), then removed: killed at any point, the same command goes on, and so does
the next build. The repository follows in one commit; its older revisions stay, unless its history is squashed.
"""
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from manifests import checked, storage
from manifests.messages import named
from pipelines import forget

_ID = re.compile(r"[A-Za-z0-9._-]{1,255}")  # of videos of the web, of files (pipelines.folder), of the sample corpus
_SHOWN = 10  # ids in a message
_EXAMPLE = "A line is one source video's id, as the column source_id has it: dQw4w9WgXcQ"


class NoBuild(ValueError):
    """Nothing was ever built there: of a slip of the pen nobody would learn that all is still where it was."""


@dataclass(frozen=True)
class Done:
    """What became of a takedown: `asked` for so many ids, of which `new` were not remembered yet, and the ledgers of
    the build tell of all of these but the `unseen`."""
    asked: int
    new: int
    unseen: list[str]
    copies: int             # source videos that go with them, as copies of the same recordings
    datasets: dict[str, int]  # rows of each, of this takedown
    models: list[str]       # trained from this build, which cannot forget


def read(url: str) -> list[str]:
    """Ids of source videos, one a line; what follows a # is a comment. ValueError that tells the bad lines."""
    with named(url):
        data = storage.read_bytes(url)
    lines = enumerate(data.removeprefix(b"\xef\xbb\xbf").decode(errors="replace").splitlines(), 1)
    entries = ((f"line {number}", text) for number, line in lines if (text := line.partition("#")[0].strip()))
    return list(dict.fromkeys(checked.sound(url, entries, _id, _EXAMPLE)))


def takedown(out: str, ids: Iterable[str]) -> Done:
    """Have the source videos leave `out`. May be done again, with the same ids or others.

    Raises NoBuild, OSError, ValueError.
    """
    if not any(storage.names(storage.join(out, name)) for name in ("stages", "ledger", "datasets", "takedown")):
        raise NoBuild(f"{out}: no build here, and nothing is remembered; name the build's folder or URL (OUT=)")
    ids = sorted(set(ids))
    with storage.lock(out):
        entries = forget.log(out)
        asked = {forget.hashed(one) for one in ids}
        before = forget.remembered(out)
        new = frozenset(asked - before)
        ledgers = forget.ledgers(out)
        unseen = new - forget.seen(ledgers, new)
        copies = forget.copies(ledgers, new) - before - new
        if new:
            counts = forget.held(ledgers, new | copies)
            entries.append({"date": time.strftime("%Y-%m-%d", time.gmtime()), "ids": sorted(new | copies),
                            "rows": sum(counts.values()), "datasets": counts, "squashed": [], "done": False})
            forget.note(out, entries)
        forget.finish(out)
    return Done(len(asked), len(new), [one for one in ids if forget.hashed(one) in unseen], len(copies),
                _rows(entries, asked), _models(out))


def follow(out: str, ids: Iterable[str], repo: str, squash: bool = False) -> None:
    """Have `repo`, where `out` is published, be what is left, in one commit; with `squash` nothing is before it.

    ValueError where there is nothing of ours, or nothing left to publish; else as pipelines.publish raises and tells.
    """
    from pipelines import hub, publish
    entries, asked = forget.log(out), {forget.hashed(one) for one in ids}
    stats = storage.read_json(storage.join(out, "stats.json"))
    if not any(numbers["done"] for numbers in stats["datasets"].values()):
        raise ValueError(f"{repo}: {out} has no row left to publish in place of what is there; delete the repository, "
                         "in its settings on the Hub")
    told = publish.published(repo)
    if told is None:
        raise ValueError(f"{repo}: nothing of ours is published there; {out} itself is done")
    rows = sum(_rows(entries, asked).values())
    here = set(storage.names(storage.join(out, "datasets")))
    names = [name for name in told["datasets"] if name in here]
    publish.publish(out, repo, names, message=f"takedown: {rows} rows")
    if squash:
        hub.squash(repo, "dataset", f"takedown: {rows} rows; the history before it is squashed")
        with storage.lock(out):  # only what is true is told: the card says so once it is
            forget.note(out, [entry | {"squashed": sorted({*entry["squashed"], repo})} for entry in forget.log(out)])
            forget.present(out)
        publish.publish(out, repo, names, message="the card says that the history was squashed")


def told(done: Done, out: str) -> str:
    """For a person."""
    lines = [f"{done.asked} source videos are remembered: no later build in {out} asks for them. {done.new} are new, "
             f"and {done.new - len(done.unseen)} of these were in the build"]
    if done.unseen:
        more = f" and {len(done.unseen) - _SHOWN} more" if len(done.unseen) > _SHOWN else ""
        lines.append(f"not in the build: {', '.join(done.unseen[:_SHOWN])}{more}. If they should be: ids are those of "
                     "the column source_id, not of rows, and upper and lower case differ")
    if done.copies:
        lines.append(f"and with them {done.copies} that were lost as copies of theirs: these would have come in their "
                     "place")
    lines += [f"{name}: {rows} rows taken down" for name, rows in done.datasets.items() if rows]
    if done.models:
        lines.append("NOT forgotten: a model that was trained on these rows cannot unlearn them. Train anew, and "
                     f"remove {', '.join(done.models)}")
    lines.append("not reached: what lies elsewhere, such as caches of `datasets`, reports, and runs with RUN=")
    return "\n".join(lines)


def _rows(entries: list[dict], asked: set[str]) -> dict[str, int]:
    """How many went, by dataset, with those that were asked for: now, or before. The command may be here a second
    time, to end what it began."""
    total = Counter()
    for entry in entries:
        if asked & set(entry["ids"]):
            total.update(entry["datasets"])
    return dict(sorted(total.items()))


def _models(out: str) -> list[str]:
    folder = storage.join(out, "runs")
    return [storage.join(folder, name) for name in storage.names(folder)
            if storage.names(storage.join(folder, name, "model"))]


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("no id of a source video" if "/" not in text else "an address or a path, not an id")
    return text
