"""Folders that appear whole or not at all, whenever the process is killed or the disk is full."""
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from manifests import storage

_OLD = "-old-"


@contextmanager
def create(folder: Path) -> Iterator[Path]:
    """A folder to fill, beside `folder` under a temporary name; renamed into place when the block ends without error.

    An old folder is moved aside first and removed last: killed between the two renames, it lies beside, for `sweep`.
    """
    temporary = _beside(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _sync(temporary)
        old = _beside(folder, _OLD)
        with suppress(FileNotFoundError):
            os.rename(folder, old)
        os.rename(temporary, folder)
        _sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        # Gone if all went well. A killed process leaves it, for `sweep`; everything gentler cleans up.
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8. It is on the disk when this returns, but may be seen half before."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def remove(folder: Path) -> None:
    """Remove a folder; at no moment is it half there under its name."""
    going = _beside(folder)
    os.rename(folder, going)
    shutil.rmtree(going)


def sweep(parent: Path) -> None:
    """Remove what killed processes left in `parent`. An old folder whose successor did not appear is put back.

    Nothing may be written there meanwhile.
    """
    for path in sorted(parent.glob(f"{storage.TEMPORARY}*")):
        name = path.name.removeprefix(storage.TEMPORARY)[32:]  # behind the uuid
        if name.startswith(_OLD) and not (parent / name.removeprefix(_OLD)).exists():
            with suppress(FileNotFoundError):  # another process of the same run was faster
                os.rename(path, parent / name.removeprefix(_OLD))
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _beside(folder: Path, mark: str = "-") -> Path:
    return folder.parent / f"{storage.TEMPORARY}{uuid.uuid4().hex}{mark}{folder.name}"


def _sync(folder: Path) -> None:
    """Put on the disk which names are in a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
