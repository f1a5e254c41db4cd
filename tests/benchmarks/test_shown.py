"""The tables of `make learn`."""
from benchmarks.learning import shown


def _count(right: int, named: int = 20, low: int = 2, high: int = 8) -> dict[str, int]:
    return {"named": named, "right": right, "low": low, "high": high}


def _run(own: int, other: int, noise: int) -> dict:
    heard = {"own": own, "other": other, "noise": noise}
    return {"captions after stage 1": {"audio": {
        control: {"pace": _count(right), "mode": _count(5)} for control, right in heard.items()}}}


def test_side_by_side_stands_what_any_seed_heard_and_bold_what_this_one_did() -> None:
    shut = {"seed 0, gates shut": _run(0, 0, 0)}
    assert list(shown._summary({"seed 0": _run(12, 6, 7), "seed 1": _run(9, 9, 2)}, shut)) == [
        "| | attribute | seed 0: its own | another's | seed 1: its own | another's | gates shut |",
        "|---|---|---|---|---|---|---|",
        "| music captions, after stage 1 | pace | **12 of 20 (2-8)** | 6 of 20 (2-8) | 9 of 20 (2-8) | 9 of 20 (2-8) "
        "| 0 of 20 (2-8) |"]


def test_what_noise_brings_too_is_not_heard() -> None:
    assert len(list(shown._summary({"seed 0": _run(12, 6, 9)}, {}))) == 2
    assert shown._heard(_run(12, 6, 8), ("captions after stage 1", "audio"), "pace")
