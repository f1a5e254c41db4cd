"""Weights into a model, one tensor in memory at a time: what a model needs to load is its own size and little more."""
from collections.abc import Callable, Collection, Mapping

import torch
from torch import nn

from training import stored
from training.published import require
from training.stored import Stored

_GROWN = ("llama.model.embed_tokens.weight", "llama.lm_head.weight")


@torch.no_grad()
def fill(model: nn.Module, tensors: Mapping[str, Stored], *,
         dtype: Callable[[str], torch.dtype] | torch.dtype = torch.float32,
         device: str | torch.device = "cpu", stay: Collection[str] = ()) -> None:
    """Give every parameter of `model` the tensor of its name; ValueError names what does not fit, or holds NaN.

    A parameter on the meta device becomes one on `device`, of `dtype` (one, or one by name) whatever the file has:
    released files mix float16 and float32, and a model of both does not run. So a model made under
    `torch.device("meta")` is never there twice. Any other is copied into, and keeps device and dtype. `stay`: names
    that may be left as they are (on the meta device nothing can be). Embeddings and output may lack the rows of the
    audio tokens, as a LLaMA's do; those are left as they are, or zero where they were on the meta device:
    `m2ugen.start_audio_tokens` is for them.
    """
    state = {**dict(model.named_parameters(remove_duplicate=False)), **_buffers(model)}
    wanted = {name: tuple(one.shape) for name, one in state.items()}
    config = getattr(model, "config", None)
    for name in _GROWN:
        if name in tensors and name in wanted and tensors[name].shape[:1] == (config.vocabulary,):
            wanted[name] = (config.vocabulary, *wanted[name][1:])
    where = next((one.where for one in tensors.values()), "nothing given")
    require(where, tensors, wanted, [name for name in stay if not state[name].is_meta])
    for name, one in tensors.items():
        target = state[name]
        if not target.is_meta:
            tensor = stored.finite(name, one)
            target[:len(tensor)].copy_(tensor) if tensor.dim() else target.copy_(tensor)
            continue
        kind = dtype if isinstance(dtype, torch.dtype) else dtype(name)
        if kind == one.dtype and torch.device(device).type == "cpu" and one.shape == target.shape:
            made = stored.finite(name, one)
        else:  # what stays is allocated before what goes, or the allocator is left with holes that nothing fits
            made = torch.empty(target.shape, dtype=kind, device=device)
            tensor = stored.finite(name, one)
            if one.shape == target.shape:
                made.copy_(tensor)
            else:
                made[:len(tensor)].copy_(tensor)
                made[len(tensor):].zero_()
            del tensor
        if isinstance(target, nn.Parameter):
            made = nn.Parameter(made, requires_grad=target.requires_grad)
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, made)


def _buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Those that a state dict holds; rotary frequencies, for one, are made anew."""
    state = model.state_dict()
    return {name: one for name, one in model.named_buffers() if name in state}
