"""What is committed of a stage: the markers beside its shards (pipelines.stage), which tell what became of each key."""
from collections.abc import Mapping
from dataclasses import dataclass, field

from manifests import storage


@dataclass(frozen=True)
class Entry:
    """What became of one key in one stage."""
    url: str            # the shard that holds its row
    shard: str
    outcome: str
    digest: str         # of the row, media excepted
    detail: str
    revision: str | None
    sha256: str | None  # of its media
    bytes: Mapping[str, int]  # of media in the row, by column


@dataclass
class Marks:
    """The committed markers of a stage, by the name that they share with their shard."""
    folder: str
    read: dict[str, dict] = field(default_factory=dict)

    def refresh(self) -> "Marks":
        """Read the markers that are new. One whose shard is gone does not count: removing a shard has it made anew."""
        names = set(storage.names(self.folder))
        for stem in sorted(name.removesuffix(".json") for name in names if name.endswith(".json")):
            if not stem.startswith(storage.TEMPORARY) and f"{stem}.arrow" in names:
                self._read(stem)
        return self

    def of(self, shard: str) -> "Marks":
        """Read the markers of one shard, without listing the folder: attempts are numbered without gaps."""
        while all(storage.exists(storage.join(self.folder, f"{shard}.{len(self.read)}.{ending}"))
                  for ending in ("json", "arrow")):
            self._read(f"{shard}.{len(self.read)}")
        return self

    def _read(self, stem: str) -> None:
        if stem not in self.read:
            self.read[stem] = storage.read_json(storage.join(self.folder, f"{stem}.json"))

    def index(self) -> dict[str, Entry]:
        """Each key's newest entry."""
        found = {}
        for stem in sorted(self.read, key=_age):
            shard, url = stem.rpartition(".")[0], storage.join(self.folder, f"{stem}.arrow")
            for key, row in self.read[stem]["rows"].items():
                found[key] = Entry(url, shard, row["outcome"], row["digest"], row.get("detail", ""),
                                   row.get("revision"), row.get("sha256"), row.get("bytes", {}))
        return found


def tidy(folder: str) -> None:
    """Remove shards that never got their marker, and markers that lost their shard."""
    names = set(storage.names(folder))
    for stem, ending in (name.rsplit(".", 1) for name in sorted(names)):
        if f"{stem}.{'arrow' if ending == 'json' else 'json'}" not in names:
            storage.remove(storage.join(folder, f"{stem}.{ending}"))


def _age(stem: str) -> tuple[str, int]:
    shard, _, attempt = stem.rpartition(".")
    return shard, int(attempt)
