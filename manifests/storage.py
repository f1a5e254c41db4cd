"""Files on any file system that fsspec knows: a bucket works where a folder does.

What is written appears whole or not at all: under a temporary name and renamed where renaming is atomic (local
disks), by the store's own commit elsewhere. Listings are never cached: other processes write beside this one.
"""
import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import fsspec
from fsspec.implementations.local import LocalFileSystem

TEMPORARY = ".tmp-"


def locate(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system and path. What has no `://` is a local path, whatever else is in its name (`a::b.mp3`, say)."""
    return (fsspec.core.url_to_fs(url, use_listings_cache=False) if "://" in url
            else (LocalFileSystem(), os.path.abspath(url)))


def join(url: str, *parts: str) -> str:
    return "/".join([url.rstrip("/"), *parts])


def absolute(url: str) -> str:
    """The same place for a process with another working directory."""
    fs, path = locate(url)
    return path if isinstance(fs, LocalFileSystem) else url


def local_path(url: str) -> str | None:
    """The path on this machine, or None where the URL is elsewhere."""
    fs, path = locate(url)
    return path if isinstance(fs, LocalFileSystem) else None


@contextmanager
def lock(url: str) -> Iterator[None]:
    """Hold a local folder for this process; BlockingIOError where another holds it. It ends with the process."""
    folder = local_path(url)
    if folder is None:
        yield
        return
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"{url}: another build is at work here; wait for it, or choose another OUT"
                                  ) from error
        yield


@contextmanager
def create(url: str) -> Iterator:
    """A binary file to write; it is there, whole, when the block ends without an error."""
    fs, path = locate(url)
    folder, _, name = path.rpartition("/")
    fs.makedirs(folder, exist_ok=True)
    if not isinstance(fs, LocalFileSystem):
        # Not `fs.transaction`: that is one for all threads, and would commit what another is in the middle of.
        file = fs.open(path, "wb", autocommit=False)
        with suppress(ValueError):
            fs.transaction.files.remove(file)
        try:
            yield file
            file.close()
        except BaseException:
            file.discard()
            with suppress(AttributeError):  # or its finaliser tries to upload what was discarded
                file.closed = True
            raise
        file.commit()
        return
    temporary = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}-{name}"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        # Gone if all went well. A killed process leaves it, for `sweep`; everything gentler cleans up.
        with suppress(FileNotFoundError):
            os.remove(temporary)


def write_bytes(url: str, data: bytes) -> None:
    """Write, unless the same bytes are there: an unchanged file keeps its time."""
    with suppress(FileNotFoundError):
        if read_bytes(url) == data:
            return
    fs, path = locate(url)
    if isinstance(fs, LocalFileSystem):
        with create(url) as file:
            file.write(data)
    else:
        fs.pipe_file(path, data)  # one request, and atomic on object stores


def write_json(url: str, value, indent: int | None = 1) -> None:
    write_bytes(url, (json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_bytes(url: str) -> bytes:
    fs, path = locate(url)
    with fs.open(path, "rb") as file:
        return file.read()


def read_json(url: str):
    """The parsed value. A file that is no JSON is an error that names it."""
    try:
        return json.loads(read_bytes(url))
    except ValueError as error:
        raise ValueError(f"{url}: not valid JSON ({error}); remove it to have it made again") from error


def exists(url: str) -> bool:
    fs, path = locate(url)
    return fs.exists(path)


def names(url: str) -> list[str]:
    """What lies directly in a folder, sorted; nothing where there is no such folder."""
    fs, path = locate(url)
    fs.invalidate_cache(path)
    if not fs.isdir(path):
        return []
    return sorted(entry.rstrip("/").rpartition("/")[2] for entry in fs.ls(path, detail=False))


def remove(url: str) -> None:
    """Remove a file, or a folder with all it holds; it may be gone already."""
    fs, path = locate(url)
    with suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def sweep(url: str) -> None:
    """Remove what killed processes left in a folder of ours: temporary files and folders, at any depth."""
    fs, path = locate(url)
    for found in fs.find(path, withdirs=True) if fs.isdir(path) else []:
        if found.rstrip("/").rpartition("/")[2].startswith(TEMPORARY):
            with suppress(FileNotFoundError):  # gone with its folder
                fs.rm(found, recursive=True)


def size(url: str) -> int:
    """Bytes; OSError where there is no such file or it may not be read."""
    fs, path = locate(url)
    return fs.size(path)
