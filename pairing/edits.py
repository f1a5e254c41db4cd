"""Edits of a recording: its tempo changed with the pitch kept, its pitch shifted with the tempo kept; and their proof.

Signalsmith Stretch does the work (python-stretch, MIT). On the sample corpus it leaves onsets 0.2 to 1.6 ms (median)
from where they should be, loudness within 1.2 dB and the channels together; Rubber Band, as a filter of ffmpeg's
program, is 2 to 38 ms off and loses up to 2 dB, librosa's phase vocoder 6 to 15 ms, up to 4 dB and the stereo image.

What a stretcher made is not believed: `confirm` compares the two recordings, as they will be stored, at the ratio and
the shift that are claimed and at all others. Of how they came about it knows nothing.
"""
import hashlib
from functools import lru_cache

import numpy as np
import soxr
from scipy import fft, ndimage, sparse

from manifests.outcomes import Loss
from pairing import rhythm, tonality

# Of what `apply` gives and `confirm` decides: bump it when either changes, and all edits are made anew.
VERSION = 1

TEMPI = (0.5, 0.7, 1.3, 1.5)    # times as fast
SHIFTS = (-5, -2, -1, 1, 2, 5)  # semitones
AMOUNTS = {"tempo": TEMPI, "pitch": SHIFTS}

_SEED = 1                       # of the phases that the stretcher draws
_RATE = rhythm.RATE             # Hz, at which recordings are compared
_SILENT = 1e-5                  # RMS (-100 dBFS): nothing below it is sound
_SHORTEST = 2.0                 # s of source and of target: less proves nothing
_LENGTH = 0.03                  # s that a target may be longer or shorter than it should be

_BLUR = 2.0                     # frames of the source (23 ms) within which onsets are the same
_OTHERS = np.geomspace(0.35, 2.1, 73)  # ratios that the claimed one is held against, 2.5 % apart
_DRIFT = 0.6                    # s between first and last onset, by which another ratio is another
_LAG = 2.0                      # s, of the lags that are tried
_NEAR = 0.035                   # s: at the claimed ratio the best lag lies no farther from none

_FRAME, _HOP = 8192, 2048       # samples: from 100 Hz up, two notes a semitone apart are two peaks
_LOWEST, _HIGHEST = 45, 105     # MIDI notes (110 to 3520 Hz)
_BINS = 4                       # a semitone
_LOUD = 30.0                    # log compression: a bin at the clip's mean level lies at log(1 + 30)
_AROUND = 3.0                   # semitones: a bin is seen against the mean of these
_FARTHEST = 18                  # semitones, of the shifts that are tried: an octave beyond those that are claimed
_WITHIN, _BEYOND = 1, 3         # bins: from the claimed shift, and to the next that is another

# What onsets and spectra must reach, and by how much they must beat all other ratios and shifts. Set on 18 clips of
# the sample corpus (seeds 1 and 2) and four recordings of music: of their true edits onsets reach 0.71 and are 0.20
# ahead, spectra 0.64 and 0.20; of wrong ones either lies 0.1 behind or worse.
_ONSETS, _SPECTRA, _AHEAD = 0.5, 0.5, 0.1
# A pitch that can be heard to move: a clear period, or partials that make a key. Of 16 clips of drums alone one passes;
# of 30 others of the sample corpus and three recordings, all.
_PITCHED, _KEYED = 0.4, 0.25


def apply(samples: np.ndarray, rate: int, edit: str, amount: float) -> np.ndarray:
    """The edited recording, float32 [channels, n] at the same rate; it may exceed full scale.

    "tempo": `amount` times as fast, round(n / amount) samples; "pitch": `amount` semitones higher, n samples. The same
    bytes every time.
    """
    import python_stretch
    ratio, shift = _claim(edit, amount)
    pitch = 2 ** (shift / 12)
    stretch = python_stretch.Signalsmith.Stretch(_SEED)
    stretch.preset(len(samples), rate)
    # Played faster, the slowed is in tune. Its own shift raises all by another hertz: 40 cents of a low bass.
    stretch.setTimeFactor(ratio / pitch)
    edited = stretch.process(np.ascontiguousarray(samples, np.float32))
    if pitch != 1:
        edited = np.stack([soxr.resample(channel, pitch, 1.0) for channel in edited])
    count = round(samples.shape[1] / ratio)
    return np.pad(edited[:, :count], ((0, 0), (0, max(0, count - edited.shape[1]))))  # a sample, where they round


