"""What a build keeps of a clip beside its rows: stages' results, features, lists made from them. All of it goes here.

What stays of a trained model cannot be told apart, and is left alone.
"""
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from manifests import shards, splits, storage
from pipelines import marks
from pipelines.marks import Entry, Marks

_NO_MARKS = ("write", "duplicates", "pairs", "models")  # of OUT/stages: not per key
_REPORT = b"<title>Build report</title>"  # pipelines.page: made anew by one command


@dataclass(frozen=True)
class Gone:
    """Which clips were taken down. `hashes` are of source videos, `source` has those of the clips that are known."""
    hashes: frozenset[str]
    hashed: Callable[[str], str]
    source: Mapping[str, str]

    def __call__(self, key: str) -> bool:
        """Whether a row's or a clip's id is of one."""
        return any(self._clip(clip) for clip in clips(key))

    def _clip(self, clip: str) -> bool:
        # Of what no record tells, a segment's id is its video's and where it starts; at worst it is made again.
        names = [self.source[clip]] if clip in self.source else [clip, re.sub(r"_\d+$", "", clip)]
        return any(self.hashed(name) in self.hashes for name in names)


def clips(key: str) -> list[str]:
    """The clips that a row is of, by its id: one, or of a pair two."""
    return key.partition("@")[0].split("~")


def sources(out: str) -> dict[str, str]:
    """The source video of each clip of the clip store."""
    return {key: source for folder in _tags(out, "fetch") for name in storage.names(folder) if _shard(name)
            for batch in shards.batches(storage.join(folder, name), ["id", "source_id"])
            for key, source in zip(batch["id"].to_pylist(), batch["source_id"].to_pylist(), strict=True) if source}


def index(out: str, tags: Mapping[str, str]) -> dict[str, dict[str, Entry]]:
    """What became of each key in the stages of a build."""
    return {name: Marks(storage.join(out, "stages", name, tag)).refresh().index() for name, tag in tags.items()}


def remove(out: str, gone: Gone) -> None:
    """Everything that `gone` is true of. The clip store comes last: it says whose the others' keys are."""
    for folder in ("stages", "ledger", "datasets", "sample", "features"):
        storage.sweep(storage.join(out, folder))
    for name in storage.names(out):
        if name.startswith(storage.TEMPORARY):  # of a killed publication
            storage.remove(storage.join(out, name))
    _features(out, gone)
    for name in ("duplicates", "pairs"):  # caches, of which the next build has another
        storage.remove(storage.join(out, "stages", name))
    _listed(out, gone)
    stages = [name for name in storage.names(storage.join(out, "stages"))
              if name not in (*_NO_MARKS, "fetch") and not name.startswith("features-")]
    for folder in (folder for name in (*stages, "fetch") for folder in _tags(out, name)):
        _thin(folder, gone)


def _features(out: str, gone: Gone) -> None:
    """Of media and captions that no other row has, and the index; `make features` writes that anew."""
    contents = [(folder, stem) for folder in _tags(out, "features-contents") for stem in Marks(folder).refresh().read]
    drop, keep, stale = set(), set(), set()
    for folder, stem in contents:
        for row in shards.read(storage.join(folder, f"{stem}.arrow")):
            ours = row["id"].partition("/")[0] in splits.SIZES  # else names are those of published files
            for names, digests in (("names", "digests"), ("owners", "captions")):
                for name, digest in zip(row[names] or (), row[digests] or (), strict=True):
                    fallen = ours and gone(name)
                    (drop if fallen else keep).add(digest)
                    if fallen:
                        stale.add(row["id"])
    if not stale:
        return
    storage.remove(storage.join(out, "features"))
    for name in storage.names(storage.join(out, "stages")):
        if name.startswith("features-") and name != "features-contents":
            for folder in _tags(out, name):
                _thin(folder, (drop - keep).__contains__)
    for folder in _tags(out, "features-contents"):
        _thin(folder, stale.__contains__)


def _thin(folder: str, gone: Callable[[str], bool]) -> None:
    """The shards of a stage without these keys; shards that hold none are left as they are."""
    marks.tidy(folder)
    for stem, mark in Marks(folder).refresh().read.items():
        if any(map(gone, mark["rows"])):
            url = storage.join(folder, f"{stem}.arrow")
            schema = next(shards.batches(url), None)
            if schema is not None:  # else it is empty, and only its marker is behind
                shards.write(url, schema.schema, (row for row in shards.read(url) if not gone(row["id"])))
            # Numbers of attempts have no gaps, so a shard stays where nothing of it does.
            mark["rows"] = {key: row for key, row in mark["rows"].items() if not gone(key)}
            storage.write_json(storage.join(folder, f"{stem}.json"), mark, indent=None)


def _listed(out: str, gone: Gone) -> None:
    """Lists of clips, and what was said of them, beside datasets, ledger and stages."""
    truth = storage.join(out, "sample", "truth.json")
    if storage.exists(truth):
        storage.write_json(truth, {key: row for key, row in storage.read_json(truth).items() if not gone(key)})
    for name in storage.names(out):
        if name.endswith(".html") and _REPORT in storage.read_bytes(storage.join(out, name))[:4096]:
            storage.remove(storage.join(out, name))
    for name in storage.names(storage.join(out, "runs")):  # a run's list of what it reads; the next begins anew
        storage.remove(storage.join(out, "runs", name, "data"))
    for url, name in ((storage.join(out, "run.json"), "error"),
                      (storage.join(out, "stages", "fetch", "breaker.json"), "detail")):  # may name what it was about
        if storage.exists(url) and name in (told := storage.read_json(url)):
            storage.write_json(url, told | {name: "not kept after a takedown"})


def _tags(out: str, stage: str) -> list[str]:
    """The folders of a stage's versions."""
    folder = storage.join(out, "stages", stage)
    return [storage.join(folder, name) for name in storage.names(folder) if "." not in name]


def _shard(name: str) -> bool:
    return name.endswith(".arrow") and not name.startswith(storage.TEMPORARY)
