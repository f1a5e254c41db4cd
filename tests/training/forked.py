"""Trainings in processes that are killed, or that share their steps; for tests, each in a process of its own, which has
no threads yet and may fork: what is imported once serves them all."""
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import distributed

from tests.training import corpus
from training import checkpoint, feed, parallel, state, train
from training.settings import Settings
from training.step import Steps, Stopped

EPOCHS = {1: 2, 2: 2, 3: 1}
STEPS = {1: 5, 2: 2, 3: 8}  # of an epoch


def run(out: Path, *works: str) -> str:
    """Some of what is here, in a new process; what it printed."""
    return subprocess.run([sys.executable, "-m", "tests.training.forked", str(out), *works], check=True, timeout=600,
                          stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}).stdout


def start(work: Callable[[], object], log: Path) -> int:
    """What it prints goes to `log`."""
    child = os.fork()
    if child:
        return child
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        work()
        sys.stdout.flush()
        os._exit(0)
    finally:
        sys.excepthook(*sys.exc_info())
        os._exit(1)


def end(child: int) -> int:
    """Its exit code, or less the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def chosen(out: Path, run: Path, stage: int, **other: object) -> Settings:
    return corpus.settings(out, run, stage, **{"epochs": EPOCHS[stage], **other})


def three(out: Path, run: Path, **other: object) -> None:
    for stage in (1, 2, 3):
        train.train(chosen(out, run, stage, **other))


def models(run: Path) -> dict[str, bytes]:
    """The files of every stage's result."""
    return {str(path.relative_to(run)): path.read_bytes() for stage in (1, 2, 3)
            for path in sorted((run / f"stage{stage}" / "model").iterdir())}


def validations(run: Path) -> list[list[dict]]:
    return [json.loads((run / f"stage{stage}" / "run.json").read_text())["validation"] for stage in (1, 2, 3)]


def moments() -> Iterator[tuple[int, int | str, str]]:
    """Stage, step, and when in it: ten random ones, and as the last result is put in its place."""
    draw = random.Random(3)
    steps = [(stage, step) for stage in (1, 2, 3) for step in range(1, EPOCHS[stage] * STEPS[stage] + 1)]
    for stage, step in sorted(draw.sample(steps, 10)):
        saves = step % 2 == 0 or step % STEPS[stage] == 0
        yield stage, step, draw.choice(["computing", "stepped", *["saving"] * saves])
    yield 3, 0, "model"


def killed(out: Path) -> None:
    calm, shaken, log = out / "calm", out / "shaken", out / "log"
    assert end(start(lambda: three(out, calm), log)) == 0, log.read_text()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    deaths = list(moments())
    for death in [*deaths, None]:
        def work(death: tuple | None = death) -> None:
            _die_at(death, writer)
            three(out, shaken)
        stage = next((one for one in (3, 2, 1) if (shaken / f"stage{one}" / "run.json").exists()), 1)
        ended = (shaken / f"stage{stage}" / "model").exists()
        saved = state.steps(shaken / f"stage{stage}" / "checkpoints")
        assert len(saved) <= 2
        goes_on = (stage + 1, 1) if ended else (stage, saved[-1] + 1 if saved else 1)
        result = end(start(work, log))
        steps = [tuple(map(int, line.split())) for line in _read(reader).splitlines()]
        assert result == (-signal.SIGKILL if death else 0), (death, result, log.read_text())
        if death != deaths[-1] and steps:  # one that dies as stage 3's result is saved may have no step to do
            assert steps[0] == goes_on, (death, steps, goes_on)
    assert len(models(calm)) == 27 and set(models(shaken)) == set(models(calm))
    assert [name for name, data in models(calm).items() if models(shaken)[name] != data] == []
    assert validations(shaken) == validations(calm)
    for stage in (1, 2, 3):
        left = sorted(path.name for path in (shaken / f"stage{stage}").iterdir())
        assert left == ["data", "lock", "model", "run.json", "tensorboard"], left
        board = EventAccumulator(str(shaken / f"stage{stage}" / "tensorboard")).Reload()
        seen = [one.step for one in board.Scalars("train/lr")]
        assert seen == list(range(1, EPOCHS[stage] * STEPS[stage] + 1)), (stage, seen)
    assert log.read_text().count("goes on behind step") == 8


