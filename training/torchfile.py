"""Files of `torch.save`, the zip of today and the pickles of before 2020, read without executing anything.

The pickle inside goes through torch's weights-only unpickler, the one of `torch.load(weights_only=True)`. We run it
ourselves because `torch.load` maps only zip files, and reads all of an old file, optimiser included, before it gives
the first tensor. Storages are given to the unpickler on the meta device, so that nothing is read or allocated, whatever
sizes the file claims; where the bytes lie is looked up afterwards, and every tensor is held against its storage's real
size.

torch lets in more than is needed, and some of it allocates what the file asks for (bytearray). So every global that
a pickle names is looked at before it runs, and refused unless it is one of ours (`_allowed`). One of those, the
`argparse.Namespace` in which training checkpoints hold their arguments, is none of torch's: while a file is read, torch
trusts it in the whole process, other threads included. It only holds values. Readers wait for one another.
"""
import argparse
import struct
import sys
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pickle import UnpicklingError
from typing import BinaryIO

import torch
from torch import _weights_only_unpickler
from torch.serialization import (
    MAGIC_NUMBER,
    PROTOCOL_VERSION,
    StorageType,
    get_safe_globals,
    safe_globals,
)
from torch.storage import TypedStorage

from manifests.messages import one_line, shown
from training import stored
from training.stored import Stored

# What the unpickler may raise on bytes that are no sound pickle: any opcode can fail in its own way.
_BROKEN = (UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError,
           ArithmeticError, MemoryError, struct.error)
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickle of torch's magic number
_SAFE = {"collections.OrderedDict", "torch.Size", "torch.device", "argparse.Namespace", "torch._utils._rebuild_tensor",
         "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter"}
_TUPLES = 1 << 20   # how many values a tuple may hold, those of tuples in it counted each time
_reading = threading.Lock()
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

    begin = file.tell()
    unpickler = _weights_only_unpickler.Unpickler(file, encoding="utf-8")
    unpickler.persistent_load = storage
    unpickler.memo = _Memo()
    try:
        asked = _weights_only_unpickler.get_globals_in_pkl(file)
        if refused := sorted(asked - _allowed(), key=lambda name: (name in _allowed_by_torch(), name)):
            raise _Refused(refused[0])
        file.seek(begin)
        with _a_namespace(), warnings.catch_warnings(action="ignore"):
            value = unpickler.load()
    except _Refused as error:
        raise ValueError(f"{path}: asks for {shown(str(error))} to be run or made when it is loaded. Only dense "
                         "tensors, plain values and argparse.Namespace are let in, and nothing was run. If you trust "
                         "the file, have its tensors saved as safetensors elsewhere") from None
    except _BROKEN as error:
        raise ValueError(f"{path}: a torch file whose pickle is cut off or broken ({one_line(error)[:200]}); {_AGAIN}"
                         ) from error
    return value, {key: typed.dtype for key, typed in storages.items()}


class _Refused(Exception):
    """Names a global that is not let in."""


class _Memo(dict):
    """The unpickler's memory of values to be used again. A tuple of one tuple twice, forty times over, is a few hundred
    bytes, and as a key takes for ever to hash: tuples are refused where they grow so."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, tuple[tuple, int]] = {}  # by id; with the tuple, lest another gets its id

    def __setitem__(self, place: int, value: object) -> None:
        if isinstance(value, tuple):
            size = self._size(value)
            if size > _TUPLES:
                raise UnpicklingError("tuples in one another without end")
            self._sizes[id(value)] = (value, size)
        super().__setitem__(place, value)

    def _size(self, value: object) -> int:
        if not isinstance(value, tuple):
            return 1
        known = self._sizes.get(id(value))
        return known[1] if known else 1 + sum(map(self._size, value))


@cache
def _allowed() -> frozenset[str]:
    """What rebuilds dense tensors, and what cannot do harm. Not UntypedStorage, which allocates when it is called; only
    dtypes that no model here has (float8, uint16) are saved with it."""
    named = _allowed_by_torch()
    return frozenset(_SAFE | {name for name, one in named.items() if isinstance(one, torch.dtype | StorageType)})


def _allowed_by_torch() -> dict[str, object]:
    return _weights_only_unpickler._get_allowed_globals()


@contextmanager
def _a_namespace() -> Iterator[None]:
    with _reading:
        if argparse.Namespace in get_safe_globals():
            yield
        else:
            with safe_globals([argparse.Namespace]):
                yield


def _located(path: str, value: object, places: dict[str, tuple[int, int, torch.dtype]]) -> object:
    """The value, with each meta tensor replaced by where it lies; what is in it twice is so in the result too."""
    done: dict[int, object] = {}

    def located(value: object) -> object:
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, torch.Tensor):
            made = _stored(path, value, places)
        elif isinstance(value, argparse.Namespace):
            made = {key: located(item) for key, item in vars(value).items()}
        elif isinstance(value, dict):
            made = {key: located(item) for key, item in dict.items(value)}
        elif isinstance(value, list | tuple):
            made = [located(item) for item in value]
        else:
            return value
        done[id(value)] = made
        return made
    return located(value)


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
