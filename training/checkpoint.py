"""Our own checkpoints: a folder with a config, small safetensors files and a card, apart from the frozen base.

What was trained is megabytes to a few hundred of them, the LLaMA below it 13 GB and the same for everyone: a folder
names it by id and revision, and holds it only where it has no name (`base` None: a published checkpoint converted as a
whole). A folder appears whole or not at all, and the same weights give the same bytes.
"""
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from manifests import checked, storage
from manifests.messages import shown
from training import folders, names, published, safefile, stored, weights
from training.config import Config, from_dict
from training.modelcard import card
from training.sizes import possible, shapes
from training.stored import Stored

FORMAT = 1
_KEY = "m2ugen_format"
_TOKENS = ("llama.model.embed_tokens.weight", "llama.lm_head.weight")
_SHARD = 4 << 30


@dataclass(frozen=True)
class Saved:
    """A folder of ours, opened: `tensors` by our names, `others` (encoders, music decoder) by published ones, and all
    that config.json says in `about`."""

    config: Config
    tensors: Mapping[str, Stored]
    others: Mapping[str, Stored] = field(default_factory=dict)
    about: Mapping[str, object] = field(default_factory=dict)


def part(name: str) -> str:
    """Which file one of our tensors is saved in."""
    top = name.partition(".")[0]
    if top in ("adapters", "projector", "prefix"):
        return top
    if name in _TOKENS:
        return "tokens"
    if ".lora_" in name:
        return "lora"
    return "tuned" if name.endswith((".bias", "norm.weight")) else "base"


def save(folder: str | Path, config: Config, tensors: Mapping[str, Tensor | Stored], *,
         base: Mapping[str, str] | None, encoders: Mapping[str, Mapping[str, str]] | None = None,
         trained: Sequence[str] = (), notes: str = "", others: Mapping[str, Stored] | None = None,
         whole_embeddings: bool = False, replace_old: bool = False) -> None:
    """Save a model's tensors (`model.state_dict()`, or unread ones) as a folder.

    `base`: {"id", "revision"} of the LLaMA; its tensors are then left out, and of the embeddings only the audio tokens'
    rows are kept (`whole_embeddings`: all, where they were trained). None keeps everything, and `others` too.
    ValueError where a tensor is not the model's; FileExistsError where the folder exists, unless `replace_old`.
    """
    folder = Path(os.path.abspath(folder))
    held = {name: one if isinstance(one, Stored) else stored.in_memory(str(folder), one)
            for name, one in tensors.items()}
    wanted = _wanted(config)
    published.require(str(folder), held, wanted, [*_untrained(config, held),
                                                  *(name for name in wanted if base and part(name) == "base")])
    if base is None and not set(_llama(config)) <= set(held):
        raise ValueError(f"{folder}: the LLaMA below this {config.name} is neither among its tensors nor named, and "
                         "the folder could not be loaded; give it (--llama), or say which one it is (--base)")
    parts: dict[str, dict[str, Stored]] = {}
    for name, one in held.items():
        if name in _TOKENS and base is not None and not whole_embeddings:
            if not config.audio_tokens:
                continue
            one = _rows(one, config.vocabulary, config.all_tokens)
        elif part(name) == "base" and base is not None:
            continue
        parts.setdefault(part(name), {})[names.plain(name)] = one
    if others and base is None:
        parts["frozen"] = dict(others)
    if folder.exists() and not replace_old:
        raise FileExistsError(f"{folder}: is there already; choose another folder, or say that it may be replaced")
    made_with = {package: version(package) for package in ("torch", "transformers", "peft", "safetensors")}
    with folders.create(folder) as temporary:
        files: dict[str, list[int]] = {}
        for noun in sorted(parts):
            shards = _shards(parts[noun])
            for number, shard in enumerate(shards):
                name = f"{noun}.safetensors" if noun not in ("base", "frozen") else (
                    f"{noun}-{number + 1:05d}-of-{len(shards):05d}.safetensors")
                safefile.write(str(temporary / name), shard, {"format": "pt"})
                files[name] = [len(shard), os.path.getsize(temporary / name)]
        about = {_KEY: FORMAT, "model": config.as_dict(), "base": dict(base) if base else None,
                 "encoders": {name: dict(one) for name, one in (encoders or {}).items()}, "trained": list(trained),
                 "files": files, "made_with": made_with, "notes": notes}
        folders.write_text(temporary / "config.json",
                           json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        folders.write_text(temporary / "README.md",
                           card(config, base=base, encoders=encoders or {}, trained=trained, files=files,
                                gates=_gates(config, held), made_with=made_with, notes=notes))


def load(folder: str | Path, base: str | Path | None = None) -> Saved:
    """Open a folder of `save`; nothing is read yet. `base`: where the LLaMA lies that the folder names.

    Raises ValueError or OSError, naming the file and what to do, where something is missing or does not fit.
    """
    config, tensors, others, about = opened(Path(folder))
    named = about["base"]
    if named and base is None:
        raise ValueError(f"{folder}: stands on {named['id']} at {named.get('revision')}, which is not in it; say where "
                         "that lies")
    if named:
        tensors = _upon(tensors, published.ours(published.open_checkpoint(base), config), config)
    published.require(str(folder), tensors, _wanted(config), _untrained(config, tensors))
    return Saved(config, tensors, others, about)


def opened(folder: Path) -> tuple[Config, dict[str, Stored], dict[str, Stored], dict]:
    """What a folder holds by itself, without the LLaMA that it may stand on: config, tensors by our names, others by
    published ones, and config.json. All is held against each other; nothing of a claimed size is built before."""
    config, about = _about(folder / "config.json")
    tensors: dict[str, Stored] = {}
    others: dict[str, Stored] = {}
    for name in about["files"]:
        held, _ = safefile.read(str(folder / name))
        into = others if name.startswith("frozen") else tensors
        if into is tensors:
            published.only_floats(str(folder / name), held)
        if twice := set(held) & set(into):
            raise ValueError(f"{folder / name}: holds {min(twice)}, as another file does; save it again")
        into |= held
    inner = {name.split(".")[4] for name in tensors if name.startswith("projector.tfm.encoder.layers.")}
    try:
        possible(config, sum(name.startswith("prefix.gates.") for name in tensors), len(inner))
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}; its tensors do not fit") from error
    wanted = _wanted(config)
    full = {names.plain(name): name for name in wanted}
    if unknown := [name for name in tensors if name not in full]:
        raise ValueError(f"{folder}: tensors that are not of {config.name}: {', '.join(unknown[:10])}")
    tensors = {full[name]: one for name, one in tensors.items()}
    optional = _untrained(config, tensors)
    if about["base"]:
        optional += _llama(config)
        wanted |= {name: (config.audio_tokens, config.dim) for name in _TOKENS
                   if name in tensors and tensors[name].shape[:1] == (config.audio_tokens,)}
    published.require(str(folder), tensors, wanted, optional)
    return config, tensors, others, about


