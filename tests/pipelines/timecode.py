"""Media that tells its own time: any piece of it says which moment of the source it is.

Sound: a tone that hops to a random pitch every 50 ms; a piece is found again by correlation, to a tenth of a
millisecond. Picture: the frame's number as bars, black for 0 and white for 1, the highest bit at the left.
"""
import functools
import io
from fractions import Fraction

import av
import numpy as np
from scipy import fft, signal

from manifests.media import decode_audio

RATE = 48000  # Hz, of the sound that is made
FPS = 25
LONGEST = 60  # s: sources in which pieces are looked for, unless told otherwise
_READ_RATE = 8000   # Hz, at which pieces are compared
_HOP = 0.05         # s
_BITS, _BAR, _HEIGHT = 16, 12, 96  # bars; pixels
_WIDTH = _BITS * _BAR

# By file ending: container, codec of the sound, codec of the picture (None: sound only).
FORMATS = {"mp4": ("mp4", "aac", "libx264"), "webm": ("webm", "libopus", "libvpx"),
           "vp9.webm": ("webm", "libopus", "libvpx-vp9"), "mp3": ("mp3", "libmp3lame", None),
           "m4a": ("ipod", "aac", None), "opus": ("ogg", "libopus", None), "weba": ("webm", "libopus", None),
           "ts": ("mpegts", "aac", "libx264")}
_VPX = {"deadline": "realtime", "cpu-used": "8"}
# As fast as encoders go, but with frames that are not in the order they are shown in.
_OPTIONS = {"libx264": {"preset": "ultrafast", "bf": "2", "sc_threshold": "0"}, "libvpx": _VPX, "libvpx-vp9": _VPX,
            "aac": {"aac_coder": "fast"}, "libopus": {"compression_level": "0"},
            "libmp3lame": {"compression_level": "9"}}


def make(ending: str, seconds: float, *, fps: int = FPS, sound: bool = True, kbps: int = 128, grain: bool = False
         ) -> bytes:
    """A file of FORMATS. Key frames are 4 s apart, as they are in the wild; `grain` costs the picture bytes."""
    container, sound_codec, picture_codec = FORMATS[ending]
    target = io.BytesIO()
    with av.open(target, "w", format=container, options={"fflags": "+bitexact"}) as sink:
        video = audio = None
        if picture_codec:
            video = sink.add_stream(picture_codec, rate=fps, options=_OPTIONS[picture_codec])
            video.width, video.height, video.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
            video.gop_size, video.thread_count, video.bit_rate = 4 * fps, 1, 3_000_000 if grain else 300_000
        if sound:
            audio = sink.add_stream(sound_codec, rate=RATE, layout="mono", options=_OPTIONS[sound_codec])
            audio.bit_rate = 1000 * kbps
        waiting, rng, heard = av.AudioFifo(), np.random.default_rng(0), tone(0, seconds)
        for second in range(int(np.ceil(seconds))):  # a second of each in turn: interleaved, as players expect
            for number in range(second * fps, min((second + 1) * fps, round(seconds * fps)) if video else 0):
                sink.mux(video.encode(_frame(number, rng if grain else None)))
            if audio:
                waiting.write(_sound(heard[second * RATE: (second + 1) * RATE], second * RATE, audio.codec_context))
                for frame in waiting.read_many(audio.codec_context.frame_size or 1024, second + 1 >= seconds):
                    sink.mux(audio.encode(frame))
        for stream in filter(None, (video, audio)):
            sink.mux(stream.encode(None))
    return target.getvalue()


