"""M²UGen, and MU-LLaMA, which is the same model with another config: LLaMA that hears, sees, and asks for music.

Batches mix modalities: each sample brings what it has, and a modality that it lacks leaves the prefix's query alone, as
in the published models. Weights are named as `training.names` says.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.utils.generic import is_flash_attention_requested

from training import packing
from training.adapters import Adapter
from training.config import Config
from training.llama import llama
from training.prefix import Prefix
from training.projector import OutputProjector

Encoded = Mapping[str, Tensor | Sequence[Tensor | None]]
"""By modality, for each sample of a batch: its encoder's output [tokens, width], or None; or all of them, stacked."""


@dataclass(frozen=True)
class Output:
    """`logits` [B, T or `keep`, all_tokens], or of the places that were given [n, all_tokens]; `hidden` [B, T, dim] of
    the last layer, before the final norm.

    `segments` and `at` as they were given: what is asked of each sample is found by them.
    """
    logits: Tensor
    hidden: Tensor
    cache: Cache | None
    segments: Tensor | None = None
    at: Tensor | None = None


class M2UGen(nn.Module):
    """Random weights in float32, gates at zero; every one trainable but the gates that nothing reads.

    `attention` is transformers' name of an implementation: sdpa, flash_attention_2, eager. Under `torch.device("meta")`
    nothing is allocated, so that a checkpoint can be loaded with `assign`.
    """

    def __init__(self, config: Config, attention: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.adapters = nn.ModuleDict({one.name: Adapter(one, config.dim, config.adapter_ratio)
                                       for one in config.modalities})
        self.llama = llama(config, attention)
        self.llama.requires_grad_(True)
        self.prefix = Prefix(config)
        self.prefix.attach(self.llama)
        self.projector = None if config.projector is None else OutputProjector(config.projector, config.dim)
        self._hidden: Tensor | None = None
        self.llama.model.norm.register_forward_pre_hook(self._keep_hidden)

    def features(self, modality: str, encoded: Tensor) -> Tensor:
        """[n, tokens, width] of one encoder → [n, 1, dim]. Raises ValueError for a shape that is not its adapter's."""
        if modality not in self.adapters:
            raise ValueError(f"{self.config.name} has no adapter for {modality}; it has {', '.join(self.adapters)}")
        shape = next((one.tokens, one.width) for one in self.config.modalities if one.name == modality)
        if encoded.dim() != 3 or tuple(encoded.shape[1:]) != shape:
            raise ValueError(f"{modality} features of shape {tuple(encoded.shape)}: each sample should be {shape}")
        adapter = self.adapters[modality]
        return adapter(encoded.to(adapter.project.weight))

    def heard(self, encoded: Encoded, samples: int) -> Tensor | None:
        """What the prefix adds its queries to, [samples, groups, dim]; None where no sample brings anything."""
        found = None
        for place, modality in enumerate(self.config.modalities):
            rows, present = _present(encoded.get(modality.name), samples, modality.name)
            if not rows:
                continue
            spoken = self.features(modality.name, present)
            if found is None:
                found = spoken.new_zeros(samples, self.config.groups, self.config.dim)
            group = place if self.config.groups > 1 else 0
            found[:, group] = found[:, group].index_add(0, torch.tensor(rows, device=spoken.device), spoken[:, 0])
        if unknown := set(encoded) - set(self.adapters):
            raise ValueError(f"{self.config.name} has no adapter for {', '.join(sorted(unknown))}")
        return found

    def forward(self, tokens: Tensor, mask: Tensor | None = None, encoded: Encoded | None = None, *,
                segments: Tensor | None = None, heard: Tensor | None = None, cache: Cache | None = None,
                keep: int = 0, at: Tensor | None = None) -> Output:
        """tokens [B, T] and what each sample hears, as `encoded` or, computed before, as `heard`.

        `mask` [B, past + T] is 1 at tokens and 0 at padding, on either side; None means no padding. `keep` limits the
        logits to the last positions (0: all), `at` [n] to those places of the flattened batch: training asks only at
        `packing.asked`, and logits are large. With a `cache`, `tokens` are those that follow it. `segments` [B, T]
        (`training.packing`), in place of a mask, says which sample of its row a token belongs to: it attends to that
        one's tokens, counts its positions from 0 and hears that one's features.
        """
        positions, owners, bounds, samples = None, None, {}, len(tokens)
        if segments is not None:
            if mask is not None or cache is not None:
                raise ValueError("segments say where padding is, and nothing can follow packed rows: mask and cache "
                                 "have no place beside them")
            samples, owners, positions = packing.count(segments), packing.owners(segments), packing.positions(segments)
            if is_flash_attention_requested(self.llama.config):
                bounds = packing.varlen(positions)  # others get a mask, which transformers makes from the positions
        elif mask is not None:
            positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1]:]
        if encoded:
            heard = self.heard(encoded, samples)
        heard = self.prefix.current if heard is None else heard
        if owners is not None and heard is not None and len(heard) != samples:
            raise ValueError(f"features of {len(heard)} samples were given for segments of {samples}")
        with self.prefix.hearing(heard, owners):
            normed = self.llama.model(input_ids=tokens, attention_mask=mask, position_ids=positions,
                                      past_key_values=cache, use_cache=cache is not None, **bounds).last_hidden_state
        hidden, self._hidden = self._hidden, None
        read = normed[:, -keep:] if at is None else normed.flatten(0, 1).index_select(0, at)
        return Output(self.llama.lm_head(read), hidden, cache, segments, at)

    def conditions(self, hidden: Tensor) -> Tensor:
        """hidden [n, audio tokens, dim] at the positions that predict [AUD0], [AUD1], ... → [n, queries, out].

        In the published scale (`projector.FACTOR` times the music decoder's text encoding).
        """
        ids = torch.tensor(self.config.audio_ids, device=hidden.device)
        states = hidden + self.llama.model.embed_tokens(ids)
        return self.projector(states.to(self.projector.fc.weight.dtype))

    def _keep_hidden(self, _norm: nn.Module, inputs: tuple[Tensor]) -> None:
        self._hidden = inputs[0]


@torch.no_grad()
def start_audio_tokens(model: M2UGen, seed: int) -> None:
    """Embedding and output rows of the audio tokens, for training from a LLaMA that does not have them.

    The mean of the other rows, plus noise a tenth of their spread. (The released code leaves embeddings at a constant 1
    and the output rows random, and trains the latter never.)
    """
    rows = slice(model.config.vocabulary, None)
    generator = torch.Generator().manual_seed(seed)
    for weight in (model.llama.model.embed_tokens.weight, model.llama.lm_head.weight):
        base = weight[:model.config.vocabulary].float()
        spread = base.std(0)
        noise = torch.randn(model.config.audio_tokens, model.config.dim, generator=generator).to(base.device)
        weight[rows] = (base.mean(0) + 0.1 * spread * noise).to(weight.dtype)


def _present(given: Tensor | Sequence[Tensor | None] | None, samples: int,
             name: str) -> tuple[list[int], Tensor | None]:
    """Which samples have this modality, and what they have, stacked."""
    if given is None:
        return [], None
    if len(given) != samples:
        raise ValueError(f"{name} has {len(given)} entries for a batch of {samples}")
    if isinstance(given, Tensor):
        return list(range(samples)), given
    rows = [row for row, one in enumerate(given) if one is not None]
    return rows, torch.stack([given[row] for row in rows]) if rows else None
