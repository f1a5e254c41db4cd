"""Notes and drum hits to a waveform: wavetables, plucked strings, FM, bells and a drum kit, in a small room.

Everything is vectorised over time and costs some milliseconds per second of music. Waveforms are float32 at `RATE`.
"""
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import fft, signal

RATE = 32000  # Hz: holds what music's tempo, key and colour live in, at two thirds of the cost of 48 kHz
_TABLE = 4096
_CEILING, _KNEE = 0.8, 0.45  # lossy codecs overshoot: leave them room below full scale


class Note(NamedTuple):
    """`pitch` is a MIDI note number, times are seconds, `velocity` is linear, 1 = loud."""
    part: int
    time: float
    seconds: float
    pitch: int
    velocity: float


class Hit(NamedTuple):
    """One stroke on a drum of `DRUMS`."""
    drum: str
    time: float
    velocity: float


@dataclass(frozen=True)
class Part:
    """Who plays: an instrument of `INSTRUMENTS`, its gain (linear) and place, -1 left to 1 right."""
    instrument: str
    gain: float
    pan: float


@dataclass(frozen=True)
class Room:
    """What all parts share."""
    wet: float     # the reverb's share
    decay: float   # s
    floor: float   # of noise, dBFS
    cutoff: float  # Hz: the mix is darker above
    level: float   # RMS of the result, dBFS


@dataclass(frozen=True)
class _Wave:
    """A harmonic tone read from wavetables. Slopes are exponents of 1/harmonic, at the attack and after the decay."""
    attack: float
    release: float
    slope: tuple[float, float] = (1.5, 1.5)
    decay: float | None = None  # s to 1/e at middle C; None = sustained
    even: float = 1.0           # level of even harmonics: 0 = hollow, like a clarinet
    detune: tuple[float, ...] = (0.0,)  # cents
    vibrato: float = 0.0        # cents
    breath: float = 0.0
    drawbars: tuple[float, ...] = ()    # explicit harmonics instead of a slope


_WAVES = {
    "piano": _Wave(0.003, 0.12, (1.1, 2.6), 0.9, detune=(-1.0, 1.3)),
    "organ": _Wave(0.006, 0.05, drawbars=(1, 0.8, 0.45, 0.5, 0, 0.2, 0, 0.25), vibrato=5),
    "accordion": _Wave(0.03, 0.06, (0.9, 0.9), detune=(-6.0, 6.0)),
    "strings": _Wave(0.06, 0.18, (1.3, 1.3), detune=(-7.0, 1.0, 8.0), vibrato=7),
    "pad": _Wave(0.18, 0.3, (1.9, 1.9), detune=(-9.0, 5.0)),
    "brass": _Wave(0.03, 0.08, (0.9, 1.5), 0.3, vibrato=4),
    "flute": _Wave(0.045, 0.08, drawbars=(1, 0.35, 0.14, 0.05), vibrato=14, breath=0.05),
    "clarinet": _Wave(0.03, 0.06, (1.2, 1.2), even=0.06, vibrato=5),
    "saw lead": _Wave(0.01, 0.06, (1.0, 1.3), 0.5, detune=(-6.0, 5.0), vibrato=6),
    "square lead": _Wave(0.005, 0.05, (1.1, 1.1), even=0.0, vibrato=8),
    "electric bass": _Wave(0.005, 0.06, (1.4, 3.0), 0.7),
    "synth bass": _Wave(0.004, 0.04, (0.9, 2.2), 0.25, detune=(-4.0, 4.0)),
}
_PLUCKS = {  # brightness of the plucked noise 0..1, s to 1/e at middle C, damping of high harmonics
    "acoustic guitar": (0.6, 1.2, 1.0), "harp": (0.35, 2.0, 0.6), "banjo": (0.95, 0.35, 0.7),
    "muted guitar": (0.5, 0.12, 2.0), "upright bass": (0.25, 0.6, 1.5),
}
_BELLS = {  # (ratio, level, s to 1/e) of each partial
    "vibraphone": ((1, 1, 1.6), (4, 0.3, 0.4), (10, 0.1, 0.1)),
    "marimba": ((1, 1, 0.35), (3.93, 0.35, 0.1), (9.2, 0.15, 0.04)),
    "glockenspiel": ((1, 1, 0.8), (2.76, 0.4, 0.4), (5.4, 0.25, 0.2)),
    "music box": ((1, 1, 0.9), (2, 0.2, 0.6), (5.05, 0.3, 0.2)),
}
INSTRUMENTS = (*_WAVES, *_PLUCKS, *_BELLS, "electric piano")
DRUMS = ("kick", "snare", "rim", "clap", "hat", "open hat", "ride", "crash", "tom", "low tom", "shaker", "cowbell")


