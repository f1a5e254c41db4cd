"""Media → plain data for the encoders: which minutes of music, which way up a picture is, which frames of a film."""
import io
import wave

import numpy as np
import pytest
from PIL import Image

from manifests import media
from manifests.outcomes import Loss
from tests.conftest import encode, tone
from training import inputs


def _waves(made: dict) -> list[np.ndarray]:
    return [np.frombuffer(window, "<f4") for window in made["windows"]]


@pytest.mark.parametrize(("seconds", "kept"), [(0.5, 0.5), (60, 60), (130, 60)])
def test_the_first_minute_is_heard(seconds: float, kept: float) -> None:
    """A minute of 300 Hz, then 900 Hz."""
    samples = np.concatenate([tone(60, 8000, 300), tone(70, 8000, 900)], 1)[:, :round(8000 * seconds)]
    (heard,) = _waves(inputs.audio(encode(samples, 8000, "flac", "flac")))
    assert abs(len(heard) - kept * inputs.RATE) <= 2 and len(heard) <= 60 * inputs.RATE
    spectrum = np.abs(np.fft.rfft(heard))
    assert round(float(np.fft.rfftfreq(len(heard), 1 / inputs.RATE)[spectrum.argmax()])) == 300


def test_a_stereo_file_is_the_mean_of_its_channels() -> None:
    left = tone(2, 44100, 440)
    (heard,) = _waves(inputs.audio(encode(np.concatenate([left, 0 * left]), 44100, "wav", "pcm_s16le")))
    assert len(heard) == 48000 and abs(np.abs(heard[4800:-4800]).max() - 0.25) < 0.01


def _track(parts: int, each: int, length: float) -> bytes:
    """At 1000 Hz; the first of its parts of `each` samples is silent, the others are louder by their number."""
    target = io.BytesIO()
    with wave.open(target, "wb") as sink:
        sink.setparams((1, 2, 1000, 0, "NONE", ""))
        sink.writeframes(np.repeat(np.arange(parts, dtype="<i2") * 100, each)[:round(each * length)].tobytes())
    return target.getvalue()


def _levels(made: dict) -> list[int]:
    return [round(float(np.median(one)) * 2**15 / 100) for one in _waves(made)]


@pytest.mark.parametrize(("length", "windows"), [(59.99, 1), (60, 2), (119.9, 2), (120.5, 3)])
def test_a_window_more_for_each_full_hour(length: float, windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With seconds for minutes."""
    monkeypatch.setattr(inputs, "WINDOW", 1)
    monkeypatch.setattr(inputs, "_HOUR", 60)
    made = inputs.audio(_track(121, 1000, length))
    assert _levels(made) == list(range(windows)) and {len(one) for one in _waves(made)} == {inputs.RATE}


def test_a_track_of_an_hour() -> None:
    made = inputs.audio(_track(61, 60_000, 60.1))
    assert _levels(made) == [0, 1] and {len(one) for one in _waves(made)} == {60 * inputs.RATE}


@pytest.mark.parametrize(("source", "reason"), [
    (b"no media at all", "decode_error"), (b"", "decode_error"),
    (encode(tone(0.016, 22050), 22050, "wav", "pcm_s16le"), "too_short")])
def test_what_is_no_music_is_lost(source: bytes, reason: str) -> None:
    with pytest.raises(Loss) as raised:
        inputs.audio(source)
    assert raised.value.reason == reason


def test_400_samples_are_enough() -> None:
    (heard,) = _waves(inputs.audio(encode(tone(400 / 24000, 24000), 24000, "wav", "pcm_s16le")))
    assert len(heard) == 400


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
    told = set()
    for copy in (source, bytes(bytearray(source)), bytes([*source])):
        with pytest.raises(Loss) as raised:
            inputs.image(copy)
        told.add((raised.value.reason, raised.value.detail))
    assert len(told) == 1 and told.pop()[0] == "decode_error"  # the same words each time: they are stored


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


@pytest.mark.parametrize("count", [1, 6, 40])
def test_frames_are_those_of_frame_index(count: int) -> None:
    """The film's pictures grow brighter by 40 of 256 each."""
    source = encode(tone(0.5, 44100), 44100, "mp4", "aac", pictures=count)
    made = inputs.video(source)
    assert (made["count"], made["width"], made["height"]) == (32, 64, 48)
    index = media.spread(count, 32).tolist()  # as the video stage writes it
    found = np.frombuffer(made["pixels"], np.uint8).reshape(32, 48, 64, 3).mean((1, 2, 3))
    assert np.abs(found - [place * 40 % 256 for place in index]).max() <= 8


def test_a_film_without_pictures_is_lost() -> None:
    for source, reason in ((encode(tone(1), 22050, "wav", "pcm_s16le"), "no_video"), (b"none", "decode_error")):
        with pytest.raises(Loss) as raised:
            inputs.video(source)
        assert raised.value.reason == reason
