"""What is known of a build's clips and rows, stage by stage, and the doing of what is missing.

The launcher's view: ids, outcomes and where rows lie; no media, and no row's text.
"""
import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence

from captioners import held
from manifests import storage, tags
from manifests.outcomes import DONE
from pipelines import stage
from pipelines.breaker import Breaker
from pipelines.join import Part
from pipelines.marks import Entry, Marks
from pipelines.options import Options
from pipelines.progress import Progress
from pipelines.stage import Stage, Task

# What every clip goes through, whatever dataset it is for.
CLIP = ("fetch", "measure", "filter", "duplicates", "caption", "check")
_CORPORA = {"musiccaps": "MusicCaps", "magnatagatune": "MTT", "jamendo": "MTG"}  # as manifests.prompts names them
_LITTLE = 3.0  # CPU s: done here before processes would have started


class Work:
    """`index` is {stage: {key: what became of it}}, of keys whose input is still the same.

    `segments` are the clips that are asked for, rows of records.SEGMENT; `split` has the split of each.
    """

    def __init__(self, options: Options, stages: Mapping[str, Stage], segments: Mapping[str, dict],
                 split: Mapping[str, str], progress: Progress, token: str):
        self.options, self.stages, self.segments, self.split = options, stages, segments, split
        self.progress, self.token = progress, token
        self.marks = {name: Marks(one.folder(options.out)) for name, one in stages.items()}
        self.index: dict[str, dict[str, Entry]] = {}

    def ask(self, chain: Sequence[Stage], rows: Mapping[str, dict]) -> None:
        """Have every one of `rows` settled in the first stage, and what comes of it in those that follow it.

        A row has `id` and `revision`: with another revision it is done anew. Of its shards the sizes follow from all
        that is wanted, not from what is missing: a resumed build then cuts the rest into the same shards as an
        undisturbed one. About 2·√n of them keep markers few and losses to a kill small.
        """
        first = chain[0]
        self._know(chain, rows)
        missing = self._missing(first, rows)
        if first.shared:  # what several keys have is made for one of them, and copied for the others
            met = self._met(first)
            new = {row["revision"]: row for row in reversed(missing)
                   if row["revision"] not in met or not first.settled(met[row["revision"]][1])}
            self._run(chain, self._tasks(first, [row for row in missing if new.get(row["revision"]) is row], len(rows)))
            self._know(chain, rows)
            made, met = {row["id"] for row in new.values()}, self._met(first)
            missing = [row | {"copy": Part(met[row["revision"]][1].url, met[row["revision"]][0])} for row in missing
                       if row["id"] not in made]
        self._run(chain, self._tasks(first, missing, len(rows)),
                  [key for one in chain[1:] for key in self._pending(one, rows)])
        self._know(chain, rows)

    def follow(self, chain: Sequence[Stage], keys: Collection[str]) -> None:
        """Have `keys` settled in stages that read those before them."""
        self._know(chain)
        self._run(chain, [], [key for one in chain for key in self._pending(one, keys)])
        self._know(chain)

    def fate(self, key: str, stages: Sequence[str]) -> tuple[str, str]:
        """Outcome and detail: of the first of `stages` that lost the key, or "done"."""
        for name in stages:
            entry = self.index[name].get(key)
            if entry is None:  # the fetching had stopped before it
                return "not_asked", ""
            if entry.outcome != DONE:
                return entry.outcome, entry.detail
        return DONE, ""

    def done(self, keys: Collection[str], stages: Sequence[str]) -> list[str]:
        return [key for key in keys if self.fate(key, stages)[0] == DONE]

    def row(self, key: str, parts: Mapping[str, tuple[str, str]], media: str = "", **given) -> dict:
        """A stage's row of parts {name: (stage, key)} and fields that are stored nowhere; its revision is theirs.

        `media` names the part whose media is all that counts: whoever else has the same has the same revision.
        """
        entries = {name: self.index[one][part] for name, (one, part) in parts.items()}
        told = entries[media].sha256 if media else [
            [name, entry.digest, entry.sha256] for name, entry in sorted(entries.items())]
        content = json.dumps([told, given], sort_keys=True)
        return {"id": key, "revision": hashlib.sha256(content.encode()).hexdigest()[:16],
                "parts": {name: Part(entries[name].url, part) for name, (_, part) in parts.items()}, **given}

    def _know(self, chain: Sequence[Stage], rows: Mapping[str, dict] | None = None) -> None:
        for one in chain:
            known = self.marks[one.name].refresh().index()
            if one.reads is None:
                # Entries of an older revision do not count.
                self.index[one.name] = {key: entry for key, entry in known.items()
                                        if key in rows and entry.revision == rows[key]["revision"]}
            else:
                before = self.index[one.reads.name]
                self.index[one.name] = {key: entry for key, entry in known.items()
                                        if key in before and before[key].shard == entry.shard}

    def _missing(self, one: Stage, rows: Mapping[str, dict]) -> list[dict]:
        """What was never done, or failed for a reason that may pass."""
        if one.lanes and Breaker(self.options.out).open():
            return []
        return [row for key, row in rows.items() if not one.settled(self.index[one.name].get(key))]

    def _met(self, one: Stage) -> dict[str, tuple[str, Entry]]:
        """By revision, a key that the stage was ever asked for with it, done if one was, and what became of that."""
        met: dict[str, tuple[str, Entry]] = {}
        for key, entry in self.marks[one.name].index().items():
            if entry.revision not in met or entry.outcome == DONE:
                met[entry.revision] = key, entry
        return met

    def _tasks(self, one: Stage, missing: list[dict], wanted: int) -> list[Task]:
        """`missing`, of so many as are `wanted`, as shards."""
        size = min(max(math.isqrt(wanted) // 2, one.least), one.most)
        if one.lanes:
            size = min(size, max(len(missing) // one.lanes, 1))
        generation = 1 + max((int(stem[1:5]) for stem in self.marks[one.name].read), default=0)
        return [Task(f"g{generation:04d}-{number:06d}", rows=tuple(missing[start:start + size]),
                     lane=f"fetcher {number % one.lanes}" if one.lanes else "")
                for number, start in enumerate(range(0, len(missing), size))]

    def _pending(self, one: Stage, keys: Collection[str]) -> list[str]:
        """Those of `keys` that the stage's input has and the stage has not settled."""
        before, own = self.index[one.reads.name], self.index[one.name]
        return [key for key in keys
                if key in before and before[key].outcome == DONE and not one.settled(own.get(key))]

    def _run(self, chain: Sequence[Stage], fresh: list[Task], behind: Sequence[str] = ()) -> None:
        by_shard: dict[str, set[str]] = {}
        for key in behind:
            by_shard.setdefault(self._shard(chain, key), set()).add(key)
        work = [*fresh, *(Task(shard, tuple(sorted(keys))) for shard, keys in sorted(by_shard.items()))]
        if not work:
            return
        expected, carried = {}, sum(len(task.rows) for task in fresh)
        for one in chain:
            if one.reads is not None:
                carried += len(self._pending(one, set(behind)))
            expected[one.name] = carried
        self.progress.expect(expected)
        small = sum(one.cost * expected[one.name] for one in chain) < _LITTLE
        processes = self.options.processes(small, min(chain[0].lanes, len(fresh)), chain[0].processes)
        if processes > 1:
            held.release()  # what little work brought here, they may need the room of
        pipeline = self.options.pipeline(processes)
        stage.run(self.options.out, work, list(chain), pipeline, self.token)

    def _shard(self, chain: Sequence[Stage], key: str) -> str:
        first = chain[0] if chain[0].reads is None else chain[0].reads
        return self.index[first.name][key].shard

    def described(self, keys: Collection[str]) -> dict[str, dict]:
        """What `--descriptions` says of clips, as captioners.instructions wants it given, as far as it knows them.

        It may name a clip by its source video and start (MusicCaps; of a folder, files are named by it), or by its path
        under `--media` (MagnaTagATune, MTG-Jamendo).
        """
        found = tags.descriptions(self.options.descriptions)
        root = storage.locate(self.options.media)[1].rstrip("/") + "/" if self.options.media else ""
        told = {}
        for key in keys:
            segment = self.segments[key]
            path = storage.locate(segment["uri"])[1].removeprefix(root) if root else segment["uri"]
            name = path.rpartition("/")[2].partition(".")[0]
            one = next((found[told_by] for told_by in (segment["source_id"], path, name) if told_by in found), None)
            if one is None or (None not in (one.start, segment["start"]) and abs(one.start - segment["start"]) > 0.5):
                continue  # unknown, or another excerpt of the video
            told[key] = {"tags": list(one.tags), "categories": list(one.categories) or None,
                         "corpus": _CORPORA[one.kind], **({"caption": one.caption} if one.caption else {})}
        return told