def _about(path: Path) -> tuple[Config, dict]:
    """A folder's config.json, every part of the kind that `save` writes; ValueError, naming the file, where not."""
    about = checked.read_json(str(path), "the config.json of a saved model")
    if not isinstance(about, dict) or about.get(_KEY) != FORMAT:
        raise ValueError(f"{path}: not a model that was saved here (no {_KEY} {FORMAT}); give such a folder, or "
                         "convert a published checkpoint")

    def named(one: object) -> bool:
        return isinstance(one, dict) and isinstance(one.get("id"), str)
    about = {"base": None, "encoders": {}, "trained": [], "made_with": {}, "notes": "", **about}
    sound = {"files": isinstance(about.get("files"), dict) and all(
                 isinstance(one, list) and len(one) == 2 and all(type(number) is int for number in one)
                 for one in about["files"].values()),
             "base": about["base"] is None or named(about["base"]),
             "encoders": isinstance(about["encoders"], dict) and all(map(named, about["encoders"].values())),
             "trained": isinstance(about["trained"], list) and all(isinstance(one, str) for one in about["trained"]),
             "made_with": isinstance(about["made_with"], dict), "notes": isinstance(about["notes"], str)}
    if wrong := [name for name, fits in sound.items() if not fits]:
        raise ValueError(f"{path}: its {wrong[0]} is not what is written there when a model is saved; save it again")
    for name in about["files"]:
        if not weights.is_plain(name):
            raise ValueError(f"{path}: points at {shown(name)}, outside of its folder. Do not use it")
    try:
        return from_dict(about.get("model") or {}), about
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def write_published(path: str | Path, config: Config, tensors: Mapping[str, Stored], *,
                    others: Mapping[str, Stored] | None = None, extra: Mapping[str, object] | None = None) -> None:
    """Write a checkpoint under the published names: `.safetensors`, tensor by tensor, or `.pth` as torch.save does
    (`{"model": ..., **extra}`; that needs memory for all of it). The file appears whole or not at all.
    """
    path = Path(os.path.abspath(path))
    published.require(str(path), tensors, _wanted(config), _untrained(config, tensors))
    held = {**published.theirs(tensors, config), **(others or {})}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{storage.TEMPORARY}{uuid.uuid4().hex}-{path.name}"
    try:
        if path.suffix == ".safetensors":
            safefile.write(str(temporary), held, {"format": "pt"})
        elif path.suffix in (".pth", ".pt"):
            with open(temporary, "wb") as file:
                torch.save({"model": {name: one.load() for name, one in held.items()}, **(extra or {})}, file)
                file.flush()
                os.fsync(file.fileno())
        else:
            raise ValueError(f"{path}: should end in .safetensors or .pth")
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)


