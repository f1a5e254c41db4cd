"""Draws follow the distribution, and a row's are its own."""
import math

import pytest
import torch

from training.sampling import _mixed, choose


def test_noise_draws_from_the_distribution() -> None:
    """4000 seeds draw tokens as often as softmax says, and never one outside the nucleus."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).expand(4000, -1)
    seeds = list(range(4000))
    for temperature in (1.0, 0.5):
        expected = (logits[0] / temperature).softmax(-1)
        drawn = choose(logits, seeds, 3, temperature, 1.0).bincount(minlength=4) / 4000
        assert (drawn - expected).abs().max() < 4 * math.sqrt(0.25 / 4000)
    # 0.64, 0.24, 0.09, 0.03: the first passes 0.6 alone; 0.7 needs the second; 0.9 the third.
    for top_p, kept in ((0.6, 1), (0.7, 2), (0.9, 3)):
        drawn = choose(logits, seeds, 3, 1.0, top_p).bincount(minlength=4)
        assert (drawn > 0).tolist() == [place < kept for place in range(4)]
    steps = [choose(logits[:50], seeds[:50], step, 1.0, 1.0).tolist() for step in range(3)]
    assert steps[0] != steps[1] != steps[2] != steps[0]


def test_the_likeliest_few_are_drawn_from_their_distribution() -> None:
    logits = torch.tensor([0.0, 2.0, -1.0, 1.0, 0.5]).expand(4000, -1)
    seeds = list(range(4000))
    kept = torch.tensor([1, 3, 4])
    for temperature in (1.0, 0.5):
        expected = torch.zeros(5).index_put((kept,), (logits[0, kept] / temperature).softmax(-1))
        drawn = choose(logits, seeds, 3, temperature, 1.0, 3).bincount(minlength=5) / 4000
        assert (drawn - expected).abs().max() < 4 * math.sqrt(0.25 / 4000)
    # Of three, 0.63, 0.23 and 0.14: the second makes it exceed 0.7.
    assert choose(logits, seeds, 3, 1.0, 0.7, 3).unique().tolist() == [1, 3]
    assert choose(logits[:, :2], seeds, 3, 1.0, 1.0, 50).unique().tolist() == [0, 1]
    steps = [choose(logits[:50], seeds[:50], step, 1.0, 1.0, 3).tolist() for step in range(3)]
    assert steps[0] != steps[1] != steps[2] != steps[0]


@pytest.mark.parametrize("top_k", [0, 4])
def test_a_draw_does_not_depend_on_the_batch_and_temperatures_are_the_rows_own(top_k: int) -> None:
    logits = torch.randn(40, 300, generator=torch.Generator().manual_seed(1)) * 2
    seeds, temperatures = [2 ** 63 - 1 - row for row in range(40)], torch.tensor([0.4, 0.9, 0.0, 2.0] * 10)
    together = choose(logits, seeds, 5, temperatures, 0.9, top_k)
    alone = [choose(logits[row:row + 1], seeds[row:row + 1], 5, temperatures[row].item(), 0.9, top_k).item()
             for row in range(40)]
    assert together.tolist() == alone
    assert together[2::4].tolist() == logits[2::4].argmax(-1).tolist()
    assert together[3::4].tolist() != logits[3::4].argmax(-1).tolist()


def test_tokens_that_rounding_swaps_keep_their_noise() -> None:
    logits = torch.randn(500, 20, generator=torch.Generator().manual_seed(2))
    best = logits.topk(2).indices
    logits.scatter_(1, best, logits.amax(-1, keepdim=True).expand(-1, 2))
    swapped = [logits.scatter_add(1, best[:, place:place + 1], torch.full((500, 1), 1e-6)) for place in (0, 1)]
    assert torch.equal(*(choose(one, range(500), 0, 1.0, 1.0, 4) for one in swapped))


def test_the_hash_is_splitmix64() -> None:
    """Against its published unsigned form, in Python's whole numbers."""
    def expected(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) % 2 ** 64
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2 ** 64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2 ** 64
        return value ^ (value >> 31)

    values = [0, 1, 1234567, 2 ** 62 + 5, 2 ** 63 - 1]
    assert [one % 2 ** 64 for one in _mixed(torch.tensor(values)).tolist()] == [expected(value) for value in values]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(FloatingPointError, match="not numbers at step 7"):
        choose(torch.tensor([[0.0, bad]]), [1], 7, 0.5, 1.0, 4)
