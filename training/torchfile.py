"""Files of `torch.save`, the zip of today and the pickles of before 2020, read without executing anything.

The pickle inside goes through torch's weights-only unpickler, the one of `torch.load(weights_only=True)`, with
`argparse.Namespace` allowed by name: published training checkpoints hold their arguments in one. We run it ourselves
because `torch.load` maps only zip files, and reads all of an old file, optimiser included, before it gives the first
tensor. Storages are given to the unpickler on the meta device, so that nothing is read or allocated, whatever sizes
the file claims; where the bytes lie is looked up afterwards, and every tensor is held against its storage's real size.
"""
import argparse
import re
import struct
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pickle import UnpicklingError
from typing import BinaryIO

import torch
from torch import _weights_only_unpickler
from torch.serialization import (
    MAGIC_NUMBER,
    PROTOCOL_VERSION,
    add_safe_globals,
    clear_safe_globals,
    get_safe_globals,
)
from torch.storage import TypedStorage

from manifests.messages import one_line, shown
from training import stored
from training.stored import Stored

# What the unpickler may raise on bytes that are no sound pickle: any opcode can fail in its own way.
_BROKEN = (UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError,
           ArithmeticError, MemoryError, NotImplementedError, struct.error)
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of torch's magic number
_AGAIN = "fetch it again, and compare its size and checksum with the publisher's"


def is_torch_file(head: bytes) -> bool:
    """Whether a file that begins with these bytes is one that `torch.save` wrote, or claims to be a pickle."""
    return head.startswith((b"PK\x03\x04", b"\x80"))


def read(path: str) -> dict:
    """What was saved, with a `Stored` for every tensor and a plain dict for a Namespace.

    ValueError, naming the file, where it is broken or asks for anything but tensors and plain values.
    """
    try:
        with open(path, "rb") as file:
            value = _zip(path, file) if file.read(4) == b"PK\x03\x04" else _legacy(path, file)
    except RecursionError:
        raise ValueError(f"{path}: a torch file with values in one another without end; no training writes that. Do "
                         "not use it") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__} and not a dictionary of tensors; save "
                         "model.state_dict()")
    return value


