import pytest

from manifests import records
from manifests.outcomes import Loss
from pipelines import caption, measure
from pipelines.sandbox import Limits
from pipelines.stage import Stage

FETCH = Stage("fetch", "sample", records.CLIP, dict)


def test_a_caption_comes_with_its_provenance():
    row = dict.fromkeys(records.MEASUREMENT.names) | {"id": "a", "tempo": 120.0, "tempo_confidence": 0.9,
                                                      "loudness": -14.0, "percussiveness": 0.5, "dynamics": 8.0}
    found = caption.caption(row, seed=3)
    assert "120" in found["caption"]
    assert (found["captioner"], found["caption_seed"]) == ("measured", caption.key_seed("a", 3))
    assert caption.key_seed("a", 3) not in (caption.key_seed("a", 4), caption.key_seed("b", 3))


def test_nothing_measured_is_a_loss():
    with pytest.raises(Loss) as loss:
        caption.caption(dict.fromkeys(records.MEASUREMENT.names) | {"id": "a"}, seed=0)
    assert loss.value.reason == "caption_failed"


def test_the_seed_makes_another_version():
    measured = measure.stage(FETCH, None, Limits())
    assert caption.stage(measured, 0).tag != caption.stage(measured, 1).tag
    assert measure.stage(FETCH, ("tagger", "1"), Limits()).tag != measured.tag
    assert measure.stage(FETCH, None, Limits(1.0, 1)).tag == measured.tag
