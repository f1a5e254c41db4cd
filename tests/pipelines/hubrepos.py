"""Repositories as a Hub keeps them: commits of files, small ones by git's hash, large ones by SHA-256."""
import hashlib
import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """git's; of LFS it is the pointer's."""
        data = self.data if not self.lfs else (f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n"
                                               f"size {len(self.data)}\n").encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, Blob]


@dataclass
class Repo:
    kind: str
    name: str
    private: bool
    commits: list[Commit] = field(default_factory=list)  # oldest first

    def push(self, title: str, files: dict[str, Blob]) -> Commit:
        told = json.dumps([self.name, title, len(self.commits), {path: blob.oid for path, blob in files.items()}],
                          sort_keys=True)
        self.commits.append(Commit(hashlib.sha1(told.encode()).hexdigest(), title, files))
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        return self.commits[-1] if revision in ("main", "HEAD") else next(
            (one for one in self.commits if one.oid == revision), None)


def entry(path: str, blob: Blob) -> dict:
    """A file of a tree."""
    told = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": path}
    return told | ({"lfs": {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 132}} if blob.lfs else {})


def identity(blob: Blob | None) -> str | None:
    """What the client compares a file with, to leave out what has not changed."""
    return blob and (blob.sha256 if blob.lfs else blob.oid)