def _zip(path: str, file: BinaryIO) -> dict:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            stored_plainly = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            small = {entry.filename: archive.read(entry) for entry in entries
                     if stored_plainly and entry.filename.rpartition("/")[2] in ("data.pkl", "byteorder")}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, struct.error) as error:
        raise ValueError(f"{path}: a torch file that is cut off or broken ({one_line(error)}); {_AGAIN}") from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise ValueError(f"{path}: is a TorchScript program, which holds code; only weights are read. Save its "
                         "state_dict() with torch.save")
    if not stored_plainly:
        raise ValueError(f"{path}: was compressed by another tool; torch.save stores without compression. Save it "
                         "again with torch, or fetch the original")
    named = {entry.filename: entry for entry in entries}
    pickles = [name for name in small if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1 or len(named) != len(entries):
        raise ValueError(f"{path}: is a zip, but none that torch.save wrote (no single data.pkl in it); {_AGAIN}")
    root = pickles[0].removesuffix("data.pkl")
    _same_order(path, small.get(f"{root}byteorder", b"little").decode("ascii", "replace"))
    places = {name.removeprefix(f"{root}data/"): _payload(path, file, entry)
              for name, entry in named.items() if name.startswith(f"{root}data/")}
    value, storages = _unpickle(path, BytesIO(small[pickles[0]]))
    return _located(path, value, {key: (*places[key], dtype) for key, dtype in storages.items() if key in places})


def _payload(path: str, file: BinaryIO, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Where an entry's bytes begin, and how many there are."""
    file.seek(max(entry.header_offset, 0))
    head = file.read(30)
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise ValueError(f"{path}: a torch file that is broken at {shown(entry.filename)}; {_AGAIN}")
    name, extra = struct.unpack("<HH", head[26:30])
    begin = entry.header_offset + 30 + name + extra
    if begin + entry.file_size > file.seek(0, 2):
        raise ValueError(f"{path}: a torch file that is cut off in {shown(entry.filename)}; {_AGAIN}")
    return begin, entry.file_size


def _legacy(path: str, file: BinaryIO) -> dict:
    file.seek(0)
    if not file.read(len(_LEGACY)).startswith(_LEGACY):
        file.seek(0)
        if tarfile.is_tarfile(file):
            raise ValueError(f"{path}: a torch file from before 2017, which is not read; save it again with torch 1.x")
        raise ValueError(f"{path}: is a pickle, but none that torch.save wrote; a pickle can run any program when it "
                         "is loaded, so it was not. Ask for safetensors, or for a file of torch.save")
    file.seek(0)
    try:
        magic, protocol, system = (_unpickle(path, file)[0] for _ in range(3))
        if magic != MAGIC_NUMBER or protocol != PROTOCOL_VERSION or not isinstance(system, dict):
            raise ValueError(f"{path}: an old torch file of an unknown version; {_AGAIN}")
        _same_order(path, "little" if system.get("little_endian", True) else "big")
        value, storages = _unpickle(path, file)
        keys = _unpickle(path, file)[0]
        at, size, places = file.tell(), file.seek(0, 2), {}
        for key in keys:
            file.seek(at)
            (count,) = struct.unpack("<q", file.read(8))
            nbytes = count * storages[key].itemsize
            if count < 0 or at + 8 + nbytes > size:
                raise ValueError(f"{path}: an old torch file that is cut off; {_AGAIN}")
            places[key] = (at + 8, nbytes, storages[key])
            at += 8 + nbytes
    except (struct.error, LookupError, TypeError) as error:
        raise ValueError(f"{path}: an old torch file that is cut off or broken ({one_line(error)}); {_AGAIN}"
                         ) from error
    return _located(path, value, places)


def _same_order(path: str, order: str) -> None:
    if order != sys.byteorder:
        raise ValueError(f"{path}: was written on a machine of {shown(order)} byte order, which is not read here; "
                         "save it again as safetensors there")


def _unpickle(path: str, file: BinaryIO) -> tuple[object, dict[str, torch.dtype]]:
    """One pickle's value, its tensors on the meta device, and the storages that it asks for."""
    storages: dict[str, TypedStorage] = {}

    def storage(saved: tuple) -> TypedStorage:
        _, kind, key, _, _, *view = saved
        if view and view[0] is not None:
            raise ValueError("a view of a storage, as torch wrote before 2017")
        if key not in storages:
            dtype = kind.dtype if hasattr(kind, "dtype") else torch.uint8
            untyped = torch.UntypedStorage(0, device="meta")
            untyped.training_key = key  # an attribute of a storage stays with it, however a tensor comes by it
            storages[key] = TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)
        return storages[key]

    unpickler = _weights_only_unpickler.Unpickler(file, encoding="utf-8")
    unpickler.persistent_load = storage
    try:
        with _only_a_namespace(), warnings.catch_warnings(action="ignore"):
            value = unpickler.load()
    except _BROKEN as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise ValueError(f"{path}: asks for {shown(asked[1])} to be run or made when it is loaded. Only tensors, "
                             "plain values and argparse.Namespace are let in, and nothing was run. If you trust the "
                             "file, have its tensors saved as safetensors elsewhere") from error
        raise ValueError(f"{path}: a torch file whose pickle is cut off or broken ({one_line(error)[:200]}); {_AGAIN}"
                         ) from error
    return value, {key: typed.dtype for key, typed in storages.items()}


@contextmanager
def _only_a_namespace() -> Iterator[None]:
    """Other parts of a process may have told torch to trust more; that is not for files from anywhere."""
    trusted = get_safe_globals()
    clear_safe_globals()
    add_safe_globals([argparse.Namespace])
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(trusted)


def _located(path: str, value: object, places: dict[str, tuple[int, int, torch.dtype]]) -> object:
    """The value, with each meta tensor replaced by where it lies."""
    if isinstance(value, torch.Tensor):
        return _stored(path, value, places)
    if isinstance(value, argparse.Namespace):
        value = dict(vars(value))
    if isinstance(value, dict):
        return {key: _located(path, item, places) for key, item in dict.items(value)}
    if isinstance(value, list | tuple):
        return [_located(path, item, places) for item in value]
    return value


def _stored(path: str, tensor: torch.Tensor, places: dict[str, tuple[int, int, torch.dtype]]) -> Stored:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "meta":
        raise ValueError(f"{path}: holds a sparse or quantised tensor; only dense ones are read. Convert it with torch")
    key = getattr(tensor.untyped_storage(), "training_key", None)
    if key not in places:
        raise ValueError(f"{path}: a torch file that lacks the elements of one of its tensors; {_AGAIN}")
    begin, nbytes, _ = places[key]
    first, strides, size = tensor.storage_offset(), tensor.stride(), tensor.dtype.itemsize
    reach = max(stored.span(tensor.shape, strides), tensor.numel())  # of an expanded tensor, all of its elements
    if first < 0 or any(step < 0 for step in strides) or (first + reach) * size > nbytes:
        raise ValueError(f"{path}: a torch file with a tensor of {list(tensor.shape)} that its elements do not fill; "
                         f"{_AGAIN}")
    if tensor.is_conj() or tensor.is_neg():
        raise ValueError(f"{path}: holds a tensor saved as a conjugate or negated view; save a copy of it")
    return stored.in_file(path, begin + first * size, tuple(tensor.shape), tensor.dtype, tuple(strides))
