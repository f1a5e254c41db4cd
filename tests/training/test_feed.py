"""Every sample as often as it should come, whole, whoever computes it; and a thread that leaves nothing behind."""
import threading
import time
import zlib
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from manifests.outcomes import Loss
from tests.training import tiny
from training import examples, feed, packing
from training.examples import Example, Samples
from training.feed import Feed, Micro
from training.loss import IGNORED, losses
from training.samples import Medium, Sample

DATASETS = ("muimage", "musicqa", "alpaca")
HEARS = {"muimage": ("image", "audio"), "musicqa": ("audio",), "alpaca": ()}
AUD = list(tiny.M2UGEN.audio_ids)
SHAPE = (tiny.M2UGEN.projector.queries, tiny.M2UGEN.projector.out)
BUDGET = 64
KINDS = pytest.mark.parametrize("budget", [None, BUDGET], ids=["padded", "packed"])


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> None:
    threads = threading.active_count()
    yield
    assert threading.active_count() == threads


class Told:
    """Numbers that follow from what is asked for; `bad` names media that cannot be used."""

    def __init__(self, bad: frozenset[str] = frozenset()) -> None:
        self.bad, self.asked = bad, Counter()

    def encoded(self, modality: str, example: Example) -> Tensor:
        self.asked[example.id] += 1
        if example.id in self.bad:
            raise Loss("decode_error", "of no use")
        return tiny.encoded(tiny.M2UGEN, modality, zlib.crc32(example.hears[modality].id.encode())).bfloat16()

    def target(self, example: Example) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(example.music.encode()))
        return torch.randn(SHAPE, generator=generator).bfloat16()


def _sample(number: int) -> Sample:
    dataset = DATASETS[number % 3]
    length = 4 + number * 7 % 23
    answer = [*tiny.tokens(3, number), *(AUD if dataset == "muimage" else []), 2]
    tokens = [*tiny.tokens(length, 1000 + number), *answer]
    return Sample(f"{number}", dataset, tuple(tokens), (*[IGNORED] * length, *answer),
                  {modality: Medium(dataset, f"{number} {modality}") for modality in HEARS[dataset]},
                  f"music {number}" if dataset == "muimage" else None, 0)


def _samples(folder: Path, count: int) -> Samples:
    path = folder / f"{count}.arrow"
    examples.write(path, (examples.row(_sample(number), number % 3, {}) for number in range(count)))
    return Samples(path, DATASETS)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Samples:
    return _samples(tmp_path_factory.mktemp("data"), 101)


def pieces(micro: Micro) -> list[tuple]:
    """Each sample of a micro-batch, taken out of it again."""
    found, place = [], 0
    batch = micro.batch
    for row in range(len(batch.tokens)):
        for segment in range(1, int(batch.segments[row].max()) + 1):
            own = batch.segments[row] == segment
            heard = tuple(sorted((modality, tuple(given[place].flatten().tolist()))
                                 for modality, given in micro.encoded.items() if given[place] is not None))
            target = micro.targets[place]
            found.append((micro.names[place], tuple(batch.tokens[row][own].tolist()),
                          tuple(batch.labels[row][own].tolist()), heard,
                          None if target is None else tuple(target.flatten().tolist())))
            place += 1
    assert place == len(micro.names) == len(micro.targets) == len(batch.samples) == packing.count(batch.segments)
    assert all(len(given) == place for given in micro.encoded.values())
    return found


def _wanted(number: int) -> tuple:
    sample, told = _sample(number), Told()
    example = Example(sample.id, sample.dataset, np.empty(0), np.empty(0), dict(sample.hears), {}, sample.music)
    heard = tuple(sorted((modality, tuple(told.encoded(modality, example).flatten().tolist()))
                         for modality in sample.hears))
    return (f"{sample.dataset} {number}", sample.tokens, sample.labels, heard,
            tuple(told.target(example).flatten().tolist()) if sample.music else None)


def _numbers(micros: list[Micro]) -> list[int]:
    return [number for micro in micros for number in micro.batch.samples]


def _same(found: list[list[Micro]], wanted: list[list[Micro]]) -> None:
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert [(pieces(micro), micro.share) for micro in one] == [(pieces(micro), micro.share) for micro in other]


