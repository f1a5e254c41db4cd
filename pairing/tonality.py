"""Key, pitch classes and pitch of a waveform, from the partials that its spectrum holds for longer than a drum stroke.

One table serves all: how strongly each semitone sounds in each frame, where every spectral peak speaks for the notes
that it could be a harmonic of (Gómez, "Tonal description of polyphonic audio for music content processing", INFORMS
J. Computing 18, 2006). Folded to an octave it is a chroma, its maximum is the predominant pitch (Salamon & Gómez,
"Melody extraction using pitch contour characteristics", IEEE TASLP 20, 2012).
"""
import numpy as np
from scipy import fft, ndimage

RATE = 22050            # Hz, of the signal
KEYS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MODES = ("major", "minor")

_NOTES = 120            # MIDI notes 0 to 119
_FRAME, _HOP = 8192, 2048       # samples: partials a semitone apart are two from 100 Hz on
_SILENT = 1e-5          # RMS (-100 dBFS): nothing below it is sound
_STEADY = 5             # frames (0.5 s) over whose median a partial must stand: drum strokes do not
_LOWEST, _HIGHEST = 40.0, 3000.0    # Hz, of peaks
_ABOVE_LOCAL = 1.5      # times the mean of its surroundings that a peak has at least
_ABOVE_MAX = 0.01       # of the frame's highest
_HARMONICS, _DECAY = 5, 0.6     # that a peak may be, and how much less likely each next one is
_BASS = 260.0           # Hz: peaks below say what the bass plays

