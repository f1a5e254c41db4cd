"""Readings by a clock that is set by hand, of one process and of two."""
import json
import weakref
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing

from training.cost import Flops, Work, peak
from training.loss import Losses
from training.meter import Meter, peak_memory


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _losses(text: list[float], music: list[float] | None = None) -> Losses:
    return Losses(torch.tensor(text), torch.tensor(music or [0.0] * len(text)))


def test_an_interval() -> None:
    """Two steps of two batches each; 10 s, of which 2 waiting, after 5 s of validation; then another interval."""
    clock = _Clock()
    meter = Meter(1000.0, clock=clock, memory=lambda _: 3 * 2 ** 30)
    for step in range(2):
        for music in (1, 0):
            with meter.waiting():
                clock.now += .5
            clock.now += 2
            meter.add(Work([10, 20], music=music), Flops(400, 600), _losses([1.0, 2.0 + step], [4.0 * music, 0]), .25)
        meter.stepped(torch.tensor(1.0 + step), 1e-4 / (1 + step))
    with meter.paused():
        clock.now += 5
    reading = meter.read()
    assert (reading.steps, reading.tokens, reading.samples, reading.flops) == (2, 120, 8, 4000)
    assert reading.scalars() == {
        "loss/text": (4 * 1 + 2 * 2 + 2 * 3) / 8, "loss/music": 4.0, "train/lr": 5e-5, "train/gradient_norm": 1.5,
        "speed/tokens_per_second": 12.0, "speed/samples_per_second": .8, "speed/mfu": .4, "speed/waiting": .2,
        "memory/peak_bytes": 3 * 2.0 ** 30}
    assert reading.line() == ("CE 1.7500, MSE 4.0000, lr 5.00e-05, gradient 1.500, 12 tokens/s, 0.8 samples/s, "
                              "MFU 40.0%, 20% waiting for data, 3.00 GiB")
    clock.now += 4
    meter.add(Work([10]), Flops(1, 1), _losses([3.0]), 1.0)
    meter.stepped(2.0, 1e-5)
    later = meter.read()
    assert (later.seconds, later.waiting, later.text, later.music, later.norm) == (4, 0, 3, None, 2)
    assert "MSE" not in later.line() and "loss/music" not in later.scalars()


def test_what_only_keeps_processes_in_step_is_not_counted() -> None:
    clock = _Clock()
    meter = Meter(1000.0, clock=clock)
    for share in (1.0, 0.0):
        clock.now += 1
        meter.add(Work([10], music=1), Flops(400, 600), _losses([1.0], [2.0]), share)
    meter.stepped(1.0, 1e-4)
    reading = meter.read()
    assert (reading.steps, reading.tokens, reading.samples, reading.seconds) == (1, 10, 1, 2)
    assert (reading.text, reading.music, reading.mfu) == (1, 2, .5)


def test_an_unknown_device_has_no_mfu_and_an_empty_interval_no_reading() -> None:
    clock = _Clock()
    meter = Meter(peak("a device of tomorrow"), clock=clock)
    with pytest.raises(ValueError, match="no step was taken"):
        meter.read()
    clock.now += 1
    meter.add(Work([10]), Flops(1, 1), _losses([1.0]), 1.0)
    meter.stepped(1.0, 1e-4)
    reading = meter.read()
    assert reading.mfu is None and "MFU unknown" in reading.line() and "speed/mfu" not in reading.scalars()


def test_no_time_falls_between_two_intervals() -> None:
    """Reading takes time too, where processes wait for each other."""
    clock, start = _Clock(), _Clock.now

    def slow(_device: torch.device) -> int:
        clock.now += 3
        return 0

    meter, seconds = Meter(clock=clock, memory=slow), 0.0
    for _ in range(3):
        clock.now += 1
        meter.stepped(1.0, 1e-4)
        seconds += meter.read().seconds
    assert seconds == 9 and clock.now - start == 12  # less the last reading's own


