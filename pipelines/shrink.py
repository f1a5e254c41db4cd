"""Media made small enough to lie in a page: its first seconds, in codecs that every browser plays.

Light to import: it runs in a sandboxed process, since what it parses may have been made by anybody.
"""
import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from manifests import media, picture
from manifests.outcomes import Loss

SECONDS = 20.0      # of sound and picture: a clip of ten at half its tempo
PEAKS = 100         # of a waveform
_RATE = 32000       # Hz
_BIT_RATE = 56_000  # MP3, mono: to judge a clip by, not to train on
_SHORT = 180        # pixels: the shorter side of a picture or film
_FPS = 12
_X264 = {"preset": "veryfast", "crf": "31", "x264-params": "mbtree=0"}


def shrink(found: dict) -> dict:
    """Of {"kind": "audio" | "image" | "video", "data": bytes}: type (of MIME) and data, and what `_sound` tells.

    Loss `decode_error` for what cannot be decoded.
    """
    try:
        return {"audio": _sound, "image": _still, "video": _film}[found["kind"]](found["data"])
    except (media.MediaError, Image.DecompressionBombError, OSError, ValueError) as error:  # the last three: Pillow's
        raise Loss("decode_error", str(error)) from error


def _sound(data: bytes) -> dict:
    """MP3, mono. `seconds`: of what is in it; `peaks`: 0..99, the loudest sample of each PEAKS-th of it."""
    waveform = media.decode_audio(data, SECONDS)
    mono = np.clip(waveform.mono(_RATE), -1, 1).astype(np.float32)
    target = io.BytesIO()
    with av.open(target, "w", format="mp3", options=picture.BITEXACT) as sink:
        coded = sink.add_stream("libmp3lame", rate=_RATE, layout="mono")
        coded.bit_rate = _BIT_RATE
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(mono[None]), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = _RATE, 0, Fraction(1, _RATE)
        waiting = av.AudioFifo()
        waiting.write(frame)
        for part in waiting.read_many(1152, partial=True):  # samples of an MP3 frame
            sink.mux(coded.encode(part))
        sink.mux(coded.encode(None))
    return {"type": "audio/mpeg", "data": target.getvalue(), "seconds": len(mono) / _RATE,
            "peaks": [int(99 * part.max(initial=0.0)) for part in np.array_split(np.abs(mono), PEAKS)]}


def _still(data: bytes) -> dict:
    """JPEG."""
    with Image.open(io.BytesIO(data)) as found:
        small = found.convert("RGB")
    scale = min(1.0, 2 * _SHORT / min(small.size))  # a picture is looked at longer than a film's frame
    small = small.resize([max(1, round(side * scale)) for side in small.size], Image.Resampling.LANCZOS)
    target = io.BytesIO()
    small.save(target, "JPEG", quality=72, optimize=True)
    return {"type": "image/jpeg", "data": target.getvalue()}


def _film(data: bytes) -> dict:
    """H.264 in MP4 without sound, _FPS frames a second: each the one that is on display then."""
    target, taken, shown, coded = io.BytesIO(), 0, None, None
    with (media._open(data) as container, media._told("the picture cannot be encoded"),
          av.open(target, "w", format="mp4", options=picture.BITEXACT) as sink):
        stream = media._stream(container, "video")
        if stream is None:
            raise media.MediaError("there is no video stream", missing="video")

        def show(until: float) -> None:
            nonlocal taken
            while shown is not None and taken < min(until, SECONDS) * _FPS:
                shown.pts, shown.time_base = taken, Fraction(1, _FPS)
                sink.mux(coded.encode(shown))
                taken += 1

        end = 0.0
        for time, lasts, frame in picture.times(container, stream):
            if time >= SECONDS:
                break
            show(time)
            pixels = picture.rgb(frame, stream, _SHORT)
            if coded is None:
                coded = sink.add_stream("libx264", rate=_FPS, options=_X264)
                coded.height, coded.width = (max(2, side // 2 * 2) for side in pixels.shape[:2])
                coded.pix_fmt, coded.thread_count = "yuv420p", 1
            shown = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(coded.width, coded.height, "yuv420p")
            end = time + lasts
        show(end)
        if not taken:
            raise media.MediaError("the video stream holds no frames")
        sink.mux(coded.encode(None))
    return {"type": "video/mp4", "data": target.getvalue()}
