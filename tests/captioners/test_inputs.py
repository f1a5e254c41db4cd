"""Media → plain data for models: which seconds of music, which way up a picture is, which frames of a film."""

import numpy as np
import pytest

from captioners import inputs
from manifests.outcomes import Loss
from pipelines.sample import render
from tests.conftest import encode, tone

HERTZ = (200, 400, 800, 1600, 3200)


def _steps(seconds: float, rate: int = 8000) -> np.ndarray:
    """As many tones as HERTZ has, one after the other; every second a little louder than the one before it."""
    parts = [tone(seconds / len(HERTZ), rate, hertz) for hertz in HERTZ]
    return np.concatenate(parts, 1)


def _waves(made: dict) -> list[np.ndarray]:
    return [np.frombuffer(window, "<f4") for window in made["windows"]]


def _hertz(wave: np.ndarray) -> int:
    spectrum = np.abs(np.fft.rfft(wave))
    return round(float(np.fft.rfftfreq(len(wave), 1 / inputs.RATE)[spectrum.argmax()]))


@pytest.mark.parametrize("windows", [1, 2, 3, 9])
def test_windows_lie_evenly_over_a_long_track(windows: int) -> None:
    """Of 200 s, three minutes can be heard at most; their tones say where they begin and end."""
    source = encode(_steps(200), 8000, "flac", "flac")
    waves = _waves(inputs.music(source, windows))
    assert len(waves) == min(windows, 3) and all(wave.dtype == np.float32 for wave in waves)
    assert all(abs(len(wave) - 60 * inputs.RATE) <= 2 for wave in waves)
    # 40 s of each tone: the windows begin at 0, 70 and 140 s (of two, at 0 and 140).
    starts = {1: [0], 2: [0, 140]}.get(windows, [0, 70, 140])
    for start, wave in zip(starts, waves, strict=True):
        for second in (0, 30, 59):
            part = wave[second * inputs.RATE:(second + 1) * inputs.RATE]
            assert abs(_hertz(part) - HERTZ[(start + second) // 40]) <= 2, (start, second)
    assert np.array_equal(waves[0], _waves(inputs.music(source))[0])


@pytest.mark.parametrize("seconds", [3, 60, 119])
def test_less_than_two_minutes_is_one_window(seconds: int) -> None:
    source = encode(_steps(seconds), 8000, "flac", "flac")
    (wave,) = _waves(inputs.music(source, windows=5))
    assert abs(len(wave) - min(seconds, 60) * inputs.RATE) <= 2


def test_two_minutes_are_two_windows() -> None:
    both = _waves(inputs.music(encode(_steps(120), 8000, "flac", "flac"), windows=2))
    assert [_hertz(wave[-inputs.RATE:]) for wave in both] == [HERTZ[2], HERTZ[4]]
    assert _hertz(both[1][:inputs.RATE // 2]) == HERTZ[2]


def test_music_is_mono_at_its_rate() -> None:
    left = tone(2, 44100, 440)
    (wave,) = _waves(inputs.music(encode(np.concatenate([left, 0 * left]), 44100, "wav", "pcm_s16le")))
    assert abs(len(wave) - 2 * inputs.RATE) <= 2 and _hertz(wave) == 440
    assert abs(np.abs(wave[4800:-4800]).max() - 0.25) < 0.01  # the mean of the channels
    (film,) = _waves(inputs.music(render("sample-0-00003")))
    assert abs(len(film) / inputs.RATE - 10) < 0.1 and film.std() > 0.01


@pytest.mark.parametrize(("source", "reason"), [
    (b"no media at all", "decode_error"),
    (encode(tone(0.2), 22050, "wav", "pcm_s16le"), "too_short")])
def test_what_is_no_music_is_lost(source: bytes, reason: str) -> None:
    with pytest.raises(Loss) as raised:
        inputs.music(source)
    assert raised.value.reason == reason
