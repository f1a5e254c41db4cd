"""A clip as a point: eight dimensions of rhythm, pitch and magnitude, each in units of a difference that matters."""
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pairing.rhythm import PULSE


@dataclass(frozen=True)
class Dimension:
    name: str
    unit: str
    scale: float  # the difference, in that unit, that counts as 1
    why: str


DIMENSIONS = (
    Dimension("tempo", "octave", 0.05,
              "3.5 %: ten seconds of two clips at 120 BPM then stay within a beat of each other"),
    Dimension("onset rate", "octave", 1.0, "how busy it is: twice the notes a second is another texture"),
    Dimension("division", "", 0.5,
              "of the beat, from `pulse`: what returns after 1/2 less what returns after 1/3 and 2/3 of it; straight "
              "eighths lie near 0.3, triplets and swing below 0"),
    Dimension("fifths, across", "", 0.75,
              "with the next, the place on the circle of fifths: the 5th Fourier coefficient of the chroma, 0.2 to 0.5 "
              "from the centre where there is a key; neighbouring keys are near, and no key is decided"),
    Dimension("fifths, up", "", 0.75, "the circle's other axis"),
    Dimension("register", "semitone", 24.0, "median pitch: a bass line and a flute an octave up are another voice"),
    Dimension("loudness", "LU", 12.0, "magnitude: twice as loud to the ear is 10"),
    Dimension("dynamics", "dB", 12.0, "how far loud and quiet moments lie apart: sustained, or struck and silent"),
)
COLUMNS = ("tempo", "tempo_confidence", "onset_rate", "pulse", "chroma", "pitch_median", "loudness", "dynamics")

_UNPITCHED = 64.0   # MIDI note of what has no pitch: the middle of what has, so that it is far from nothing
_QUIET = -70.0      # LUFS: the absolute gate, below which loudness is null
_FEWEST = 0.25      # onsets per second: log2 of fewer means nothing
OCTAVE = 1 / DIMENSIONS[0].scale
_FIFTHS = tuple((math.cos(2 * math.pi * 5 * pitch / 12), math.sin(2 * math.pi * 5 * pitch / 12)) for pitch in range(12))
_HALF, _THIRD, _TWO_THIRDS = (PULSE.index(part) for part in (1 / 2, 1 / 3, 2 / 3))


def vectors(measured: Mapping[str, np.ndarray]) -> np.ndarray:
    """Points [n, 8], float64, of COLUMNS [n] (`pulse` [n, 6], `chroma` [n, 12]), NaN being null; NaN without a tempo.

    What has no pitch lies in the middle of the circle of fifths and of the register: percussion is as far from every
    key. Only operations that round alike on every machine and in every place of an array: what is one bit off can be
    another pair.
    """
    measured = {name: np.asarray(measured[name], np.float64) for name in COLUMNS}
    chroma = np.where(np.isnan(measured["chroma"]), 1 / 12, measured["chroma"])
    pulse = measured["pulse"]
    place = np.zeros((2, len(chroma)))
    for shares, weights in zip(chroma.T, _FIFTHS, strict=True):
        for axis, weight in zip(place, weights, strict=True):
            axis += shares * weight
    raw = (
        _log2(measured["tempo"]),
        _log2(np.where(measured["onset_rate"] >= _FEWEST, measured["onset_rate"], _FEWEST)),
        pulse[:, _HALF] - (pulse[:, _THIRD] + pulse[:, _TWO_THIRDS]) / 2,
        *place,
        np.where(np.isnan(measured["pitch_median"]), _UNPITCHED, measured["pitch_median"]),
        np.where(np.isnan(measured["loudness"]), _QUIET, measured["loudness"]),
        measured["dynamics"],
    )
    return np.stack([values / dimension.scale for values, dimension in zip(raw, DIMENSIONS, strict=True)], axis=1)


def _log2(values: np.ndarray) -> np.ndarray:
    # Not np.log2: its last bit may depend on where in the array a number stands, and on the processor.
    return np.array([math.log2(value) if value > 0 else math.nan for value in values.tolist()], np.float64)


def distance(one: np.ndarray, other: np.ndarray, half_double: bool = False) -> np.ndarray:
    """Between points [..., 8], float64 [...]: the same bits for (a, b) and (b, a), alone or among others."""
    tempo = one[..., 0] - other[..., 0]
    total = tempo * tempo
    if half_double:
        for shift in (-OCTAVE, OCTAVE):
            total = np.minimum(total, (tempo + shift) * (tempo + shift))
    for index in range(1, len(DIMENSIONS)):
        difference = one[..., index] - other[..., index]
        total = total + difference * difference
    return np.sqrt(total)