def chosen(clip: str, tempi: int = 1, shifts: int = 1) -> list[tuple[str, float]]:
    """Which edits the clip of this id gets, as (edit, amount): so many of each kind, all amounts equally often.

    ValueError for more than there are, 4 and 6. Asking for more keeps what fewer gave.
    """
    found = []
    for edit, count in (("tempo", tempi), ("pitch", shifts)):
        amounts = AMOUNTS[edit]
        if not 0 <= count <= len(amounts):
            raise ValueError(f"a clip has 0 to {len(amounts)} edits of its {edit}, not {count}")
        drawn = sorted(amounts, key=lambda amount: hashlib.sha256(f"{clip}\0{edit}\0{amount}".encode()).digest())
        found += [(edit, amount) for amount in drawn[:count]]
    return found


def confirm(source: np.ndarray, target: np.ndarray, rate: int, edit: str, amount: float) -> float:
    """How well `target` is `source` with this edit (0.5..1); both are float32 [channels, n] at `rate` Hz.

    Loss("unconfirmed") where it is not, or where the sound cannot tell: no onsets to align, no pitch to be shifted.
    """
    ratio, shift = _claim(edit, amount)
    ours, theirs = (soxr.resample(samples.mean(axis=0, dtype=np.float32), rate, _RATE) for samples in (source, target))
    if min(len(ours), len(theirs)) < _SHORTEST * _RATE:
        raise Loss("unconfirmed", f"less than {_SHORTEST:g} s")
    if abs(len(theirs) - len(ours) / ratio) > _LENGTH * _RATE:
        raise Loss("unconfirmed", f"{len(theirs) / _RATE:.2f} s long, not {len(ours) / ratio / _RATE:.2f}")
    if min(np.sqrt(np.mean(np.square(y), dtype=np.float64)) for y in (ours, theirs)) < _SILENT:
        raise Loss("unconfirmed", "silent")
    if edit == "pitch" and not _pitched(ours):
        raise Loss("unconfirmed", "no pitch that could be heard to move")
    onsets, other = aligned(ours, theirs, ratio)
    if onsets < _ONSETS or onsets < other + _AHEAD:
        raise Loss("unconfirmed", f"onsets fit {onsets:.2f} at {ratio:g} x, {other:.2f} otherwise")
    spectra, other = transposed(ours, theirs, ratio, shift)
    if spectra < _SPECTRA or spectra < other + _AHEAD:
        raise Loss("unconfirmed", f"spectra fit {spectra:.2f} at a shift of {shift:+g}, {other:.2f} otherwise")
    return round(min(onsets, spectra, 1.0), 4)


