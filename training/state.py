"""What a killed run goes on from: tensors and plain values, in `FOLDER/step-00000123/{state.safetensors, state.json}`.

A step's folder appears whole or not at all, and only then do older ones go; so there is always one to go on from, and
while one is saved the disk needs room for `keep` + 1. Saving holds one tensor in memory beside those that are there.
That a file is whole does not mean that its bytes are those that were written: digests tell.
"""
import hashlib
import json
import os
import random
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from manifests import checked
from manifests.messages import one_line
from training import folders, safefile, stored
from training.stored import Stored

FORMAT = 1
_KEY = "m2ugen_state"
_TENSORS, _ABOUT = "state.safetensors", "state.json"
_STATES = ("exp_avg", "exp_avg_sq", "step")  # of AdamW


def save(folder: str | Path, step: int, tensors: Mapping[str, Tensor], about: Mapping[str, object],
         keep: int = 2) -> Path:
    """Save `tensors`, of any device, and `about`, which JSON can hold (there tuples become lists, and keys texts).

    Of the steps up to this one the newest `keep` stay; of what somebody else put there, nothing is touched. Returns the
    step's folder. OSError, naming it, where the disk is full: what was there is whole, and nothing else is left.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}; at least one state must stay")
    folder = Path(os.path.abspath(folder))
    place = _place(folder, step)
    if place.exists() and not _ours(place):
        raise FileExistsError(f"{place}: holds what is no training state; move it away, or choose another folder")
    about = json.loads(json.dumps(about))
    digest = hashlib.sha256()
    held = {name: _digested(digest, name, stored.in_memory(str(place), one)) for name, one in tensors.items()}
    try:
        with folders.create(place) as temporary:
            safefile.write(str(temporary / _TENSORS), held, {"format": "pt"})
            said = {_KEY: FORMAT, "step": step, "bytes": os.path.getsize(temporary / _TENSORS),
                    "sha256": digest.hexdigest(), "about": about}
            said["digest"] = _digest(said)
            folders.write_text(temporary / _ABOUT, json.dumps(said, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise OSError(f"{place}: the training state could not be saved ({one_line(error)}). What was saved before is "
                      "whole: make room, or mend this, and start again to go on from it") from error
    before = [one for one in _numbers(folder) if one <= step and _ours(_place(folder, one))]
    kept = [one for one in before if _is_whole(folder, one)][-keep:]
    for one in before:
        if one not in kept:
            folders.remove(_place(folder, one))
    return place


def steps(folder: str | Path) -> list[int]:
    """The steps whose states are there as a whole, ascending. Whether their bytes are right, `load` tells."""
    return [one for one in _numbers(Path(folder)) if _is_whole(Path(folder), one)]


def load(folder: str | Path, step: int) -> tuple[dict[str, Tensor], dict]:
    """What was saved, on the CPU. ValueError or OSError, naming the file, where anything of it is not as it was."""
    path = _place(Path(folder), step) / _TENSORS
    said = _said(Path(folder), step)
    digest = hashlib.sha256()
    try:
        held, _ = safefile.read(str(path))
    except ValueError as error:
        raise _broken(path) from error
    # In the order of writing, which the digest is of.
    tensors = {name: _digested(digest, name, one).load() for name, one in held.items()}
    if digest.hexdigest() != said["sha256"]:
        raise _broken(path)
    return tensors, said["about"]


def newest(folder: str | Path) -> tuple[int, dict[str, Tensor], dict] | None:
    """Step, tensors and values of the newest state that is sound; None where there is none at all.

    What killed writes left is removed: nothing may be saved there meanwhile. A broken state is told on stderr, and the
    one before it is taken; ValueError where all are broken, for the run would begin anew.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    folders.sweep(folder)
    found = _numbers(folder)
    for step in reversed(found):
        try:
            return step, *load(folder, step)
        except (ValueError, OSError) as error:
            print(f"{one_line(error)}. This state is left out", file=sys.stderr)
    if found:
        raise ValueError(f"{folder}: none of the {len(found)} training states in it can be read; move them away to "
                         "begin anew")
    return None


def of_optimizer(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Tensor]:
    """`parameters.NAME`, and what AdamW holds for it: `exp_avg.NAME`, `exp_avg_sq.NAME`, `step.NAME`.

    A parameter that never had a gradient has nothing of the latter. These are the tensors themselves and no copies:
    save them before the next step. Learning rates are not among them: the trainer sets them by the step.
    """
    _same(parameters, optimizer)
    tensors = {}
    for name, one in parameters.items():
        tensors[f"parameters.{name}"] = one.detach()
        if state := optimizer.state.get(one):
            if set(state) != set(_STATES):
                raise ValueError(f"the optimiser holds {', '.join(state)}; only AdamW's {', '.join(_STATES)} are saved")
            tensors |= {f"{key}.{name}": state[key] for key in _STATES}
    return tensors


