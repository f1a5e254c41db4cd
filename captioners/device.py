"""Where a model is put: the first GPU that no other process of ours has, or the CPU.

A GPU is claimed by a lock on a file, which ends with the process: so every process gets its own, of whichever build.
"""
import fcntl
import gc
import os
import sys
import tempfile
import time
from pathlib import Path

_LOOK = 1.0  # s
_claimed: dict[int, int] = {}  # number of the GPU: descriptor of its lock


def there() -> int:
    """How many GPUs there are."""
    import torch
    return torch.cuda.device_count()


def claim() -> str:
    """The device of this process; where all GPUs are taken, waits for one."""
    if not there():
        return "cpu"
    waited = False
    while not _claimed:
        for number in range(there()):
            file = os.open(_lock(number), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            _claimed[number] = file
            break
        else:
            if not waited:
                print("every GPU is taken by another process of this user's; waiting for one", file=sys.stderr)
            waited = True
            time.sleep(_LOOK)
    return f"cuda:{next(iter(_claimed))}"


def release() -> None:
    """Give back what a model that is no longer held took of the memory."""
    gc.collect()
    if _claimed:
        import torch
        torch.cuda.empty_cache()


def _lock(number: int) -> Path:
    import torch
    card = torch.cuda.get_device_properties(number).uuid
    return Path(tempfile.gettempdir()) / f"m2ugen-{os.getuid()}-{card}.lock"
