"""Source `folder`: a directory of the user's own audio and video files, in any container that FFmpeg's libraries read.

Ids are the relative path, made safe for file names, URLs and shells.
"""
import hashlib
import mimetypes
import os
import re
import sys
from collections.abc import Iterator

from manifests import storage
from manifests.outcomes import Loss
from pipelines.clips import clip

_MEDIA_TYPES = ("audio", "video")
_MEDIA_APPLICATIONS = ("application/ogg", "application/mxf", "application/mp4", "application/vnd.rn-realmedia")
_MAX_ID = 120
# Of the folder of a build, which may lie in the user's or the other way round.
_BUILT = ("datasets/", "ledger/", "stages/", "sample/", "lock", "run.json", "stats.json")
_TYPES = mimetypes.MimeTypes()  # Python's own table: the system's would differ from machine to machine


def segments(directory: str, limit: int | None = None, max_bytes: int | None = None, out: str = "") -> Iterator[dict]:
    """Rows of records.SEGMENT, in the order of their paths; what a build writes in `out` is not among them.

    Hidden files, links to folders, and files whose name says that they are something else (text, pictures, archives)
    are not asked for; how many were passed over is told on standard error.
    """
    fs, root = storage.locate(directory)
    root = root.rstrip("/")
    own = tuple(storage.join(storage.locate(out)[1], name) for name in _BUILT) if out else ()
    passed, found = 0, 0
    for path, info in sorted(fs.find(root, detail=True, withdirs=True).items()):
        relative = path[len(root) + 1:]
        if info.get("islink") and os.path.isfile(path):
            info = {"type": "file", "size": os.stat(path).st_size, "mtime": os.stat(path).st_mtime}
        if (info["type"] == "directory" and not info.get("islink")) or path.startswith(own):
            continue
        if any(part.startswith(".") for part in relative.split("/")):
            continue
        if info["type"] != "file" or not _by_name_media(relative):
            passed += 1
            continue
        if limit is not None and found == limit:
            break
        found += 1
        key = safe_id(relative)
        # A file replaced under its name is another clip, and so is one of the same name in another folder.
        changed = info.get("mtime") or info.get("ETag") or info.get("LastModified") or ""
        revision = f"{info['size']}-{changed}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
        if max_bytes is not None and info["size"] > max_bytes:
            revision += f" over {max_bytes}"  # lost as too_large until the limit changes, and looked at again then
        yield {"id": key, "source_id": key, "uri": fs.unstrip_protocol(path) if "://" in directory else path,
               "start": None, "end": None, "video": True, "revision": revision}
    if passed:
        print(f"folder: {passed} files passed over: neither audio nor video by their names, or no plain files",
              file=sys.stderr)


def fetch(segment: dict, max_bytes: int) -> dict:
    """Fields of records.CLIP of a file. To be called in the sandbox."""
    try:
        if (size := storage.size(segment["uri"])) > max_bytes:
            raise Loss("too_large", f"{size} bytes")
        return clip(segment, storage.local_path(segment["uri"]) or storage.read_bytes(segment["uri"]))
    except OSError as error:
        raise Loss("unreadable", error.strerror or str(error)) from error


def safe_id(relative: str) -> str:
    """ASCII letters, digits, `.`, `_` and `-`, starting with a letter or digit; folders are joined by `__`.

    A path that this changes gets a hash of its bytes, so that no two paths share an id.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", relative.replace("/", "__"))
    safe = plain.lstrip("._-")[:_MAX_ID]
    if safe.replace("__", "/") == relative:  # nothing was lost on the way: the path can be read off the id
        return safe
    return f"{safe}-{hashlib.sha256(os.fsencode(relative)).hexdigest()[:10]}".lstrip("-")


def _by_name_media(name: str) -> bool:
    kind, _ = _TYPES.guess_type(name, strict=False)
    # An unknown ending is worth a try; FFmpeg looks at the content.
    return kind is None or kind.split("/")[0] in _MEDIA_TYPES or kind in _MEDIA_APPLICATIONS