@KINDS
def test_every_sample_comes_once_an_epoch_and_whole(samples, budget) -> None:
    made = Feed(samples, Told(), rows=8, micro=3, budget=budget)
    for epoch in (0, 1):
        steps = list(made.epoch(epoch))
        assert len(steps) == made.steps(epoch)
        assert sorted(piece for step in steps for micro in step for piece in pieces(micro)) == sorted(
            map(_wanted, range(len(samples))))
        rows = sorted(sum(len(micro.batch.tokens) for micro in step) for step in steps)
        assert set(rows[1:]) == {8} and 1 <= rows[0] <= 8
        assert all(len(micro.batch.tokens) <= 3 for step in steps for micro in step)
        widths = {micro.batch.tokens.shape[1] for step in steps for micro in step}
        assert widths == {BUDGET} if budget else len(widths) > 5
    assert made.lost == {}


@KINDS
def test_the_order_is_that_of_seed_and_epoch(samples, budget) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        made = Feed(samples, Told(), rows=8, micro=8, budget=budget, seed=seed)
        made.steps(7)  # what was asked before changes nothing
        return [number for step in made.epoch(epoch) for number in _numbers(step)]
    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(*one)) for one in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4


@KINDS
def test_weights_say_how_often_rows_come(samples, budget) -> None:
    made = Feed(samples, Told(), rows=8, micro=8, budget=budget,
                weights={"muimage": 0.5, "musicqa": 2.5, "alpaca": 1.0, "muedit": 1.0})
    sizes = Counter(number % 3 for number in range(101))  # 34, 34, 33
    drawn = []
    for epoch in range(2):
        times = Counter(number for step in made.epoch(epoch) for number in _numbers(step))
        drawn.append(times)
        assert Counter(times[number] for number in range(0, 101, 3)) == {0: sizes[0] // 2, 1: sizes[0] // 2}
        assert Counter(times[number] for number in range(1, 101, 3)) == {2: sizes[1] // 2, 3: sizes[1] // 2}
        assert all(times[number] == 1 for number in range(2, 101, 3))
    assert drawn[0] != drawn[1]


def test_a_share_of_a_few_rows_is_right_in_the_mean(tmp_path) -> None:
    few = _samples(tmp_path, 3)  # one row a dataset
    made = Feed(few, Told(), rows=1, micro=1, weights={"muimage": 0.25, "musicqa": 1.0, "alpaca": 0.75})
    times = sum((Counter(made._order(epoch).tolist()) for epoch in range(2000)), Counter())
    assert times[1] == 2000
    assert abs(times[0] / 2000 - 0.25) < 0.04 and abs(times[2] / 2000 - 0.75) < 0.04  # four standard deviations


@KINDS
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("micro", [1, 3, 8])
def test_a_step_is_the_same_for_any_world_and_micro(samples, budget, world: int, micro: int) -> None:
    settings = {"rows": 8, "budget": budget, "seed": 3, "weights": {"muimage": 1.5, "musicqa": 1.0, "alpaca": 0.5}}
    alone = list(Feed(samples, Told(), micro=8, **settings).epoch(1))
    shared = [list(Feed(samples, Told(), micro=micro, rank=rank, world=world, **settings).epoch(1))
              for rank in range(world)]
    for wanted, *dealt in zip(alone, *shared, strict=True):
        rows = sum(len(one.batch.tokens) for one in wanted)
        assert {len(micros) for micros in dealt} == {-(-rows // micro // world)}
        counted = [one for micros in dealt for one in micros if one.share]
        assert sorted(piece for one in counted for piece in pieces(one)) == sorted(
            piece for one in wanted for piece in pieces(one))
        assert sum(one.share * len(one.names) for one in counted) == pytest.approx(1, abs=1e-12)
        assert len({one.share for one in counted}) == 1
        assert len(counted) == -(-rows // micro)  # the others only keep their processes in step


@KINDS
def test_losses_add_up_to_the_mean_over_the_steps_samples(samples, budget) -> None:
    model = tiny.model()
    settings = {"rows": 8, "budget": budget}

    @torch.no_grad()
    def each(micro: Micro) -> Tensor:
        found = losses(model, model(micro.batch.tokens, encoded=micro.encoded, segments=micro.batch.segments),
                       micro.batch.labels, micro.targets)
        return found.text + found.music

    alone, = islice(Feed(samples, Told(), micro=8, **settings).epoch(0), 1)
    parts = [next(Feed(samples, Told(), micro=3, rank=rank, world=2, **settings).epoch(0)) for rank in range(2)]
    assert [one.share > 0 for micros in parts for one in micros] == [True, True, True, False]
    found = sum(one.share * each(one).sum() for micros in parts for one in micros)
    assert found.item() == pytest.approx(each(alone[0]).mean().item(), rel=1e-5)


@KINDS
@pytest.mark.parametrize("start", [1, 4])
def test_an_epoch_can_be_gone_on_with_anywhere(samples, budget, start: int) -> None:
    settings = {"rows": 8, "micro": 3, "budget": budget, "seed": 5, "rank": 1, "world": 2}
    whole = list(Feed(samples, Told(), **settings).epoch(2))
    _same(list(Feed(samples, Told(), **settings).epoch(2, start)), whole[start:])
    assert list(Feed(samples, Told(), **settings).epoch(2, len(whole))) == []


@KINDS
def test_batches_mix_modalities(samples, budget) -> None:
    mixed = [{name.partition(" ")[0] for micro in step for name in micro.names}
             for step in Feed(samples, Told(), rows=8, micro=8, budget=budget).epoch(0)]
    assert sum(len(one) == 3 for one in mixed) > len(mixed) / 2


def test_rows_hold_samples_of_like_length(samples) -> None:
    steps = list(Feed(samples, Told(), rows=8, micro=8).epoch(0))
    padding = sum(int((micro.batch.segments == 0).sum()) for step in steps for micro in step)
    shuffled = np.random.default_rng(0).permutation(samples.lengths)
    anyhow = sum(len(part) * part.max() - part.sum() for part in np.split(shuffled, range(8, 101, 8)))
    assert padding < anyhow / 5


def test_all_steps_but_one_are_whole() -> None:
    """A shuffle's windows would otherwise end in a smaller step each; or a step could not exceed a window."""
    for rows, sizes in ((24, {24: 208, 8: 1}), (2000, {2000: 2, 1000: 1})):
        plan = Feed(Many(5000), Told(), rows=rows, micro=4)._plan(0)
        assert Counter(np.diff(plan.steps).tolist()) == sizes


def test_what_is_lost_is_left_out_named_and_counted(samples) -> None:
    bad = frozenset({"0", "1", "4", "99"})
    names = {f"{DATASETS[int(one) % 3]} {one}" for one in bad}
    whole = list(Feed(samples, Told(), rows=8, micro=3, budget=BUDGET).epoch(0))
    made = Feed(samples, Told(bad), rows=8, micro=3, budget=BUDGET)
    steps = list(made.epoch(0))
    assert made.lost == dict.fromkeys(names, "decode_error: of no use")
    for step, wanted in zip(steps, whole, strict=True):
        for micro, other in zip(step, wanted, strict=True):
            assert sorted(pieces(micro)) == sorted(piece for piece in pieces(other) if piece[0] not in names)
            assert micro.share == other.share  # so it is the same to whichever process it was dealt
    list(made.epoch(1))
    assert len(made.lost) == 4


def test_a_process_whose_samples_are_all_lost_stays_in_step(samples) -> None:
    heard = frozenset(str(number) for number in range(101) if number % 3 < 2)
    steps = list(Feed(samples, Told(heard), rows=8, micro=1).epoch(0))
    assert [len(step) for step in steps].count(8) == len(steps) - 1
    for micro in (micro for step in steps for micro in step):
        lost = not micro.names[0].startswith("alpaca")
        assert micro.encoded == {} and micro.targets == [None] and (micro.share == 0) == lost
        assert len(micro.batch.samples) == 1 and (micro.batch.segments == 1).all()


def test_what_goes_wrong_in_the_thread_is_raised_at_its_step(samples) -> None:
    class Broken(Told):
        def target(self, example: Example) -> Tensor:
            if len(self.asked) > 40:
                raise OSError("the shard is gone")
            return super().target(example)

    steps, made = 0, Feed(samples, Broken(), rows=8, micro=8)
    with pytest.raises(OSError, match="the shard is gone"):
        for _ in made.epoch(0):
            steps += 1
    assert 4 <= steps < made.steps(0) - 1


def test_closing_ends_the_thread_which_is_never_far_ahead(samples) -> None:
    told, settings = Told(), {"rows": 1, "micro": 1}
    near = [str(number) for step in islice(Feed(samples, Told(), **settings).epoch(0), 30 + feed.AHEAD)
            for number in _numbers(step) if number % 3 < 2]  # Alpaca hears nothing
    running = Feed(samples, told, **settings).epoch(0)
    for _ in range(30):
        next(running)
    assert "feed_0" in {one.name for one in threading.enumerate()}
    time.sleep(0.2)  # in which it could do all the rest
    running.close()
    assert told.asked.keys() <= set(near)
    assert not [one for one in threading.enumerate() if one.name.startswith("feed")]


def test_the_next_steps_are_prepared_while_one_is_computed(samples) -> None:
    reached = threading.Event()

    class Waited(Told):
        def encoded(self, modality: str, example: Example) -> Tensor:
            if sum(self.asked.values()) >= 2:
                reached.set()
            return super().encoded(modality, example)

    running = Feed(samples, Waited(), rows=8, micro=8).epoch(0)
    next(running)
    assert reached.wait(60)
    running.close()


def test_closing_does_not_wait_for_the_rest_of_a_step(samples) -> None:
    settings = {"rows": 20, "micro": 1}
    first, second = ([str(number) for number in _numbers(step) if number % 3 < 2]
                     for step in islice(Feed(samples, Told(), **settings).epoch(0), 2))
    asked, go = threading.Event(), threading.Event()

    class Slow(Told):
        def encoded(self, modality: str, example: Example) -> Tensor:
            if example.id == second[0]:
                asked.set()
                go.wait(60)
            return super().encoded(modality, example)

    told = Slow()
    running = Feed(samples, told, **settings).epoch(0)
    next(running)
    assert asked.wait(60)
    later = threading.Timer(0.2, go.set)
    later.start()
    running.close()
    later.join()
    assert told.asked.keys() == {*first, second[0]} and len(second) > 5


class Many:
    """As Samples, with lengths alone."""
    datasets = ("mucaps",)

    def __init__(self, count: int) -> None:
        self.lengths = np.random.default_rng(0).integers(20, 500, count).astype(np.int32)
        self.dataset_of = np.zeros(count, np.int8)

    def __len__(self) -> int:
        return len(self.lengths)


def test_a_plan_is_flat() -> None:
    for budget in (None, 1024):
        plan = Feed(Many(50_000), Told(), rows=16, micro=4, budget=budget, weights={"mucaps": 2.0})._plan(0)
        assert plan.numbers.nbytes + plan.rows.nbytes + plan.steps.nbytes <= 14 * 100_000
        assert (np.bincount(plan.numbers) == 2).all()


@KINDS
def test_no_samples_are_no_steps(tmp_path, budget) -> None:
    made = Feed(_samples(tmp_path, 0), Told(), rows=8, micro=8, budget=budget)
    assert made.steps(0) == 0 and list(made.epoch(0)) == []


def test_what_cannot_be_fed_is_told(samples) -> None:
    longest = int(samples.lengths.argmax())
    name, length = f"{DATASETS[longest % 3]} {longest}", int(samples.lengths.max())
    with pytest.raises(ValueError, match=f"{name} has {length} tokens, but a row has room for {length - 1}"):
        Feed(samples, Told(), rows=8, micro=8, budget=length - 1)
    with pytest.raises(ValueError, match="no weight for alpaca, musicqa"):
        Feed(samples, Told(), rows=8, micro=8, weights={"muimage": 1.0})
    for wrong in ({"rows": 0}, {"micro": 0}, {"rank": 2, "world": 2}, {"rank": -1}):
        with pytest.raises(ValueError, match="at least one row"):
            Feed(samples, Told(), **{"rows": 8, "micro": 8, **wrong})
