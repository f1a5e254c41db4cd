"""Opening media with FFmpeg's libraries (PyAV): probe, decode, take frames, part sound from picture.

Media is bytes, a path or an open binary file, made by anybody: FFmpeg reads it through us and opens nothing else, and
headers are not believed (durations are counted while decoding). What is wrong with the media is `MediaError`, with a
message for a person; OSError is the file system's, MemoryError is for the caller to judge (pipelines.sandbox).
"""
import errno
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass

import av
import numpy as np
import soxr

# Containers that common players and the Hub's viewer take, by codec. Matroska takes every other codec, and every
# picture: it asks for no decoding times, which Matroska and AVI sources lack.
_CONTAINERS = {"aac": ("mp4", "m4a"), "alac": ("mp4", "m4a"), "opus": ("ogg", "opus"), "vorbis": ("ogg", "ogg"),
               "mp3": ("mp3", "mp3"), "flac": ("flac", "flac"), "pcm_s16le": ("wav", "wav"),
               "pcm_f32le": ("wav", "wav")}
_OTHER = {"audio": ("matroska", "mka"), "video": ("matroska", "mkv")}
# FFmpeg resynchronises after damage (the first packets of a cut MP3, say); more than this is no recording.
_MAX_BAD_PACKETS = 0.1
_MAX_VALUES = 2**25  # float32 of one waveform
_RATES = range(1000, 768_001)  # Hz: outside, a header is wrong
_MAX_CHANNELS = 64   # libswresample's own limit
_MAX_PIXELS = 2**26  # of one picture: 8K has half as many
# A playlist names files and addresses of its own choosing.
_OPTIONS = {"protocol_whitelist": "none", "max_pixels": str(_MAX_PIXELS)}
_BUFFER = 2**16      # bytes read at a time


class MediaError(Exception):
    """The media cannot be used; `missing` is "audio" or "video" where it is sound but lacks that stream."""

    def __init__(self, message: str, missing: str | None = None):
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True)
class Waveform:
    samples: np.ndarray  # float32 [channels, n]; n covers at most the seconds that were asked for
    rate: int            # Hz
    duration: float      # s, of the whole stream

    def mono(self, rate: int) -> np.ndarray:
        """The mean of the channels at `rate` Hz, float32 [n]."""
        return soxr.resample(self.samples.mean(axis=0), self.rate, rate, quality="HQ")


@dataclass(frozen=True)
class Probe:
    """What the headers say: a hint for choosing a path, never a fact to store."""
    audio: str | None    # codec names; null where there is no such stream
    video: str | None
    container: str
    streams: int


def probe(media) -> Probe:
    """Codecs and container. A cover picture does not count as video."""
    with _open(media) as container:
        audio, video = _stream(container, "audio"), _stream(container, "video")
        return Probe(audio and _codec(audio), video and _codec(video),
                     container.format.name, len(container.streams))


def decode_audio(media, seconds: float | None = None) -> Waveform:
    """Decode the first audio stream: its first `seconds` are kept, the rest is decoded, counted and dropped.

    Never more than 128 MiB are kept: six minutes of stereo at 44.1 kHz, half a minute of 5.1 at 192 kHz.

    Samples are float32 as FFmpeg gives them: lossy codecs may exceed 1.0.
    """
    kept, counted, rate = [], 0, 0
    for part in _audio(media):
        rate = part.sample_rate
        limit = _MAX_VALUES // part.layout.nb_channels
        if seconds is not None:
            limit = min(limit, round(seconds * rate))
        if counted < limit:
            kept.append(_samples(part)[: limit - counted])
        counted += part.samples
    if not counted:
        raise MediaError("the audio stream holds no samples")
    return Waveform(np.ascontiguousarray(np.concatenate(kept).T, np.float32), rate, counted / rate)


def mono_windows(media, seconds: float, starts: Sequence[float]) -> list[Waveform]:
    """`seconds` of the first audio stream from each of `starts`, s, in one pass: the mean of the channels, [1, n].

    Raises MediaError where one starts behind the end.
    """
    kept: list[list[np.ndarray]] = [[] for _ in starts]
    counted, rate = 0, 0
    for part in _audio(media):
        rate = part.sample_rate
        for place, start in enumerate(starts):
            first = round(start * rate)
            last = first + round(seconds * rate)
            if first < counted + part.samples and counted < last:
                kept[place].append(_samples(part)[max(first - counted, 0):last - counted].mean(axis=1))
        counted += part.samples
    if not all(kept):
        raise MediaError(f"it ends before {max(starts):g} s" if counted else "the audio stream holds no samples")
    return [Waveform(np.concatenate(parts)[None], rate, counted / rate) for parts in kept]