# How often each degree is heard, from the tonic up: Albrecht & Shanahan, "The use of large corpora to train a new type
# of key-finding algorithm", Music Perception 31, 2013. Of the common profiles the one that best parts relative keys.
_PROFILES = np.array((
    (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
    (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052)))
# Log-odds of a key by its correlation with the profile, and by the bass's share on the tonic, fourth and fifth: a bass
# that lives on what would be the fourth makes that the tonic. Fitted as a conditional logit on synthesised clips.
_FIT, _TONIC, _FOURTH, _FIFTH = 15.0, 4.0, -3.0, 3.0

_PITCHED = (0.1, 0.5)   # autocorrelation of noise, and of what is clearly pitched less that
_TONAL = 0.02           # pitch salience below which there is no key: noise and rain have less
_TUNED = (0.15, 0.4)    # how well partials lie on one grid of semitones: drums and speech, and instruments
_PERIODS = (int(RATE / 1200), int(RATE / 55))   # samples


def tonality(y: np.ndarray) -> dict:
    """Key and pitch of a mono float signal at 22050 Hz, of any length and level.

    Keys: `key` ("C" ... "B", sharps), `mode` ("major" | "minor"), `key_confidence` (0..1), `chroma` (12 shares from C,
    sum 1), `pitch_median`, `pitch_low`, `pitch_high` (MIDI note numbers: the median, 5th and 95th percentile of the
    predominant pitch), `pitch_salience` (0..1: how clearly frames have one periodicity). None and 0 where there is no
    tone.
    """
    y = y - np.mean(y, dtype=np.float64).astype(np.float32)
    found = {"key": None, "mode": None, "key_confidence": 0.0, "chroma": [round(1 / 12, 4)] * 12, "pitch_median": None,
             "pitch_low": None, "pitch_high": None, "pitch_salience": 0.0}
    if not len(y) or np.sqrt(np.mean(np.square(y), dtype=np.float64)) < _SILENT:
        return found
    found["pitch_salience"] = salience(y)
    frames, pitches, levels = partials(y)
    if found["pitch_salience"] < _TONAL or not len(pitches):
        return found
    grid = np.sum(np.sqrt(levels) * np.exp(2j * np.pi * pitches)) / np.sum(np.sqrt(levels))
    tuning = float(np.angle(grid)) / (2 * np.pi)
    roll, heard = semitones(frames, pitches - tuning, levels)
    chroma = _fold(roll.sum(axis=0))
    low = pitches < _midi(_BASS)
    bass = _fold(np.bincount(np.round(pitches[low] - tuning).astype(int), levels[low], roll.shape[1]))
    key, probability = _key(chroma, bass)
    low, high = _TUNED
    found["key"], found["mode"] = KEYS[key % 12], MODES[key // 12]
    found["key_confidence"] = round(probability * float(np.clip((abs(grid) - low) / (high - low), 0, 1)), 4)
    found["chroma"] = [round(float(share), 4) for share in chroma]
    best = np.where(heard, roll * _LOUDNESS, 0).argmax(axis=1)[heard.any(axis=1)] + tuning
    for name, share in (("pitch_low", 5), ("pitch_median", 50), ("pitch_high", 95)):
        found[name] = round(float(np.percentile(best, share)), 4)
    return found


def _midi(hertz):
    return 69 + 12 * np.log2(hertz / 440)


def _loudness() -> np.ndarray:
    """How loud each MIDI note is to the ear, as a factor of its level's square root: the A curve of IEC 61672."""
    squared = np.square(440 * 2 ** ((np.arange(_NOTES) - 69) / 12))
    curve = squared**2 * 12194**2 / ((squared + 20.6**2) * (squared + 12194**2) * np.sqrt(
        (squared + 107.7**2) * (squared + 737.9**2)))
    return np.sqrt(curve)


_LOUDNESS = _loudness()


def _fold(notes: np.ndarray) -> np.ndarray:
    """Strengths by MIDI note to shares of the twelve pitch classes from C."""
    shares = notes.reshape(-1, 12).sum(axis=0)
    return shares / max(shares.sum(), 1e-12)


def partials(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spectral peaks that last: their frames, pitches (fractional MIDI note numbers) and magnitudes."""
    y = np.pad(y, (_FRAME // 2, _FRAME // 2 + max(0, _HOP - len(y))))
    windows = np.lib.stride_tricks.sliding_window_view(y, _FRAME)[::_HOP] * np.hanning(_FRAME + 1)[:-1].astype(np.float32)
    spectrum = np.abs(fft.rfft(windows, axis=1)[:, :int(1.1 * _HIGHEST * _FRAME / RATE)])
    spectrum = np.minimum(spectrum, ndimage.median_filter(spectrum, (_STEADY, 1), mode="nearest"))
    left, here, right = spectrum[:, :-2], spectrum[:, 1:-1], spectrum[:, 2:]
    around = ndimage.uniform_filter1d(spectrum, 41, axis=1)[:, 1:-1]
    highest = spectrum.max(axis=1, keepdims=True)
    frames, bins = np.nonzero((here > left) & (here >= right) & (here > _ABOVE_LOCAL * around)
                              & (here > _ABOVE_MAX * highest) & (here > 0.1 * _ABOVE_MAX * highest.max()))
    # The vertex of a parabola through logarithms is exact for a Gaussian window and good for this one.
    a, b, c = (np.log(side[frames, bins] + 1e-12) for side in (left, here, right))
    hertz = (bins + 1 + 0.5 * (a - c) / np.minimum(a - 2 * b + c, -1e-9)) * RATE / _FRAME
    kept = (hertz > _LOWEST) & (hertz < _HIGHEST)
    return frames[kept], _midi(hertz[kept]), here[frames, bins][kept]


def semitones(frames: np.ndarray, pitches: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength of each MIDI note in each frame [frames, 120], and whether a peak lies on the note itself."""
    count = frames.max() + 1
    roll = np.zeros(count * _NOTES)
    for harmonic in range(1, _HARMONICS + 1):
        note = pitches - 12 * np.log2(harmonic)
        nearest = np.round(note).astype(int)
        weight = np.sqrt(levels) * _DECAY ** (harmonic - 1) * np.square(np.cos(np.pi * (note - nearest)))
        inside = nearest >= 0
        roll += np.bincount((frames * _NOTES + nearest)[inside], weight[inside], count * _NOTES)
    heard = np.zeros((count, _NOTES), bool)
    heard[frames, np.round(pitches).astype(int)] = True
    return roll.reshape(count, _NOTES), heard


def _key(chroma: np.ndarray, bass: np.ndarray) -> tuple[int, float]:
    """The likeliest of 24 keys (12 major from C, 12 minor) and its probability."""
    odds = []
    for profile in _PROFILES:
        for tonic in range(12):
            fit = np.corrcoef(np.roll(chroma, -tonic), profile)[0, 1] if np.ptp(chroma) > 1e-9 else 0.0
            odds.append(_FIT * fit + _TONIC * bass[tonic] + _FOURTH * bass[(tonic + 5) % 12] + _FIFTH * bass[(tonic + 7) % 12])
    odds = np.array(odds)
    best = int(odds.argmax())
    return best, float(1 / np.exp(odds - odds[best]).sum())


def salience(y: np.ndarray, frame: int = 2048, hop: int = 1024) -> float:
    """0..1: how clearly frames have one period, by autocorrelation of compressed and half whitened spectra.

    After Tolonen & Karjalainen, "A computationally efficient multipitch analysis model" (IEEE TSAP 8, 2000). Whitening
    by half the spectrum's slope makes noise of any colour alike: without it the rumble of wind has a period.
    """
    window = np.hanning(frame + 1)[:-1].astype(np.float32)
    y = np.pad(y, (frame // 2, frame // 2 + max(0, hop - len(y))))
    windows = np.lib.stride_tricks.sliding_window_view(y, frame)[::hop] * window
    energy = np.square(windows).mean(axis=1)
    windows = windows[energy > 1e-5 * energy.max()]
    spectrum = np.abs(fft.rfft(windows, 2 * frame, axis=1))
    hertz = np.arange(frame + 1) * RATE / (2 * frame)
    around = ndimage.uniform_filter1d(spectrum, 81, axis=1)
    power = np.where((hertz > 50) & (hertz < 5000), spectrum / np.sqrt(around + 1e-9 * spectrum.max()), 0)
    taper = fft.irfft(np.square(np.abs(fft.rfft(window, 2 * frame))))
    longest = _PERIODS[1] + 2
    curve = fft.irfft(power, axis=1)[:, :longest] / (taper[:longest] / taper[0])
    curve = curve / (curve[:, :1] + 1e-12)
    left, here, right = (curve[:, _PERIODS[0] + side:longest - 1 + side] for side in (-1, 0, 1))
    clarity = float(np.where((here > left) & (here >= right), here, 0).max(axis=1).mean())
    return round(min(1.0, max(0.0, (clarity - _PITCHED[0]) / _PITCHED[1])), 4)