def aligned(ours: np.ndarray, theirs: np.ndarray, ratio: float) -> tuple[float, float]:
    """How onsets correlate (-1..1) where theirs come `ratio` times as fast, and at best at other ratios and lags.

    Both are mono at 22050 Hz. Another lag at this ratio counts no less than another ratio, but for `_AHEAD`: what
    repeats itself fits nearly as well a beat later.
    """
    rows, target = rhythm.envelope(ours)[0], rhythm.envelope(theirs)[0]
    rows = _unit(ndimage.gaussian_filter1d(rows, _BLUR, axis=1))
    curve = _correlation(rows, target, ratio)
    near = np.abs(np.arange(len(curve)) - len(curve) // 2) <= _NEAR * rhythm.FPS
    here = curve[near].max()
    if curve.max() > here:
        return float(here), float(curve.max())
    others = _OTHERS[np.abs(np.log(_OTHERS / ratio)) * len(ours) / _RATE > _DRIFT]
    return float(here), float(max(_correlation(rows, target, other).max() for other in others))


def _correlation(rows: np.ndarray, target: np.ndarray, ratio: float) -> np.ndarray:
    """Mean over the bands of how our onsets correlate with the target's, slowed down, at lags of -_LAG to _LAG."""
    count = rows.shape[1]
    target = ndimage.gaussian_filter1d(target, _BLUR / ratio, axis=1)
    places = np.arange(count) / ratio
    slowed = _unit(np.stack([np.interp(places, np.arange(len(row)), row, right=0.0) for row in target]))
    size = fft.next_fast_len(2 * count, real=True)
    products = fft.rfft(rows, size) * np.conj(fft.rfft(slowed, size))
    curve = fft.irfft(products.mean(axis=0), size)
    longest = min(round(_LAG * rhythm.FPS), count - 1)
    return np.concatenate([curve[-longest:], curve[:longest + 1]])


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def transposed(ours: np.ndarray, theirs: np.ndarray, ratio: float, shift: float) -> tuple[float, float]:
    """How spectra of the same moments correlate (-1..1) `shift` semitones apart, and at best at other shifts.

    Both are mono at 22050 Hz, theirs `ratio` times as fast. Not folded to an octave, lest one pass for none.
    """
    moments = np.arange(0, len(ours), _HOP)
    a, b = _spectra(ours, moments), _spectra(theirs, np.round(moments / ratio).astype(int))
    shifts = np.arange(-_FARTHEST * _BINS, _FARTHEST * _BINS + 1)
    fits = np.array([_fit(a[:, max(0, -bins):len(a[0]) - max(0, bins)], b[:, max(0, bins):len(b[0]) + min(0, bins)])
                     for bins in shifts])
    away = np.abs(shifts - shift * _BINS)
    return float(fits[away <= _WITHIN].max()), float(fits[away >= _BEYOND].max())


def _fit(a: np.ndarray, b: np.ndarray) -> float:
    return np.sum(a * b) / max(np.sqrt(np.sum(a * a) * np.sum(b * b)), 1e-9)


def _spectra(y: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Log-compressed levels over log frequency at these samples, less those around: [moments, bins]."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(y, (_FRAME // 2, _FRAME)), _FRAME)[moments]
    spectrum = np.abs(fft.rfft(windows * np.hanning(_FRAME + 1)[:-1].astype(np.float32), axis=1))
    levels = (_bank() @ spectrum.T).T
    levels = np.log1p(levels * (_LOUD / max(np.sqrt(np.mean(np.square(levels), dtype=np.float64)), 1e-12)))
    return levels - ndimage.uniform_filter1d(levels, round(_AROUND * _BINS) | 1, axis=1, mode="nearest")


@lru_cache(maxsize=1)
def _bank() -> sparse.csr_array:
    """Triangular filters, _BINS a semitone, [bins, frequencies] of sum 1 each."""
    centres = 440 * 2 ** ((np.arange(_LOWEST * _BINS, _HIGHEST * _BINS + 1) / _BINS - 69) / 12)
    width = np.maximum(centres * (2 ** (1 / 12 / _BINS) - 1), _RATE / _FRAME)
    bank = np.maximum(0, 1 - np.abs(fft.rfftfreq(_FRAME, 1 / _RATE) - centres[:, None]) / width[:, None])
    return sparse.csr_array((bank / bank.sum(axis=1, keepdims=True)).astype(np.float32))


def _pitched(y: np.ndarray) -> bool:
    found = tonality.tonality(y)
    return found["pitch_salience"] >= _PITCHED or found["key_confidence"] >= _KEYED


def _claim(edit: str, amount: float) -> tuple[float, float]:
    """How many times as fast, and how many semitones higher."""
    if edit == "tempo":
        return float(amount), 0.0
    if edit == "pitch":
        return 1.0, float(amount)
    raise ValueError(f"an edit is of the tempo or the pitch, not of {edit!r}")