def _audio(media) -> Iterator[av.AudioFrame]:
    """The first audio stream, part by part, all of one rate and layout."""
    with _open(media) as container:
        stream = _stream(container, "audio")
        if stream is None:
            raise MediaError("there is no audio stream", missing="audio")
        rate, layout, resampler, shape = 0, None, None, None
        for frame in _frames(container, stream):
            if shape != (frame.format.name, frame.layout.name, frame.sample_rate):
                # A stream may change in mid-course (chained Ogg, broadcast recordings): bring it to its first form.
                shape = (frame.format.name, frame.layout.name, frame.sample_rate)
                _check(frame.sample_rate, frame.layout.nb_channels)
                if resampler is None:
                    rate, layout = frame.sample_rate, frame.layout.name
                # Packed, because PyAV reads past the planes of eight and more channels.
                resampler = av.AudioResampler(format="flt", layout=layout, rate=rate)
            yield from resampler.resample(frame)


def _samples(part: av.AudioFrame) -> np.ndarray:
    """float32 [n, channels]. Floating-point audio may hold anything; one NaN would poison every measurement."""
    return np.nan_to_num(part.to_ndarray().reshape(part.samples, -1), nan=0.0, posinf=0.0, neginf=0.0)


def frames(media, count: int, short_side: int | None = None) -> np.ndarray:
    """`count` RGB frames spread evenly over the video, uint8 [count, height, width, 3]; repeated where it has fewer.

    Two passes: the first counts frames, so that memory holds the chosen ones only.
    """
    total = sum(1 for _ in _video(media))
    wanted = spread(total, count)
    chosen = {}
    needed = set(wanted.tolist())
    for index, frame in enumerate(_video(media)):
        if index not in needed:
            continue
        with _told("a picture cannot be converted"):
            scale = min(1.0, short_side / min(frame.width, frame.height)) if short_side else 1.0
            size = {"width": max(2, round(frame.width * scale)), "height": max(2, round(frame.height * scale))}
            picture = frame.reformat(format="rgb24", **size).to_ndarray()
            # A video that changes its size in mid-course still gives frames of one size: that of the first.
            if chosen and picture.shape != (first := next(iter(chosen.values()))).shape:
                picture = frame.reformat(format="rgb24", width=first.shape[1], height=first.shape[0]).to_ndarray()
            chosen[index] = picture
    return np.stack([chosen[index] for index in wanted.tolist()])


def spread(total: int, count: int) -> np.ndarray:
    """`count` indices evenly from the first of `total` frames to the last; repeated where there are fewer."""
    return np.linspace(0, total - 1, count).round().astype(int)


def part(media) -> dict[str, bytes | str | None]:
    """Part sound from picture without encoding: keys audio, audio_format, video, video_format (null where absent).

    A file of one audio stream is kept to the byte. Otherwise packets are copied into a container that fits the codec;
    bytes depend on the packets alone. OSError where the file itself cannot be read.
    """
    found = probe(media)
    if found.audio is None:
        raise MediaError("there is no audio stream", missing="audio")
    if found.streams == 1:
        names = found.container.split(",")
        container, suffix = _CONTAINERS.get(found.audio, _OTHER["audio"])
        audio, audio_format = _read(media), suffix if container in names else names[0].replace("matroska", "mka")
    else:
        try:
            audio, audio_format = _copy(media, "audio")
        except MediaError:  # PCM of unusual kinds, out of AVI or QuickTime: no container of ours takes it as it is
            audio, audio_format = _transcode(media), "wav"
    video, video_format = None, None
    if found.video:
        with suppress(MediaError):  # a picture that cannot be copied is none; the sound is sound
            video, video_format = _copy(media, "video")
    return {"audio": audio, "audio_format": audio_format, "video": video, "video_format": video_format}


@contextmanager
def _open(media) -> Iterator[av.container.InputContainer]:
    # A file's name never reaches FFmpeg: what is in it decides, as it will when all that is left of it is its bytes.
    with io.BytesIO(media) if isinstance(media, bytes) else (
            nullcontext(media) if hasattr(media, "seek") else open(media, "rb", buffering=0)) as file:
        file.seek(0)
        with _told("cannot be opened as media"):
            container = av.open(_Source(file), options=_OPTIONS, metadata_errors="replace", buffer_size=_BUFFER)
        with container, _told("cannot be decoded"):
            yield container


