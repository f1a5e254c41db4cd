"""Which files a model is: those of a Hub id at one commit, or of a directory, told by a hash of what is in it.

Only data is read of them: configs, tokenizers, weights. A repository's own code is never run.
"""
import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError

_READ = (".json", ".jinja", ".model", ".txt", ".safetensors", ".bin", ".pth", ".pt")
# Other frameworks' weights, and MU-LLaMA's search index of many gigabytes, which nothing here reads.
_NOT_READ = ["*.h5", "*.msgpack", "*.onnx", "*.ot", "*.tflite", "*.index", "*.gguf", "*.py"]
_PICKLED = ["*.bin", "*.pth", "*.pt"]
_ID = re.compile(r"(?P<id>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Pinned:
    """Plain data: it travels to workers, names stages and is recorded with every caption."""
    name: str      # a Hub id, or a path
    revision: str  # the id's commit, or a hash of the files
    weights: bool = True  # whether they are needed: a processor or tokenizer is small

    @property
    def title(self) -> str:
        """What is told of it in a dataset: of a path the directory's name, since the rest is nobody's business."""
        if not os.path.isabs(self.name):
            return self.name
        path = Path(self.name)
        if path.parent.name == "snapshots":  # of a Hub cache
            return path.parents[1].name.removeprefix("models--").replace("--", "/")
        return (path if path.is_dir() else path.parent).name


def pin(name: str, weights: bool = True) -> Pinned:
    """A Hub id, `ID@REVISION`, a directory or a file → what it is now. Of a Hub id the files are fetched.

    Raises ValueError that says what to do where there is none.
    """
    if os.path.exists(path := os.path.abspath(os.path.expanduser(name))):
        return Pinned(path, _digest(Path(path)), weights)
    found = _ID.fullmatch(name)
    if found is None or name.startswith("."):
        raise ValueError(f"{name}: no such file or directory, and no Hub id such as org/model or org/model@revision")
    return Pinned(found["id"], _fetched(found["id"], found["revision"], weights).name, weights)


def folder(pinned: Pinned) -> Path:
    """Where its files lie on this machine; of a Hub id they are fetched where they are missing. Raises ValueError."""
    if os.path.isabs(pinned.name):
        if not os.path.exists(pinned.name):
            raise ValueError(f"{pinned.name}: is not there; a directory must be the same on every machine")
        return Path(pinned.name)
    return _fetched(pinned.name, pinned.revision, pinned.weights)


def _fetched(name: str, revision: str | None, weights: bool) -> Path:
    """A folder whose name is the commit."""
    try:
        if revision and re.fullmatch("[0-9a-f]{40}", revision):
            try:  # a commit that is here whole needs no network; one that is here in part is completed below
                return _snapshot(name, revision, weights, local_files_only=True)
            except LocalEntryNotFoundError:
                pass
        return _snapshot(name, revision, weights)  # without a network, what was fetched before will do
    except (HTTPError, HFValidationError, OSError) as error:
        raise ValueError(f"{name}{f'@{revision}' if revision else ''}: there is no such directory, and it cannot be "
                         f"fetched from the Hub ({' '.join(str(error).split())[:300]}); check the name and the "
                         "network, log in (`hf auth login`) where it is gated, or give a directory") from error


def _snapshot(name: str, revision: str | None, weights: bool, **how: bool) -> Path:
    """With pickled weights only where there are no others."""
    unread = [*_NOT_READ, *_PICKLED, *([] if weights else ["*.safetensors"])]
    path = Path(snapshot_download(name, revision=revision, ignore_patterns=unread, **how))
    if weights and not any(path.rglob("*.safetensors")):
        path = Path(snapshot_download(name, revision=path.name, ignore_patterns=_NOT_READ, **how))
    return path


def _digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(
        file for file in path.rglob("*") if file.suffix in _READ and file.is_file())
    if not files:
        raise ValueError(f"{path}: holds no model: no file that ends in {', '.join(_READ)}")
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        digests = list(pool.map(_file_digest, files))
    told = "".join(f"{file.name if file == path else file.relative_to(path)}\0{digest}\n"
                   for file, digest in zip(files, digests, strict=True))
    return hashlib.sha256(told.encode()).hexdigest()[:40]


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
