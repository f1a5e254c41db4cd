"""video: each clip's film as a dataset holds it, with the frames that stand for it."""
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from captioners import looks
from manifests import media, picture, records
from manifests.outcomes import Loss
from pipelines import sandbox

if TYPE_CHECKING:
    from pipelines.stage import Stage

VERSION = 1
FRAMES = 32  # of a film, that stand for it


def stage(fetch: "Stage", limits: sandbox.Limits) -> "Stage":
    """`limits` change no film."""
    from pipelines.stage import Stage, tag  # Beam, which the sandboxed process does without
    return Stage("video", tag(VERSION, {"frames": FRAMES, "looks": looks.VERSION}, fetch), records.VIDEO,
                 partial(sandbox.call, video, limits=limits, prepare=looks.prepare), reads=fetch,
                 columns=("id", "video", "video_format"), cost=0.1)


def video(clip: dict) -> dict:
    """Fields of records.VIDEO of a clip of the clip store.

    Its own stream is what the dataset holds where that is sound and fits (manifests.picture.fits); `video` is then
    None. Otherwise it is encoded, and everything else is told of what came out.
    """
    held = clip["video"]
    if not held:
        raise Loss("no_video", "sound alone")
    try:
        coded, found = None, _survey(held)
        if found is None:
            held = coded = picture.encode(held)
            found = _survey(coded)
    except media.MediaError as error:
        raise Loss("no_video" if error.missing else "decode_error", str(error)) from error
    if found is None:
        raise Loss("decode_error", "what was encoded cannot be decoded")
    return {"video": coded, "video_format": "mkv" if coded else clip["video_format"],
            "sha256": hashlib.sha256(held).hexdigest(),
            "frame_index": media.spread(found["frames"], FRAMES).tolist(), **found}


@dataclass
class _Course:
    """What is learnt of a film while it is looked at."""
    frames: int = 0
    first: float = 0.0        # s, when the first frame comes
    end: float = 0.0          # s, when the last one goes
    width: int = 0
    height: int = 0
    fits: bool = True


def _survey(source: bytes) -> dict | None:
    """Size, frames, duration, fps and looks of a film, in one pass; None as soon as it turns out not to fit."""
    course = _Course()
    try:
        seen_of_it = looks.film(_looked_at(source, course))
    except media.MediaError:
        if not course.frames:
            raise
        return None  # damaged: what can be decoded is encoded
    if not course.fits:
        return None
    duration = max(course.end - course.first, 1e-3)
    return {"width": course.width, "height": course.height, "frames": course.frames, "duration": round(duration, 6),
            "fps": round(course.frames / duration, 6), **seen_of_it}


def _looked_at(source: bytes, course: _Course) -> Iterator[tuple[float, np.ndarray]]:
    """The pictures that `looks.film` compares; all frames are counted."""
    scaler, size, last = VideoReformatter(), None, None
    with media._open(source) as container:
        stream = media._stream(container, "video")
        if stream is None:
            raise media.MediaError("there is no video stream", missing="video")
        for time, lasts, frame in picture.times(container, stream):
            course.frames += 1
            if size is None:
                course.first, course.width, course.height = time, frame.width, frame.height
                size = picture.size(frame, stream, looks.SIZE)
            course.end = max(course.end, time + lasts)
            same = (frame.width, frame.height) == (course.width, course.height)
            course.fits = same and not frame.is_corrupt and picture.fits(container, stream, frame)
            if last is None or time >= last + looks.STEP - 1e-6:
                last = time
                with media._told("a picture cannot be converted"):
                    small = scaler.reformat(frame, *size, "rgb24", interpolation=Interpolation.AREA, threads=1)
                    yield time, small.to_ndarray()
            if not course.fits:
                return
    if not course.frames:
        raise media.MediaError("the video stream holds no frames")
