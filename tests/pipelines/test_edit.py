"""A stored clip in, an edited clip out: what is in the row is what its bytes hold, in any process."""
import hashlib
import io
import subprocess
import sys
from functools import partial

import av
import numpy as np
import pyarrow as pa
import pytest

from manifests import media, records
from manifests.cut import RATE
from manifests.outcomes import Loss
from pairing import edits
from pairing.tonality import KEYS
from pipelines import edit, measure, sample, sandbox
from pipelines.stage import Stage
from tests.conftest import encode, tone

CLIP = "sample-0-00003"


NOTHING = dict.fromkeys(edit._CARRIED) | {"beats": []}


def row(clip: dict, kind: str, amount: float, measurement: dict = NOTHING) -> dict:
    return {"id": "x", "edit": kind, "amount": amount, "clip": clip, "measurement": measurement}


@pytest.fixture(scope="module")
def clip() -> dict:
    return {name: value for name, value in media.part(sample.render(CLIP)).items() if name.startswith("audio")}


@pytest.fixture(scope="module")
def before(clip) -> dict:
    return measure.measure(clip)


@pytest.fixture(scope="module")
def slower(clip, before) -> dict:
    return edit.edit(row(clip, "tempo", 0.7, before))


def test_every_field_of_the_schema(slower):
    assert set(slower) == set(records.EDIT.names) - {"id", "outcome", "detail", "revision"}
    assert {*records.MEASUREMENT.names} < {*records.EDIT.names}
    stored = pa.Table.from_pylist([slower], schema=records.EDIT).to_pylist()[0]
    assert stored["sha256"] == hashlib.sha256(stored["audio"]).hexdigest()
    assert stored["confidence"] == slower["confidence"] > 0.6


def test_what_was_measured_is_what_is_stored(slower):
    names, heard = set(records.MEASUREMENT.names[3:]) - set(edit._CARRIED), measure.measure(slower)
    assert {name: slower[name] for name in names} == {name: heard[name] for name in names}
    assert {"duration", "loudness", "rms", "flatness", "chroma"} <= names


def test_what_an_edit_leaves_is_as_it_was(clip, before, slower):
    higher = edit.edit(row(clip, "pitch", 2, before))
    left = ("dynamics", "percussiveness", "pitch_salience", "tempo_confidence")
    for after in (slower, higher):
        assert {name: after[name] for name in left} == {name: before[name] for name in left}
        heard = measure.measure(after)  # and about so it sounds
        assert heard["dynamics"] == pytest.approx(before["dynamics"], abs=3)
        assert heard["percussiveness"] == pytest.approx(before["percussiveness"], abs=0.15)
    assert slower["onset_rate"] == pytest.approx(0.7 * before["onset_rate"], abs=0.01)
    assert (higher["onset_rate"], slower["pitch_median"]) == (before["onset_rate"], before["pitch_median"])
    assert higher["pitch_median"] == before["pitch_median"] + 2


@pytest.mark.parametrize("kind", ["tempo", "pitch"])
def test_what_has_no_tempo_and_no_key_gets_none(clip, kind):
    after = edit.edit(row(clip, kind, {"tempo": 1.3, "pitch": 2}[kind]))
    names = set(edit._CARRIED) - {"centroid"}
    assert {name: after[name] for name in names} == {name: NOTHING[name] for name in names}


