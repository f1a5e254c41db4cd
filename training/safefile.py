"""safetensors files: a header of JSON, then the elements. Written tensor by tensor, the same bytes every time."""
import json
import os
from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open

from manifests.messages import one_line, shown
from training import stored
from training.stored import Stored

_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
          torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64", torch.int64: "I64",
          torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint64: "U64", torch.uint32: "U32",
          torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def read(path: str) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of a file, in the order in which they lie there, and its metadata.

    ValueError, naming the file, where it is cut off or its header does not fit its bytes.
    """
    try:
        with safe_open(path, "pt") as file:  # checks that the tensors tile the file exactly
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: no whole safetensors file ({one_line(error)}); fetch it again, and compare its size "
                         "and checksum with the publisher's") from error
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size), object_pairs_hook=lambda pairs: _once(path, pairs))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{path}: {shown(name)} is of dtype {entry['dtype']}, which is not read; save it as F16, "
                             "BF16 or F32")
        begin = 8 + size + entry["data_offsets"][0]
        tensors[name] = stored.in_file(path, begin, tuple(entry["shape"]), _DTYPES[entry["dtype"]])
    return tensors, metadata


def _once(path: str, pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"{path}: names a tensor twice; save it again")
    return found


def write(path: str, tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None) -> None:
    """Write the tensors by name, one in memory at a time. The file is there, whole and on the disk, when this returns;
    for a file that must never be seen half, give a temporary name and rename it."""
    header, at = {}, 0
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    # Wider elements first, as safetensors' own writer does: every tensor then begins at a multiple of its element.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    for name in order:
        one = tensors[name]
        if one.dtype not in _NAMES:
            raise ValueError(f"{one.where}: {shown(name)} is of dtype {one.dtype}, which safetensors cannot hold")
        header[name] = {"dtype": _NAMES[one.dtype], "shape": list(one.shape), "data_offsets": [at, at + one.nbytes]}
        at += one.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = tensors[name].load()
            if tuple(tensor.shape) != tensors[name].shape or tensor.dtype != tensors[name].dtype:
                raise ValueError(f"{tensors[name].where}: {shown(name)} changed while it was saved")
            if tensor.numel():
                file.write(memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy()))
        file.flush()
        os.fsync(file.fileno())
