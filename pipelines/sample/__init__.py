"""The sample corpus: ten-second music clips with video that the project synthesises, and the truth about them.

A clip follows from its id alone: the same bytes in every run, process and corpus size (on one kind of CPU: floating
point and codecs' assembly differ in last bits between kinds). Every tenth clip is bad in a known way.
"""
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import av
import numpy as np
from scipy import fft, signal

from manifests import splits
from pipelines.sample import pictures, score, styles, synth

VERSION = 1  # of what an id gives: raised by hand when any clip's bytes change
DEFAULT_LIMIT = 80
SECONDS = 10.0
_EVERY = 10
# What is wrong with a bad clip, in the order of their turn, and the ledger's word for it.
DEFECTS = {
    "silence": "silent",
    "clipping": "clipped",
    "short": "too_short",
    "copy": "duplicate",
    "re-encoding": "duplicate",
    "truncation": "decode_error",
    "noise": "not_music",
    "mute": "no_audio",
}
_UNHEARD = ("silence", "short", "truncation", "noise", "mute")  # no tempo or key can be told from these
_SUFFIX = {"clipping": ".mkv", "re-encoding": ".webm"}
_ID = re.compile(r"sample-(\d+)-(\d{5})")


@dataclass(frozen=True)
class Spec:
    """What a clip is. Tempo (BPM), key and mode are None and `instruments` empty where the audio carries none.

    `bad` is the expected reason in the ledger; `defect` says how it came about (a key of `DEFECTS`); `original` is the
    clip that a duplicate copies; `song` is what is played, heard or not.
    """
    id: str
    tempo: float | None
    key: str | None
    mode: str | None
    instruments: tuple[str, ...]
    bad: str | None
    defect: str | None
    original: str | None
    seconds: float
    song: score.Song


def ids(seed: int, limit: int | None) -> list[str]:
    """The first `limit` ids (80 by default) of the corpus of `seed`. Raising the limit adds ids and changes none."""
    count = DEFAULT_LIMIT if limit is None else limit
    if seed < 0 or not 1 <= count <= 100_000:
        raise ValueError(f"the sample corpus has 1 to 100000 clips and a seed of at least 0, not {count} and {seed}")
    return [f"sample-{seed}-{index:05d}" for index in range(count)]


def truth(clips: list[str]) -> dict[str, dict]:
    """{id: {"tempo", "key", "mode", "instruments", "bad"}} as JSON would hold it."""
    return {clip: {"tempo": it.tempo, "key": it.key, "mode": it.mode, "instruments": list(it.instruments),
                   "bad": it.bad} for clip, it in ((clip, spec(clip)) for clip in clips)}


def suffix(clip: str) -> str:
    """The extension that fits the container of `render(clip)`."""
    return _SUFFIX.get(spec(clip).defect, ".mp4")


@lru_cache(maxsize=256)
def spec(clip: str) -> Spec:
    """What the clip of this id is. ValueError for an id that `ids` cannot give."""
    seed, index = _parse(clip)
    defect, original = None, None
    if index % _EVERY == _EVERY - 1:
        defect, original = _defect(clip, seed, index)
    song = _song(original or clip)
    heard = defect not in _UNHEARD
    seconds = float(round(_random(clip, "length").uniform(0.7, 1.5), 2)) if defect == "short" else SECONDS
    return Spec(
        id=clip, tempo=song.tempo if heard else None, key=song.key if heard else None,
        mode=song.mode if heard else None, instruments=song.instruments if heard else (),
        bad=DEFECTS.get(defect), defect=defect, original=original, seconds=seconds, song=song)


def _song(clip: str) -> score.Song:
    seed, index = _parse(clip)
    deal, place = divmod(index, len(styles.DECK))
    order = _random(f"sample-{seed}", f"deal {deal}").permutation(len(styles.DECK))
    return score.song(styles.DECK[order[place]], _random(clip, "song"))


def _parse(clip: str) -> tuple[int, int]:
    match = _ID.fullmatch(clip)
    if not match or str(int(match[1])) != match[1]:
        raise ValueError(f"not an id of the sample corpus: {clip!r} (they look like sample-0-00042)")
    return int(match[1]), int(match[2])


