"""A voice without a recording: formant synthesis (Klatt, JASA 67, 1980) that a speech detector takes for speech."""
import numpy as np
from scipy.signal import lfilter

_VOWELS = np.array([  # first four formants, Hz (Peterson & Barney, 1952)
    [270, 2290, 3010, 3700], [390, 1990, 2550, 3700], [530, 1840, 2480, 3600], [660, 1720, 2410, 3600],
    [730, 1090, 2440, 3500], [570, 840, 2410, 3400], [440, 1020, 2240, 3400], [300, 870, 2240, 3400],
])
_BANDWIDTHS = np.array([60.0, 90.0, 150.0, 200.0])
_STEP = 0.005  # s between changes of the filter


def synthetic_speech(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """float32 [n], peak 0.5: syllables of fricative, vowel glide and stop at some four a second, with pauses."""
    rng = np.random.default_rng(seed)
    hop = round(_STEP * rate)
    steps = int(np.ceil(seconds * rate / hop))
    formants, voicing, hiss, pitch = _score(steps, rng)
    samples = np.arange(steps * hop) / hop
    pitch = np.interp(samples, np.arange(steps), pitch) * (1 + 0.01 * np.sin(2 * np.pi * 5 * samples * _STEP))
    phase = np.cumsum(pitch / rate) % 1
    # Rosenberg's glottal pulse, differentiated: what leaves the lips.
    flow = np.where(phase < 0.4, 0.5 * (1 - np.cos(np.pi * phase / 0.4)),
                    np.where(phase < 0.56, np.cos(np.pi / 2 * (phase - 0.4) / 0.16), 0.0))
    breath = rng.standard_normal(len(samples))
    source = np.diff(flow, prepend=0.0) * rate / 2000 + 0.02 * breath * (phase < 0.56)
    source *= np.interp(samples, np.arange(steps), voicing)
    voice = np.empty(len(samples))
    states = np.zeros((4, 2))
    for step in range(steps):
        block = source[step * hop:(step + 1) * hop]
        for k, (frequency, width) in enumerate(zip(formants[step], _BANDWIDTHS, strict=True)):
            radius = np.exp(-np.pi * width / rate)
            poles = [1, -2 * radius * np.cos(2 * np.pi * frequency / rate), radius**2]
            block, states[k] = lfilter([sum(poles)], poles, block, zi=states[k])
        voice[step * hop:(step + 1) * hop] = block
    fricative = lfilter([1, -1.6, 0.7], [1, 0.4, 0.3], breath) * np.interp(samples, np.arange(steps), hiss)
    sound = (voice / np.abs(voice).max() + 0.05 * fricative)[:round(seconds * rate)]
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def _score(steps: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Formants [steps, 4] in Hz, voicing, hiss and pitch (Hz) for each step: syllable after syllable."""
    parts = []
    for syllable in range(steps // 26 + 1):  # the shortest has 26 steps
        consonant, vowel = int(rng.integers(8, 20)), int(rng.integers(18, 40))
        length = consonant + vowel
        pause = int(rng.integers(40, 70)) if syllable % 9 == 8 else 0  # a breath between phrases
        times = np.arange(length + pause)
        voicing = np.interp(times, [0, consonant, consonant + 5, length - 8, length], [0, 0.05, 1, 0.8, 0])
        hiss = np.interp(times, [0, 3, consonant - 2, consonant + 2], [0, 1, 1, 0]) * rng.integers(2)
        glide = np.minimum(times / length, 1)
        pitch = 120 * (1.25 - 0.05 * (syllable % 9)) * rng.uniform(0.9, 1.15) * (1.08 - 0.16 * glide)
        start, end = _VOWELS[rng.integers(8)], _VOWELS[rng.integers(8)]
        parts.append((start + (end - start) * glide[:, None], voicing, hiss, pitch))
    return tuple(np.concatenate(column)[:steps] for column in zip(*parts, strict=True))
