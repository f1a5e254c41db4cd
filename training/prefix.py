"""The gated prefix: how features enter LLaMA, without touching its attention.

LLaMA-Adapter attends to a prefix of tokens. Here the prefix is one token, so its softmax is 1 and what remains is
tanh(gate) · wv(feature + query), per head and the same at every position: one broadcast add to the attention's output,
before o_proj. `wv` is the frozen projection without its LoRA.

`hearing` sets features for the length of a `with`; the decoder layers get them as an argument. An attribute alone would
be gone when activation checkpointing runs a layer again in the backward pass; the arguments of that call are not.

In packed rows (`training.packing`) each position gets what its own sample hears: one sum a sample, then a gather.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from training.config import Config

_ARGUMENT = "heard"  # of the decoder layers; their attention is called without it


class Prefix(nn.Module):
    """Queries [prefix_rows, dim] of the last layers, and a gate [1, heads, 1, 1] for each layer.

    Layers without a prefix have a gate in published files, which nothing reads: it is kept, and not trainable.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.query = nn.Parameter(torch.empty(config.prefix_rows, config.dim).normal_(std=0.02))
        self.gates = nn.ParameterList(
            nn.Parameter(torch.zeros(1, config.heads, 1, 1), requires_grad=layer >= config.prefix_start)
            for layer in range(config.layers))
        self.current: Tensor | None = None
        self._owners: Tensor | None = None
        self._waiting: dict[int, tuple[Tensor | None, Tensor | None]] = {}
        self._remembered: dict[int, Tensor] | None = None

    def attach(self, llama: LlamaForCausalLM) -> None:
        """Hook the prefix into `llama`'s last layers."""
        for index, layer in enumerate(llama.model.layers):
            if index >= self.config.prefix_start:
                layer.register_forward_pre_hook(self._offer, with_kwargs=True)
                layer.self_attn.register_forward_pre_hook(partial(self._take, index), with_kwargs=True)
                # Not as submodules: `llama` owns its projections, and the hook only borrows this one.
                layer.self_attn.o_proj.register_forward_pre_hook(partial(self._add, index, layer.self_attn))

    @contextmanager
    def hearing(self, heard: Tensor | None, owners: Tensor | None = None) -> Iterator[None]:
        """Features [samples, groups, dim] of the calls within, also those of transformers' `generate`.

        A sample is a row, or with `owners` [B, T] what that says of each position (-1: padding, which hears anything).
        """
        before = self.current, self._owners
        self.current, self._owners = heard, owners
        try:
            yield
        finally:
            self.current, self._owners = before

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """For generation: what a layer adds is computed once, as every call within hears the same, without gradient."""
        self._remembered = {}
        try:
            yield
        finally:
            self._remembered = None

    def _offer(self, _layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {**kwargs, _ARGUMENT: (self.current, self._owners)}

    def _take(self, index: int, _attention: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Inside what checkpointing repeats: keep the features until o_proj, which is the attention's last step."""
        kwargs = dict(kwargs)
        self._waiting[index] = kwargs.pop(_ARGUMENT)
        return args, kwargs

    def _add(self, index: int, attention: nn.Module, _projection: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        output, (heard, owners) = inputs[0], self._waiting.pop(index)
        if heard is not None and owners is None and len(heard) != len(output):
            raise ValueError(f"features of {len(heard)} samples were given for a batch of {len(output)}")
        if self._remembered is None:
            added = self._token(index, attention, heard)
        else:
            if index not in self._remembered:
                self._remembered[index] = self._token(index, attention, heard)
            added = self._remembered[index]
        if heard is not None and owners is not None:
            # An embedding's gradient is summed in the same order each time, in the type that it has: in float32.
            added = functional.embedding(owners.clamp(min=0), added[:, 0].float())
        return (output + added.to(output.dtype),)

    def _token(self, index: int, attention: nn.Module, heard: Tensor | None) -> Tensor:
        """[samples or 1, 1, dim], to be added at every position."""
        row = self.query[index - self.config.prefix_start][None]
        if heard is not None:
            row = row + heard[:, self.config.group(index)]
        values = attention.v_proj.get_base_layer()
        spoken = values(row.to(values.weight.dtype)).unflatten(-1, (self.config.heads, -1))
        return (self.gates[index][:, :, 0].tanh() * spoken).flatten(1)[:, None]
