"""A film's pictures: one after the other with their times, upright and in square pixels, and as H.264 again.

What is encoded is bit-exact from run to run: one thread encodes, and containers carry no date.
"""
import io
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from manifests import media

TICK = Fraction(1, 1000)  # s: Matroska's
BITEXACT = {"fflags": "+bitexact"}
_SHORT = 360        # pixels: the shorter side of a film in a dataset, at most
_FOREVER = 2**40    # ticks, 34 years: a frame that comes later has a wrong time
_LONGEST = 4096     # pixels: the longer side, whatever the shorter one becomes
_EIGHT_BIT = ("yuv420p", "yuvj420p")
_ASPECTS = (1 / 4, 4)  # of a pixel; beyond, a header is wrong
# x264's macroblock tree reads memory that it never wrote: with it, bytes vary from run to run even on one thread.
_X264 = {"preset": "veryfast", "crf": "23", "x264-params": "mbtree=0"}
# The colours' meaning, which the numbers alone do not tell.
_COLOURS = ("color_range", "colorspace", "color_primaries", "color_trc")
_RGB = {"colorspace": 0}  # our pixels are none


def encoder(sink, stream, width: int, height: int):
    """A stream of `sink` that takes yuv420p frames whose times are in TICKs, in the colours of the source's stream."""
    coded = sink.add_stream("libx264", rate=stream.average_rate or 25, options=_X264)
    coded.width, coded.height = width, height
    coded.pix_fmt, coded.thread_count = "yuv420p", 1
    coded.codec_context.time_base = TICK
    coded.codec_context.flags |= av.codec.context.Flags.frame_duration
    for colour in _COLOURS:
        if (value := getattr(stream.codec_context, colour)) != _RGB.get(colour):
            setattr(coded.codec_context, colour, value)
    return coded


def times(container, stream) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """Each decodable frame with the seconds from the recording's beginning when it comes, and for how long.

    MediaError at the end, as in `media.frames`, where too much of the stream cannot be decoded.
    """
    usual, last = float(1 / (stream.average_rate or 25)), None
    begin = (container.start_time or 0) / av.time_base
    for frame in media._frames(container, stream):
        lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual
        if frame.pts is not None and frame.time_base:
            last = float(frame.pts * frame.time_base) - begin
        else:  # a container without times, AVI for one
            last = 0.0 if last is None else last + usual
        yield last, lasts, frame


def fits(container, stream, frame: av.VideoFrame) -> bool:
    """Whether a film of such frames is what a dataset holds: nothing but H.264, 8-bit 4:2:0, short side at most 360,
    pixels square, the right side up."""
    return (len(container.streams) == 1 and media._codec(stream) == "h264" and frame.format.name in _EIGHT_BIT
            and min(frame.width, frame.height) <= _SHORT and not frame.rotation
            and (stream.sample_aspect_ratio or 1) == 1)


def size(frame: av.VideoFrame, stream, short: int, even: bool = False) -> tuple[int, int]:
    """Width and height of the frame in square pixels, as it lies: the shorter side at most `short`, never enlarged."""
    aspect = float(stream.sample_aspect_ratio or 1)
    aspect = aspect if _ASPECTS[0] <= aspect <= _ASPECTS[1] else 1.0
    width, height = frame.width * aspect, float(frame.height)
    scale = min(1.0, short / min(width, height), _LONGEST / max(width, height))
    if even:
        return tuple(max(2, round(side * scale / 2) * 2) for side in (width, height))
    return tuple(max(1, round(side * scale)) for side in (width, height))


def rgb(frame: av.VideoFrame, stream, short: int) -> np.ndarray:
    """The frame as it is to be seen: uint8 [height, width, 3], upright, pixels square."""
    width, height = size(frame, stream, short)
    with media._told("a picture cannot be converted"):
        pixels = frame.reformat(width, height, "rgb24", threads=1).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, _turns(frame)))


def encode(source) -> bytes:
    """The film as H.264 in Matroska without sound: short side at most 360, even sizes, square pixels, upright.

    Frames keep their times, to the millisecond; of several in one, the first is kept. What cannot be decoded is left
    out. `source` is as in `media`. MediaError where no frame can be decoded.
    """
    target, last, coded = io.BytesIO(), None, None
    with (media._open(source) as container, media._told("the picture cannot be encoded"),
          av.open(target, "w", format="matroska", options=BITEXACT) as sink):
        stream = media._stream(container, "video")
        if stream is None:
            raise media.MediaError("there is no video stream", missing="video")
        scaler = VideoReformatter()
        try:
            for time, lasts, frame in times(container, stream):
                tick = max(0, round(time / TICK))
                if (last is not None and tick <= last) or tick > _FOREVER:
                    continue
                last, turns = tick, _turns(frame)
                if coded is None:
                    lying = size(frame, stream, _SHORT, even=True)
                    upright = lying[::-1] if turns % 2 else lying
                    coded = encoder(sink, stream, *upright)
                # A film that turns in mid-course keeps the shape of its first frame.
                shape = upright[::-1] if turns % 2 else upright
                frame = _turned(scaler.reformat(frame, *shape, "yuv420p", threads=1), turns)
                frame.pict_type = av.video.frame.PictureType.NONE  # the source's choice of key frames is not ours
                frame.pts, frame.duration, frame.time_base = tick, min(max(1, round(lasts / TICK)), _FOREVER), TICK
                sink.mux(coded.encode(frame))
        except media.MediaError:
            if coded is None:
                raise
        if coded is None:
            raise media.MediaError("the video stream holds no frames")
        sink.mux(coded.encode(None))
    return target.getvalue()


def _turns(frame: av.VideoFrame) -> int:
    """Quarter turns, counterclockwise, that put the frame upright: 0..3."""
    return round((frame.rotation or 0) / 90) % 4


def _turned(frame: av.VideoFrame, turns: int) -> av.VideoFrame:
    """A yuv420p frame of even sizes, turned plane by plane."""
    if not turns:
        return frame
    planes, (height, width) = frame.to_ndarray(), (frame.height, frame.width)
    luma, chroma = planes[:height], planes[height:].reshape(2, height // 2, width // 2)
    turned = [np.rot90(plane, turns) for plane in (luma, *chroma)]
    packed = np.concatenate([plane.ravel() for plane in turned]).reshape(-1, turned[0].shape[1])
    return av.VideoFrame.from_ndarray(packed, format="yuv420p")
