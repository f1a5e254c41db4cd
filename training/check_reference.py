"""Does this implementation compute what a public one did? `python -m training check-reference FILE.safetensors...`

Agreement is asked for to 1e-4: absolute on features, hidden states, logits and the projector's output; relative on
losses; relative to the largest of a parameter's gradient, of which every element that is zero in the file must be
exactly zero here. Greedy tokens must be the same. What is infinite or no number, there or here, never agrees. Shapes
must be the same; of what a file lacks, nothing is compared.
"""
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training import names
from training.generate import generate
from training.loss import ignore_zero, losses
from training.m2ugen import M2UGen, Output
from training.reference import Reference, build, read

TOLERANCE = 1e-4
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
QUANTITIES = ("features", "hidden", "logits", "projector output", "losses", "gradients", "greedy tokens")


@dataclass(frozen=True)
class Difference:
    """Of one tensor of the file: `largest` is in the unit of its quantity's tolerance."""
    quantity: str
    name: str
    largest: float

    @property
    def beyond(self) -> bool:
        return not self.largest <= (0 if self.quantity == "greedy tokens" else TOLERANCE)


def main(paths: Sequence[str]) -> int:
    """0: all agree; 1: a quantity differs by more than its tolerance; 2: a file is not of the format, or not read."""
    worst = 0
    for path in paths:
        try:
            reference = read(path)
            found = list(differences(reference))
        except (OSError, ValueError, FloatingPointError) as error:
            named = str(error) if str(path) in str(error) else f"{path}: {error}"
            print(f"python -m training check-reference: {named}", file=sys.stderr)
            worst = 2
            continue
        print(f"{path}: {reference.config.name}, {reference.config.layers} layers of {reference.config.dim}, prefix "
              f"{reference.config.prefix_rows} ({reference.config.prefix_layout})")
        for line in report(found):
            print(line)
        if any(one.beyond for one in found):
            worst = max(worst, 1)
    return worst


def report(found: Iterable[Difference]) -> Iterator[str]:
    """A line for each quantity that the file holds, and one for each tensor beyond its tolerance."""
    found = list(found)
    for quantity in QUANTITIES:
        if not (some := [one for one in found if one.quantity == quantity]):
            continue
        top = max(some, key=lambda one: one.largest)
        kind = {"losses": "relative", "gradients": "relative", "greedy tokens": "tokens"}.get(quantity, "absolute")
        verdict = "BEYOND" if any(one.beyond for one in some) else "agrees"
        yield f"  {quantity:<17}{verdict}  {top.largest:.2e} {kind:<9}(largest of {len(some)}: {top.name})"
    for one in found:
        if one.beyond:
            yield f"  beyond its tolerance: {one.name} ({one.quantity}, {one.largest:.2e})"


def differences(reference: Reference) -> Iterator[Difference]:
    """For every tensor of outputs and gradients in the file. Raises ValueError where what they come from is missing."""
    model = build(reference).eval()
    checked: set[str] = set()
    tensors = reference.tensors
    for one in [*_features(model, reference), *_cases(model, reference), *_greedy(model, reference)]:
        checked.add(one.name)
        yield one
    wanted = {name for name in tensors if name.startswith(("out.", "grad."))}
    if left := sorted(wanted - checked):
        raise ValueError(f"{reference.path}: nothing here computes {', '.join(left[:5])}"
                         f"{' ...' if len(left) > 5 else ''}")
    if not wanted:
        raise ValueError(f"{reference.path}: it holds no outputs to compare with")


def _features(model: M2UGen, reference: Reference) -> Iterator[Difference]:
    for modality in reference.config.modalities:
        if (name := f"out.{modality.name}_feats") in reference.tensors:
            with torch.no_grad():
                features = model.features(modality.name, _input(reference, modality.name))
            yield _absolute("features", name, features, reference)


def _cases(model: M2UGen, reference: Reference) -> Iterator[Difference]:
    """A case is its tokens, labels and outputs: all in one (MU-LLaMA), or by name (`audio+image.music`)."""
    for name in sorted(reference.tensors):
        if not (found := re.fullmatch(r"in\.(?:(.+)\.)?tokens", name)):
            continue
        case = f"{found[1]}." if found[1] else ""
        tokens = _rows(reference, name)
        encoded = {one: _input(reference, one) for one in _modalities(reference, found[1])}
        output = model(tokens, encoded=encoded)
        values = {"final_hidden": ("hidden", output.hidden), "logits": ("logits", output.logits)}
        if f"out.{case}projector_output" in reference.tensors and model.projector is not None:
            if not _asks_for_music(model, tokens).all():
                raise ValueError(f"{reference.path}: {name} does not end in the audio tokens, but out.{case}"
                                 "projector_output comes from them")
            states = output.hidden[:, -1 - model.config.audio_tokens:-1]
            values["projector_output"] = ("projector output", model.conditions(states))
        for kind, (quantity, value) in values.items():
            if (out := f"out.{case}{kind}") in reference.tensors:
                yield _absolute(quantity, out, value.detach(), reference)
        yield from _losses(model, reference, case, output)


def _losses(model: M2UGen, reference: Reference, case: str, output: Output) -> Iterator[Difference]:
    """And the gradients: what needs the labels and, where those ask for music, a target."""
    with_gradients = any(one.startswith(f"grad.{case}") for one in reference.tensors)
    with_music = with_gradients or f"out.{case}mse_loss" in reference.tensors
    if not with_music and f"out.{case}ce_loss" not in reference.tensors:
        return
    labels = _rows(reference, f"in.{case}labels")
    if labels.shape != output.logits.shape[:2]:
        raise ValueError(f"{reference.path}: in.{case}labels has shape {tuple(labels.shape)}, its tokens have "
                         f"{tuple(output.logits.shape[:2])}")
    loss = losses(model, output, ignore_zero(labels), _targets(model, reference, labels) if with_music else None)
    for kind, value in (("ce_loss", loss.text), ("mse_loss", loss.music)):
        if (out := f"out.{case}{kind}") in reference.tensors:
            yield _relative("losses", out, value.detach().mean().reshape(1), reference)
    if with_gradients:
        model.zero_grad(set_to_none=True)
        loss.total.backward()
        yield from _gradients(model, reference, case)


