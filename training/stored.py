"""A tensor that is still in its file: its shape is known, its elements are read when they are asked for.

Reading goes through plain `readinto`, not through a map of the file: mapped pages count as memory of the process, and
a model filled from a mapped file of its own size would be there twice.
"""
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import prod

import torch

from manifests.messages import shown

FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Stored:
    """`load()` gives a tensor of its own, on the CPU, of this shape and dtype; `where` names the file for messages."""

    where: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def in_file(path: str, offset: int, shape: tuple[int, ...], dtype: torch.dtype,
            strides: tuple[int, ...] | None = None) -> Stored:
    """A tensor whose elements begin `offset` bytes into the file, in rows (or with `strides`, in elements)."""
    return Stored(path, tuple(shape), dtype, partial(_read, path, offset, tuple(shape), dtype, strides))


def in_memory(where: str, tensor: torch.Tensor) -> Stored:
    """A tensor that is there already; it is not copied."""
    return Stored(where, tuple(tensor.shape), tensor.dtype, lambda: tensor.detach().cpu())


def joined(parts: list[Stored], axis: int, dtype: torch.dtype | None = None) -> Stored:
    """Pieces of one tensor, one after the other along `axis`. The pieces are read one at a time.

    Of different dtypes, they need a `dtype` that holds them all (`torch.promote_types`): ValueError without one.
    """
    first = parts[0]
    dtype = dtype or first.dtype
    if unlike := next((part for part in parts if torch.promote_types(part.dtype, dtype) != dtype), None):
        raise ValueError(f"{unlike.where}: a piece of {unlike.dtype} does not fit into a tensor of {dtype}")
    shape = (*first.shape[:axis], sum(part.shape[axis] for part in parts), *first.shape[axis + 1:])

    def load() -> torch.Tensor:
        whole, at = torch.empty(shape, dtype=dtype), 0
        for part in parts:
            whole.narrow(axis, at, part.shape[axis]).copy_(part.load())
            at += part.shape[axis]
        return whole
    return Stored(first.where, shape, dtype, load)


def span(shape: Iterable[int], strides: Iterable[int]) -> int:
    """How many elements of a storage, from the tensor's first on, the tensor reaches over."""
    shape = tuple(shape)
    return 0 if 0 in shape else 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def in_rows(shape: Iterable[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    strides, step = [], 1
    for size in reversed(tuple(shape)):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def finite(name: str, stored: Stored) -> torch.Tensor:
    """The tensor, read; ValueError where an element is infinite or no number."""
    tensor = stored.load()
    if tensor.is_floating_point() and tensor.numel():
        low, high = tensor.aminmax()  # NaN goes through both, and nothing of the tensor's size is allocated
        if not torch.isfinite(low) or not torch.isfinite(high):
            raise ValueError(f"{stored.where}: {shown(name)} holds NaN or infinity: the training that wrote it had "
                             "diverged. Take an earlier checkpoint")
    return tensor


def _read(path: str, offset: int, shape: tuple[int, ...], dtype: torch.dtype,
          strides: tuple[int, ...] | None) -> torch.Tensor:
    rows = strides is None or strides == in_rows(shape) or prod(shape) < 2
    count = prod(shape) if rows else span(shape, strides)
    flat = torch.empty(count, dtype=dtype)
    if count:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            left = memoryview(flat.view(torch.uint8).numpy())
            while left:
                got = file.readinto(left)
                if not got:
                    raise OSError(f"{path}: ends in the middle of a tensor; it changed while it was read, or was not "
                                  "copied whole. Fetch it again")
                left = left[got:]
    return flat.view(shape) if rows else flat.as_strided(shape, strides).contiguous()
