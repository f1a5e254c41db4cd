"""Loudness against the standard's own reference, levels against arithmetic, clipping against what was clipped."""
import numpy as np
import pytest
import soxr

from pairing.level import clipping, levels, loudness
from tests.pairing.codecs import recode
from tests.pairing.songs import RATE, song

CLEAN = 0.001       # what no unclipped recording may reach


def sine(hertz: float, level: float, seconds: float, rate: int = 48000, channels: int = 2) -> np.ndarray:
    """float32 [channels, n] with a peak of `level` dBFS."""
    wave = 10 ** (level / 20) * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


@pytest.fixture(scope="module")
def songs() -> list[np.ndarray]:
    """Peak 1.0 at 44.1 kHz, [1, n]."""
    return [soxr.resample(song(seed, 5.0), RATE, 44100)[None] / 0.8 for seed in range(4)]


@pytest.mark.parametrize("rate", [22050, 44100, 48000, 96000])
def test_loudness_of_the_reference_tone(rate):
    """EBU Tech 3341, case 1: a stereo sine of 1 kHz at -23 dBFS is -23 LUFS; BS.1770: mono at full scale is -3.01."""
    assert loudness(sine(1000, -23, 20, rate), rate) == pytest.approx(-23, abs=0.1)
    assert loudness(sine(997, 0, 5, rate, channels=1), rate) == pytest.approx(-3.01, abs=0.1)


def test_loudness_is_gated():
    """EBU Tech 3341, case 3: quiet parts, more than 10 LU below the rest, do not count."""
    parts = [sine(1000, level, seconds) for level, seconds in ((-36, 10), (-23, 60), (-36, 10))]
    assert loudness(np.concatenate(parts, axis=1), 48000) == pytest.approx(-23, abs=0.1)


def test_loudness_below_the_absolute_gate_is_none():
    assert loudness(sine(1000, -75, 2), 48000) is None
    assert loudness(np.zeros((2, 48000), np.float32), 48000) is None


def test_loudness_of_less_than_a_block():
    assert loudness(sine(1000, -23, 0.05), 48000) == pytest.approx(-23, abs=0.2)


def test_subwoofer_does_not_count():
    silent = np.zeros((3, 96000), np.float32)
    stereo, hum = sine(1000, -23, 2), sine(1000, -3, 2, channels=1)
    assert loudness(np.concatenate([stereo, silent[:1], hum, silent[:2]]), 48000) == pytest.approx(-23, abs=0.1)


def test_rms_and_silence():
    half = np.concatenate([sine(440, 0, 3), np.zeros((2, 48000), np.float32)], axis=1)
    found = levels(half, 48000)
    assert found["rms"] == pytest.approx(-3.01 + 10 * np.log10(3 / 4), abs=0.02)
    assert found["silence"] == pytest.approx(0.25, abs=0.001)
    assert levels(sine(440, -59 + 3.01, 1), 48000)["silence"] == 0
    assert levels(sine(440, -61 + 3.01, 1), 48000)["silence"] == 1


def test_dynamics():
    steady, steps = sine(440, -12, 4), [sine(440, level, 2) for level in (-6, -26)]
    assert levels(steady, 48000)["dynamics"] == pytest.approx(0, abs=0.05)
    assert levels(np.concatenate(steps, axis=1), 48000)["dynamics"] == pytest.approx(20, abs=0.1)
    paused = np.concatenate([*steps, np.zeros((2, 480000), np.float32)], axis=1)
    assert levels(paused, 48000)["dynamics"] == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize("level, shape", [(0.0, (2, 80000)), (0.0, (1, 400)), (1.0, (1, 8000)), (0.5, (6, 400))])
def test_silent_constant_and_short_give_numbers(level, shape, recwarn):
    found = levels(np.full(shape, level, np.float32), 8000)
    assert found["rms"] >= -120 and found["clipping"] == 0 and found["dynamics"] == 0
    assert not recwarn.list


def test_clean_waveforms_are_not_clipped():
    t = np.arange(3 * 44100) / 44100
    phase = 220.3 * t
    pulses = [np.where((hertz * t) % 1 < 0.5, 1.0, -1.0) for hertz in (220.3, 331.7, 467.1)]
    waves = {
        "low sine": np.sin(2 * np.pi * 50 * t), "sine": np.sin(2 * np.pi * phase), "saw": 2 * (phase % 1) - 1,
        "triangle": 4 * np.abs(phase % 1 - 0.5) - 1, "square": pulses[0], "three pulse voices": sum(pulses) / 3,
        "band-limited square": sum(np.sin(2 * np.pi * k * phase) / k for k in range(1, 80, 2)),
    }
    for name, wave in waves.items():
        for version in (wave, np.round(wave * 32767) / 32768):
            assert clipping(version.astype(np.float32)[None]) <= CLEAN, name


def test_decoded_peaks_above_full_scale_are_not_clipped(songs):
    for samples in songs:
        decoded = recode(samples, 44100, "mp3", 128)
        assert clipping(samples) <= CLEAN
        assert clipping(decoded * 1.2) <= CLEAN
    assert np.abs(decoded * 1.2).max() > 1.1


@pytest.mark.parametrize("gain", [4, 8])
def test_clipped_is_told_by_its_share(songs, gain):
    for samples in songs:
        flat = np.mean(np.abs(samples * gain) >= 1)
        clipped = np.clip(samples * gain, -1, 1)
        assert clipping(clipped) == pytest.approx(flat, rel=0.3)
        assert clipping(np.round(0.5 * clipped * 32767) / 32768) == pytest.approx(flat, rel=0.3)  # turned down later
        assert clipping(np.concatenate([clipped, samples])) == pytest.approx(flat / 2, rel=0.3)  # one channel of two


def test_one_sided_clipping_is_found(songs):
    assert clipping(np.maximum(songs[0] * 2, -0.5)) > 0.01


def test_clipping_is_found_under_lossy_coding(songs):
    """Tops that are no longer flat: found while most of the waveform is left, and never where there were none."""
    for samples in songs:
        assert clipping(recode(np.clip(samples * 6, -1, 1), 44100, "mp3", 192)) > 0.01
        assert clipping(soxr.resample(np.clip(samples * 6, -1, 1)[0], 44100, 48000)[None]) > 0.01
    for codec, kbps in (("mp3", 64), ("aac", 96), ("opus", 64)):
        assert clipping(recode(songs[0], 44100, codec, kbps)) <= CLEAN
