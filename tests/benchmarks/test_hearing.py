"""How `make learn` counts what a model heard."""
import numpy as np
import torch

from benchmarks.learning import hearing
from captioners import vocabulary
from manifests.records import MEASUREMENT


def test_counts_are_those_by_hand() -> None:
    truths = [{"pace": "slow"}, {"pace": "fast"}, {"pace": "fast"}, {}]
    said = [{"pace": "slow"}, {"pace": "slow"}, {}, {"pace": "fast"}]
    found = hearing.count(said, truths)["pace"]
    assert (found.named, found.right) == (2, 1)


def test_who_says_the_same_of_everything_is_right_by_chance_alone() -> None:
    truths = [{"pace": "fast" if place % 3 else "slow"} for place in range(90)]
    found = hearing.count([{"pace": "fast"}] * 90, truths)["pace"]
    assert (found.right, found.low, found.high) == (60, 60, 60)


def test_who_knows_only_whether_there_is_something_to_say_is_right_by_chance_alone() -> None:
    truths = [{"pace": "fast"} if place % 2 else {} for place in range(60)]
    found = hearing.count(truths, truths)["pace"]
    assert (found.named, found.right, found.low, found.high) == (30, 30, 30, 30)


def test_who_speaks_of_it_only_where_it_is_so_has_heard_it() -> None:
    truths = [{"brightness": "dark" if place % 3 == 0 else "bright"} for place in range(60)]
    found = hearing.count([one if one["brightness"] == "dark" else {} for one in truths], truths)["brightness"]
    assert (found.named, found.right) == (20, 20) and 1 <= found.low < 20 / 3 < found.high < 13


def test_texts_of_one_clip_are_dealt_one_truth() -> None:
    """Ten clips with ten texts each: as uncertain as ten texts are, not as a hundred."""
    clips = [str(place // 10) for place in range(100)]
    truths = [{"pace": "fast" if int(clip) % 2 else "slow"} for clip in clips]
    alone, together = hearing.count(truths, truths)["pace"], hearing.count(truths, truths, clips)["pace"]
    assert alone.right == together.right == 100 and together.high - together.low >= 40 > alone.high - alone.low
    assert together.low % 20 == together.high % 20 == 0


def test_what_lies_at_its_target_is_found_and_what_lies_anywhere_is_not() -> None:
    targets = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    found = hearing.nearest(5 * targets + 3, targets)
    assert (found["first"], found["asked"], found["candidates"], found["reciprocal rank"]) == (200, 200, 32, 1)
    lost = hearing.nearest(torch.randn(200, 12, generator=torch.Generator().manual_seed(1)), targets)
    assert lost["low"] <= lost["first"] <= lost["high"] < 20
    assert hearing.nearest(torch.zeros(200, 12), targets)["first"] == 0  # who says nothing finds nothing


def test_chance_is_where_shuffled_truths_fall() -> None:
    """Of 4 values at random 25 %, within the spread of the hypergeometric count."""
    draw = np.random.default_rng(0)
    values = draw.integers(4, size=(2, 400))
    said, truths = ([{"pace": str(value)} for value in row] for row in values)
    found = hearing.count(said, truths)["pace"]
    assert found.low <= found.right <= found.high
    spread = 1.96 * np.sqrt(400 * 0.25 * 0.75)
    assert abs(found.low - (100 - spread)) < 4 and abs(found.high - (100 + spread)) < 4
    assert hearing.count(truths, truths)["pace"].right == 400


def test_an_italian_term_is_the_pace_that_it_lies_in() -> None:
    row = {field.name: None for field in MEASUREMENT} | {
        "tempo": 126.0, "tempo_confidence": 0.9, "key": "A", "mode": "minor", "key_confidence": 0.9, "centroid": 900.0}
    facts = hearing.music(vocabulary.facts(row))
    assert facts == {"pace": "fast", "mode": "minor", "brightness": "dark"}
    assert hearing.music(vocabulary.claims("An Allegro piece in A minor with a dark tone.")) == facts
    assert hearing.music(vocabulary.claims("It is probably in A minor.")) == {}


def test_controls_are_of_other_clips_and_of_none() -> None:
    medium = torch.randn(50, 3, 4) + torch.arange(4.0)
    found = hearing.controls(medium)
    assert torch.equal(found["own"], medium)
    assert torch.equal(found["other"][1:], medium[:-1]) and torch.equal(found["other"][0], medium[-1])
    assert not torch.isclose(found["noise"], medium).any(dim=1).all(dim=1).any()
    torch.testing.assert_close(found["noise"].mean(0), medium.mean(0), rtol=0, atol=0.6)
