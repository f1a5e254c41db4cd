"""video: the film that a dataset holds, and the frames that stand for it."""
import hashlib
import io

import av
import numpy as np
import pytest

from captioners import looks
from captioners.seen import claims, facts
from manifests import media, picture, records
from manifests.outcomes import Loss
from pipelines import sample, sandbox
from pipelines.caption import key_seed, say
from pipelines.video import FRAMES, video
from tests.conftest import encode, tone
from tests.manifests.test_picture import film
from tests.pipelines import timecode


def clip(held, key="a", form="mkv") -> dict:
    return {"id": key, "video": held, "video_format": form}


def silent(ending, seconds=4) -> bytes:
    return media.part(timecode.make(ending, seconds))["video"]


def check(held: bytes, found: dict) -> None:
    """What is told of a film against the film."""
    with av.open(io.BytesIO(held)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(video=0))
        assert len(container.streams) == 1 and stream.codec_context.codec.canonical_name == "h264"
        assert frames[0].format.name in ("yuv420p", "yuvj420p") and frames[0].rotation == 0
    assert (found["width"], found["height"]) == (frames[0].width, frames[0].height)
    assert min(found["width"], found["height"]) <= 360
    assert found["frames"] == len(frames)
    assert 0 < found["duration"] - (frames[-1].time - frames[0].time) <= 0.1
    assert found["fps"] == pytest.approx(len(frames) / found["duration"], rel=1e-4)
    assert found["sha256"] == hashlib.sha256(held).hexdigest()
    indices = found["frame_index"]
    assert len(indices) == FRAMES == 32 and (indices[0], indices[-1]) == (0, len(frames) - 1)
    assert indices == sorted(indices) and max(np.diff(indices)) - min(np.diff(indices)) <= 1
    expected = np.stack([frames[index].to_ndarray(format="rgb24") for index in indices])
    assert (media.frames(held, FRAMES) == expected).all()


@pytest.fixture(scope="module")
def sampled() -> bytes:
    return media.part(sample.render("sample-0-00003"))["video"]


def test_what_fits_is_kept(sampled):
    found = video(clip(sampled))
    assert set(found) == set(records.VIDEO.names) - {"id", "outcome", "detail"}
    assert (found["video"], found["video_format"]) == (None, "mkv")
    assert (found["width"], found["height"], found["frames"], found["fps"]) == (320, 180, 120, pytest.approx(12))
    assert found["duration"] == pytest.approx(10, abs=0.01)
    check(sampled, found)


@pytest.mark.parametrize("ending", ["webm", "vp9.webm"])
def test_other_codecs_are_encoded(ending):
    source = silent(ending)
    found = video(clip(source, form="webm"))
    assert (found["video_format"], found["frames"], found["fps"]) == ("mkv", 100, pytest.approx(25, rel=0.01))
    check(found["video"], found)
    assert [number for _, number in timecode.read_picture(found["video"], 1)] == list(range(100))


@pytest.mark.parametrize("change", ["sound", "large"])
def test_what_does_not_fit_is_encoded(change):
    source = film([0, 100, 250, 400], (640, 480)) if change == "large" else film([0, 100, 250, 400], sound=True)
    found = video(clip(source))
    check(found["video"], found)
    assert (found["width"], found["height"]) == ((480, 360) if change == "large" else (96, 64))


@pytest.mark.parametrize("count", [1, 2, 5, 31, 33, 70])
def test_few_frames_are_repeated(count):
    for codec in ("libx264", "libvpx"):
        source = film([40 * number for number in range(count)], codec=codec)
        found = video(clip(source))
        held = found["video"] or source
        assert (found["video"] is None) == (codec == "libx264") and found["frames"] == count
        assert media.frames(held, FRAMES).shape[0] == FRAMES
        assert found["frame_index"] == np.linspace(0, count - 1, FRAMES).round().astype(int).tolist()


def test_bytes_never_vary():
    source = silent("webm")
    found = []
    for number in range(4):
        found.append(video(clip(source)))
        video(clip(silent("vp9.webm", 1 + number)))  # so that memory holds other things
    assert all(one == found[0] for one in found)
    assert sandbox.call(video, clip(source), sandbox.Limits(), looks.prepare) == found[0]


def test_what_is_damaged_is_encoded_as_far_as_it_goes(sampled):
    spoilt = bytearray(sampled)
    for place in range(len(spoilt) // 3, len(spoilt), 700):
        spoilt[place:place + 40] = bytes(40)
    found = video(clip(bytes(spoilt)))
    check(found["video"] or bytes(spoilt), found)
    assert 20 < found["frames"] <= 120
    cut_off = sampled[:len(sampled) // 2]
    found = video(clip(cut_off))
    check(found["video"] or cut_off, found)


@pytest.mark.parametrize(("held", "reason"), [
    (None, "no_video"), (b"", "no_video"), (encode(tone(1.0), 22050, "flac", "flac"), "no_video"),
    (b"no media at all", "decode_error")])
def test_losses(held, reason):
    with pytest.raises(Loss) as loss:
        video(clip(held))
    assert loss.value.reason == reason


def test_looks_are_those_of_the_film_that_is_held(sampled):
    def frames(held):
        with media._open(held) as container:
            stream = media._stream(container, "video")
            for time, _, frame in picture.times(container, stream):
                yield time, frame.reformat(160, 90, "rgb24", interpolation="AREA").to_ndarray()

    found, expected = video(clip(sampled)), looks.film(frames(sampled))
    assert found["cuts"] == expected["cuts"]
    for name in ("brightness", "contrast", "motion", "brightness_trend", "colour_change"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)


def test_captions_of_the_corpus_differ():
    said = []
    for key in sample.ids(0, 24):
        it = sample.spec(key)
        if not it.defect:
            shots = sample.pictures.frames(it.seconds, it.song.tempo, it.song.origin, sample._random(key, "pictures"))
            row = {"id": key, **video(clip(sample._encode("matroska", shots, None, 0), key))}
            said.append(say({"id": key, "film": row}, "video", 0))
            assert claims(said[-1]["caption"]).items() <= facts(row).items()
            assert said[-1]["caption_seed"] == key_seed(key, 0)
    assert len({one["caption"] for one in said}) == len(said) > 20


def test_stages_follow_what_they_read():
    from pipelines import video as module
    from pipelines.stage import Stage
    one, two = (Stage("fetch", tag, records.CLIP, video) for tag in ("v1", "v2"))
    made = module.stage(one, sandbox.Limits())
    assert made.tag == module.stage(one, sandbox.Limits(seconds=5)).tag != module.stage(two, sandbox.Limits()).tag
    assert (made.columns, made.schema) == (("id", "video", "video_format"), records.VIDEO)
