"""A model that is to be asked: which, at what revision, with what settings. Plain data that travels to workers.

The models themselves are one file each; what they have in common is `load`, and that they are called with inputs (as
captioners.inputs makes them; instructions: prompts) and a seed each.
"""
import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from types import ModuleType

from captioners import device, held, inputs
from manifests.messages import one_line
from manifests.outcomes import Loss
from training.loading import quiet
from training.pinned import Pinned, folder, pin

MODULES = {"music": "mullama", "image": "blip", "video": "videomae", "instruct": "chat"}


@dataclass(frozen=True)
class Spec:
    """`files`: (role, what it is), the one that gives the model its name first. `batch` rows are asked at a time."""
    kind: str    # of MODULES
    module: str  # in which the model is
    files: tuple[tuple[str, Pinned], ...]
    settings: object
    dtype: str
    quantize: str
    batch: int

    @property
    def name(self) -> str:
        return self.files[0][1].title

    @property
    def revision(self) -> str:
        """Of all its files, and how they are used, where that is not as they come: dtype, bits, settings."""
        usual = {one.name: one.default for one in fields(self.settings)}
        how = [self.dtype] * (self.dtype != "float32") + [self.quantize] * bool(self.quantize) + [
            f"{name}={value}" for name, value in asdict(self.settings).items() if value != usual[name]]
        return ";".join(["+".join(pinned.revision for _, pinned in self.files), *how])

    @property
    def prompt(self) -> str:
        """What a captioner is asked; empty where it is not asked in words."""
        return getattr(self.settings, "question", getattr(self.settings, "prompt", ""))

    def version(self) -> dict:
        """All that its words follow from. Not the batch: they are the same in any, but for rounding."""
        return {"captioner": self.name, "revision": self.revision, "module": self.module,
                "version": module(self.module).VERSION, "settings": asdict(self.settings), "dtype": self.dtype,
                "quantize": self.quantize}


def choose(kind: str, names: Mapping[str, str], *, by: str = "", dtype: str = "", quantize: str = "", batch: int = 0,
           **settings) -> Spec:
    """`names`: by role, Hub ids (`ID@REVISION`) or directories, in place of the published ones, which are the default.

    `by`: a module other than that of MODULES. `dtype` "": bfloat16 where there is a GPU, else float32. `quantize` is
    for models of billions of weights; others stay as they are. Of Hub ids the files are fetched. Raises ValueError.
    """
    one = module(by or MODULES[kind])
    files: dict[str, Pinned] = {}
    folders: dict[str, Path] = {}
    for role, default in one.ROLES.items():
        with quiet():
            needed = role in names or not hasattr(one, "needed") or one.needed(role, folders)
        if needed:
            files[role] = pin(names.get(role) or default, role not in getattr(one, "WEIGHTLESS", ()))
            folders[role] = folder(files[role])
    if quantize and hasattr(one, "quantizes") and not one.quantizes(folders):
        quantize = ""
    made = one.settings(folders, **settings) if hasattr(one, "settings") else one.Settings(**settings)
    return Spec(kind, by or MODULES[kind], tuple(files.items()), made,
                dtype or ("bfloat16" if device.there() else "float32"), quantize,
                batch or max(1, one.SIZE // getattr(made, "windows", 1)))


def load(spec: Spec) -> Callable:
    """The model, on a GPU where one is free. Raises ValueError that says what to do."""
    import torch
    one = module(spec.module)
    own = {"name": spec.name, "revision": spec.revision, "batch": spec.batch} if spec.kind == "instruct" else {}
    try:
        folders = {role: folder(pinned) for role, pinned in spec.files}
        return one.load(folders, spec.settings, dtype=getattr(torch, spec.dtype), device=device.claim(),
                        quantize=spec.quantize, **own)
    except (ImportError, ValueError):
        raise
    except Exception as error:  # whatever libraries raise at what is in files, or a GPU at its size
        raise ValueError(f"{spec.name} cannot be loaded ({one_line(error)[:500]}); is it whole, and is there room for "
                         "it? Fetch it again; or take fewer processes, --quantize, or a smaller model") from error


def asking(spec: Spec) -> AbstractContextManager[Callable]:
    """The model, loaded once; it stays until another is asked for."""
    return held.asking(spec, load)


def try_out(spec: Spec) -> None:
    """Load it once, in a process of its own. Raises ValueError that says what to do."""
    held.try_out(spec, load, "--quantize")


def captions(spec: Spec, captioner: Callable, inputs: Sequence[dict], seeds: Sequence[int]) -> list[dict | Loss]:
    """Fields of manifests.records.CAPTION for each; Loss("caption_failed") where the model says nothing."""
    told = {"captioner": spec.name, "captioner_revision": spec.revision, "caption_prompt": spec.prompt}
    # On one line: a model may well write others.
    texts = [" ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
             for text in captioner(inputs, seeds)]
    return [{"caption": text, "caption_seed": seed, **told} if text else
            Loss("caption_failed", f"{spec.name} said nothing") for text, seed in zip(texts, seeds, strict=True)]


def decoder(spec: Spec) -> Callable[[bytes], dict]:
    """What makes its inputs of media, by captioners.inputs."""
    if spec.kind == "music":
        return partial(inputs.music, windows=spec.settings.windows)
    return partial(inputs.video, count=spec.settings.frames) if spec.kind == "video" else inputs.image


def module(name: str) -> ModuleType:
    return importlib.import_module(f"captioners.{name}")