def hertz(pitch: float) -> float:
    """MIDI note number to Hz."""
    return 440 * 2 ** ((pitch - 69) / 12)


def tone(instrument: str, pitch: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """One note, with its release, peak about 1."""
    if instrument in _WAVES:
        return _wave(_WAVES[instrument], hertz(pitch), seconds, rng)
    if instrument in _PLUCKS:
        return _pluck(*_PLUCKS[instrument], hertz(pitch), seconds, rng)
    if instrument in _BELLS:
        return _bell(_BELLS[instrument], hertz(pitch), seconds)
    if instrument == "electric piano":
        return _electric_piano(hertz(pitch), seconds)
    raise ValueError(f"unknown instrument {instrument!r}; known: {', '.join(INSTRUMENTS)}")


def _wave(wave: _Wave, frequency: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(int((seconds + wave.release) * RATE), dtype=np.float32) / RATE
    bright, dark = (_table(wave, frequency, slope, rng) for slope in wave.slope)
    sway = None
    if wave.vibrato:
        depth = frequency * (2 ** (wave.vibrato / 1200) - 1)
        rate = rng.uniform(4.6, 5.8)
        sway = depth / (2 * np.pi * rate) * np.sin(2 * np.pi * rate * time)  # in cycles
    body, tail = np.zeros_like(time), np.zeros_like(time)
    for cents in wave.detune:
        phase = np.arange(len(time)) * (frequency * 2 ** (cents / 1200) / RATE) + rng.random()
        if sway is not None:
            phase += sway
        index = (phase * _TABLE).astype(np.int64) & (_TABLE - 1)
        body += bright[index]
        if wave.decay:
            tail += dark[index]
    if wave.decay:  # high harmonics die first: fade from the bright table to the dark one
        decay = wave.decay * (262 / frequency) ** 0.5
        fade = np.exp(time * np.float32(-2.5 / decay))
        body = (body * fade + tail * (1 - fade)) * (0.25 * fade + 0.75 * np.exp(time * np.float32(-0.7 / decay)))
    if wave.breath:
        body += wave.breath * rng.standard_normal(len(time), dtype=np.float32)
    return _envelope(body / len(wave.detune), wave.attack, wave.release)


def _table(wave: _Wave, frequency: float, slope: float, rng: np.random.Generator) -> np.ndarray:
    """One period, with no harmonic above the band, peak 1."""
    harmonics = np.arange(1, max(2, min(60, int(0.45 * RATE / frequency))) + 1)
    if wave.drawbars:
        levels = np.zeros(len(harmonics))
        levels[:len(wave.drawbars)] = wave.drawbars[:len(harmonics)]
    else:
        levels = harmonics ** -slope * np.where(harmonics % 2, 1.0, wave.even)
    spectrum = np.zeros(_TABLE // 2 + 1, np.complex64)
    spectrum[1:len(levels) + 1] = levels * np.exp(1j * (harmonics**2 * 0.7))  # spread phases: no spike per period
    table = fft.irfft(spectrum, _TABLE)
    return table / np.abs(table).max()


def _pluck(brightness: float, decay: float, damping: float, frequency: float, seconds: float,
           rng: np.random.Generator) -> np.ndarray:
    """Karplus-Strong (1983), every trip round the string at once.

    The string's loop filter multiplies each harmonic of the period by a constant per trip, so that period k is the
    inverse FFT of the first one's spectrum times the k-th power of the filter.
    """
    release = 0.06
    period = int(RATE / frequency)
    count = int((seconds + release) * RATE)
    trips = np.arange(count // period + 2)[:, None]
    harmonic = np.arange(period // 2 + 1)
    height = frequency / 262  # against middle C
    loss = height**0.4 / (frequency * decay) + damping * 2e-4 * harmonic**1.5 * height**0.5
    spectrum = fft.rfft(rng.uniform(-1, 1, period)) / (1 + (harmonic * (1 - brightness)) ** 1.5 * 0.1)
    spectrum[0] = 0
    position = rng.uniform(0.12, 0.3)  # where it is plucked: a comb
    spectrum *= np.sin(np.pi * harmonic * position)
    string = fft.irfft(spectrum * np.exp(-trips * loss), period, axis=1).ravel()
    wave = np.interp(np.arange(count) * (frequency * period / RATE), np.arange(len(string)), string)  # exact pitch
    return _envelope((wave / np.abs(wave).max()).astype(np.float32), 0.002, release)


def _bell(partials: tuple, frequency: float, seconds: float) -> np.ndarray:
    release = 0.25
    time = np.arange(int((seconds + release) * RATE), dtype=np.float32) / RATE
    wave = np.zeros_like(time)
    for ratio, level, decay in partials:
        if ratio * frequency < 0.45 * RATE:
            wave += level * np.sin(2 * np.pi * np.float32(ratio * frequency) * time) * np.exp(
                time * np.float32(-1 / decay))
    return _envelope(wave / sum(level for _, level, _ in partials) * 1.4, 0.002, release)


def _electric_piano(frequency: float, seconds: float) -> np.ndarray:
    """Two-operator FM with a tine (Chowning 1973)."""
    release = 0.1
    time = np.arange(int((seconds + release) * RATE), dtype=np.float32) / RATE
    angle = np.float32(2 * np.pi * frequency) * time
    body = np.sin(angle + 1.3 * np.exp(-3 * time) * np.sin(angle))
    tine = 0.15 * np.exp(-12 * time) * np.sin(min(14, int(0.4 * RATE / frequency)) * angle)
    return _envelope((body + tine) * np.exp(-1.2 * time), 0.003, release)


def _envelope(wave: np.ndarray, attack: float, release: float) -> np.ndarray:
    rise, fall = min(len(wave), int(attack * RATE) + 1), min(len(wave), int(release * RATE) + 1)
    wave[:rise] *= np.linspace(0, 1, rise, dtype=np.float32)
    wave[-fall:] *= np.linspace(1, 0, fall, dtype=np.float32) ** 2
    return wave


def drum(name: str, size: float, rng: np.random.Generator) -> np.ndarray:
    """One stroke, peak about 1. `size` about 1: larger drums are lower and ring longer."""
    if name == "kick":
        time = _seconds(0.35)
        sweep = 48 / size * time + 90 / size * 0.03 * (1 - np.exp(-time / 0.03))
        return np.sin(2 * np.pi * sweep) * np.exp(-time / (0.1 * size)) + _noise(rng, time, 0.004, 0.3, 3000)
    if name == "snare":
        time = _seconds(0.25)
        shell = np.sin(2 * np.pi * 185 / size * time) + 0.6 * np.sin(2 * np.pi * 330 / size * time)
        return 0.4 * shell * np.exp(-time / 0.05) + _noise(rng, time, 0.07 * size, 0.7, 1500)
    if name == "rim":
        time = _seconds(0.08)
        return np.sin(2 * np.pi * 1700 / size * time) * np.exp(-time / 0.012) + _noise(rng, time, 0.005, 0.4, 2000)
    if name == "clap":
        time = _seconds(0.25)
        bursts = sum(np.where(time > late, np.exp(-(time - late) / 0.008), 0) for late in (0, 0.011, 0.022))
        return _noise(rng, time, 10, 0.6, 900) * np.minimum(1, bursts + np.exp(-time / (0.06 * size)) * (time > 0.022))
    if name in ("tom", "low tom"):
        time = _seconds(0.4)
        base = (150 if name == "tom" else 95) / size
        sweep = base * time + base * 0.5 * 0.04 * (1 - np.exp(-time / 0.04))
        return np.sin(2 * np.pi * sweep) * np.exp(-time / (0.13 * size)) + _noise(rng, time, 0.008, 0.2, 1000)
    if name == "cowbell":
        time = _seconds(0.2)
        return 0.5 * (signal.square(2 * np.pi * 560 / size * time) + signal.square(2 * np.pi * 845 / size * time)
                      ).astype(np.float32) * np.exp(-time / 0.05)
    decay, edge, level = {"hat": (0.025, 6500, 0.8), "open hat": (0.12, 6000, 0.8), "ride": (0.22, 4500, 0.5),
                          "crash": (0.6, 3000, 0.9), "shaker": (0.035, 5000, 0.6)}[name]
    time = _seconds(min(1.5, 6 * decay))
    wave = _noise(rng, time, decay * size, level, edge)
    if name == "ride":
        wave += 0.25 * np.sin(2 * np.pi * 3150 / size * time) * np.exp(-time / 0.15)
    if name == "shaker":  # the grains need a moment to reach the wall
        wave *= np.minimum(1, time / 0.02)
    return wave


def _seconds(length: float) -> np.ndarray:
    return np.arange(int(length * RATE), dtype=np.float32) / RATE


def _noise(rng: np.random.Generator, time: np.ndarray, decay: float, level: float, edge: float) -> np.ndarray:
    """Noise above `edge` Hz that dies with `decay` s."""
    sos = signal.butter(2, edge, "highpass", fs=RATE, output="sos").astype(np.float32)
    return level * signal.sosfilt(sos, rng.standard_normal(len(time), dtype=np.float32)) * np.exp(-time / decay)


def play(parts: list[Part], notes: list[Note], kit: dict[str, Part], hits: list[Hit], seconds: float,
         rng: np.random.Generator) -> np.ndarray:
    """The dry mix, (2, samples). `kit` gives each drum its gain and place; times before 0 are cut at 0."""
    mix = np.zeros((2, round(seconds * RATE)), np.float32)
    tones: dict[tuple, np.ndarray] = {}
    for note in notes:
        part = parts[note.part]
        key = (part.instrument, note.pitch, round(note.seconds, 3))
        if key not in tones:
            tones[key] = tone(part.instrument, note.pitch, note.seconds, rng)
        _add(mix, tones[key], note.time, note.velocity * part.gain, part.pan)
    size = rng.uniform(0.8, 1.25)
    drums = {name: drum(name, size, rng) for name in sorted({hit.drum for hit in hits})}
    for hit in hits:
        _add(mix, drums[hit.drum], hit.time, hit.velocity * kit[hit.drum].gain, kit[hit.drum].pan)
    return mix


def _add(mix: np.ndarray, wave: np.ndarray, time: float, gain: float, pan: float) -> None:
    start = round(time * RATE)
    wave = wave[max(0, -start):max(0, mix.shape[1] - start)]
    start = max(0, start)
    for channel, side in enumerate((1 - pan, 1 + pan)):
        mix[channel, start:start + len(wave)] += np.float32(gain * np.sqrt(side / 2)) * wave


def master(mix: np.ndarray, room: Room, rng: np.random.Generator) -> np.ndarray:
    """Room, noise floor, colour and level: (2, samples), within +-0.8."""
    count = mix.shape[1]
    tail = int(room.decay * RATE)
    size = fft.next_fast_len(count + tail, real=True)
    echo = rng.standard_normal((2, tail), dtype=np.float32) * np.exp(
        np.linspace(0, -7, tail, dtype=np.float32)) / np.float32(np.sqrt(tail / 14))
    send = fft.rfft(mix.mean(axis=0), size)
    wet = fft.irfft(fft.rfft(echo, size) * send, size)[:, :count]
    mix = mix + np.float32(room.wet) * wet
    mix = signal.sosfilt(signal.butter(1, room.cutoff, fs=RATE, output="sos").astype(np.float32), mix)
    gain = 10 ** (room.level / 20) / max(1e-9, float(np.sqrt(np.mean(np.square(mix), dtype=np.float64))))
    gain = min(gain, 1.35 / max(1e-9, float(np.abs(mix).max())))  # what the knee below takes without harm
    mix = mix * np.float32(gain)
    mix += np.float32(10 ** (room.floor / 20)) * rng.standard_normal(mix.shape, dtype=np.float32)
    over = np.abs(mix) > _KNEE
    width = np.float32(_CEILING - _KNEE)
    mix[over] = np.sign(mix[over]) * (_KNEE + width * np.tanh((np.abs(mix[over]) - _KNEE) / width))
    return mix