def convert(source: str | Path, target: str | Path, *, llama: str | Path | None = None,
            base: Mapping[str, str] | None = None, config: Config | None = None, replace_old: bool = False) -> str:
    """A published checkpoint → a folder of ours, or the other way, told by what `source` is; returns what was read.

    `llama`: where the base lies (for a folder of ours that names one, and for a MU-LLaMA that is to be saved whole; a
    checkpoint that brings its own must bring the same).
    `base`: its id and revision, for a folder that is to leave it out. `config`: for a checkpoint of other sizes than
    the released ones that lacks the tensors which tell them, as a MU-LLaMA without its LLaMA does.
    """
    if Path(source).is_dir() and is_ours(source):
        saved = load(source, llama)
        write_published(target, saved.config, saved.tensors, others=saved.others)
        return f"{source}: {saved.config.name}, written as {target} under the published names"
    checkpoint = published.open_checkpoint(source, config)
    if checkpoint.config is None:
        raise ValueError(f"{source}: is a LLaMA by itself; there is nothing of ours in it to convert")
    tensors = published.ours(checkpoint)
    if llama is not None:
        tensors = published.over(str(source), tensors, llama, checkpoint.config)
    save(target, checkpoint.config, tensors, base=base, others=checkpoint.others, trained=["as published"],
         notes=f"Converted from a published checkpoint ({Path(source).name}).", whole_embeddings=True,
         replace_old=replace_old)
    told = [published.describe(checkpoint)]
    if base is not None:
        own = len(set(_llama(checkpoint.config)) & set(published.ours(checkpoint)) - set(_TOKENS))
        left = [f"its own LLaMA ({own} tensors)" if own else "", *sorted(set(map(published.group, checkpoint.others)))]
        told.append(f"stands on {base['id']} at {base.get('revision')}; left out: "
                    f"{', '.join(filter(None, left)) or 'nothing'}")
    return "\n".join(told)


def inspect(source: str | Path) -> str:
    """What a checkpoint is, as published or of ours, in lines for a person; what it says of the gates is read off the
    tensors. The LLaMA that a folder stands on need not be there."""
    if not (Path(source).is_dir() and is_ours(source)):
        return published.describe(published.open_checkpoint(source))
    config, tensors, _, about = opened(Path(source))
    text = card(config, base=about["base"], encoders=about["encoders"], trained=about["trained"], files=about["files"],
                gates=_gates(config, tensors), made_with=about["made_with"], notes=about["notes"])
    return text.partition("---\n# ")[2].partition("\nLoad with")[0]


def is_ours(folder: str | Path) -> bool:
    """Whether a folder is one of `save`."""
    config = Path(folder) / "config.json"
    if not config.is_file():
        return False
    about = checked.read_json(str(config), "a model's config.json")
    return isinstance(about, dict) and _KEY in about


def _upon(tensors: dict[str, Stored], base: Mapping[str, Stored], config: Config) -> dict[str, Stored]:
    """The saved parts over their base; of the audio tokens only the rows may have been saved."""
    joined = dict(base)
    for name, one in tensors.items():
        short = name in _TOKENS and one.shape[:1] == (config.audio_tokens,) and name in base
        if short:  # trained rows may be float32, and lose by the base's float16 what they were trained for
            dtype = torch.promote_types(one.dtype, base[name].dtype)
            joined[name] = stored.joined([_rows(base[name], 0, config.vocabulary), one], 0, dtype)
        else:
            joined[name] = one
    return joined


def _gates(config: Config, tensors: Mapping[str, Stored]) -> dict[str, float]:
    return published.largest_gates(config, lambda layer: tensors[f"prefix.gates.{layer}"])


def _llama(config: Config) -> list[str]:
    """The tensors of a bare LLaMA, by our names."""
    return [own.name for own in names.meta_llama(config).values()]


def _wanted(config: Config) -> dict[str, tuple[int, ...]]:
    """Our name → shape of everything that a model of this config has."""
    sizes = shapes(config)
    return {ours.name: sizes[theirs] for theirs, ours in names.published(config).items()}


def _untrained(config: Config, tensors: Mapping[str, Stored]) -> list[str]:
    """What a MU-LLaMA may lack: groups that its published checkpoint does not train, each as a whole."""
    if config.name != "mullama":
        return []
    groups = {ours.name: published.group(theirs) for theirs, ours in names.published(config).items()}
    present = {groups.get(name) for name in tensors} | {"gates", "prefix", "audio adapter"}
    return [name for name, one in groups.items() if one not in present]


def _rows(one: Stored, begin: int, end: int) -> Stored:
    if one.shape[0] == end - begin:
        return one
    return replace(one, shape=(end - begin, *one.shape[1:]), load=lambda: one.load()[begin:end].clone())


def _shards(tensors: Mapping[str, Stored]) -> list[dict[str, Stored]]:
    shards: list[dict[str, Stored]] = [{}]
    size = 0
    for name in sorted(tensors):
        if shards[-1] and size + tensors[name].nbytes > _SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = tensors[name]
        size += tensors[name].nbytes
    return shards