def _die_at(death: tuple | None, writer: int) -> None:
    """Have this process killed there; and tell of each step that it begins."""
    step, now = Steps.step, [0, 0]

    def counted(self: Steps, number: int, *rest: object) -> float:
        now[:] = self.settings.stage.number, number
        os.write(writer, f"{now[0]} {number}\n".encode())
        if death == (*now, "computing"):
            os.kill(os.getpid(), signal.SIGKILL)
        found = step(self, number, *rest)
        if death == (*now, "stepped"):
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    def hook(event: str, arguments: tuple) -> None:
        if event == "os.rename" and death is not None:
            target = Path(os.fspath(arguments[1]))
            if (death == (*now, "saving") and target.name.startswith("step-")) or (
                    death[2] == "model" and target.match(f"stage{death[0]}/model")):
                os.kill(os.getpid(), signal.SIGKILL)
    Steps.step = counted
    sys.addaudithook(hook)


def _read(pipe: int) -> str:
    said = b""
    while True:
        try:
            said += os.read(pipe, 65536)
        except BlockingIOError:
            return said.decode()


def together(count: int, work: Callable[[], object], log: Path) -> list[int]:
    """As torchrun starts processes on one machine; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def one(rank: int) -> None:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count),
                       "RANK": str(rank), "LOCAL_RANK": str(rank)}
        work()
    children = {start(lambda rank=rank: one(rank), log.with_suffix(f".{rank}")): rank for rank in range(count)}
    codes = [0] * count
    while children:
        child, status = os.wait()
        codes[children.pop(child)] = os.waitstatus_to_exitcode(status)
        for other in children if status else ():  # as torchrun does
            os.kill(other, signal.SIGKILL)
    return codes


def shared(out: Path) -> None:
    """Stages' last steps have two rows: fewer than two processes of two rows each."""
    # The paper's rate: AdamW's first steps are as long where the gradient is mere rounding, and points anywhere.
    one, two = out / "one", out / "two"
    assert end(start(lambda: three(out, one, epochs=1, rate=1e-4), out / "log")) == 0, (out / "log").read_text()
    log = out / "log"
    for stage in (1, 2, 3):
        codes = together(2, partial(train.train, chosen(out, two, stage, epochs=1, rate=1e-4, micro=2)), log)
        assert codes == [0, 0], [log.with_suffix(f".{rank}").read_text() for rank in (0, 1)]
    for wanted, found in zip(validations(one), validations(two), strict=True):
        for a, b in zip(wanted, found, strict=True):
            assert set(a) == set(b) and a["step"] == b["step"] and set(a["by_dataset"]) == set(b["by_dataset"])
            for name in ("text", "music"):
                assert (a[name] is None) == (b[name] is None), name
                assert a[name] is None or abs(a[name] - b[name]) <= 1e-5 * a[name], (a, b)
    for stage in (1, 2, 3):
        a, b = (checkpoint.load(run / f"stage{stage}" / "model").tensors for run in (one, two))
        assert set(a) == set(b)
        for name in a:
            most = float((a[name].load() - b[name].load()).abs().max())
            # Attention does not depend on its keys' bias: that gradient is rounding, which AdamW makes whole steps of.
            assert most <= (1e-4 if "in_proj" in name else 1e-5), (stage, name, most)
        said = json.loads((two / f"stage{stage}" / "run.json").read_text())
        assert said["processes"] == 2 and said["ended"]
    assert "2 processes, cpu" in log.with_suffix(".0").read_text() and "CE" not in log.with_suffix(".1").read_text()


def unreadable(out: Path) -> None:
    """Encoded on the spot, by two processes: what either could not read is told."""
    log = out / "log"
    codes = together(2, lambda: train.train(chosen(out, out / "online", 1, epochs=1, micro=1)), log)
    assert codes == [0, 0], [log.with_suffix(f".{rank}").read_text() for rank in (0, 1)]
    print(json.dumps(json.loads((out / "online" / "stage1" / "run.json").read_text())["unreadable"]))


