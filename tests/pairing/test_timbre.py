"""Centroid, flatness and percussiveness of sounds whose values are known."""
import librosa
import numpy as np
import pytest
from scipy.ndimage import median_filter

from pairing.timbre import RATE, _median, timbre
from tests.pairing.songs import drum_loop, song

T = np.arange(5 * RATE) / RATE


def sine(hertz: float) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * T).astype(np.float32)


def noise(seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(len(T))).astype(np.float32)


def test_centroid_is_weighted_by_magnitude():
    assert timbre(sine(440))["centroid"] == pytest.approx(440, rel=0.01)
    # Silence has no part in it.
    mixed = np.concatenate([2 * sine(1000) + sine(3000), np.zeros(RATE, np.float32)])
    assert timbre(mixed)["centroid"] == pytest.approx((2 * 1000 + 3000) / 3, rel=0.02)
    assert timbre(noise())["centroid"] == pytest.approx(RATE / 4, rel=0.02)


def test_centroid_is_librosas():
    y = song(0, 5.0)
    expected = librosa.feature.spectral_centroid(y=y, sr=RATE, n_fft=2048, hop_length=1024, center=False).mean()
    assert timbre(y)["centroid"] == pytest.approx(expected, rel=0.001)


def test_flatness_tells_noise_of_any_colour_from_tones():
    rng = np.random.default_rng(1)
    red = np.cumsum(rng.standard_normal(len(T)))
    red -= np.convolve(red, np.ones(2001) / 2001, mode="same")  # no drift
    for each in (noise(), red / np.abs(red).max(), np.diff(noise(), prepend=0.0)):
        assert timbre(each.astype(np.float32))["flatness"] > 0.85
    assert timbre(sine(440))["flatness"] < 0.01
    assert timbre(song(1, 5.0, drums=0.0))["flatness"] < 0.3


def test_silence_does_not_count_as_flat():
    gaps = np.concatenate([sine(440), np.zeros(4 * len(T), np.float32)])
    assert timbre(gaps)["flatness"] < 0.01
    assert timbre(gaps)["centroid"] == pytest.approx(440, rel=0.02)


def test_percussiveness_of_clicks_and_tones():
    clicks = np.zeros(len(T), np.float32)
    for start in range(0, len(T) - 200, RATE // 4):
        clicks[start:start + 200] = noise(start)[:200]
    assert timbre(clicks)["percussiveness"] > 0.9
    assert timbre(sine(440))["percussiveness"] < 0.01


def test_percussiveness_grows_with_the_drums():
    notes, loop = song(2, 5.0, drums=0.0), drum_loop(2, 120.0, 5.0)
    shares = [timbre((notes + level * loop).astype(np.float32))["percussiveness"] for level in (0, 0.2, 0.6, 2)]
    assert shares == sorted(shares)
    assert shares[0] < 0.1 and shares[-1] > 0.4


def test_median_network_is_the_median():
    x = np.random.default_rng(3).random((40, 7)).astype(np.float32)
    np.testing.assert_array_equal(_median(x, 1), median_filter(x, size=(9, 1), mode="reflect"))
    neighbours = np.stack([x[20 + 3 * k] for k in range(-4, 5)])
    np.testing.assert_array_equal(_median(x, 3)[20], np.median(neighbours, axis=0))


def test_gain_changes_nothing():
    y = song(3, 5.0)
    assert timbre(y * 0.05) == pytest.approx(timbre(y), abs=0.01)


@pytest.mark.parametrize("y", [np.zeros(22050), np.zeros(1103), np.full(22050, 0.3), 0.3 * np.sin(np.arange(1103) / 8)])
def test_silent_constant_and_short_give_numbers(y, recwarn):
    found = timbre(y.astype(np.float32))
    assert np.isfinite(list(found.values())).all() and not recwarn.list
    if not y.any():
        assert found == {"centroid": 0.0, "flatness": 0.0, "percussiveness": 0.0}
