"""Films as they are to be seen: times kept, upright, square, small, the same bytes on every run."""
import io
from fractions import Fraction

import av
import numpy as np
import pytest

from manifests import media, picture
from manifests.media import MediaError
from tests.conftest import encode, tone
from tests.pipelines import timecode

RED, GREEN, BLUE, GREY = (220, 30, 30), (30, 200, 30), (30, 30, 220), (128, 128, 128)


def film(times, size=(96, 64), codec="libx264", container="matroska", turn=0, aspect=None, pixels="yuv420p",
         sound=False) -> bytes:
    """Frames at these milliseconds, each red, green, blue and grey in its corners, clockwise from the top left."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as sink:
        video = sink.add_stream(codec, rate=1000)
        video.width, video.height, video.pix_fmt, video.thread_count = *size, pixels, 1
        video.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            video.codec_context.sample_aspect_ratio = Fraction(aspect)
        if turn:
            video.set_display_rotation(turn)
        if sound:
            track = sink.add_stream("pcm_s16le", rate=8000, layout="mono")
        for time in times:
            image = np.empty((size[1], size[0], 3), np.uint8)
            middle, centre = size[1] // 2, size[0] // 2
            image[:middle, :centre], image[:middle, centre:] = RED, GREEN
            image[middle:, centre:], image[middle:, :centre] = BLUE, GREY
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            sink.mux(video.encode(frame))
        sink.mux(video.encode(None))
        if sound:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            frame.sample_rate = 8000
            sink.mux(track.encode(frame))
            sink.mux(track.encode(None))
    return target.getvalue()


def read(source):
    """The times (s) of a film's frames, its first frame, and its stream's facts."""
    with av.open(io.BytesIO(source)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(video=0))
        facts = (stream.codec_context.codec.canonical_name, stream.codec_context.pix_fmt, stream.sample_aspect_ratio,
                 len(container.streams), frames[0].rotation)
        return [frame.time for frame in frames], frames[0].to_ndarray(format="rgb24"), facts


def corners(image) -> list[str]:
    """What the corners look like, clockwise from the top left."""
    height, width = image.shape[:2]
    names = {"red": RED, "green": GREEN, "blue": BLUE, "grey": GREY}
    points = ((0.25, 0.25), (0.25, 0.75), (0.75, 0.75), (0.75, 0.25))
    values = [image[int(height * y), int(width * x)].astype(int) for y, x in points]
    return [min(names, key=lambda name: np.abs(value - names[name]).sum()) for value in values]


@pytest.mark.parametrize(("size", "aspect", "expected"), [
    ((96, 64), None, (96, 64)), ((640, 480), None, (480, 360)), ((480, 640), None, (360, 480)),
    ((96, 64), "2/1", (192, 64)), ((96, 64), "1/2", (48, 64)), ((852, 480), None, (640, 360)),
    ((96, 64), "1/100", (96, 64)), ((34, 2), None, (34, 2))])
def test_small_square_and_even(size, aspect, expected):
    times, image, facts = read(picture.encode(film([0, 100, 200], size, aspect=aspect)))
    assert image.shape[:2][::-1] == expected
    assert facts[:2] == ("h264", "yuv420p") and facts[2] in (None, 1) and facts[3:] == (1, 0)
    assert times == [0, 0.1, 0.2]


def test_odd_sizes_become_even():
    assert read(picture.encode(film([0, 50], (97, 65), "libx264", pixels="yuv444p")))[1].shape[:2] == (64, 96)


@pytest.mark.parametrize(("turn", "expected"), [
    (0, ["red", "green", "blue", "grey"]),
    (90, ["green", "blue", "grey", "red"]),       # counterclockwise: what was on the right is now on top
    (180, ["blue", "grey", "red", "green"]),
    (-90, ["grey", "red", "green", "blue"])])
def test_upright(turn, expected):
    source = film([0, 40], turn=turn, container="mp4")
    for copy in (source, media.part(film([0, 40], turn=turn, container="matroska", sound=True))["video"]):
        _, image, facts = read(picture.encode(copy))
        assert corners(image) == expected and facts[4] == 0
        assert image.shape[:2] == ((96, 64) if turn % 180 else (64, 96))
        with media._open(copy) as container:
            stream = media._stream(container, "video")
            first = next(media._frames(container, stream))
            assert corners(picture.rgb(first, stream, 480)) == expected
            assert picture.fits(container, stream, first) == (turn == 0)


def test_frames_of_uneven_length_keep_their_times():
    times = [0, 40, 500, 1700, 1740, 3000]
    assert read(picture.encode(film(times, codec="libvpx")))[0] == [time / 1000 for time in times]
    assert read(picture.encode(film([300, 700, 1900])))[0] == [0.3, 0.7, 1.9]


def test_each_frame_is_the_right_one():
    numbered = media.part(timecode.make("webm", 4))["video"]
    assert [time for time, _ in timecode.read_picture(picture.encode(numbered))] == pytest.approx(
        [time for time, _ in timecode.read_picture(numbered)], abs=0.0011)
    assert [number for _, number in timecode.read_picture(picture.encode(numbered), 1)] == list(range(100))


def test_bytes_never_vary():
    source = timecode.make("webm", 6)
    found = set()
    for number in range(4):
        found.add(picture.encode(source))
        picture.encode(film([0, 100 + number], (200 + 20 * number, 120)))  # so that memory holds other things
    assert len(found) == 1


@pytest.mark.parametrize(("change", "expected"), [
    ({}, True), ({"codec": "libvpx"}, False), ({"size": (640, 362)}, False), ({"size": (360, 640)}, True),
    ({"pixels": "yuv444p"}, False), ({"pixels": "yuv420p10le"}, False), ({"pixels": "yuvj420p"}, True),
    ({"aspect": "4/3"}, False), ({"turn": 180}, False), ({"sound": True}, False)])
def test_what_fits(change, expected):
    with media._open(film([0, 40], **change)) as container:
        stream = media._stream(container, "video")
        assert picture.fits(container, stream, next(media._frames(container, stream))) is expected


def test_times_and_lengths():
    with media._open(timecode.make("ts", 2, sound=False)) as container:  # whose clock does not begin at 0
        assert container.start_time > 0
        found = [(time, lasts) for time, lasts, _ in picture.times(container, media._stream(container, "video"))]
    assert found == [(pytest.approx(number / 25, abs=1e-4), pytest.approx(0.04)) for number in range(50)]


def test_what_cannot_be_encoded_is_told():
    with pytest.raises(MediaError, match="no video stream") as error:
        picture.encode(encode(tone(1.0), 22050, "flac", "flac"))
    assert error.value.missing == "video"
    with pytest.raises(MediaError, match="cannot be opened"):
        picture.encode(b"nothing of the kind")
