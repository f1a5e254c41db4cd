"""Files as the world has them: real media, damaged at random or with headers that lie. The same for a seed, always.

Damage is blind (truncation, flipped bits, spans overwritten, doubled or dropped, wrong extensions) or goes for the
fields that a reader might believe: sizes of pictures, rates, channels, durations, and counts of table entries.
"""
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from manifests import media
from pipelines import sample
from tests.conftest import encode

SECONDS = 2.2
_CUT = 100_000  # bytes of a longer real file
_EXTENSIONS = ("mp3", "wav", "flac", "ogg", "opus", "m4a", "mp4", "webm", "mkv", "avi", "mov", "ts", "aac", "weird")
_SOUNDS = {"mp3": ("mp3", "libmp3lame"), "wav": ("wav", "pcm_s16le"), "flac": ("flac", "flac"),
           "opus": ("ogg", "libopus"), "m4a": ("ipod", "aac"), "aac": ("adts", "aac"), "ac3": ("ac3", "ac3"),
           "aiff": ("aiff", "pcm_s16be"), "caf": ("caf", "alac"), "wv": ("wv", "wavpack")}
_FILMS = {"webm": ("webm", "libopus"), "avi": ("avi", "libmp3lame"), "mkv": ("matroska", "ac3"),
          "mov": ("mov", "pcm_s16be"), "ts": ("mpegts", "mp2")}
_REMUXED = {"mp4": "mp4", "mkv": "matroska", "ts": "mpegts", "mov": "mov", "flv": "flv", "wma": "asf"}

Mutation = Callable[[np.random.Generator, bytearray], None]


def bases(folder: Path | None = None) -> list[tuple[str, bytes]]:
    """Extensions and sound files of them: the sample corpus in many containers, and the real files in `folder`."""
    found = []
    for number, (extension, (container, codec)) in enumerate((_SOUNDS | _FILMS).items()):
        wave = media.decode_audio(sample.render(f"sample-0-{number % 8:05d}"), SECONDS)
        samples, rate = (wave.mono(48000)[None], 48000) if codec == "libopus" else (wave.samples, wave.rate)
        found.append((extension, encode(samples, rate, container, codec, pictures=8 if extension in _FILMS else 0)))
    for number, (extension, container) in enumerate(_REMUXED.items()):
        found.append((extension, _remux(sample.render(f"sample-0-{10 + number:05d}"), container)))
    for path in sorted(folder.rglob("*.*")) if folder else ():
        found.append((path.suffix[1:], _cut(path.read_bytes())))
    return found


