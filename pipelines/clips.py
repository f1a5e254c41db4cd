"""From media to a row of the clip store. Light to import: sandboxed processes parse what anybody may have made."""
import hashlib

from manifests import media
from manifests.outcomes import Loss


def clip(segment: dict, data: bytes | str) -> dict:
    """Fields of records.CLIP of encoded media, or of a local file; Loss where it has no sound or cannot be read."""
    try:
        parts = media.part(data)
    except media.MediaError as error:
        raise Loss("no_audio" if error.missing else "decode_error", str(error)) from error
    return parts | {"source_id": segment["source_id"], "sha256": hashlib.sha256(parts["audio"]).hexdigest()}
