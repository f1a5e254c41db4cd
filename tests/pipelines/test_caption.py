from types import SimpleNamespace

import pytest

from captioners import looks
from manifests import records
from manifests.outcomes import Loss
from pipelines import caption
from pipelines.sandbox import Limits


def options(**given) -> SimpleNamespace:
    return SimpleNamespace(**{"seed": 0, "models": {}, "limits": Limits()} | given)


def test_a_caption_comes_with_its_provenance():
    row = dict.fromkeys(records.MEASUREMENT.names) | {"tempo": 120.0, "tempo_confidence": 0.9, "loudness": -14.0,
                                                      "percussiveness": 0.5, "dynamics": 8.0}
    found = caption.say({"id": "a", "measurement": row}, "music", seed=3)
    assert "120" in found["caption"]
    assert (found["captioner"], found["caption_seed"]) == ("measured", caption.key_seed("a", 3))
    assert caption.key_seed("a", 3) not in (caption.key_seed("a", 4), caption.key_seed("b", 3))


def test_nothing_measured_is_a_loss():
    with pytest.raises(Loss) as loss:
        caption.say({"id": "a", "measurement": dict.fromkeys(records.MEASUREMENT.names)}, "music", seed=0)
    assert loss.value.reason == "caption_failed"


@pytest.mark.parametrize(("kind", "columns"), [("music", records.MEASUREMENT.names), ("image", looks.PICTURE),
                                               ("video", looks.FILM)])
def test_the_seed_makes_another_version_and_limits_do_not(kind, columns):
    made = caption.stage("caption", kind, options())
    assert made.tag != caption.stage("caption", kind, options(seed=1)).tag
    assert made.tag == caption.stage("caption", kind, options(limits=Limits(1.0, 1))).tag
    assert made.schema == records.CAPTION and made.batch is None
    (read,) = made.parts.values()
    assert set(read) <= set(columns) and not {"audio", "image", "video"} & set(read)