def _gradients(model: M2UGen, reference: Reference, case: str) -> Iterator[Difference]:
    parameters = dict(model.named_parameters())
    table = names.published(reference.config)
    for name in sorted(reference.tensors):
        ours = table.get(name.removeprefix(f"grad.{case}"))
        if not name.startswith(f"grad.{case}") or ours is None:
            continue
        parameter = parameters[ours.name]
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        yield _relative("gradients", name, names.to_published(gradient, ours.rotated, reference.config), reference)


def _greedy(model: M2UGen, reference: Reference) -> Iterator[Difference]:
    for name in sorted(reference.tensors):
        if not (found := re.fullmatch(r"in\.(?:(.+)\.)?prompt", name)):
            continue
        case = f"{found[1]}." if found[1] else ""
        out = f"out.{case}greedy"
        if out not in reference.tensors:
            continue
        prompt, wanted = _rows(reference, name), reference.tensors[out]
        if len(prompt) > 1 or wanted.dtype not in _WHOLE or wanted.shape[-1:] != (wanted.numel(),):
            raise ValueError(f"{reference.path}: {name} and {out} are not the token ids of one answer")
        wanted = wanted.reshape(-1).tolist()
        encoded = {one: _input(reference, one) for one in _modalities(reference, found[1])}
        answer = generate(model, prompt.tolist(), encoded, temperature=0, max_new=len(wanted), eos=())[0].tokens
        wrong = sum(one != other for one, other in zip(answer, wanted, strict=True))
        yield Difference("greedy tokens", out, float(wrong))


def _modalities(reference: Reference, case: str | None) -> list[str]:
    """Those that a case's name lists; where cases have no names, all that the file has inputs of."""
    known = [one.name for one in reference.config.modalities]
    if case is None:
        return [name for name in known if f"in.{name}" in reference.tensors]
    listed = case.split(".")[0].split("+")
    if unknown := [name for name in listed if name not in (*known, "text")]:
        raise ValueError(f"{reference.path}: case {case} names {unknown[0]}, which is no modality of its model")
    return [name for name in listed if name != "text"]


def _asks_for_music(model: M2UGen, tokens: Tensor) -> Tensor:
    """[B]: which rows end in [AUD0], [AUD1], ..., behind at least one other token."""
    ids = torch.tensor(model.config.audio_ids)
    if not len(ids) or tokens.shape[1] <= len(ids):
        return torch.zeros(len(tokens), dtype=torch.bool)
    return (tokens[:, -len(ids):] == ids).all(1)


def _targets(model: M2UGen, reference: Reference, labels: Tensor) -> list[Tensor | None] | None:
    """The music decoder's text encoding, for rows whose labels end in the audio tokens."""
    asked = _asks_for_music(model, labels).tolist()
    if not any(asked):
        return None
    target = _input(reference, "music_text_encoding")
    size = model.config.projector.queries * model.config.projector.out
    if target.numel() != size:
        raise ValueError(f"{reference.path}: in.music_text_encoding has {target.numel()} numbers where the projector "
                         f"emits {size}")
    return [target.reshape(1, -1) if one else None for one in asked]


def _input(reference: Reference, name: str) -> Tensor:
    if (value := reference.tensors.get(f"in.{name}")) is None:
        raise ValueError(f"{reference.path}: in.{name} is missing")
    return value.float()


def _rows(reference: Reference, name: str) -> Tensor:
    """Token ids [B, T], of [T] or [B, T] in the file."""
    value = reference.tensors.get(name)
    if value is None or value.dtype not in _WHOLE or value.numel() == 0 or value.dim() > 2 or value.dim() < 1:
        raise ValueError(f"{reference.path}: {name} is missing, empty or not of whole numbers")
    if value.min() < 0 or value.max() >= reference.config.all_tokens:
        raise ValueError(f"{reference.path}: {name} holds ids outside the {reference.config.all_tokens} of its model")
    return value.reshape(-1, value.shape[-1]).long()


def _absolute(quantity: str, name: str, ours: Tensor, reference: Reference) -> Difference:
    return Difference(quantity, name, _largest(ours, _shaped(name, ours, reference)))


def _relative(quantity: str, name: str, ours: Tensor, reference: Reference) -> Difference:
    """To the largest of theirs; infinite where an element of theirs is zero and ours is not."""
    theirs = _shaped(name, ours, reference)
    largest = _largest(ours, theirs)
    if math.isinf(largest) or ours[theirs == 0].any():
        return Difference(quantity, name, math.inf)
    top = theirs.abs().max().item()
    return Difference(quantity, name, largest / top if top else 0.0)


def _shaped(name: str, ours: Tensor, reference: Reference) -> Tensor:
    theirs = reference.tensors[name].float()
    if theirs.shape != ours.shape:
        raise ValueError(f"{reference.path}: {name} has shape {tuple(theirs.shape)} where {tuple(ours.shape)} is "
                         "computed")
    return theirs


def _largest(ours: Tensor, theirs: Tensor) -> float:
    """Infinite where either holds what is infinite or no number."""
    apart = (ours - theirs).abs()
    return apart.max().item() if torch.isfinite(apart).all() else math.inf