@pytest.mark.parametrize(("kind", "amount"), [("tempo", 0.7), ("tempo", 1.5), ("pitch", -2), ("pitch", 5)])
def test_the_change_is_the_one_that_was_asked_for(clip, before, slower, kind, amount):
    after = slower if (kind, amount) == ("tempo", 0.7) else edit.edit(row(clip, kind, amount, before))
    ratio, shift = (amount, 0) if kind == "tempo" else (1, amount)
    source = media.decode_audio(clip["audio"])
    wave = media.decode_audio(after["audio"])
    assert (wave.rate, len(wave.samples)) == (RATE, 2)
    assert wave.samples.shape[1] == round(round(source.samples.shape[1] * RATE / source.rate) / ratio)
    truth = sample.spec(CLIP)
    assert after["tempo"] == pytest.approx(ratio * truth.tempo, rel=0.01)
    # Measured anew it is the same but for its octave, and so are beats, as far as they are counted alike.
    heard = measure.measure(after)
    octaves = np.log2(after["tempo"] / heard["tempo"])
    assert octaves == pytest.approx(round(octaves), abs=0.01)
    if round(octaves) == 0:
        assert np.abs(np.subtract.outer(after["beats"], heard["beats"])).min(axis=0).max() < 0.06
    assert (after["key"], after["mode"]) == (KEYS[(KEYS.index(before["key"]) + shift) % 12], before["mode"])
    assert {name: after[name] for name in ("tempo_confidence", "key_confidence")}.items() <= before.items()
    fits = [np.corrcoef(np.roll(before["chroma"], roll), after["chroma"])[0, 1] for roll in range(12)]
    assert np.argmax(fits) == shift % 12
    assert after["loudness"] - before["loudness"] == pytest.approx(after["gain"], abs=1.5)


def test_bytes_never_vary(clip, before, slower):
    """Here, and in the sandbox's process, which has just met another edit."""
    each = partial(sandbox.call, edit.edit, limits=sandbox.Limits(), prepare=edit._prepare)
    assert each(row(clip, "pitch", 1))["sha256"] != slower["sha256"]
    assert each(row(clip, "tempo", 0.7, before)) == slower
    assert edit.edit(row(clip, "tempo", 0.7, before)) == slower


def test_what_would_exceed_full_scale_is_made_quieter(clip):
    wave = media.decode_audio(clip["audio"])
    loud = wave.samples / np.abs(wave.samples).max()
    audio = encode(loud, wave.rate, "flac", "flac")
    after = edit.edit(row({"audio": audio, "audio_format": "flac"}, "pitch", 2))
    peak = np.abs(edits.apply(edit._source(audio), RATE, "pitch", 2)).max()
    assert peak > 1.05
    assert after["gain"] == pytest.approx(-20 * np.log10(peak), abs=0.0001)
    assert np.abs(media.decode_audio(after["audio"]).samples).max() == pytest.approx(1, abs=0.1)  # Opus is no copy


@pytest.mark.parametrize(("channels", "expected"), [(1, 1), (2, 2), (6, 2)])
def test_at_most_two_channels(channels, expected):
    samples = np.concatenate([tone(2.0, 44100, 300 + 100 * index, 0.1) for index in range(channels)])
    target = io.BytesIO()
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    with av.open(target, "w", format="wav") as sink:
        stream = sink.add_stream("pcm_f32le", rate=44100, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T.reshape(1, -1)), format="flt", layout=layout)
        frame.sample_rate = 44100
        sink.mux(stream.encode(frame))
    found = edit._source(target.getvalue())
    assert found.shape == (expected, 2 * RATE)
    heard = np.abs(np.fft.rfft(found[-1])) > 500
    assert {int(place) // 2 for place in np.flatnonzero(heard)} == {
        1: {300}, 2: {400}, 6: {400, 500, 600, 700, 800}}[channels]


def test_what_cannot_be_edited_is_told(clip):
    for audio, reason in ((encode(tone(61.0, 8000), 8000, "wav", "pcm_s16le"), "too_long"),
                          (b"no media at all", "decode_error"),
                          (encode(np.zeros((1, 80000), np.float32), 8000, "wav", "pcm_s16le"), "unconfirmed")):
        with pytest.raises(Loss) as loss:
            edit.edit(row({"audio": audio, "audio_format": "wav"}, "tempo", 1.3))
        assert loss.value.reason == reason


def test_the_stage():
    made = edit.stage(sandbox.Limits(seconds=60))
    assert isinstance(made, Stage)
    assert (made.name, made.reads, made.schema) == ("edit", None, records.EDIT)
    assert set(made.parts) == {"clip", "measurement"}
    assert made.tag == edit.stage(sandbox.Limits(seconds=30)).tag


def test_the_sandboxed_process_does_without_beam():
    code = "import sys, pipelines.edit; print(sorted({'apache_beam', 'torch', 'librosa'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
