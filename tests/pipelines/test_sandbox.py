"""What runs in the sandbox here is as bad as media could make a decoder."""
import ctypes
import mmap
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import psutil
import pytest

from manifests.outcomes import Loss
from pipelines import sandbox
from pipelines.sandbox import Failed, Limits

MIB = 2**20
SHORT = Limits(seconds=1.0)
SMALL = Limits(memory=256 * MIB)
_kept = []


def same(value):
    return value


def own_process(_) -> int:
    return os.getpid()


def lose(reason: str) -> None:
    raise Loss(reason, "seen\nclearly \udcff")


def lookup(key: str) -> str:
    return {}[key]


def need(module: str) -> None:
    __import__(module)


def fail_to_write(number: int) -> None:
    raise OSError(number, os.strerror(number))


def spin(_) -> None:
    while True:
        pass


def hold_the_lock(_) -> None:
    """In C, where no other thread of Python's can run."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def fill_arrays(_) -> None:
    _kept.extend(np.ones(MIB) for _ in range(10_000))


def fill_bytes(_) -> None:
    while True:
        _kept.append(bytes(50_000) + b"x")


def fill_shared_memory(_) -> None:
    shared = mmap.mmap(-1, 2**30)
    shared.write(bytes(2**30))
    time.sleep(60)


def fill_by_a_child(_) -> None:
    subprocess.run([sys.executable, "-c", "import resource, time; hard = resource.getrlimit(resource.RLIMIT_DATA)[1]; "
                    "resource.setrlimit(resource.RLIMIT_DATA, (hard, hard)); kept = b'x' * 2**29; time.sleep(60)"])


def leak(size: int) -> int:
    _kept.append(b"x" * size)
    return len(_kept)


def crash(number: int) -> None:
    if number == signal.SIGSEGV:
        ctypes.string_at(0)
    os.kill(os.getpid(), number)
    time.sleep(60)


def print_much(words: str) -> str:
    print(words * 1000, flush=True)
    os.write(1, words.encode() * 1000)
    subprocess.run(["echo", words])
    return words


def seize(answer: bytes) -> None:
    """What code in a hostile file could do: speak for the process."""
    frame = sys._getframe()
    while "answers" not in frame.f_locals:
        frame = frame.f_back
    frame.f_locals["answers"].write(answer)
    frame.f_locals["answers"].flush()
    time.sleep(60)


class Smuggled:
    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def many(count: int) -> bytes:
    return bytes(range(256)) * (count // 256)


def square(number: int) -> int:
    time.sleep(0.02)
    return number * number


def start_a_child(path: str) -> None:
    child = subprocess.Popen(["sleep", "600"])
    with open(path + ".part", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(path + ".part", path)
    hold_the_lock(None)


def slow_to_load() -> None:
    time.sleep(1.5)
    _kept.append(b"x" * 400 * MIB)


def outcome(function, argument, limits: Limits | None = None) -> tuple[str, str]:
    with pytest.raises(Loss) as loss:
        sandbox.call(function, argument, limits or Limits())
    assert sandbox.call(abs, -1, limits or Limits()) == 1, "the next one does not work"
    return loss.value.reason, loss.value.detail


@pytest.fixture(scope="module")
def others() -> set[psutil.Process]:
    """What other files' tests started and left, as multiprocessing does its resource tracker."""
    return set(psutil.Process().children())


@pytest.fixture(autouse=True)
def nothing_is_left(others):
    yield
    while sandbox._idle:
        sandbox._idle.pop().end()
    assert not set(psutil.Process().children()) - others


def test_plain_data_goes_in_and_comes_out():
    value = {"a": [1, -2**70, 0.1, float("inf"), None, True, "ü\0\udcff", b"\0\xff", {}], "": {"b": [[]]}}
    assert sandbox.call(same, value, Limits()) == value
    with pytest.raises(Failed, match=r"^TypeError: float64 is no plain data \(sandbox\.py:\d+\)$"):
        sandbox.call(same, {"loudness": np.float64(1)}, Limits())


def test_one_process_serves_call_after_call():
    pids = {sandbox.call(own_process, None, Limits()) for _ in range(10)}
    assert len(pids) == 1 and pids != {os.getpid()}


def test_errors_come_out_as_what_they_are():
    with pytest.raises(Loss) as loss:
        sandbox.call(lose, "silent", Limits())
    assert (loss.value.reason, loss.value.detail) == ("silent", r"seen\nclearly \udcff")
    with pytest.raises(Failed, match=r"^KeyError: 'x\\n\\udcff' \(test_sandbox\.py:\d+\)$"):
        sandbox.call(lookup, "x\n\udcff", Limits())
    with pytest.raises(Failed, match=r"^KeyError: 'xx+ \(test_sandbox\.py:\d+\)$"):
        sandbox.call(lookup, "x" * 10_000, Limits())
    with pytest.raises(ImportError, match="nosuchmodule"):
        sandbox.call(need, "nosuchmodule", Limits())
    with pytest.raises(OSError, match="No space left") as full:
        sandbox.call(fail_to_write, 28, Limits())
    assert full.value.errno == 28
    with pytest.raises(Failed, match="FileNotFoundError"):
        sandbox.call(fail_to_write, 2, Limits())
    assert outcome(fail_to_write, 12) == ("over_limits", "more than 3072 MiB")


