"""What weights lie at a path: a file of torch or safetensors, a Hugging Face folder, or Meta's LLaMA folder.

Formats are told by what a file begins with, not by its name. Nothing is executed; tensors are read when asked for.
"""
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from manifests import checked
from manifests.messages import shown
from training import safefile, stored, torchfile
from training.stored import Stored

_WRAPPED = "module."
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_VALUES = 100_000   # in a checkpoint's epoch and args; a real one has some fifty
_SINGLE = ("model.safetensors", "pytorch_model.bin")
# Meta's model-parallel pieces: which axis each tensor is cut along; all others are there whole, in every piece.
_CUT = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0, "wo": 1, "w2": 1, "tok_embeddings": 1}


@dataclass(frozen=True)
class Weights:
    """`extra`: what else a training checkpoint says (epoch, args), plain values; `params`: a folder's config.json or
    params.json."""

    path: str
    tensors: Mapping[str, Stored]
    extra: Mapping[str, object] = field(default_factory=dict)
    params: Mapping[str, object] = field(default_factory=dict)


def open_weights(path: str | Path) -> Weights:
    """The tensors at a path, by name, without `module.`; of a training checkpoint, those of its `model`.

    ValueError or OSError, naming the file and what to do, where it is broken, hostile, empty or of no known format.
    """
    place = Path(path)
    if place.is_dir():
        return _folder(place)
    return _file(place)


def _file(path: Path) -> Weights:
    try:
        with open(path, "rb") as file:
            head = file.read(32)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; give a checkpoint's file, or the folder of a model") from None
    if not head:
        raise ValueError(f"{path}: is empty; fetch it again")
    if head[8:9] == b"{":  # behind the header's length, of which the first byte may be any
        tensors, metadata = safefile.read(str(path))
        return Weights(str(path), _unwrapped(path, tensors), {"metadata": metadata} if metadata else {})
    if torchfile.is_torch_file(head):
        saved = torchfile.read(str(path))
        model = saved.get("model", saved)
        if not isinstance(model, dict):
            raise ValueError(f"{path}: its `model` is a {type(model).__name__} and not a dictionary of tensors")
        tensors = {name: value for name, value in model.items() if isinstance(value, Stored)}
        if not tensors:
            raise ValueError(f"{path}: no tensors at the top or under `model`, only {_some(map(str, saved))}; is this "
                             "the right file?")
        if strange := [name for name in model if name not in tensors and model is not saved]:
            raise ValueError(f"{path}: these of its `model` are no tensors: {_some(map(str, strange))}")
        extra = {} if model is saved else {key: _plain(path, value) for key, value in saved.items()
                                           if key in ("epoch", "args")}
        return Weights(str(path), _unwrapped(path, tensors), extra)
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: a Git LFS pointer and not the file itself; run `git lfs pull`")
    raise ValueError(f"{path}: neither a file of torch.save nor safetensors (it begins with {shown(head[:8])}); is "
                     "this the right file?")


