import pytest

from manifests.outcomes import REASONS, Loss
from pipelines.filter import Thresholds, judge

GOOD = {"duration": 10.0, "silence": 0.1, "loudness": -18.0, "clipping": 0.0, "speech": 0.1, "music": None,
        "flatness": 0.1, "pitch_salience": 0.8, "tempo_confidence": 0.8}


def reason(thresholds: Thresholds | None = None, **changes) -> str | None:
    try:
        assert judge(GOOD | changes, thresholds or Thresholds()) == {}
    except Loss as loss:
        assert loss.reason in REASONS and loss.detail
        return loss.reason
    return None


@pytest.mark.parametrize(("field", "kept", "lost", "why"), [
    ("duration", 2.0, 1.999, "too_short"), ("silence", 0.5, 0.501, "silent"), ("loudness", -50.0, -50.1, "too_quiet"),
    ("clipping", None, None, "clipped"), ("speech", 0.5, 0.501, "speech"), ("music", 0.5, 0.499, "not_music")])
def test_each_threshold_has_its_reason_and_its_option(field, kept, lost, why):
    option = {"music": "min_music", "duration": "min_duration", "loudness": "min_loudness"}.get(field, f"max_{field}")
    default = getattr(Thresholds(), option)
    kept, lost = (default, default * 1.01 + 1e-6) if kept is None else (kept, lost)
    assert reason(**{field: kept}) is None
    assert reason(**{field: lost}) == why
    assert reason(Thresholds(**{option: lost}), **{field: lost}) is None


def test_no_loudness_is_silence():
    assert reason(loudness=None) == "silent"


def test_the_first_reason_is_the_one_a_person_would_give():
    assert reason(duration=0.5, silence=1.0, loudness=None) == "too_short"
    assert reason(silence=1.0, loudness=-70.0, clipping=0.5) == "silent"
    assert reason(clipping=0.5, speech=0.9) == "clipped"


NOISE = {"flatness": 0.9, "pitch_salience": 0.0, "tempo_confidence": 0.0}


def test_noise_is_no_music_unless_a_tagger_says_so():
    assert reason(**NOISE) == "not_music"
    assert reason(**NOISE, music=0.9) is None
    assert reason(music=0.1) == "not_music"


@pytest.mark.parametrize(("field", "value", "option"), [
    ("flatness", 0.4, "min_flatness"), ("pitch_salience", 0.3, "max_salience"), ("tempo_confidence", 0.5, "max_beat")])
def test_what_has_pitch_or_beat_or_tones_is_kept(field, value, option):
    assert reason(**NOISE | {field: value}) is None
    assert reason(Thresholds(**{option: value}), **NOISE | {field: value}) == "not_music"
