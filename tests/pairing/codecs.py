"""A signal as a codec leaves it."""
import numpy as np
import soxr

from manifests.media import decode_audio
from tests.conftest import encode

LOSSY = {"mp3": ("mp3", "libmp3lame"), "aac": ("adts", "aac"), "opus": ("ogg", "libopus")}


def recode(samples: np.ndarray, rate: int, codec: str, kbps: int) -> np.ndarray:
    """float32 [channels, n] at `rate`, encoded and decoded; delay and length are as the codec leaves them."""
    coded = 48000 if codec == "opus" else rate
    media = encode(soxr.resample(samples.T, rate, coded).T, coded, *LOSSY[codec], bit_rate=1000 * kbps)
    wave = decode_audio(media)
    return soxr.resample(wave.samples.T, wave.rate, rate).T