def _defect(clip: str, seed: int, index: int) -> tuple[str, str | None]:
    """The defect whose turn it is, and for a duplicate its original."""
    turn = index // _EVERY
    defect = list(DEFECTS)[turn % len(DEFECTS)]
    if DEFECTS[defect] != "duplicate":
        return defect, None
    # Of two duplicates the one in the evaluation split is kept, else the smaller id: the original must be that one.
    copy_split = splits.assign(clip, "mucaps", "shared")
    good = [earlier for earlier in range(index) if earlier % _EVERY != _EVERY - 1]
    start = int(_random(clip, "original").integers(len(good)))
    for earlier in good[start:] + good[:start]:
        original = f"sample-{seed}-{earlier:05d}"
        if copy_split == splits.TRAIN or splits.assign(original, "mucaps", "shared") == splits.EVAL:
            return defect, original
    others = [name for name, reason in DEFECTS.items() if reason != "duplicate"]
    return others[turn % len(others)], None


def _random(clip: str, purpose: str) -> np.random.Generator:
    """A generator for one purpose of one clip: a change in how it draws leaves the others as they were."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{clip}\0{purpose}".encode()).digest()[:16], "big"))


def render(clip: str) -> bytes:
    """The clip as a media file with picture and stereo sound, ten seconds long where its defect does not say else.

    H.264 (320 x 180) and AAC in MP4; clipping has FLAC in Matroska, a re-encoding VP8 (160 x 90) and Opus in WebM.
    """
    it = spec(clip)
    if it.defect == "copy":
        return render(it.original)
    if it.defect == "re-encoding":
        return _reencode(render(it.original), _random(clip, "re-encoding"))
    shots = pictures.frames(it.seconds, it.song.tempo, it.song.origin, _random(clip, "pictures"))
    if it.defect == "mute":
        return _encode("mp4", shots, None, 0)
    if it.defect == "clipping":  # only a lossless codec keeps the flat runs
        driven = waveform(it) * 10 ** (_random(clip, "clipping").uniform(24, 34) / 20)
        return _encode("matroska", shots, np.clip(driven, -1, 1), synth.RATE, "flac")
    media = _encode("mp4", shots, waveform(it), synth.RATE)
    if it.defect == "truncation":  # an MP4's index is its last box: without it nothing opens
        return media[:int(len(media) * _random(clip, "truncation").uniform(0.3, 0.8))]
    return media


def waveform(it: Spec) -> np.ndarray:
    """The sound before it is encoded, (2, samples) float32 at `synth.RATE`, within +-1."""
    rng = _random(it.id, "sound")
    if it.defect == "silence":
        level = 0.0 if rng.random() < 0.5 else 10 ** (-100 / 20)
        return np.float32(level) * rng.standard_normal((2, round(it.seconds * synth.RATE)), dtype=np.float32)
    if it.defect == "noise":
        return _broadband(it.seconds, rng)
    parts = [synth.Part(instrument, rng.uniform(0.75, 1.3), 0.0 if role == "bass" else rng.uniform(-0.7, 0.7))
             for role, instrument in it.song.parts]
    drums = rng.uniform(0.55, 0.95)  # their level against the rest
    kit = {name: synth.Part(name, drums, 0.0 if name in ("kick", "snare") else rng.uniform(-0.6, 0.6))
           for name in synth.DRUMS}
    notes, hits = score.perform(it.song, it.seconds)
    mix = synth.play(parts, notes, kit, hits, it.seconds, rng)
    room = synth.Room(wet=rng.uniform(0.05, 0.5), decay=rng.uniform(0.3, 1.6), floor=rng.uniform(-80, -58),
                      cutoff=10 ** rng.uniform(np.log10(2500), np.log10(14000)), level=it.song.level)
    return synth.master(mix, room, rng)


def _broadband(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """White noise, pink noise or rain (pink with drops), (2, samples)."""
    count = round(seconds * synth.RATE)
    kind = int(rng.integers(3))
    spectrum = fft.rfft(rng.standard_normal((2, count), dtype=np.float32))
    if kind:
        frequency = np.maximum(20, np.arange(spectrum.shape[1]) * synth.RATE / count)
        spectrum *= (frequency ** rng.uniform(-0.6, -0.4)).astype(np.float32)
    wave = fft.irfft(spectrum, count)
    if kind == 2:
        drops = np.zeros((2, count), np.float32)
        times = rng.integers(0, count, (2, int(seconds * rng.uniform(150, 500))))
        for channel in range(2):
            np.add.at(drops[channel], times[channel], rng.exponential(1, times.shape[1]))
        wave += drops * np.std(wave) * 6
        wave = signal.sosfilt(signal.butter(1, 400, "highpass", fs=synth.RATE, output="sos").astype(np.float32), wave)
    wave *= 10 ** (rng.uniform(-30, -18) / 20) / np.std(wave)
    return np.clip(wave, -0.9, 0.9).astype(np.float32)


def _encode(container: str, shots: Iterator[np.ndarray], sound: np.ndarray | None, rate: int, codec: str = "aac",
            picture: str = "libx264") -> bytes:
    """Muxes YUV 4:2:0 frames and (2, samples) sound.

    One thread and bit-exact flags throughout: x264's output depends on its threads, and muxers write the time and
    random ids otherwise.
    """
    target = io.BytesIO()
    options = {  # AAC's default coder takes longer than all the rest of a clip
        "libx264": {"preset": "ultrafast", "crf": "26"},
        "libvpx": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "200k"},
        "aac": {"b": "160k", "aac_coder": "fast", "aac_pns": "0", "aac_is": "0", "aac_tns": "0"},
        "libopus": {"b": "96k"}, "flac": {"compression_level": "2"}}
    with av.open(target, "w", format=container, options={"fflags": "+bitexact"}) as file:
        first = next(shots)
        video = file.add_stream(picture, rate=pictures.FPS, options=options[picture] | {"flags": "+bitexact"})
        video.width, video.height, video.pix_fmt = first.shape[1], first.shape[0] * 2 // 3, "yuv420p"
        video.codec_context.thread_count = 1
        packets = []
        for index, planes in enumerate([first, *shots]):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = index
            packets += video.encode(frame)
        packets += video.encode(None)
        if sound is not None:
            audio = file.add_stream(codec, rate=rate, options=options[codec] | {"flags": "+bitexact"})
            audio.codec_context.thread_count = 1
            audio.layout = "stereo"
            if codec == "flac":
                audio.format = "s16"
                packed = np.round(sound.T * 32767).astype(np.int16).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(packed, format="s16", layout="stereo")
            else:
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, np.float32), "fltp", "stereo")
            frame.sample_rate, frame.pts = rate, 0
            packets += audio.encode(frame)
            packets += audio.encode(None)
        for packet in sorted(packets, key=lambda packet: (packet.dts * packet.time_base, packet.stream_index)):
            file.mux(packet)
    return target.getvalue()


def _reencode(media: bytes, rng: np.random.Generator) -> bytes:
    """The same recording from another hand: quieter, a little shifted, Opus at 48 kHz, a smaller picture in VP8."""
    with av.open(io.BytesIO(media)) as file:
        file.streams.video[0].thread_count = 1
        small = []
        sound = []
        resampler = av.AudioResampler("fltp", "stereo", 48000)
        for frame in file.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                small.append(frame.to_ndarray())
            else:
                sound += [part.to_ndarray() for part in resampler.resample(frame)]
        sound += [part.to_ndarray() for part in resampler.resample(None)]
    shift = int(rng.uniform(0.03, 0.08) * 48000)
    quieter = np.concatenate(sound, axis=1)[:, shift:] * 10 ** (rng.uniform(-8, -4) / 20)
    return _encode("webm", map(_halve, small), quieter, 48000, "libopus", "libvpx")


def _halve(planes: np.ndarray) -> np.ndarray:
    """A YUV 4:2:0 frame at half its width and height."""
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    luma, chroma = planes[:height][::2, ::2], planes[height:].reshape(2, height // 2, width // 2)[:, ::2, ::2]
    return np.concatenate([luma.ravel(), chroma.ravel()]).reshape(-1, width // 2)
