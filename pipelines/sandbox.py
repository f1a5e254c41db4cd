"""A function's call in a process of its own, with limits of time and memory that hold whatever becomes of the process.

Decoders read what anybody may have made: they crash, hang and fill the memory, and a worker of the runner must not.
Processes are kept and used again; one that broke a limit or died is replaced. What a process says is taken for plain
data and nothing else, since hostile media may speak through it.

`python -m pipelines.sandbox`, started by `call`, is such a process.
"""
import errno
import fcntl
import io
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil

from manifests.outcomes import Loss

_TICK = 0.1        # s between looks at the clock and the memory, while nothing is heard
_TREE = 1.0        # s between looks at the process's own children, which cost more
_STARTING = 300.0  # s to start, to import and to prepare: no file's fault, and never counted against one
_PIPE = 2**20      # bytes
_SIZE = 8          # bytes, of a frame's length before it
_LONGEST = 500     # letters of an error's text
MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # errors that are no clip's fault, and would meet them all
_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
# Workers are the parallelism, and sums must not depend on the number of cores.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Limits:
    """For one file in one stage."""
    seconds: float = 300.0     # of the clock on the wall
    memory: int = 3 * 2**30    # bytes, on top of what the process needs without a file
    late: str = "over_limits"  # the reason where time ran out: waiting for others is no fault of the file


class Failed(Exception):
    """An unexpected error inside: its type, its words and its place, as text."""


def call(function: Callable, argument, limits: Limits, prepare: Callable[[], object] | None = None):
    """`function(argument)`; it may give plain data only (None, numbers, strings, bytes, lists, dicts).

    Functions are found by their names: those of a module, and partials of them. `prepare` is called in a process that
    meets the function for the first time, outside the limits: it loads what every call needs.

    Raises Loss as the function does, or for `over_limits`, for `decode_error` where the process crashed and for
    `interrupted` where others killed it; ImportError; OSError where the disk is to blame; Failed for all else.
    """
    process, answer = _asked(pickle.dumps((function, prepare, limits.memory)), pickle.dumps(argument), limits)
    try:
        found = _read(answer)
    except Exception:  # whatever it has become: it is not the process any more that we started
        process.end()
        raise Loss("decode_error", "the decoder crashed (its answer is no plain data)") from None
    if isinstance(found, MemoryError):
        process.end()
        raise _over_memory(limits)
    _idle.append(process)
    if isinstance(found, Exception):
        raise found
    return found


def cpu_seconds() -> float:
    """CPU time that the processes have spent on this thread's calls, as far as they lived to tell."""
    return getattr(_spent, "cpu_seconds", 0.0)


def _asked(head: bytes, body: bytes, limits: Limits) -> tuple["_Process", bytes]:
    """A process, and its answer."""
    while True:
        try:
            process, fresh = _idle.pop(), False
        except IndexError:
            process, fresh = _Process(), True
        try:
            return process, process.ask(head, body, limits)
        except _NotBegun as death:
            process.end()
            if fresh:  # one that was idle may have been killed, or have left of itself (`_serve`)
                raise death.cause from None
        except BaseException:
            process.end()
            raise


def _read(answer: bytes):
    """What an answer of `_serve` tells: the function's value, or an exception."""
    kind, value, seconds = _Unpickler(io.BytesIO(answer)).load()
    _spent.cpu_seconds = cpu_seconds() + float(seconds)
    if kind == "done":
        return value
    kinds = {"loss": Loss, "memory": MemoryError, "import": ImportError, "machine": OSError, "failed": Failed}
    return kinds[kind](*(_line(part) if isinstance(part, str) else part for part in value))


