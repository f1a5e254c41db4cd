"""Media → plain data for models: which seconds of music, which way up a picture is, which frames of a film."""
import io

import numpy as np
import pytest
from PIL import Image

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


def test_a_picture_stands_as_its_exif_says() -> None:
    picture = Image.new("RGB", (6, 4), (255, 0, 0))
    picture.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    target = io.BytesIO()
    picture.save(target, "PNG", exif=exif)
    made = inputs.image(target.getvalue())
    assert (made["width"], made["height"]) == (4, 6)
    pixels = np.frombuffer(made["pixels"], np.uint8).reshape(6, 4, 3)
    assert pixels[0, 3].tolist() == [0, 0, 255] and (pixels == [0, 0, 255]).all(-1).sum() == 1
    grey = io.BytesIO()
    Image.new("LA", (3, 2), (7, 0)).save(grey, "PNG")
    assert inputs.image(grey.getvalue())["pixels"] == bytes([7]) * 18


@pytest.mark.parametrize("source", [b"", b"no picture", b"\xff\xd8\xff\xe0" + bytes(40)])
def test_what_is_no_picture_is_lost(source: bytes) -> None:
    with pytest.raises(Loss) as raised:
        inputs.image(source)
    assert raised.value.reason == "decode_error"


def test_a_picture_that_is_not_there_is_the_file_systems(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        inputs.image(str(tmp_path / "none.png"))


def test_frames_lie_evenly_and_are_repeated() -> None:
    """The film's pictures grow brighter by 40 of 256 each."""
    source = encode(tone(0.5, 44100), 44100, "mp4", "aac", pictures=5)

    def greys(count: int) -> list[int]:
        made = inputs.video(source, count)
        assert (made["count"], made["width"], made["height"]) == (count, 64, 48)
        return [round(float(frame.mean())) for frame in
                np.frombuffer(made["pixels"], np.uint8).reshape(count, 48, 64, 3)]
    assert np.abs(np.array(greys(5)) - [0, 40, 80, 120, 160]).max() <= 4
    assert np.abs(np.array(greys(3)) - [0, 80, 160]).max() <= 4
    eight = greys(8)
    assert eight == sorted(eight) and len(set(eight)) == 5


def test_a_film_without_pictures_is_lost() -> None:
    with pytest.raises(Loss) as raised:
        inputs.video(encode(tone(1), 22050, "wav", "pcm_s16le"), 4)
    assert raised.value.reason == "no_video"
    with pytest.raises(Loss) as raised:
        inputs.music(render("sample-0-00079"))
    assert raised.value.reason == "no_audio"
