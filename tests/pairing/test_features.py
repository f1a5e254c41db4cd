"""One waveform in, one row of MEASUREMENT out: the same row every time, whatever the container was."""
import math

import numpy as np
import pyarrow as pa
import pytest
import soxr

from manifests.records import MEASUREMENT
from pairing import features
from tests.pairing.songs import RATE, song

CALLERS = {"id", "outcome", "detail", "duration", "music"}


@pytest.fixture(scope="module")
def stereo() -> np.ndarray:
    """[2, n] at 44.1 kHz."""
    y = soxr.resample(song(0), RATE, 44100)
    return np.stack([y, 0.5 * y])


def test_every_field_of_the_schema(stereo):
    found = features.measure(stereo, 44100)
    assert set(found) == set(MEASUREMENT.names) - CALLERS
    stored = pa.Table.from_pylist([found], schema=MEASUREMENT).to_pylist()[0]
    assert stored["channels"] == 2 and stored["sample_rate"] == 44100
    for name, value in found.items():
        expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-6)  # lists are stored as float32
        assert stored[name] == expected, name


def test_same_input_same_output(stereo):
    assert features.measure(stereo, 44100) == features.measure(stereo.copy(), 44100)


def test_rate_and_channels_matter_little(stereo):
    """What is measured at one rate is the music's, not the file's."""
    one, two = features.measure(stereo, 44100), features.measure(soxr.resample(stereo[0], 44100, 32000)[None], 32000)
    for name, within in {"tempo": 0.5, "pitch_median": 0.5, "centroid": 20, "flatness": 0.02, "percussiveness": 0.02,
                         "dynamics": 0.5, "silence": 0.01, "speech": 0.02}.items():
        assert one[name] == pytest.approx(two[name], abs=within), name
    assert (one["key"], one["mode"]) == (two["key"], two["mode"])
    assert two["loudness"] - one["loudness"] == pytest.approx(-10 * math.log10(1.25), abs=0.1)


@pytest.mark.parametrize("samples, rate", [
    (np.zeros((2, 96000)), 48000), (np.zeros((1, 400)), 8000), (np.full((1, 16000), 0.5), 16000),
    (np.full((6, 2400), -0.1), 48000), (0.1 * np.random.default_rng(0).standard_normal((1, 2205)), 44100),
])
def test_silent_constant_and_short_are_measured(samples, rate, recwarn):
    found = features.measure(samples.astype(np.float32), rate)
    numbers = [value for value in found.values() if isinstance(value, float)]
    assert np.isfinite(numbers).all()
    assert found["speech"] == found["clipping"] == 0
    assert not recwarn.list


def test_version_is_a_small_integer():
    assert isinstance(features.VERSION, int) and 0 < features.VERSION < 100