def _line(text: str) -> str:
    """One line that any file and terminal takes."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)[:2 * _LONGEST]


def _over_memory(limits: Limits) -> Loss:
    return Loss("over_limits", f"more than {limits.memory / 2**20:.0f} MiB")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"{module}.{name} is no plain data")


class _NotBegun(Exception):
    """The process ended before it turned to the argument."""

    def __init__(self, cause: Exception):
        super().__init__(cause)
        self.cause = cause


class _Process:
    """The caller's end. `end` kills the process and all that it started, also when this object is dropped."""

    def __init__(self):
        theirs, ours = os.pipe()  # the process ends when `ours` is closed: with this process, at the latest
        try:
            process = subprocess.Popen([sys.executable, "-m", "pipelines.sandbox", str(theirs)], bufsize=0,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                       pass_fds=(theirs,), env=os.environ | _ONE_THREAD,
                                       start_new_session=True)  # Ctrl-C is the launcher's to answer
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self.process, self.end = process, weakref.finalize(self, _end, process, ours)
        self.watched = psutil.Process(process.pid)
        self.loaded: set[bytes] = set()
        self.base = 0  # bytes that it needs without a file
        for pipe in (process.stdin, process.stdout):
            os.set_blocking(pipe.fileno(), False)
            with suppress(OSError, AttributeError):  # more than a user may have, or not Linux: slower, no worse
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)

    def ask(self, head: bytes, body: bytes, limits: Limits) -> bytes:
        """Its answer. Loss where a limit was broken or the process died; _NotBegun where that was before it began."""
        starting = _Watch(self.watched, _STARTING, sys.maxsize)
        try:
            self._send(head, starting)
            self._send(body, starting)
            if answer := self._receive(starting):  # at once, where the function could not be loaded
                return answer
        except EOFError:
            code = self._code()
            raise _NotBegun(_killed(code) or ImportError(f"a process to decode in cannot start: {_manner(code)}")
                            ) from None
        except (TimeoutError, MemoryError):
            raise _NotBegun(Loss("interrupted", f"a process to decode in was not ready after {_STARTING:g} s")
                            ) from None
        if head not in self.loaded:
            self.loaded.add(head)
            self.base = starting.resident()
        try:
            return self._receive(_Watch(self.watched, limits.seconds, self.base + limits.memory))
        except EOFError:
            code = self._code()
            raise _killed(code) or Loss("decode_error", f"the decoder crashed ({_manner(code)})") from None
        except TimeoutError:
            raise Loss(limits.late, f"more than {limits.seconds:g} s") from None
        except MemoryError:
            raise _over_memory(limits) from None

    def _send(self, data: bytes, watch: "_Watch") -> None:
        pipe = self.process.stdin.fileno()
        for rest in (memoryview(_size(data)), memoryview(data)):
            while rest:
                try:
                    rest = rest[os.write(pipe, rest):]
                except BlockingIOError:
                    watch.wait(pipe, select.POLLOUT)
                except BrokenPipeError:
                    raise EOFError from None

    def _receive(self, watch: "_Watch") -> bytes:
        size = int.from_bytes(self._exactly(_SIZE, watch), "big")
        if size > watch.memory:  # nothing that kept to the limit can be so long
            raise MemoryError
        return self._exactly(size, watch)

    def _exactly(self, size: int, watch: "_Watch") -> bytes:
        pipe, parts = self.process.stdout.fileno(), []
        while size:
            try:
                parts.append(os.read(pipe, min(size, _PIPE)))
            except BlockingIOError:
                watch.wait(pipe, select.POLLIN)
                continue
            if not parts[-1]:
                raise EOFError
            size -= len(parts[-1])
        return b"".join(parts)

    def _code(self) -> int | None:
        """The exit code, or None of a process that closed its pipe and lives."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(5)


class _Watch:
    """Over a process's time, and over the memory of it and its children. Errors: TimeoutError, MemoryError."""

    def __init__(self, process: psutil.Process, seconds: float, memory: int):
        self.process, self.memory = process, memory
        self.looked = self.looked_down = time.monotonic()
        self.until = self.looked + seconds

    def wait(self, pipe: int, event: int) -> None:
        """Until the pipe is ready, or for a tick."""
        poll = select.poll()
        poll.register(pipe, event)
        poll.poll(_TICK * 1000)
        now = time.monotonic()
        if now > self.until:
            raise TimeoutError
        if now > self.looked + _TICK:
            self.looked, down = now, now > self.looked_down + _TREE
            self.looked_down = now if down else self.looked_down
            if self.resident(down) > self.memory:
                raise MemoryError

    def resident(self, tree: bool = True) -> int:
        """Bytes of the process; `tree`: and of all that it started."""
        total = 0
        with suppress(psutil.Error):  # whatever has just ended needs none
            total = self.process.memory_info().rss
            for child in self.process.children(recursive=True) if tree else ():
                total += child.memory_info().rss
        return total


