"""frame: one picture a clip, chosen evenly, never blank where there is another."""
import collections
import hashlib
import io

import av
import numpy as np
import pytest
from PIL import Image

from captioners import looks
from captioners.seen import claims, facts
from manifests import media, records
from manifests.outcomes import Loss
from pipelines import sample, sandbox
from pipelines.caption import key_seed, say
from pipelines.frame import frame
from tests.conftest import encode, tone
from tests.pipelines import timecode

BLACK, WHITE, FLAT = "black", "white", "flat"


def clip(video, key="a") -> dict:
    return {"id": key, "video": video, "video_format": "mkv"}


def film(kinds, size=(192, 96), turn=0) -> bytes:
    """A frame a second: a number is shown as timecode shows it, other kinds are blank."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as sink:
        video = sink.add_stream("libx264", rate=1, options={"preset": "ultrafast", "qp": "4"})
        video.width, video.height, video.pix_fmt, video.thread_count = *size, "yuv420p", 1
        if turn:
            video.set_display_rotation(turn)
        for index, kind in enumerate(kinds):
            if kind in (BLACK, WHITE, FLAT):
                noise = np.random.default_rng(index).integers(0, 3, (size[1], size[0], 3))
                image = (noise + {BLACK: 0, WHITE: 253, FLAT: 120}[kind]).astype(np.uint8)
                picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            else:
                picture = timecode._frame(kind, None)
            picture = picture.reformat(*size, "yuv420p")
            picture.pts = index
            sink.mux(video.encode(picture))
        sink.mux(video.encode(None))
    return target.getvalue()


@pytest.fixture(scope="module")
def tenfold() -> bytes:
    return film(range(1, 11))


@pytest.fixture(scope="module")
def sampled() -> bytes:
    return media.part(sample.render("sample-0-00003"))["video"]


def test_the_fields(sampled):
    found = frame(clip(sampled))
    assert set(found) == set(records.FRAME.names) - {"id", "outcome", "detail", "revision"}
    with Image.open(io.BytesIO(found["image"])) as image:
        assert (image.format, image.size, len(image.getexif())) == ("JPEG", (found["width"], found["height"]), 0)
        shown = np.asarray(image).astype(int)
    assert (found["width"], found["height"], found["image_format"]) == (320, 180, "jpg")
    assert found["sha256"] == hashlib.sha256(found["image"]).hexdigest()
    frames = media.frames(sampled, 120)
    nearest = np.abs(frames.astype(int) - shown).mean(axis=(1, 2, 3))
    assert nearest.min() < 3 and nearest[round(found["frame_time"] * 12)] == nearest.min()
    exact = looks.picture(frames[round(found["frame_time"] * 12)])
    assert found["brightness"] == pytest.approx(exact["brightness"], abs=0.01)
    np.testing.assert_allclose(found["colours"], exact["colours"], atol=0.03)


def test_same_id_same_bytes(sampled):
    assert frame(clip(sampled, "one")) == frame(clip(sampled, "one"))
    assert len({frame(clip(sampled, f"id {number}"))["frame_time"] for number in range(10)}) > 5


def test_every_frame_is_as_likely(tenfold):
    """400 ids: each of ten frames 40 times, with a standard deviation of 6."""
    times = collections.Counter(frame(clip(tenfold, f"id {number}"))["frame_time"] for number in range(400))
    assert set(times) == set(range(10))
    assert min(times.values()) > 18 and max(times.values()) < 64
    chi_square = sum((count - 40) ** 2 / 40 for count in times.values())
    assert chi_square < 27.9  # 0.1 % of 9 degrees of freedom


def test_never_blank_where_there_is_another():
    video = film([BLACK, WHITE, FLAT, 341, BLACK, FLAT, 21845, WHITE, BLACK, BLACK])
    assert {frame(clip(video, f"id {number}"))["frame_time"] for number in range(40)} == {3, 6}
    only = film([BLACK, BLACK, WHITE, FLAT])
    assert {frame(clip(only, f"id {number}"))["frame_time"] for number in range(60)} == {0, 1, 2, 3}


def test_one_frame_or_a_thousand():
    assert frame(clip(film([7])))["frame_time"] == 0
    many = frame(clip(film(range(1, 1001), (64, 32))))
    assert 0 <= many["frame_time"] <= 999


@pytest.mark.parametrize(("size", "turn", "expected"), [
    ((192, 96), 0, (192, 96)), ((192, 96), 90, (96, 192)), ((1280, 720), 0, (853, 480)), ((720, 1280), 0, (480, 853))])
def test_size(size, turn, expected):
    found = frame(clip(film([21845], size, turn)))
    assert (found["width"], found["height"]) == expected


def test_what_is_damaged_is_used_as_far_as_it_goes(sampled):
    half = frame(clip(sampled[:len(sampled) // 2]))
    assert half["frame_time"] < 7
    spoilt = bytearray(sampled)
    for place in range(len(spoilt) // 3, len(spoilt), 700):
        spoilt[place:place + 40] = bytes(40)
    assert Image.open(io.BytesIO(frame(clip(bytes(spoilt)))["image"])).size == (320, 180)


@pytest.mark.parametrize(("video", "reason"), [
    (None, "no_video"), (b"", "no_video"), (encode(tone(1.0), 22050, "flac", "flac"), "no_video"),
    (b"no media at all", "decode_error")])
def test_losses(video, reason):
    with pytest.raises(Loss) as loss:
        frame(clip(video))
    assert loss.value.reason == reason


def test_in_a_process_of_its_own(sampled):
    assert sandbox.call(frame, clip(sampled), sandbox.Limits(), looks.prepare) == frame(clip(sampled))


def test_caption(sampled):
    row = {"id": "a", **frame(clip(sampled))}
    found = say({"id": row["id"], "frame": row}, "image", 5)
    assert set(found) == set(records.CAPTION.names) - {"id", "outcome", "detail", "revision"}
    assert found["caption_seed"] == key_seed("a", 5)
    assert claims(found["caption"]).items() <= facts(row).items()


def test_stages_follow_what_they_read():
    from pipelines import frame as module
    from pipelines.stage import Stage
    one, two = (Stage("fetch", tag, records.CLIP, frame) for tag in ("v1", "v2"))
    made = module.stage(one, sandbox.Limits())
    assert made.tag == module.stage(one, sandbox.Limits(seconds=5)).tag != module.stage(two, sandbox.Limits()).tag
    assert (made.columns, made.schema) == (("id", "video"), records.FRAME)
