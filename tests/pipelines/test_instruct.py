"""Which differences of two clips are anybody's wish to change."""
import pytest

from pipelines.instruct import ask, item, same

CLIP = {"key": "A", "mode": "minor", "tempo": 100.0, "centroid": 1500.0, "loudness": -20.0, "dynamics": 10.0,
        "percussiveness": 0.3, "onset_rate": 4.0, "pitch_median": 60.0}
ALL = {"key", "tempo", "brightness", "loudness", "dynamics", "percussiveness", "density", "register"}


@pytest.mark.parametrize(("change", "facet", "alike"), [
    ({"tempo": 101.9}, "tempo", True), ({"tempo": 102.1}, "tempo", False), ({"centroid": 1400.0}, "brightness", True),
    ({"centroid": 1300.0}, "brightness", False), ({"loudness": -22.0}, "loudness", True),
    ({"loudness": -22.1}, "loudness", False), ({"onset_rate": 4.7}, "density", False),
    ({"mode": "major"}, "key", False), ({"key": None}, "key", False), ({"pitch_median": None}, "register", False),
    ({"dynamics": 14.0}, "dynamics", False)])
def test_what_a_listener_would_not_tell_apart_is_the_same(change, facet, alike):
    found = set(same(CLIP, CLIP | change))
    assert found == (ALL if alike else ALL - {facet})


def test_the_instruction_follows_the_measurements_where_captions_are_silent():
    """The source's caption does not speak of its register; measured, it is as high as the target's."""
    row = {"id": "a~b", "given": {"edit": "pair", "amount": None},
           "source": {"caption": "A slow, dark-toned piece at 60 BPM in A minor."},
           "target": {"caption": "A loud track at 60 BPM in D major, with a high register."},
           "measurement": CLIP | {"pitch_median": 80.0}, "target_measurement": CLIP | {"loudness": -12.0, "key": "D",
                                                                                       "mode": "major"}}
    parts = {"captions": ("source", "target"), "measured": ("measurement", "target_measurement")}
    asked = {pitch: [found["conversation"][0]["value"] for found in ask([
        item({**row, "target_measurement": row["target_measurement"] | {"pitch_median": pitch}}, "muedit", seed=seed,
             **parts) for seed in range(40)], None)] for pitch in (80.0, 60.0)}
    spoken = {pitch: sum("regist" in text or "pitch" in text for text in texts if " that is " not in text)
              for pitch, texts in asked.items()}
    assert spoken[80.0] == 0 < spoken[60.0]
