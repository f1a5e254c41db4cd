"""Noise is told from music, and music of every kind stays."""
import numpy as np
import pytest
from scipy.signal import lfilter

from manifests.media import decode_audio
from pairing.features import measure
from pairing.music import noise_like
from tests.pairing.songs import RATE, drum_loop, song

T = np.arange(10 * RATE) / RATE
NOISE = 0.1 * np.random.default_rng(0).standard_normal(len(T))


def verdict(y: np.ndarray) -> str | None:
    return noise_like(measure(y.astype(np.float32)[None], RATE))


@pytest.mark.parametrize("y", [
    pytest.param(NOISE, id="white noise"),
    pytest.param(lfilter([1], [1, -0.98], NOISE), id="rumble"),
    pytest.param(NOISE * (1 + np.sin(2 * np.pi * 0.15 * T)), id="waves"),
    pytest.param(np.diff(NOISE, prepend=0.0), id="hiss"),
])
def test_noise_is_not_music(y):
    assert "flatness" in verdict(y)


@pytest.mark.parametrize("y", [
    pytest.param(song(0), id="song"),
    pytest.param(song(1, drums=0.0), id="song without drums"),
    pytest.param(drum_loop(0, 110.0), id="drums alone"),
    pytest.param(NOISE * np.exp(-20 * (T % 0.25)), id="shaker"),
    pytest.param(0.1 * np.sin(2 * np.pi * 55 * T) + 0.2 * np.sin(2 * np.pi * 110 * T), id="drone"),
    pytest.param(song(2, drums=0.0) + 0.3 * NOISE, id="song on worn tape"),
    pytest.param(np.tanh(20 * song(3)), id="distorted"),
])
def test_music_is_kept(y):
    assert verdict(y) is None


def test_thresholds_decide():
    row = {"flatness": 0.9, "pitch_salience": 0.02, "tempo_confidence": 0.05}
    assert noise_like(row) == "noise-like: flatness 0.90, pitch salience 0.02, tempo confidence 0.05"
    assert noise_like(row, min_flatness=0.95) is None
    assert noise_like(row, max_salience=0.01) is None
    assert noise_like(row, max_beat=0.01) is None


def test_real_recordings(shared_media):
    """Rain is noise, and so is what a broken video holds; notes, drums and a siren's two tones are not."""
    for path in sorted(shared_media.glob("*/*")):
        wave = decode_audio(path)
        for start in range(0, max(1, min(wave.samples.shape[1], 30 * wave.rate) - 8 * wave.rate), 10 * wave.rate):
            found = noise_like(measure(wave.samples[:, start:start + 10 * wave.rate], wave.rate))
            noise = path.name in ("rain.mp3", "video_with_failing_audio.mp4")
            assert (found is not None) == noise, (path.name, start, found)
