"""Whether a recording can be music at all, from its measurements: a conservative test for noise."""
from collections.abc import Mapping

MIN_FLATNESS = 0.78     # noise lies above 0.8, whatever its colour, and drums may; music with notes lies below
MAX_SALIENCE = 0.03     # of pitch: noise lies below 0.001, notes above 0.1, drums between
MAX_BEAT = 0.1          # confidence of tempo: noise and applause lie below 0.03, drums above 0.4


def noise_like(measurement: Mapping, min_flatness: float = MIN_FLATNESS, max_salience: float = MAX_SALIENCE,
               max_beat: float = MAX_BEAT) -> str | None:
    """Why a row of MEASUREMENT is noise, for a person to read; None where it may be music.

    Noise has all of three: a spectrum as flat as noise has (in narrow bands, so that its colour does not matter), no
    pitch, no steady beat. Drums alone have a beat, a held drone has a pitch. What has notes and yet is no music, as a
    siren has, is left to an audio tagger.
    """
    flatness, salience = measurement["flatness"], measurement["pitch_salience"]
    beat = measurement["tempo_confidence"]
    if flatness < min_flatness or salience > max_salience or beat > max_beat:
        return None
    return f"noise-like: flatness {flatness:.2f}, pitch salience {salience:.2f}, tempo confidence {beat:.2f}"