class _Source:
    """The file as FFmpeg sees it. To seek in vain is an error code to it, as it is in C, and no exception."""

    def __init__(self, file):
        self.file, self.read, self.tell = file, file.read, file.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self.file.seek(offset, whence)
        except (OSError, OverflowError, ValueError):
            return -errno.EINVAL


def _read(media) -> bytes:
    if isinstance(media, bytes):
        return media
    if hasattr(media, "seek"):
        media.seek(0)
        return media.read()
    with open(media, "rb") as file:
        return file.read()


def _stream(container, kind: str):
    """The first stream of that kind that can be decoded and is not a cover picture."""
    streams = [s for s in getattr(container.streams, kind) if not s.disposition & av.stream.Disposition.attached_pic]
    found = next((s for s in streams if s.codec_context is not None), None)
    if kind == "audio" and streams and found is None:
        raise MediaError("nothing here can decode the audio stream")
    return found


def _codec(stream) -> str:
    """The codec's name ("mp3"), not that of the decoder that FFmpeg chose for it ("mp3float")."""
    return stream.codec_context.codec.canonical_name


def _video(media) -> Iterator[av.VideoFrame]:
    with _open(media) as container:
        stream = _stream(container, "video")
        if stream is None:
            raise MediaError("there is no video stream", missing="video")
        found = False
        for frame in _frames(container, stream):
            found = True
            yield frame
        if not found:
            raise MediaError("the video stream holds no frames")


def _packets(container, stream) -> Iterator[av.Packet]:
    try:
        yield from container.demux(stream)
    except MemoryError:
        raise
    except IndexError:
        return  # PyAV, at the end of a file in which streams came up that its beginning did not announce
    except av.FFmpegError:
        return  # the file ends in mid-packet: what came before stands


def _frames(container, stream) -> Iterator:
    """Decoded frames, over damage that FFmpeg can resynchronise from."""
    stream.codec_context.thread_count = 1  # one core a worker: files are what runs in parallel
    stream.codec_context.options = _OPTIONS
    good = bad = 0
    last = None
    for packet in _packets(container, stream):
        try:
            decoded = packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError as error:
            bad, last = bad + 1, error
            continue
        good += 1
        yield from decoded
    if bad > _MAX_BAD_PACKETS * (good + bad):
        raise MediaError(f"{bad} of {good + bad} packets cannot be decoded: {_words(last)}")


def _copy(media, kind: str) -> tuple[bytes, str]:
    """The stream's packets in a container of their own, bit-exact from run to run."""
    target = io.BytesIO()
    with _open(media) as source, _told(f"the {kind} stream cannot be copied"):
        stream = _stream(source, kind)
        container, suffix = _CONTAINERS.get(_codec(stream), _OTHER[kind])
        with av.open(target, "w", format=container, options={"fflags": "+bitexact"}) as sink:
            copy = sink.add_stream_from_template(stream)
            for packet in _packets(source, stream):
                if packet.size:  # the last one is empty
                    packet.stream = copy
                    sink.mux(packet)
    return target.getvalue(), suffix


def _transcode(media) -> bytes:
    """The sound as 32-bit float WAV: nothing is lost, but it is larger."""
    target = io.BytesIO()
    with (_open(media) as source, _told("the audio stream cannot be converted"),
          av.open(target, "w", format="wav", options={"fflags": "+bitexact"}) as sink):
        stream = _stream(source, "audio")
        _check(stream.rate, stream.channels)
        copy = sink.add_stream("pcm_f32le", rate=stream.rate, layout=stream.layout.name)
        resampler = av.AudioResampler(format="flt", layout=stream.layout.name, rate=stream.rate)
        for frame in _frames(source, stream):
            _check(frame.sample_rate, frame.layout.nb_channels)
            frame.pts = None
            for part in resampler.resample(frame):
                sink.mux(copy.encode(part))
        sink.mux(copy.encode(None))
    return target.getvalue()


def _check(rate: int, channels: int) -> None:
    if rate not in _RATES:
        raise MediaError(f"a sample rate of {rate} Hz")
    if channels > _MAX_CHANNELS:
        raise MediaError(f"{channels} channels")


@contextmanager
def _told(what: str) -> Iterator[None]:
    """FFmpeg's and PyAV's errors as MediaError; MemoryError and the file system's OSError stay what they are."""
    try:
        yield
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{what}: {_words(error)}") from error


def _words(error: Exception | None) -> str:
    """FFmpeg's words without the errno and the file name, which vary."""
    return getattr(error, "strerror", None) or str(error)
