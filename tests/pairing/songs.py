"""Random songs: chords, a melody and drums, each from its own seed, mono at 22050 Hz."""
import numpy as np

RATE = 22050


def song(seed: int, seconds: float = 10.0, drums: float = 0.5, drum_seed: int | None = None,
         tempo: float | None = None) -> np.ndarray:
    """float32 [n], peak 0.8. `drums` is their level beside the notes; `drum_seed` and `tempo` give one drum loop."""
    rng = np.random.default_rng(seed)
    tempo = rng.uniform(70, 160) if tempo is None else tempo
    scale = rng.integers(12) + np.array([0, 2, 4, 5, 7, 9, 11])
    cycle = 2 * np.pi * np.arange(2**14) / 2**14
    slope = rng.uniform(1, 2.5)
    wave = sum(np.sin(k * cycle) / k**slope for k in range(1, 7))
    out = np.zeros(round(seconds * RATE))
    at = 0.0
    while at < seconds:  # a bar: a triad below, a melody above
        degree = rng.integers(7)
        for third in (0, 2, 4):
            _add(out, at, 240 / tempo, 48 + scale[(degree + third) % 7], wave, 0.3, held=True)
        beat = 0.0
        while beat < 4:
            length = rng.choice([0.5, 1.0, 1.5])
            note = 60 + scale[rng.integers(7)] + 12 * rng.integers(2)
            _add(out, at + beat * 60 / tempo, length * 60 / tempo, note, wave, 0.5)
            beat += length
        at += 240 / tempo
    if drums:
        loop = drum_loop(seed if drum_seed is None else drum_seed, tempo, seconds)
        out += drums * loop * np.sqrt(np.mean(out**2) / np.mean(loop**2))
    return (0.8 * out / np.abs(out).max()).astype(np.float32)


def drum_loop(seed: int, tempo: float, seconds: float = 10.0) -> np.ndarray:
    """float64 [n]: one bar of kick, snare and hi-hat in sixteenths, over and over."""
    rng = np.random.default_rng(seed)
    t = np.arange(RATE // 4) / RATE
    sounds = (
        np.sin(2 * np.pi * (50 * t - 4 * np.exp(-30 * t))) * np.exp(-14 * t),
        (rng.standard_normal(len(t)) + np.sin(2 * np.pi * 190 * t)) * np.exp(-18 * t) / 2,
        np.diff(rng.standard_normal(len(t)), prepend=0.0) * np.exp(-60 * t) / 2,
    )
    hits = rng.random((3, 16)) < np.array([[0.3], [0.2], [0.6]])
    hits[0, 0] = hits[1, 4] = hits[1, 12] = True
    out = np.zeros(round(seconds * RATE) + len(t))
    for step in range(int(seconds * tempo / 15) + 1):
        start = round(step * 15 / tempo * RATE)
        for sound, pattern in zip(sounds, hits, strict=True):
            if pattern[step % 16] and start + len(t) <= len(out):
                out[start:start + len(t)] += sound
    return out[:-len(t)]


def _add(out: np.ndarray, start: float, seconds: float, note: int, wave: np.ndarray, level: float, held: bool = False):
    """Adds a note (MIDI number) of one cycle's `wave` to `out`, in place; what lies beyond its end is cut off."""
    first = round(start * RATE)
    t = np.arange(min(round(seconds * RATE), len(out) - first)) / RATE
    places = (440 * 2 ** ((note - 69) / 12) * len(wave) * t).astype(np.int64) % len(wave)
    envelope = np.minimum(np.minimum(t / 0.01, (seconds - t) / 0.02), 1) * (1 if held else np.exp(-3 * t))
    out[first:first + len(t)] += level * envelope * wave[places]
