"""Where a model is put: a GPU that no other process of ours has, or the CPU.

A GPU is claimed by a lock on a file, which ends with the process, so that processes spread over the GPUs. Nobody waits
for one: where all are claimed, it is that with the most memory left, and if this is too little, loading says so.
"""
import fcntl
import gc
import os
import tempfile
from pathlib import Path

_claimed: dict[int, int] = {}  # number of the GPU: descriptor of its lock


def there() -> int:
    """How many GPUs there are."""
    import torch
    return torch.cuda.device_count()


def claim() -> str:
    """The device of this process."""
    cards = there()
    for number in range(0 if _claimed else cards):
        file = os.open(_lock(number), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        else:
            _claimed[number] = file
            break
    if not cards:
        return "cpu"
    return f"cuda:{next(iter(_claimed)) if _claimed else max(range(cards), key=_free)}"


def release() -> None:
    """Give the GPU back, and what a model that is no longer held took of the memory."""
    gc.collect()
    if there():
        import torch
        torch.cuda.empty_cache()
    while _claimed:
        os.close(_claimed.popitem()[1])


def _free(number: int) -> int:
    """Bytes."""
    import torch
    return torch.cuda.mem_get_info(number)[0]


def _lock(number: int) -> Path:
    import torch
    card = torch.cuda.get_device_properties(number).uuid
    return Path(tempfile.gettempdir()) / f"m2ugen-{os.getuid()}-{card}.lock"
