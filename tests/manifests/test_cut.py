import io
from fractions import Fraction

import av
import numpy as np
import pytest

from manifests import media
from manifests.cut import RATE, cut
from manifests.media import MediaError
from tests.conftest import encode, tone
from tests.pipelines import timecode
from tests.pipelines.timecode import read_clip, read_picture


@pytest.fixture(scope="module")
def film() -> bytes:
    return timecode.make("mp4", 20)


def pictures(times: list[int], size: tuple[int, int] = (192, 96), aspect: str | None = None) -> bytes:
    """A film with sound of 4 s, whose numbered frames come at these milliseconds."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as sink:
        sound = sink.add_stream("pcm_s16le", rate=8000, layout="mono")
        video = sink.add_stream("libx264", rate=1000, options={"preset": "ultrafast", "qp": "4"})
        video.width, video.height, video.pix_fmt = *size, "yuv444p"  # which may be odd
        if aspect:
            video.codec_context.sample_aspect_ratio = Fraction(aspect)
        for number, time in enumerate(times):
            frame = timecode._frame(number, None).reformat(*size, "yuv444p")
            frame.pts = time
            sink.mux(video.encode(frame))
        sink.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 32000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        sink.mux(sound.encode(frame))
        sink.mux(sound.encode(None))
    return target.getvalue()


@pytest.mark.parametrize(("start", "end"), [(0, 10), (0, 0.001), (3.3, 3.4), (1 / 3, 10 + 1 / 7), (7.77, 19.999)])
def test_the_sound_has_exactly_its_samples(film, start, end):
    parts, seconds = cut(film, start, end)
    wave = media.decode_audio(parts["audio"])
    assert (wave.rate, wave.samples.shape) == (RATE, (1, round((end - start) * RATE)))
    assert seconds == wave.duration
    assert (parts["audio_format"], parts["video"], parts["video_format"]) == ("opus", None, None)
    if end - start > 1:
        assert read_clip(parts["audio"])[:2] == (pytest.approx(start, abs=0.0002), pytest.approx(end, abs=0.0002))


@pytest.mark.parametrize("ending", ["webm", "mp3", "m4a", "opus"])
def test_the_place_is_right_whatever_the_encoder_put_before(ending):
    parts, _ = cut(timecode.make(ending, 12), 2.345, 9.876)
    assert read_clip(parts["audio"])[:2] == (pytest.approx(2.345, abs=0.0002), pytest.approx(9.876, abs=0.0002))


def test_where_the_source_ends_the_sound_ends(film):
    parts, seconds = cut(film, 15, 25, picture=True)
    assert seconds == pytest.approx(5, abs=0.022)  # AAC is padded to whole frames
    assert read_clip(parts["audio"])[:2] == (pytest.approx(15, abs=0.0002), pytest.approx(20, abs=0.022))
    assert len(read_picture(parts["video"])) == 125
    assert cut(film, 30, 40, picture=True) == (
        {"audio": b"", "audio_format": "opus", "video": None, "video_format": None}, 0)


@pytest.mark.parametrize(("start", "end"), [(0.0, 5.0), (3.3, 8.3), (4.04, 4.05)])
def test_the_picture_begins_with_what_is_on_display(film, start, end):
    parts, _ = cut(film, start, end, picture=True)
    frames = read_picture(parts["video"])
    before = np.floor(start * 25 + 1e-6) / 25
    assert frames[0] == (0.0, pytest.approx(before))
    np.testing.assert_allclose([source - shown for shown, source in frames[1:]], start, atol=0.0011)
    assert frames[-1][1] == pytest.approx(np.ceil(end * 25 - 1e-6) / 25 - 0.04)
    with av.open(io.BytesIO(parts["video"])) as container:
        assert container.duration / av.time_base == pytest.approx(end - start, abs=0.0011)
        assert container.streams.video[0].codec_context.name == "h264"
        assert not container.streams.audio


def test_frames_of_uneven_length_keep_their_times():
    film = pictures([0, 40, 500, 1700, 1740, 3000])
    assert read_picture(cut(film, 0.3, 2.5, picture=True)[0]["video"], 1) == [
        (0.0, 1), (0.2, 2), (1.4, 3), (1.44, 4)]
    late = pictures([1000, 1500])  # nothing is on display before: the first is shown from the beginning
    assert read_picture(cut(late, 0.0, 2.0, picture=True)[0]["video"], 1) == [(0.0, 0), (1.5, 1)]
    assert cut(late, 0.0, 0.9, picture=True)[0]["video"] is None


@pytest.mark.parametrize(("size", "aspect", "expected"), [
    ((192, 96), None, (192, 96)), ((191, 97), None, (192, 96)), ((1280, 720), None, (854, 480)),
    ((360, 480), "16/9", (640, 480)), ((480, 960), None, (240, 480))])
def test_pixels_are_square_and_no_more_than_needed(size, aspect, expected):
    video = cut(pictures([0, 500, 1000], size, aspect), 0.0, 1.5, picture=True)[0]["video"]
    with av.open(io.BytesIO(video)) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height) == expected
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)
    assert [source for _, source in read_picture(video, 1)] == [0, 1, 2]


def test_bytes_never_vary(film):
    """x264's did, by what happened to lie in memory: so other things are put there in between."""
    found = set()
    for number in range(6):
        parts, _ = cut(film, 0, 8, picture=True)
        found.add((parts["audio"], parts["video"]))
        cut(film, number, number + 3, picture=True)
    assert len(found) == 1


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (2, 2), (6, 2)])
def test_at_most_two_channels(channels, expected):
    samples = np.concatenate([tone(2.0, 44100, 300 + 100 * index, 0.1) for index in range(channels)])
    target = io.BytesIO()
    with av.open(target, "w", format="wav") as sink:
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
        stream = sink.add_stream("pcm_f32le", rate=44100, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T.reshape(1, -1)), format="flt", layout=layout)
        frame.sample_rate = 44100
        sink.mux(stream.encode(frame))
    wave = media.decode_audio(cut(target.getvalue(), 0.5, 1.5)[0]["audio"])
    assert wave.samples.shape == (expected, RATE)
    left = np.abs(np.fft.rfft(wave.samples[0]))
    assert left[300] > 20 * left[350]


def test_what_is_heard_is_what_was_there():
    samples = tone(3.0, 44100, 440, 0.5)
    wave = media.decode_audio(cut(encode(samples, 44100, "wav", "pcm_f32le"), 1.0, 2.0)[0]["audio"])
    expected = tone(2.0, RATE, 440, 0.5)[:, RATE:]
    error = wave.samples - expected
    assert np.sqrt(np.mean(error ** 2) / np.mean(expected ** 2)) < 0.03
    noisy = samples.copy()
    noisy[0, 60000:60100] = np.nan
    assert np.isfinite(media.decode_audio(cut(encode(noisy, 44100, "wav", "pcm_f32le"), 1.0, 2.0)[0]["audio"]).samples
                       ).all()


def test_what_cannot_be_cut_is_told(film):
    with pytest.raises(MediaError, match="no audio") as error:
        cut(timecode.make("mp4", 2, sound=False), 0, 1, picture=True)
    assert error.value.missing == "audio"
    with pytest.raises(MediaError, match="cannot be opened"):
        cut(b"not media at all", 0, 1)
    assert cut(encode(tone(2.0), 22050, "flac", "flac"), 0, 1, picture=True)[0]["video"] is None
