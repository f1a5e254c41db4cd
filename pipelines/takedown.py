"""Takedown: source videos leave a build, and the published repository, and no later build brings them back.

They are remembered first (pipelines.forget), then removed: killed at any point, the same command goes on, and so does
the next build. The repository follows in one commit; its older revisions stay, unless its history is squashed.
"""
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from manifests import checked, storage
from manifests.messages import named
from pipelines import forget

_ID = re.compile(r"[A-Za-z0-9._-]{1,255}")  # of videos of the web, of files (pipelines.folder), of the sample corpus
_EXAMPLE = "A line is one source video's id, as the column source_id has it: dQw4w9WgXcQ"


@dataclass(frozen=True)
class Done:
    """What became of a takedown: `asked` for so many ids, of which `new` were not remembered yet, and the ledgers of
    the build tell of `seen` of these."""
    asked: int
    new: int
    seen: int
    copies: int             # source videos that go with them, as copies of the same recordings
    datasets: dict[str, int]  # rows of each, of this takedown
    models: list[str]       # trained from this build, which cannot forget
    url: str | None = None  # of the commit


def read(url: str) -> list[str]:
    """Ids of source videos, one a line; what follows a # is a comment. ValueError that tells the bad lines."""
    with named(url):
        data = storage.read_bytes(url)
    lines = enumerate(data.removeprefix(b"\xef\xbb\xbf").decode(errors="replace").splitlines(), 1)
    entries = ((f"line {number}", text) for number, line in lines if (text := line.partition("#")[0].strip()))
    return list(dict.fromkeys(checked.sound(url, entries, _id, _EXAMPLE)))


def takedown(out: str, ids: Iterable[str], repo: str | None = None, squash: bool = False) -> Done:
    """Have the source videos leave `out`, and `repo` after it. May be done again, with the same ids or others.

    Raises OSError, ValueError; of the repository as pipelines.publish does.
    """
    done = _here(out, sorted(set(ids)))
    if repo is None:
        return done
    from pipelines import hub, publish
    told = publish.published(repo)
    if told is None:
        raise ValueError(f"{repo}: nothing of ours is published there; {out} itself is done")
    rows = sum(done.datasets.values())
    here = set(storage.names(storage.join(out, "datasets")))
    url = publish.publish(out, repo, [name for name in told["datasets"] if name in here],
                          message=f"takedown: {rows} rows")
    if squash:
        hub.squash(repo, "dataset", f"takedown: {rows} rows; the history before it is squashed")
        with storage.lock(out):  # only what is true is told: the card says so once it is
            forget.note(out, [entry | {"squashed": True} for entry in forget.log(out)])
            forget.present(out)
        url = publish.publish(out, repo, [name for name in told["datasets"] if name in here],
                              message="the card says that the history was squashed") or url
    return replace(done, url=url)


def told(done: Done, out: str) -> str:
    """For a person."""
    lines = [f"{done.asked} source videos are remembered: no later build in {out} asks for them. {done.new} are new; "
             f"{done.seen} of these were in the build, {done.new - done.seen} it never saw"]
    if done.copies:
        lines.append(f"and with them {done.copies} that were lost as copies of theirs: these would have come in their "
                     "place")
    lines += [f"{name}: {rows} rows taken down" for name, rows in done.datasets.items() if rows]
    if done.models:
        lines.append("NOT forgotten: a model that was trained on these rows cannot unlearn them. Train anew, and "
                     f"remove {', '.join(done.models)}")
    lines.append("not reached: what lies elsewhere, such as caches of `datasets`, reports, and runs with RUN=")
    if done.url:
        lines.append(f"published: {done.url}")
    return "\n".join(lines)


def _here(out: str, ids: list[str]) -> Done:
    """The part under `out`."""
    with storage.lock(out):
        entries = forget.log(out)
        asked = {forget.hashed(one) for one in ids}
        before = forget.remembered(out)
        new = frozenset(asked - before)
        ledgers = forget.ledgers(out)
        seen = forget.seen(ledgers, new)
        copies = forget.copies(ledgers, new) - before - new
        if new:
            counts = forget.held(ledgers, new | copies)
            entries.append({"date": time.strftime("%Y-%m-%d", time.gmtime()), "ids": sorted(new | copies),
                            "rows": sum(counts.values()), "datasets": counts, "squashed": False, "done": False})
            forget.note(out, entries)
        forget.finish(out)
    # Those that were remembered before are told of, too: the command may be here a second time, to end what it began.
    of_these = [entry for entry in entries if asked & set(entry["ids"])]
    total = Counter()
    for entry in of_these:
        total.update(entry["datasets"])
    return Done(len(asked), len(new), len(seen), len(copies), dict(sorted(total.items())), _models(out))


def _models(out: str) -> list[str]:
    folder = storage.join(out, "runs")
    return [storage.join(folder, name) for name in storage.names(folder)
            if storage.names(storage.join(folder, name, "model"))]


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError("no id of a source video" if "/" not in text else "an address or a path, not an id")
    return text