def _unwrapped(path: Path, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Without DistributedDataParallel's `module.`."""
    if odd := [name for name in tensors if not isinstance(name, str)]:
        raise ValueError(f"{path}: a tensor's name is no text: {shown(repr(odd[0]))}")
    found = {name.removeprefix(_WRAPPED): value for name, value in tensors.items()}
    if len(found) != len(tensors):
        twice = [name for name in tensors if _WRAPPED + name in tensors]
        raise ValueError(f"{path}: tensors are there both with and without `module.`: {_some(twice)}; keep one of each")
    return found


def _folder(folder: Path) -> Weights:
    pieces = sorted(folder.glob("consolidated.*.pth"))
    index = next((folder / name for name in _INDEXES if (folder / name).is_file()), None)
    single = next((folder / name for name in _SINGLE if (folder / name).is_file()), None)
    if index or single:
        config = folder / "config.json"
        params = _json(config) if config.is_file() else {}
        tensors = _sharded(folder, index) if index else _file(single).tensors
        return Weights(str(folder), tensors, params=params)
    if pieces:
        return _meta(folder, pieces)
    raise ValueError(f"{folder}: no model in this folder (none of {', '.join((*_INDEXES, *_SINGLE))} and "
                     "consolidated.00.pth); give the folder that holds them, or the checkpoint's file")


def _sharded(folder: Path, index: Path) -> dict[str, Stored]:
    """A Hugging Face folder of several files; its index says which tensor is in which."""
    placed = _json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise ValueError(f"{index}: no weight_map of names to files in it; fetch it again")
    tensors: dict[str, Stored] = {}
    for name in sorted(set(placed.values())):
        # Only plain names: an index must not reach out of its folder. (The Hub's cache links its files; that is fine.)
        if not is_plain(name):
            raise ValueError(f"{index}: points at {shown(name)}, outside of its folder; nothing of it was read. "
                             "Do not use this model")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: a shard that {index.name} names is not there; fetch it")
        shard = _file(folder / name).tensors
        if twice := [one for one in shard if one in tensors]:
            raise ValueError(f"{folder / name}: tensors that another shard holds too: {_some(twice)}; fetch the folder "
                             "again")
        if elsewhere := [one for one in shard if placed.get(one) != name]:
            raise ValueError(f"{folder / name}: tensors that {index.name} does not place there: {_some(elsewhere)}; "
                             "fetch the folder again")
        tensors |= shard
    if missing := [one for one in placed if one not in tensors]:
        raise ValueError(f"{folder}: {len(missing)} tensors of {index.name} are in no shard: {_some(missing)}; fetch "
                         "the folder again")
    return tensors


def _meta(folder: Path, pieces: list[Path]) -> Weights:
    """LLaMA as Meta hands it out: one file a GPU, each with a part of every linear."""
    if not (folder / "params.json").is_file():
        raise FileNotFoundError(f"{folder / 'params.json'}: not there; Meta's LLaMA has it beside consolidated.00.pth")
    params = _json(folder / "params.json")
    expected = [f"consolidated.{number:02d}.pth" for number in range(len(pieces))]
    if [piece.name for piece in pieces] != expected:
        raise FileNotFoundError(f"{folder}: holds {_some(piece.name for piece in pieces)}, and not "
                                f"{_some(expected)}; fetch what is missing")
    opened = [_file(piece).tensors for piece in pieces]
    for piece, tensors in zip(pieces, opened, strict=True):
        if set(tensors) != set(opened[0]):
            raise ValueError(f"{piece}: holds other tensors than {pieces[0].name}: "
                             f"{_some(sorted(set(tensors) ^ set(opened[0])))}; fetch the folder again")
    whole = {name: _whole(folder, name, [tensors[name] for tensors in opened]) for name in opened[0]}
    rows = whole.get("tok_embeddings.weight")
    if rows is not None and len(rows.shape) == 2 and params.get("dim") != rows.shape[1]:
        raise ValueError(f"{folder}: params.json says dim {params.get('dim')!r}, but {len(pieces)} pieces of "
                         f"tok_embeddings make {list(rows.shape)}; pieces are missing, or of another model")
    return Weights(str(folder), whole, params=params)


def _whole(folder: Path, name: str, parts: list[Stored]) -> Stored:
    if len(parts) == 1:
        return parts[0]
    short = re.sub(r"\.weight$", "", name).rpartition(".")[2]
    axis = _CUT.get(short)
    if len({(part.dtype, len(part.shape)) for part in parts}) > 1 or len({part.shape for part in parts}) > 1 or (
            axis is not None and len(parts[0].shape) <= axis):
        raise ValueError(f"{folder}: the pieces of {shown(name)} do not fit together: "
                         f"{_some(f'{part.dtype} {list(part.shape)}' for part in parts)}; fetch the folder again")
    return parts[0] if axis is None else stored.joined(parts, axis)


def _json(path: Path) -> dict:
    value = checked.read_json(str(path), "a JSON object")
    if not isinstance(value, dict):
        raise ValueError(f"{path}: no JSON object; fetch it again")
    return value


def is_plain(name: str) -> bool:
    """Whether this is the name of a file, and of nothing outside of its folder, on any system."""
    return name not in ("", ".", "..") and PurePosixPath(name).name == name == PureWindowsPath(name).name


def _plain(path: Path, value: object) -> object:
    """What JSON can say of a value; anything else is left out. ValueError where it says more than anyone reads: a value
    may be in itself many times over, and be short only in the file."""
    left = _VALUES

    def plain(value: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"{path}: its `epoch` or `args` hold more than {_VALUES:,} values; no training writes "
                             "that. Do not use it")
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if isinstance(key, str | int | float | bool | None)}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value if isinstance(value, str | int | float | bool | None) else None
    return plain(value)


def _some(names, count: int = 10) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
