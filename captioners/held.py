"""The one model that a process holds, since it has room for one; and whether a model can be loaded at all.

Which model is said by hashable plain data with a `name`, which a module's function `load` turns into what answers.
"""
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from captioners import device

_held: dict[Hashable, Callable] = {}
_one = threading.RLock()


@contextmanager
def asking(model: Hashable, load: Callable[[Hashable], Callable]) -> Iterator[Callable]:
    """The model, loaded once; it stays until another is asked for.

    One thread asks at a time: other runners than the local one work in several, and models keep what they hear.
    """
    with _one:
        if model not in _held:
            release()
            _held[model] = load(model)
        yield _held[model]


def release() -> None:
    """Let the model go, and its GPU."""
    with _one:
        if _held:
            _held.clear()
            device.release()


def try_out(model: Hashable, load: Callable[[Hashable], Callable], instead: str) -> None:
    """Load it once, in a process of its own that leaves no trace of it here. Raises ValueError that says what to do,
    as `instead` where memory is short."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=logging.disable,
                             initargs=(logging.WARNING,)) as pool:
        try:
            pool.submit(_try_out, model, load, os.getpid()).result()
        except BrokenProcessPool:
            raise ValueError(f"{model.name}: the process that loaded it was killed, as where there is too little "
                             f"memory; take {instead}, or a smaller model") from None


def _try_out(model: Hashable, load: Callable[[Hashable], Callable], starter: int) -> None:
    def leave_with_it() -> None:  # or a command that is killed now would leave the GPU taken
        while os.getppid() == starter:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=leave_with_it, daemon=True).start()
    load(model)