def unlike(out: Path) -> None:
    """Each of two has another seed, or there is nothing to train on, which the first alone finds out: neither goes on,
    nor waits for the other."""
    for place, words in ((out, "the processes do not have the same data and settings: OUT"),
                         (out / "none", "stage 1 has nothing to learn from")):
        def refused(place: Path = place) -> None:
            try:
                train.train(chosen(place, out / "unlike", 1, seed=int(os.environ["RANK"])))
            except ValueError as error:
                print(error)
                return
            raise AssertionError("it was trained")
        log = out / "log"
        codes = together(2, refused, log)
        said = [log.with_suffix(f".{rank}").read_text() for rank in (0, 1)]
        assert codes == [0, 0], said
        assert all(words in one for one in said), said
        assert not (out / "unlike" / "stage1" / "run.json").exists()


def first(out: Path) -> None:
    """Steps of as many rows as one process would take at a time; stopped behind the third of four, whose checkpoint is
    broken: where they go on the first alone finds out."""
    log, step, newest = out / "log", Steps.step, state.newest

    def settings(run: str) -> Settings:
        return chosen(out, out / run, 1, batch=8, micro=8, save_every=1)

    def shares(self: Steps, number: int, micros: list[feed.Micro], *rest: object) -> float:
        assert sum(len(micro.names) for micro in micros if micro.share) == 4, (number, micros)
        return step(self, number, micros, *rest)

    def stops(self: Steps, number: int, *rest: object) -> float:
        if number == 4:
            self.here.wait()
            raise Stopped("here")
        return step(self, number, *rest)

    def stopped() -> None:
        Steps.step = stops
        try:
            train.train(settings("again"))
        except Stopped:
            return
        raise AssertionError("it did not stop")

    def asked(folder: Path) -> tuple | None:
        assert os.environ["RANK"] == "0"
        return newest(folder)

    def whole() -> None:
        Steps.step = shares
        train.train(settings("whole"))

    def again() -> None:
        state.newest = asked
        train.train(settings("again"))

    def do(work: Callable[[], None]) -> None:
        codes = together(2, work, log)
        assert codes == [0, 0], [log.with_suffix(f".{rank}").read_text() for rank in (0, 1)]
    do(whole)
    do(stopped)
    states = out / "again" / "stage1" / "checkpoints"
    assert state.steps(states) == [2, 3]
    with open(states / "step-00000003" / "state.safetensors", "r+b") as file:
        file.seek(-40, os.SEEK_END)
        file.write(b"wrong")
    do(again)
    assert "goes on behind step 2" in log.with_suffix(".0").read_text()
    files = [{path.name: path.read_bytes() for path in (out / run / "stage1" / "model").iterdir()}
             for run in ("whole", "again")]
    assert files[0] == files[1] and len(files[0]) == 9


def ends(out: Path) -> None:
    """Processes that have just trained part, two hundred times; one in fifty once waited for ever."""
    begin = distributed.init_process_group

    def often() -> None:
        signal.alarm(200)
        rank = int(os.environ["RANK"])
        store = distributed.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), 2, rank == 0)
        for time in range(200):
            distributed.init_process_group = partial(begin, store=distributed.PrefixStore(str(time), store), rank=rank,
                                                     world_size=2)
            with parallel.processes("cpu") as here:
                joined = here.joined(torch.nn.Linear(2, 2))
                joined(torch.ones(1, 2)).sum().backward()
                here.wait()
            del joined, here  # as a training's end does
    log = out / "log"
    codes = together(2, often, log)
    assert codes == [0, 0], [codes, *(log.with_suffix(f".{rank}").read_text() for rank in (0, 1))]


if __name__ == "__main__":
    torch.set_num_threads(1)
    works = {"killed": killed, "shared": shared, "unreadable": unreadable, "unlike": unlike, "first": first,
             "ends": ends}
    for name in sys.argv[2:]:
        works[name](Path(sys.argv[1]))
