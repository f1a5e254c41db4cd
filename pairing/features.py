"""All that is measured of a recording: from a waveform to the fields of `manifests.records.MEASUREMENT`."""
import numpy as np
import soxr

from pairing import fingerprint, level, rhythm, speech, timbre, tonality

# Of everything under pairing/ that `measure` calls: bump it when any output changes, and all clips are measured anew.
VERSION = 2

FINGERPRINTED = 60.0  # s: enough to know a recording by, and whole tracks do not fill the memory
RATE = 22050        # Hz, of the signal that rhythm, tonality, timbre and fingerprint share


def measure(samples: np.ndarray, rate: int) -> dict:
    """The measurements of float32 samples [channels, n] at `rate` Hz, of 0.05 s or more; no random choice anywhere.

    All fields of MEASUREMENT but those that only the caller knows: `id`, `outcome`, `detail`, `duration`, `music`.
    """
    mono = samples.mean(axis=0, dtype=np.float32)
    y = soxr.resample(mono, rate, RATE)
    return {
        "sample_rate": rate,
        "channels": len(samples),
        **rhythm.rhythm(y),
        **tonality.tonality(y),
        **level.levels(samples, rate),
        **timbre.timbre(y),
        "speech": speech.speech(soxr.resample(y, RATE, speech.RATE)),
        "fingerprint": fingerprint.fingerprint(y[:round(FINGERPRINTED * RATE)]).tolist(),
    }