def _size(data: bytes) -> bytes:
    return len(data).to_bytes(_SIZE, "big")


def _end(process: subprocess.Popen, ours: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    os.close(ours)
    process.stdin.close()
    process.stdout.close()
    process.wait()


def _killed(code: int | None) -> Loss | None:
    """Of a process that others ended: by its own fault it would have been another signal, or an exit code."""
    if code is not None and code < 0 and -code not in _FAULTS:
        return Loss("interrupted", f"the process that decoded it was killed ({_manner(code)})")
    return None


def _manner(code: int | None) -> str:
    if code is None:
        return "it went silent"
    names = {-number: number.name for number in signal.Signals}
    return f"exit code {code}" if code >= 0 else names.get(code, f"signal {-code}")


def _serve(lifeline: int) -> None:
    """The process's end: one call after the other, for as long as there is somebody who asks."""
    _leave_with_caller(lifeline)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory ends, let a clip be lost and not the build
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a library prints is no answer
    own, loaded = psutil.Process(), {}
    while head := _frame(asked):
        answer = _answer(head, asked, answers, loaded)
        answers.write(_size(answer))
        answers.write(answer)
        answers.flush()
        if head in loaded and own.memory_info().rss > loaded[head].worn:
            return  # what it did not give back would be missing from the next file's share


def _answer(head: bytes, asked: BinaryIO, answers: BinaryIO, loaded: dict[bytes, "_Loaded"]) -> bytes:
    """Call the function; pickled: kind, value, CPU seconds. An empty frame tells that loading is over."""
    started = time.process_time()
    try:
        argument = pickle.loads(_frame(asked))
        if head not in loaded:
            loaded[head] = _load(head)
        _limit(loaded[head].data)
        answers.write(_size(b""))
        answers.flush()
        return _pickled("done", loaded[head].function(argument), started)
    except Loss as loss:
        return _pickled("loss", (loss.reason, loss.detail), started)
    except MemoryError:
        return _pickled("memory", (), started)
    except ImportError as error:
        return _pickled("import", (str(error),), started)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return _pickled("memory", (), started)
        if isinstance(error, OSError) and error.errno in MACHINE:
            return _pickled("machine", (error.errno, error.strerror), started)
        place = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__}: {str(error)[:_LONGEST]}"
        return _pickled("failed", (f"{words} ({Path(place.filename).name}:{place.lineno})",), started)


@dataclass(frozen=True)
class _Loaded:
    function: Callable
    data: int | None  # bytes that may be allocated: beyond, `malloc` fails, which is kinder than a kill
    worn: int         # resident bytes


def _load(head: bytes) -> _Loaded:
    _limit(None)
    function, prepare, memory = pickle.loads(head)
    if prepare is not None:
        prepare()
    needs = psutil.Process().memory_info()
    # Linux alone counts what was allocated; elsewhere the caller's watch has to do.
    return _Loaded(function, needs.data + memory if hasattr(needs, "data") else None, needs.rss + memory // 2)


def _limit(data: int | None) -> None:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = hard if data is None else data if hard == resource.RLIM_INFINITY else min(data, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _frame(asked: BinaryIO) -> bytes:
    return asked.read(int.from_bytes(asked.read(_SIZE), "big"))


def _pickled(kind: str, value, started: float) -> bytes:
    target = io.BytesIO()
    _Pickler(target, pickle.HIGHEST_PROTOCOL).dump((kind, value, time.process_time() - started))
    return target.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value):
        raise TypeError(f"{type(value).__name__} is no plain data")


def _leave_with_caller(lifeline: int) -> None:
    """Kill this process and all that it started when the other end of `lifeline` closes, as it does with the caller."""
    def wait() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()
    if hasattr(fcntl, "F_SETSIG"):  # Linux: the kernel does it, also while native code keeps our threads from running
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)


_idle: list[_Process] = []  # the last to have worked is the next to work, so that no more are started than are needed
_spent = threading.local()

if __name__ == "__main__":
    _serve(int(sys.argv[1]))