def files(count: int, seed: int, sound: list[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of `count` mutated files; a name tells what was done to which kind of file."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        extension, data = sound[rng.integers(len(sound))]
        name, mutate = _MUTATIONS[rng.integers(len(_MUTATIONS))]
        damaged = bytearray(data)
        mutate(rng, damaged)
        if rng.random() < 0.15:
            name, extension = f"{name}-was-{extension}", rng.choice(_EXTENSIONS)
        yield f"{index:05d}-{name}.{extension}", bytes(damaged)


def _cut(data: bytes) -> bytes:
    try:
        media.probe(data[:_CUT])
    except media.MediaError:  # its index is at the end
        return data
    return data[:_CUT]


def _remux(data: bytes, container: str) -> bytes:
    """The first `SECONDS` of a film in another container."""
    target = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(target, "w", format=container,
                                                      options={"fflags": "+bitexact"}) as sink:
        copies = [sink.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.size and packet.pts * packet.time_base < SECONDS:
                packet.stream = copies[packet.stream_index]
                sink.mux(packet)
    return target.getvalue()


def _truncate(rng: np.random.Generator, data: bytearray) -> None:
    del data[rng.integers(len(data)):]


def _behead(rng: np.random.Generator, data: bytearray) -> None:
    del data[:rng.integers(min(len(data), 5000))]


def _flip(rng: np.random.Generator, data: bytearray) -> None:
    for place in rng.integers(len(data), size=2 ** rng.integers(12)):
        data[place] ^= 1 << rng.integers(8)


def _flip_header(rng: np.random.Generator, data: bytearray) -> None:
    """Of the first or of the last bytes, where headers and indices are."""
    reach = min(len(data), 2 ** int(rng.integers(6, 13)))
    for place in rng.integers(reach, size=1 + rng.integers(8)):
        data[place if rng.random() < 0.7 else -1 - place] ^= 1 << rng.integers(8)


def _overwrite(rng: np.random.Generator, data: bytearray) -> None:
    start, end = np.sort(rng.integers(len(data) + 1, size=2))
    size = int(end - start)
    data[start:end] = (bytes(size), b"\xff" * size, rng.bytes(size))[rng.integers(3)]


def _splice(rng: np.random.Generator, data: bytearray) -> None:
    """Double a span, or drop it."""
    start, end = np.sort(rng.integers(len(data) + 1, size=2))
    if rng.random() < 0.5:
        data[start:start] = data[start:end]
    else:
        del data[start:end]


def _empty(_: np.random.Generator, data: bytearray) -> None:
    data.clear()


def _noise(rng: np.random.Generator, data: bytearray) -> None:
    """Random bytes, often behind the first bytes of something true."""
    kept = rng.integers(64) if rng.random() < 0.7 else 0
    data[kept:] = rng.bytes(rng.integers(1, 20_000))


def _nothing(_: np.random.Generator, __: bytearray) -> None:
    """Only the extension may lie."""


def _fields(*patterns: bytes) -> Mutation:
    """Set what the one group of a pattern matches to a value that nobody would choose, in one place or in all."""
    found = [re.compile(pattern, re.DOTALL) for pattern in patterns]

    def mutate(rng: np.random.Generator, data: bytearray) -> None:
        spans = [match.span(1) for pattern in found for match in pattern.finditer(data)]
        if not spans:
            _flip_header(rng, data)
            return
        chosen = spans if rng.random() < 0.3 else [spans[rng.integers(len(spans))]]
        kind = rng.integers(5)
        for start, end in chosen:
            size = end - start
            data[start:end] = (bytes(size), b"\xff" * size, b"\x7f" + b"\xff" * (size - 1), bytes(size - 1) + b"\x01",
                               rng.bytes(size))[kind]
    return mutate


# Boxes of MP4, elements of Matroska, chunks of AVI, WAV and AIFF: what stands between the name and the field.
_SIZES = _fields(rb"avc1.{24}(..)", rb"avc1.{26}(..)", rb"tkhd.{76}(....)", rb"tkhd.{80}(....)", rb"avcC.{8}(.{9})",
                 rb"\xb0[\x81\x82](..)", rb"\xba[\x81\x82](..)", rb"avih.{36}(....)", rb"avih.{40}(....)",
                 rb"vids.{52}strf.{8}(....)", rb"vids.{52}strf.{12}(....)", rb"\x67[\x42\x4d\x64].(.{6})")
_DURATIONS = _fields(rb"mvhd.{16}(....)", rb"mvhd.{12}(....)", rb"mdhd.{16}(....)", rb"mdhd.{12}(....)",
                     rb"tkhd.{20}(....)", rb"elst.{8}(....)", rb"elst.{12}(....)", rb"\x44\x89[\x84\x88](....)",
                     rb"\x2a\xd7\xb1\x83(...)", rb"WAVE.{20,60}?data(....)", rb"RIFF(....)", rb"fact.{4}(....)",
                     rb"(?:Xing|Info).{4}(....)", rb"(?:Xing|Info).{8}(....)", rb"fLaC.{18}(.{4})", rb"COMM.{6}(....)",
                     rb"OggS.{2}(.{8})", rb"avih.{20}(....)", rb"auds.{28}(....)", rb"vids.{28}(....)",
                     rb"\xa3.{1,3}\x81(..)", rb"\x00\x00\x01[\xc0\xe0].{5}(.{5})")
_RATES = _fields(rb"mp4a.{16}(..)", rb"mp4a.{18}(..)", rb"mp4a.{24}(....)", rb"esds.{17}(....)", rb"fmt .{6}(..)",
                 rb"fmt .{8}(....)", rb"fmt .{12}(....)", rb"fmt .{16}(..)", rb"fmt .{18}(..)", rb"OpusHead.(.)",
                 rb"OpusHead.{2}(..)", rb"OpusHead.{4}(....)", rb"fLaC.{14}(...)", rb"\xb5[\x84\x88](....)",
                 rb"\x9f\x81(.)", rb"auds.{20}(....)", rb"auds.{24}(....)", rb"auds.{52}strf.{6}(..)",
                 rb"auds.{52}strf.{8}(....)",
                 rb"COMM.{4}(..)", rb"COMM.{10}(..)", rb"COMM.{12}(.{10})", rb"(\xff\xfb..)", rb"desc.{8}(.{8})",
                 rb"desc.{28}(....)", rb"alac.{4}(.{16})")
_COUNTS = _fields(rb"stts.{4}(....)", rb"stts.{8}(....)", rb"stts.{12}(....)", rb"stsz.{4}(....)", rb"stsz.{8}(....)",
                  rb"stsc.{4}(....)", rb"stsc.{12}(....)", rb"stco.{4}(....)", rb"stco.{8}(....)", rb"stss.{4}(....)",
                  rb"ctts.{4}(....)", rb"elst.{4}(....)", rb"stsd.{4}(....)", rb"dref.{4}(....)", rb"idx1(....)",
                  rb"movi(....)", rb"(....)moov", rb"(....)trak", rb"(....)mdat", rb"pakt.{8}(.{8})", rb"LIST(....)")
_MUTATIONS = [("truncated", _truncate), ("beheaded", _behead), ("flipped", _flip), ("header-flipped", _flip_header),
              ("header-flipped", _flip_header), ("overwritten", _overwrite), ("spliced", _splice), ("empty", _empty),
              ("noise", _noise), ("whole", _nothing), ("sizes", _SIZES), ("sizes", _SIZES), ("durations", _DURATIONS),
              ("durations", _DURATIONS), ("rates", _RATES), ("rates", _RATES), ("counts", _COUNTS),
              ("counts", _COUNTS)]