def repeat(ending: str, media: bytes, seconds: int, times: int) -> bytes:
    """A long file at little cost: the same packets `times` over, so its time code starts anew every `seconds`."""
    target = io.BytesIO()
    with av.open(target, "w", format=FORMATS[ending][0], options={"fflags": "+bitexact"}) as sink:
        copies = {}
        for round_ in range(times):
            with av.open(io.BytesIO(media)) as source:
                for stream in source.streams if not copies else ():
                    copies[stream.index] = sink.add_stream_from_template(stream)
                for packet in source.demux():
                    if packet.size and (packet.pts >= 0 or not round_):  # one warming up of the decoder is enough
                        shift = round(round_ * seconds / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = copies[packet.stream_index]
                        sink.mux(packet)
    return target.getvalue()


def tone(start: float, end: float, rate: int = RATE) -> np.ndarray:
    """The source's sound from `start` to `end` s, float32 [n]."""
    return _track(int(np.ceil(end)), rate)[round(start * rate): round(end * rate)]


def read_sound(samples: np.ndarray, rate: int, longest: int = LONGEST) -> float:
    """At which second of the source the first of these samples lies. ValueError where it is no piece of the source.

    `samples` float32 [n], half a second or more.
    """
    piece = signal.resample_poly(samples, _READ_RATE, rate)
    whole, spectrum, size = _spectrum(longest)
    found = fft.irfft(spectrum * fft.rfft(piece.astype(np.float32), size).conj(), size)[: len(whole) - len(piece)]
    best = int(np.argmax(found))
    likeness = found[best] / (np.linalg.norm(whole[best: best + len(piece)]) * np.linalg.norm(piece) + 1e-9)
    if likeness < 0.5:
        raise ValueError(f"no piece of the source (likeness {likeness:.2f})")
    return best / _READ_RATE - 1


def read_clip(audio: bytes, longest: int = LONGEST) -> tuple[float, float, int, int]:
    """Of a clip's sound: the source's time at its first sample and one past its last, its samples, its rate."""
    wave = decode_audio(audio)
    samples, half = wave.samples.mean(axis=0), wave.rate // 2
    return (read_sound(samples[:half], wave.rate, longest),
            read_sound(samples[-half:], wave.rate, longest) + half / wave.rate, len(samples), wave.rate)


def read_picture(video: bytes, fps: int = FPS) -> list[tuple[float, float]]:
    """For each frame, when it is shown and when it is shown in the source, s."""
    with av.open(io.BytesIO(video)) as container:
        return [(float(frame.pts * frame.time_base), _number(frame) / fps) for frame in container.decode(video=0)]


def _number(frame: av.VideoFrame) -> int:
    plane, bar = frame.planes[0], frame.width / _BITS
    picture = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    height, number = frame.height, 0
    for bit in range(_BITS):
        middle = picture[height // 8: height * 3 // 8, round((bit + 0.3) * bar): round((bit + 0.7) * bar)]
        number = 2 * number + int(middle.mean() > 127)
    return number


def _frame(number: int, rng: np.random.Generator | None) -> av.VideoFrame:
    planes = np.full((_HEIGHT * 3 // 2, _WIDTH), 128, np.uint8)
    bits = [number >> (_BITS - 1 - bit) & 1 for bit in range(_BITS)]
    planes[:_HEIGHT] = 16 + 219 * np.repeat(np.array(bits, np.uint8), _BAR)
    if rng:
        planes[_HEIGHT // 2: _HEIGHT] = rng.integers(16, 236, (_HEIGHT // 2, _WIDTH), np.uint8)
    return av.VideoFrame.from_ndarray(planes, format="yuv420p")


def _sound(samples: np.ndarray, pts: int, codec: av.AudioCodecContext) -> av.AudioFrame:
    """A frame in the sample format that the codec takes."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, pts, Fraction(1, RATE)
    (frame,) = av.AudioResampler(format=codec.format, layout="mono", rate=RATE).resample(frame)
    return frame


@functools.cache
def _spectrum(seconds: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The source's sound, with a second around it since encoders pad, and its Fourier transform of that size."""
    whole = np.pad(_track(seconds, _READ_RATE), _READ_RATE)
    size = fft.next_fast_len(len(whole) + _READ_RATE, real=True)
    return whole, fft.rfft(whole, size), size


@functools.cache
def _track(seconds: int, rate: int) -> np.ndarray:
    hops = np.random.default_rng(1).integers(300, 3000, round(seconds / _HOP))
    pitch = np.repeat(hops, round(_HOP * rate)).astype(np.float64)
    return (0.4 * np.sin(2 * np.pi * (np.cumsum(pitch) - pitch) / rate)).astype(np.float32)
