"""frame: one picture of each clip."""
import hashlib
import io
import random
from functools import partial
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from captioners import looks
from manifests import media, picture, records
from manifests.outcomes import Loss
from pipelines import sandbox

if TYPE_CHECKING:
    from pipelines.stage import Stage

VERSION = 1
_SHORT = 480           # pixels, of the shorter side, at most
_QUALITY = 90          # of JPEG
_GLANCE = (64, 36)     # pixels, at which frames are judged
# Lightness as in grey levels, 0..1. A picture is blank where nearly all of it is black or white, or nothing varies:
# black frames and fades as codecs leave them have a deviation of about 0.005.
_BLACK, _WHITE, _NEARLY, _VARIED = 0.06, 0.96, 0.98, 0.02


def stage(fetch: "Stage", limits: sandbox.Limits) -> "Stage":
    """`limits` change no picture."""
    from pipelines.stage import Stage, tag  # Beam, which the sandboxed process does without
    parameters = {"short": _SHORT, "quality": _QUALITY, "looks": looks.VERSION}
    return Stage("frame", tag(VERSION, parameters, fetch), records.FRAME,
                 partial(sandbox.call, frame, limits=limits, prepare=looks.prepare), reads=fetch,
                 columns=("id", "video"), cost=0.1)


def frame(clip: dict) -> dict:
    """Fields of records.FRAME of a clip of the clip store.

    A seed from the clip's id chooses among the decodable frames, each as likely as any other; a damaged or blank one
    only if there is no better. One pass, in which one frame of each kind is held.
    """
    if not clip["video"]:
        raise Loss("no_video", "sound alone")
    try:
        time, pixels = _chosen(clip["video"], clip["id"])
    except media.MediaError as error:
        raise Loss("no_video" if error.missing else "decode_error", str(error)) from error
    image = _jpeg(pixels)
    return {"image": image, "image_format": "jpg", "sha256": hashlib.sha256(image).hexdigest(),
            "frame_time": round(time, 6), "width": pixels.shape[1], "height": pixels.shape[0],
            **looks.picture(pixels)}


def _chosen(source: bytes, key: str) -> tuple[float, np.ndarray]:
    """The frame's time, s, and its pixels."""
    rng = random.Random(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    scaler = VideoReformatter()
    held: dict[tuple[bool, bool], tuple[float, av.VideoFrame]] = {}
    counts: dict[tuple[bool, bool], int] = {}
    with media._open(source) as container:
        stream = media._stream(container, "video")
        if stream is None:
            raise media.MediaError("there is no video stream", missing="video")
        try:
            for time, _, candidate in picture.times(container, stream):
                kind = _blank(candidate, scaler), candidate.is_corrupt
                counts[kind] = counts.get(kind, 0) + 1
                if rng.random() * counts[kind] < 1:  # the n-th displaces the one that is held once in n times
                    held[kind] = time, candidate
        except media.MediaError:
            if not held:
                raise
        if not held:
            raise media.MediaError("the video stream holds no frames")
        time, found = held[min(held)]
        return time, picture.rgb(found, stream, _SHORT)


def _blank(candidate: av.VideoFrame, scaler: VideoReformatter) -> bool:
    """Whether there is nothing to see."""
    with media._told("a picture cannot be converted"):
        grey = scaler.reformat(candidate, *_GLANCE, "gray", interpolation=Interpolation.AREA, threads=1).to_ndarray()
    dark, light = np.count_nonzero(grey < _BLACK * 255), np.count_nonzero(grey > _WHITE * 255)
    return max(dark, light) >= _NEARLY * grey.size or float(grey.std()) < _VARIED * 255


def _jpeg(pixels: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=_QUALITY)
    return target.getvalue()
