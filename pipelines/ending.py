"""A local build's sudden ends: Ctrl-C, SIGTERM, a worker process that died.

Beam's local runner waits for a dead worker forever, and for minutes when it is interrupted. Nothing is lost by leaving
at once (pipelines.stage), and the workers leave with their launcher (pipelines.worker).
"""
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def sudden(tell: Callable[[str], None], local: bool = True, what: str = "the build") -> Iterator[None]:
    """While the block runs, such an end calls `tell(why)` and leaves: exit code 1, or 128 + the signal's number.

    `local`: the workers are this machine's. Those of another runner are that runner's to watch, and its job is to be
    cancelled before we leave (pipelines.stage.to_the_end): there a signal is KeyboardInterrupt or SystemExit. `what`
    ends, for a person.
    """
    leaving = threading.RLock()  # a second signal comes to the thread that answers the first

    def leave(why: str, code: int) -> None:
        leaving.acquire()  # who comes second, of the threads that see one worker's end, waits for the end of all
        print(f"\n{what} ended: {why}\nWhat was done is kept, and the same command goes on from there.",
              file=sys.stderr, flush=True)
        tell(why)
        os._exit(code)

    def thread_failed(failed: threading.ExceptHookArgs) -> None:
        # Any of the runner's threads that wait for a worker may be the first to see its end.
        if local and any("apache_beam" in frame.filename for frame in traceback.extract_tb(failed.exc_traceback)):
            leave("a worker process died, for lack of memory perhaps: fewer --workers need less, and models with a "
                  "smaller --batch or --quantize", 1)
        former_hook(failed)

    def signalled(number: int, _) -> None:
        if not local:
            sys.exit(128 + number)
        leave(signal.Signals(number).name, 128 + number)

    former_hook, threading.excepthook = threading.excepthook, thread_failed
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    former = {number: signal.signal(number, signalled) for number in numbers}
    try:
        yield
    finally:
        threading.excepthook = former_hook
        for number, handler in former.items():
            signal.signal(number, handler)
