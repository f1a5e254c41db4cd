"""fetch: from what a source lists to the clip store. Done once per id and revision, whatever the code's version."""
import hashlib
from collections.abc import Iterable
from functools import partial

from manifests import media, records, storage
from manifests.outcomes import Loss
from pipelines import folder, sample
from pipelines.options import Options
from pipelines.stage import Stage


def segments(options: Options) -> Iterable[dict]:
    """Rows of records.SEGMENT: every clip that the build is asked for, each id once."""
    if options.source == "folder":
        return folder.segments(options.media, options.limit, options.max_bytes, options.out)
    return ({"id": key, "source_id": key, "uri": key, "start": None, "end": None, "video": True, "revision": str(sample.VERSION)}
            for key in sample.ids(options.seed, options.limit))


def stage(options: Options) -> Stage:
    each = {"folder": partial(_from_folder, max_bytes=options.max_bytes), "sample": _from_sample}[options.source]
    # No version: what was fetched is never fetched again because code changed.
    return Stage("fetch", options.source, records.CLIP, each)


def _from_sample(segment: dict) -> dict:
    return _clip(segment, sample.render(segment["uri"]))


def _from_folder(segment: dict, max_bytes: int) -> dict:
    try:
        if (size := storage.size(segment["uri"])) > max_bytes:
            raise Loss("too_large", f"{size} bytes")
        return _clip(segment, storage.local_path(segment["uri"]) or storage.read_bytes(segment["uri"]))
    except OSError as error:
        raise Loss("unreadable", error.strerror or str(error)) from error


def _clip(segment: dict, data: bytes | str) -> dict:
    try:
        parts = media.part(data)
    except media.MediaError as error:
        raise Loss("no_audio" if error.missing else "decode_error", str(error)) from error
    return parts | {"source_id": segment["source_id"], "sha256": hashlib.sha256(parts["audio"]).hexdigest()}