def test_an_interval_whose_samples_were_all_lost_is_read() -> None:
    clock = _Clock()
    meter = Meter(1000.0, clock=clock)
    clock.now += 1
    meter.add(Work([10]), Flops(1, 1), _losses([1.0]), 0.0)
    meter.stepped(0.0, 1e-4)
    reading = meter.read()
    assert (reading.text, reading.music, reading.samples, reading.mfu) == (None, None, 0, 0)
    assert reading.line().startswith("CE of no sample, lr") and "loss/text" not in reading.scalars()


SHARED = {"steps": 2, "tokens": 2 * 10 + 30, "samples": 4, "flops": 2e18 + 3000, "seconds": 8.0, "waiting": 3.0,
          "text": (2 * 1 + 2 + 5) / 4, "music": 8.0, "norm": .75, "rate": 1e-4, "mfu": 2e18 / 8 / 4e17,
          "memory": 7 * 2 ** 40}
LATER = {"steps": 1, "tokens": 20, "samples": 2, "flops": 2.0, "seconds": 1.0, "waiting": 0.0, "text": 1.5,
         "music": None, "norm": 1.0, "rate": 1e-5, "mfu": None, "memory": 7 * 2 ** 40}


def _process(rank: int, folder: str) -> None:
    """Two steps, in which the second process has two samples, and then none of its own; it waits the longest."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2,
                                         timeout=timedelta(minutes=2))
    clock, readings = _Clock(), []
    clock.now += 1000 * rank
    meter = Meter((1e17, 3e17)[rank], clock=clock, memory=lambda _: (7 - rank) * 2 ** 40)
    for step in range(2):
        with meter.waiting():
            clock.now += .5 + rank
        clock.now += 2
        if rank and not step:
            meter.add(Work([10, 20], music=1), Flops(1000, 2000), _losses([2.0, 5.0], [8.0, 0]), .25)
        elif rank:
            meter.add(Work([10]), Flops(10 ** 18, 0), _losses([1.0]), 0.0)
        else:
            meter.add(Work([10]), Flops(10 ** 18, 0), _losses([1.0]), .5)
        meter.stepped(torch.tensor(.5 + step / 2), 1e-4)
    clock.now += 1 if rank else 2  # in all 7 s and 8 s
    readings.append(vars(meter.read()))
    with pytest.raises(ValueError, match="no step was taken"):
        meter.read()
    meter.peak = (1e17, None)[rank]  # what one does not know all do not
    clock.now += 1
    meter.add(Work([10]), Flops(1, 0), _losses([1.0 + rank]), .5)
    meter.stepped(1.0, 1e-5)
    readings.append(vars(meter.read()))
    Path(folder, f"{rank}.json").write_text(json.dumps(readings))
    torch.distributed.destroy_process_group()


def test_two_processes_read_the_same_sums(tmp_path: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(target=_process, args=(1, str(tmp_path)))
    other.start()
    _process(0, str(tmp_path))
    other.join()
    assert other.exitcode == 0
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second == [pytest.approx(SHARED, rel=1e-12), LATER]


class _Holding(torch.autograd.Function):
    """Its graph holds `thing`."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, losses: Tensor, thing: Work) -> Tensor:
        ctx.thing = thing
        return losses.clone()


def test_what_is_measured_holds_no_graph() -> None:
    """A step's activations would otherwise live as long as its interval."""
    thing = Work([1, 1])
    text = _Holding.apply(torch.ones(2, requires_grad=True), thing)
    alive, meter = weakref.ref(thing), Meter()
    meter.add(thing, Flops(0, 0), Losses(text, text), 1.0)
    del thing
    assert alive() is not None
    del text
    assert alive() is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux")
def test_peak_memory_is_what_the_kernel_says() -> None:
    told = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]  # in KiB
    assert peak_memory(torch.device("cpu")) == pytest.approx(int(told) * 1024, rel=.01)
