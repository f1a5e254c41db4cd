"""One span of a recording, cut to the sample: its sound as Opus, its picture as H.264 without sound.

What it makes is bit-exact from run to run: one thread encodes, and containers carry no date.
"""
import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain

import av
import numpy as np

from manifests import media
from manifests.media import MediaError
from manifests.picture import BITEXACT, TICK, encoder

RATE = 48000  # Hz, of the sound: what Opus knows
_BIT_RATE = 160_000
_FRAME = 960  # samples, 20 ms
_MAX_HEIGHT = 480


def cut(source, start: float, end: float, picture: bool = False) -> tuple[dict[str, bytes | str | None], float]:
    """The span from `start` to `end` s, in the keys of `media.part`, and how many seconds of sound it holds.

    The sound has exactly round((end - start) * RATE) samples, at most two channels; fewer where the source ends
    before, and none (b"") where it ends before `start`. The picture's first frame is the one that is on display at
    `start`, shown from 0; it is None where the source has none there. Height is at most 480, pixels are square.

    `source` is as in `media`. MediaError where it has no sound or cannot be decoded.
    """
    audio, samples = _sound(source, start, round((end - start) * RATE))
    video = _picture(source, start, end) if picture and samples else None
    return {"audio": audio, "audio_format": "opus", "video": video, "video_format": video and "mkv"}, samples / RATE


def opus(samples: np.ndarray) -> bytes:
    """A whole waveform in the same form: float32 [channels, n] at RATE, one channel or two, exactly n samples."""
    return _encoded([np.ascontiguousarray(samples.T, np.float32)], "mono" if len(samples) == 1 else "stereo")[0]


def _sound(source, start: float, wanted: int) -> tuple[bytes, int]:
    with media._open(source) as container:
        stream = media._stream(container, "audio")
        if stream is None:
            raise MediaError("there is no audio stream", missing="audio")
        layout = "mono" if stream.codec_context.layout.nb_channels == 1 else "stereo"
        return _encoded(_samples(container, stream, layout, start, wanted), layout)


def _encoded(parts: Iterable[np.ndarray], layout: str) -> tuple[bytes, int]:
    """float32 [n, channels] each, at RATE, as Ogg Opus, and how many samples it holds; b"" for none."""
    target, done = io.BytesIO(), 0
    with av.open(target, "w", format="ogg", options=BITEXACT) as sink:
        coded = sink.add_stream("libopus", rate=RATE, layout=layout, options={"vbr": "constrained"})
        coded.bit_rate = _BIT_RATE
        waiting = av.AudioFifo()
        for packed in parts:
            frame = av.AudioFrame.from_ndarray(packed.reshape(1, -1), format="flt", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE, done, Fraction(1, RATE)
            waiting.write(frame)
            done += len(packed)
            for whole in waiting.read_many(_FRAME):
                sink.mux(coded.encode(whole))
        # The last frame may be short: Ogg's end position says by how much.
        for rest in waiting.read_many(_FRAME, partial=True) if done else ():
            sink.mux(coded.encode(rest))
        sink.mux(coded.encode(None))
    return (target.getvalue(), done) if done else (b"", 0)


def _samples(container, stream, layout: str, start: float, wanted: int) -> Iterator[np.ndarray]:
    """The span's samples at RATE, float32 [n, channels]. Sound is taken to have no holes: the first frame's time
    counts."""
    position = first = shape = resampler = None
    for frame in chain(media._frames(container, stream), (None,)):
        if frame is not None:
            if position is None:
                position = round(_time(frame, container) * RATE)
                first = round(start * RATE)
            if shape != (frame.format.name, frame.layout.name, frame.sample_rate):  # some change in mid-course
                shape = (frame.format.name, frame.layout.name, frame.sample_rate)
                resampler = av.AudioResampler(format="flt", layout=layout, rate=RATE)
            frame.pts = None  # its jitter would make the resampler fill and drop
        for part in resampler.resample(frame) if resampler else ():
            packed = part.to_ndarray().reshape(part.samples, -1)
            kept = packed[max(0, first - position): max(0, first + wanted - position)]
            position += len(packed)
            if len(kept):
                yield np.nan_to_num(kept, nan=0.0, posinf=0.0, neginf=0.0)
        if position is not None and position >= first + wanted:
            return


def _picture(source, start: float, end: float) -> bytes | None:
    target = io.BytesIO()
    with media._open(source) as container:
        stream = media._stream(container, "video")
        if stream is None:
            return None
        with av.open(target, "w", format="matroska", options=BITEXACT) as sink:
            coded = None
            for shown, until, frame in _shown(container, stream, start, end):
                if coded is None:
                    coded = encoder(sink, stream, *_size(frame, stream))
                frame = frame.reformat(coded.width, coded.height, "yuv420p")
                frame.pict_type = av.video.frame.PictureType.NONE  # the source's choice of key frames is not ours
                frame.pts, frame.duration, frame.time_base = shown, until - shown, TICK
                sink.mux(coded.encode(frame))
            if coded is None:
                return None
            sink.mux(coded.encode(None))
    return target.getvalue()


def _shown(container, stream, start: float, end: float) -> Iterator[tuple[int, int, av.VideoFrame]]:
    """Each frame that is on display between `start` and `end`, with the ticks from `start` when it comes and goes."""
    held, shown, last = None, 0, round((end - start) / TICK)
    for frame in media._frames(container, stream):
        if frame.pts is None:
            continue
        tick = round((_time(frame, container) - start) / TICK)
        if tick >= last:
            break
        if held is not None and tick > max(shown, 0):
            yield max(shown, 0), tick, held
            shown = tick
        elif held is None or tick <= 0:
            shown = min(tick, 0)
        held = frame
    if held is not None:
        yield max(shown, 0), last, held


def _time(frame, container) -> float:
    """When it comes, s from the beginning of the recording, which need not be its clock's zero."""
    return float((frame.pts or 0) * frame.time_base) - (container.start_time or 0) / av.time_base


def _size(frame: av.VideoFrame, stream) -> tuple[int, int]:
    """Width and height: even, pixels square, not too high."""
    height = min(frame.height, _MAX_HEIGHT)
    width = frame.width * float(stream.sample_aspect_ratio or 1) * height / frame.height
    return max(2, round(width / 2) * 2), max(2, height // 2 * 2)