@pytest.mark.parametrize(("function", "argument"), [(spin, 0), (hold_the_lock, 0), (time.sleep, 60)])
def test_time_is_limited(function, argument):
    started = time.monotonic()
    assert outcome(function, argument, SHORT) == ("over_limits", "more than 1 s")
    assert time.monotonic() - started < 5
    assert outcome(function, argument, Limits(seconds=0.3, late="network")) == ("network", "more than 0.3 s")


@pytest.mark.parametrize("function", [fill_arrays, fill_bytes, fill_shared_memory, fill_by_a_child])
def test_memory_is_limited(function):
    assert outcome(function, 0, SMALL) == ("over_limits", "more than 256 MiB")


def test_what_every_call_needs_is_outside_the_limits():
    call = partial(sandbox.call, same, 1, Limits(seconds=1.0, memory=200 * MIB))
    assert call(prepare=slow_to_load) == call(prepare=slow_to_load) == 1
    assert outcome(fill_arrays, 0, SMALL) == ("over_limits", "more than 256 MiB")


def test_what_one_file_leaks_is_not_taken_from_the_next():
    # Each leaves 100 of 256 MiB behind: after the second, a new process has to take over.
    assert [sandbox.call(leak, 100 * MIB, SMALL) for _ in range(5)] == [1, 2, 1, 2, 1]


@pytest.mark.parametrize(("function", "argument", "expected"), [
    (crash, signal.SIGSEGV, ("decode_error", "the decoder crashed (SIGSEGV)")),
    (crash, signal.SIGABRT, ("decode_error", "the decoder crashed (SIGABRT)")),
    (os._exit, 0, ("decode_error", "the decoder crashed (exit code 0)")),
    (os._exit, 3, ("decode_error", "the decoder crashed (exit code 3)")),
    (sys.exit, 4, ("decode_error", "the decoder crashed (exit code 4)")),
    (crash, signal.SIGKILL, ("interrupted", "the process that decoded it was killed (SIGKILL)")),
    (crash, signal.SIGTERM, ("interrupted", "the process that decoded it was killed (SIGTERM)"))])
def test_a_death_is_told(function, argument, expected):
    assert outcome(function, argument) == expected


def test_an_idle_process_that_was_killed_is_replaced():
    pid = sandbox.call(own_process, None, Limits())
    os.kill(pid, signal.SIGKILL)
    assert sandbox.call(own_process, None, Limits()) != pid


def test_what_is_printed_is_no_answer():
    assert sandbox.call(print_much, "word", Limits()) == "word"


def test_a_seized_process_has_no_say(tmp_path):
    def framed(data: bytes) -> bytes:
        return len(data).to_bytes(8, "big") + data

    target = str(tmp_path / "smuggled")
    for lie in (pickle.dumps(("done", Smuggled(target), 0.0)), pickle.dumps(Smuggled(target)), b"no pickle",
                pickle.dumps(("loss", ("nosuch", ""), 0.0)), pickle.dumps(("loss", ("silent", "", 1), 0.0)),
                pickle.dumps(("nosuch", (), 0.0)), pickle.dumps(("done", 1, "soon"))):
        assert outcome(seize, framed(lie)) == ("decode_error", "the decoder crashed (its answer is no plain data)")
    assert not os.path.exists(target)
    assert outcome(seize, b"\xff" * 8) == ("over_limits", "more than 3072 MiB")
    assert outcome(seize, framed(b"x" * 100)[:50], SHORT) == ("over_limits", "more than 1 s")


def test_much_data():
    data = sandbox.call(many, 200 * MIB, Limits())
    assert data == many(200 * MIB)
    assert sandbox.call(len, data, Limits()) == len(data)


def test_many_threads_at_once():
    before = psutil.Process().num_fds()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(partial(sandbox.call, square, limits=Limits()), range(200))) == [n * n for n in range(200)]
        assert len(sandbox._idle) <= 8
    sandbox._idle.clear()
    assert psutil.Process().num_fds() == before


def test_deaths_leave_nothing_behind(others):
    before = psutil.Process().num_fds(), threading.active_count()
    for _ in range(20):
        with pytest.raises(Loss):
            sandbox.call(os._exit, 1, Limits())
    assert not set(psutil.Process().children()) - others
    assert (psutil.Process().num_fds(), threading.active_count()) == before


def test_an_interrupted_caller_ends_the_process(others):
    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        sandbox.call(same, 0, Limits())
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            sandbox.call(spin, 0, Limits())
    finally:
        signal.signal(signal.SIGALRM, former)
    assert not set(psutil.Process().children()) - others


def test_a_killed_caller_takes_everybody_with_it(tmp_path):
    """Also while native code holds the interpreter's lock, and those that the process itself started."""
    path = str(tmp_path / "pids")
    caller = subprocess.Popen([sys.executable, "-c", "from pipelines.sandbox import *; from tests.pipelines import "
                               f"test_sandbox as it; call(it.start_a_child, {path!r}, Limits())"])
    while not os.path.exists(path):
        assert caller.poll() is None
        time.sleep(0.02)
    with open(path) as file:
        processes = [psutil.Process(int(pid)) for pid in file.read().split()]
    time.sleep(0.2)
    caller.kill()
    caller.wait()
    ended = time.monotonic()
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        assert time.monotonic() < ended + 5
        time.sleep(0.02)


def test_time_in_the_process_is_told():
    before = sandbox.cpu_seconds()
    sandbox.call(sum, list(range(1_000_000)), Limits())
    assert 0.001 < sandbox.cpu_seconds() - before < 2
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY, "the limits are the process's alone"
