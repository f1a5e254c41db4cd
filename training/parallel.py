"""Which of several processes this is: alone, or one of those that `torchrun` started."""
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import psutil
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

_PATIENCE = timedelta(hours=1)  # with the first, which alone prepares the data


@dataclass(frozen=True)
class Processes:
    """`rank` of `world` processes; `device` is this one's."""
    rank: int
    world: int
    device: torch.device
    _joined: list[DistributedDataParallel] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def __str__(self) -> str:
        return f"{self.world} processes, {self.device.type}" if self.world > 1 else str(self.device)

    def memory(self) -> int:
        """Bytes of the device, used or not."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory
        return psutil.virtual_memory().total

    def joined(self, model: nn.Module) -> nn.Module:
        """The model, with gradients that are those of all processes."""
        if self.world == 1:
            return model
        cards = [self.device.index] if self.device.type == "cuda" else None
        # All have read the same files: nothing need be sent before the first gradients.
        self._joined.append(DistributedDataParallel(model, device_ids=cards, forward_sync_buffers=False,
                                                    init_sync=False, gradient_as_bucket_view=True))
        return self._joined[-1]

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            distributed.barrier()

    def told(self, value: object) -> object:
        """The first process's, on each of them."""
        each = [value]
        if self.world > 1:
            distributed.broadcast_object_list(each)
        return each[0]

    def led(self, do: Callable[[], object]) -> None:
        """Have the first process do it, while the others wait. What it refuses, as OSError or ValueError, is raised on
        all of them."""
        failed = None
        if self.first:
            try:
                do()
            except (OSError, ValueError) as error:
                failed = error
        said = self.told(failed and str(failed))
        if said is not None:
            raise failed or ValueError(said)

    def agreed(self, value: object, what: str) -> None:
        """Raises ValueError, on each of them, where processes have other values."""
        each = [value]
        if self.world > 1:
            each = [None] * self.world
            distributed.all_gather_object(each, value)
        if any(one != each[0] for one in each):
            raise ValueError(f"the processes do not have the same {what}: OUT, RUN and the models must be the same for "
                             "all, on a disk that they share")

    def united(self, found: dict[str, str]) -> dict[str, str]:
        """What all processes found, on each of them."""
        each = [found]
        if self.world > 1:
            each = [{} for _ in range(self.world)]
            distributed.all_gather_object(each, found)
        return {name: one for some in each for name, one in some.items()}

    def added(self, numbers: Tensor) -> Tensor:
        """The sum over all processes, on each of them."""
        if self.world > 1:
            distributed.all_reduce(numbers)
        return numbers


@contextmanager
def processes(device: str | None = None) -> Iterator[Processes]:
    """NCCL on GPUs, one each; gloo on CPUs. Without `device`, a GPU where there is one. Raises ValueError for a device
    that is not there."""
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {kind}: torch {torch.__version__} sees no GPU here; take --device cpu, or install "
                         "torch's CUDA build (make setup TORCH_INDEX=...)")
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(f"process {local} has no GPU of its own: there are {torch.cuda.device_count()}; start as "
                             "many processes as there are GPUs")
        kind = f"cuda:{local}"
    if kind.startswith("cuda"):
        torch.cuda.set_device(kind)
    if world == 1:
        yield Processes(0, 1, torch.device(kind))
        return
    distributed.init_process_group("nccl" if kind.startswith("cuda") else "gloo", timeout=_PATIENCE)
    here = Processes(distributed.get_rank(), world, torch.device(kind))
    try:
        yield here
    finally:
        for one in here._joined:
            # DDP's reducer holds the group too, and who lets go of that last joins gloo's threads. The reducer would do
            # so with Python's lock in hand, for which such a thread may wait, to drop its last work: a deadlock.
            del one.reducer, one.logger
        distributed.destroy_process_group()