@torch.no_grad()
def into_optimizer(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> None:
    """Make parameters and optimiser what they were, bit for bit; what else is among `tensors` is left alone.

    ValueError, with nothing changed, where they are of other names, shapes or dtypes than those that are trained now.
    """
    _same(parameters, optimizer)
    held = {kind: {name.removeprefix(f"{kind}."): one for name, one in tensors.items() if name.startswith(f"{kind}.")}
            for kind in ("parameters", *_STATES)}
    if unlike := sorted(set(held["parameters"]) ^ set(parameters)):
        raise ValueError(f"the state is of another training: {len(unlike)} parameters are trained only there or only "
                         f"here: {', '.join(unlike[:5])}; go on with the settings with which it was begun")
    begun = held["step"]
    for kind in _STATES[:2]:
        if set(held[kind]) != set(begun):
            raise ValueError(f"the state is not whole: {kind} and step are of other parameters")
    for kind, ones in held.items():
        for name, one in ones.items():
            wanted = parameters.get(name)
            if wanted is None or (kind != "step" and (one.shape, one.dtype) != (wanted.shape, wanted.dtype)):
                raise ValueError(f"the state is of another training: its {kind}.{name} is {one.dtype} "
                                 f"{list(one.shape)}, and the parameter "
                                 + ("is not trained" if wanted is None else f"{wanted.dtype} {list(wanted.shape)}"))
    names = {one: name for name, one in parameters.items()}
    for group in optimizer.param_groups:
        for one in group["params"]:
            name = names[one]
            one.copy_(held["parameters"][name])
            optimizer.state.pop(one, None)
            if name in begun:  # copies: the caller's tensors do not change with the training
                device = one.device if group.get("capturable") or group.get("fused") else "cpu"
                optimizer.state[one] = {"step": begun[name].to(device, copy=True), **{
                    kind: held[kind][name].to(one.device, copy=True) for kind in _STATES[:2]}}


def random_states() -> dict[str, Tensor]:
    """Where the random numbers of this process stand: torch's on the CPU and on every GPU, and Python's. NumPy's global
    ones are used nowhere."""
    _, numbers, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"random.torch": torch.get_rng_state(), "random.python": torch.tensor(numbers),
            "random.python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
            **{f"random.cuda.{number}": one for number, one in enumerate(cuda)}}


def set_random_states(tensors: Mapping[str, Tensor]) -> None:
    """Go on from `random_states`, which may lie among other tensors. Of GPUs, as many as there are on both sides."""
    if missing := {"random.torch", "random.python", "random.python_gauss"} - set(tensors):
        raise ValueError(f"the state lacks {', '.join(sorted(missing))}: it was not saved by the trainer")
    torch.set_rng_state(tensors["random.torch"])
    gauss = tensors["random.python_gauss"].tolist()
    random.setstate((3, tuple(tensors["random.python"].tolist()), gauss[0] if gauss else None))
    for number in range(torch.cuda.device_count()):
        if f"random.cuda.{number}" in tensors:
            torch.cuda.set_rng_state(tensors[f"random.cuda.{number}"], number)


def _same(parameters: Mapping[str, nn.Parameter], optimizer: Optimizer) -> None:
    if {id(one) for group in optimizer.param_groups for one in group["params"]} != set(map(id, parameters.values())):
        raise ValueError("the optimiser steps other parameters than those that were given with it")


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def _numbers(folder: Path) -> list[int]:
    """The steps that have a folder, whatever is in it."""
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(int(name[5:]) for name in names if re.fullmatch(r"step-\d{8}|step-[1-9]\d{8,}", name, re.ASCII))


def _ours(place: Path) -> bool:
    """Whether nothing is lost with it that was not saved here."""
    return place.is_dir() and {one.name for one in place.iterdir()} <= {_TENSORS, _ABOUT}


def _is_whole(folder: Path, step: int) -> bool:
    with suppress(ValueError, OSError):
        return bool(_said(folder, step))
    return False


def _said(folder: Path, step: int) -> dict:
    """A state's JSON, which is as it was written; the tensors beside it have the size that it says."""
    path = _place(folder, step) / _ABOUT
    said = checked.read_json(str(path), "what a training state says of itself")
    if not isinstance(said, dict) or said.get(_KEY) != FORMAT:
        raise ValueError(f"{path}: no training state that this version saved (no {_KEY} {FORMAT})")
    if said.get("digest") != _digest(said) or said["step"] != step:
        raise _broken(path)
    if os.path.getsize(path.with_name(_TENSORS)) != said["bytes"]:
        raise _broken(path.with_name(_TENSORS))
    return said


def _broken(path: Path) -> ValueError:
    return ValueError(f"{path}: is not what was saved there (cut off, or changed since); take an earlier state")


def _digest(said: Mapping[str, object]) -> str:
    rest = {key: value for key, value in said.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _digested(digest: "hashlib._Hash", name: str, one: Stored) -> Stored:
    """The tensor, which goes into the digest as it is loaded: neither writing nor reading passes over it again."""
    def load() -> Tensor:
        tensor = one.load().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(memoryview(tensor.view(-1).view(torch.uint8).numpy()))
        return tensor
    return replace(one, load=load)
