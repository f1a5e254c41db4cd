"""A Hub cache made by hand: toy models under their production ids, so that production code loads them offline.

Each `toy_*.py` beside this file writes the repositories of one captioner.
"""
import hashlib
from pathlib import Path


def snapshot(cache: Path, name: str) -> Path:
    """Where the files of `name` lie in `cache`."""
    (found,) = (cache / f"models--{name.replace('/', '--')}" / "snapshots").iterdir()
    return found


def repository(cache: Path, name: str) -> Path:
    """An empty snapshot of `name` ("org/model") in `cache` (what HF_HUB_CACHE names), whose files are to be put there.

    Its commit follows from the name. Call it once a repository.
    """
    commit = hashlib.sha1(name.encode()).hexdigest()
    root = cache / f"models--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot
