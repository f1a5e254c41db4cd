"""Saving training states in processes that are killed or have no room; for tests, each in a process of its own, which
has no threads yet and may fork."""
import errno
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from training import state

ABOUT = {"epoch": 1, "sampler": {"position": 7}, "rate": 1e-4}


def made(step: int, count: int = 3, size: int = 5000) -> dict[str, Tensor]:
    return {f"x.{number}": torch.full((size,), float(step * 100 + number)) for number in range(count)}


def is_made(tensors: dict[str, Tensor], step: int) -> bool:
    wanted = made(step)
    return set(tensors) == set(wanted) and all(torch.equal(one, wanted[name]) for name, one in tensors.items())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _child(work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def at_random(folder: Path) -> None:
    moments, left = random.Random(0), 0
    reader, writer = os.pipe()

    def work() -> None:
        found = state.newest(folder)
        last = found[0] if found else 0
        for at in range(last + 1, last + 1000):  # and no longer, should nobody kill it
            state.save(folder, at, made(at), {"at": at})
            os.write(writer, at.to_bytes(8))
    told = 0
    for _ in range(30):
        child = _child(work)
        told = int.from_bytes(os.read(reader, 8))
        time.sleep(moments.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.set_blocking(reader, False)
        while True:
            try:
                told = int.from_bytes(os.read(reader, 8))
            except BlockingIOError:
                break
        os.set_blocking(reader, True)
        left += any(name.startswith(".tmp-") for name in names(folder))
        at, tensors, about = state.newest(folder)
        # What save returned from is there; the one that it was at may be.
        assert at in (told, told + 1) and is_made(tensors, at) and about == {"at": at}, (at, told)
        assert len(state.steps(folder)) == len(names(folder)) <= 3
    assert left, "never killed in the middle of anything"


def everywhere(folder: Path) -> None:
    """Before each thing that is done to the file system: in a new step, which is to rotate, and in one saved again."""
    done = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "open"}
    for before in (2, 3):
        state.save(folder / "before", before, made(before), {"at": before}, keep=2)
    for number, keep in ((2, 1), (3, 1), (4, 1)):
        for moment in range(100):
            place = folder / f"{number}-{moment}"
            shutil.copytree(folder / "before", place)
            left = moment

            def hook(event: str, arguments: tuple, place: Path = place) -> None:
                nonlocal left
                if event in done and (event != "open" or str(place) in str(arguments[0])):
                    if not left:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left -= 1

            def work(place: Path = place, number: int = number, keep: int = keep, hook: Callable = hook) -> None:
                sys.addaudithook(hook)
                state.save(place, number, made(number), {"at": number}, keep=keep)
            _, status = os.waitpid(_child(work), 0)
            at, tensors, about = state.newest(place)
            assert at in {3, number} and is_made(tensors, at) and about == {"at": at}, (number, moment, at)
            assert state.steps(place) == [int(name.removeprefix("step-")) for name in names(place)]
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0 and at == max(3, number)
                break
        assert 10 < moment < 99, moment


def no_room(folder: Path) -> None:
    """A limit on the size of files, for tensors and for what is said of them."""
    state.save(folder, 1, made(1), ABOUT)
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    for tensors, about in ((made(2, size=100_000), ABOUT), (made(2), {"long": "x" * 200_000})):
        try:
            state.save(folder, 2, tensors, about)
        except OSError as error:
            assert str(error).startswith(f"{folder}/step-00000002: the training state could not be saved (")
            assert os.strerror(errno.EFBIG) in str(error) and "\n" not in str(error)
        else:
            raise AssertionError("there was room")
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        assert names(folder) == ["step-00000001"]
    state.save(folder, 2, made(2), ABOUT)
    assert state.steps(folder) == [1, 2]


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"at_random": at_random, "everywhere": everywhere, "no_room": no_room}[sys.argv[1]](Path(sys.argv[2]))
