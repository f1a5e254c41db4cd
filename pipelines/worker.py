"""A worker process of the local runner: Beam's own harness, quiet, single-threaded, and gone when its launcher is.

`python -m pipelines.worker`, started by the runner (pipelines.options).
"""
import logging
import os
import signal
import sys
import threading
import time

# Before any import that reads it: workers are the parallelism, and sums must not depend on the number of cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
logging.disable(logging.CRITICAL)  # what fails is told to the launcher, which tells it once


def _leave_with(launcher: int) -> None:
    """A killed launcher must not leave workers behind that write beside its successor's."""
    while os.getppid() == launcher:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to answer
    threading.excepthook = lambda _: os._exit(1)  # a thread of the harness that fails has lost its launcher
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # Beam prints what it raises as well
    sdk_worker_main.main(sys.argv)
