"""A LLaMA of the debug size that writes the language of a build's captions and conversations.

LLaMA-2 knows English before it hears anything, and its states have directions along which what it says can be steered;
64 dimensions that learnt captions alone have none: even told the truth by an oracle, in every layer that a prefix of
audio speaks in, they hardly say it (docs/learning.md has the numbers). So most texts come with what they will claim, an
embedding each, whose sum, the first of several colours loudest, is added to all states of one layer, one of the first
in which the prefix of their medium will speak: it learns sentences, and that something may lean on them. Those
embeddings are then thrown away. Which sound, picture or film means what, adapters must find out alone. What was
measured of training clips is said in more ways than one, so that no caption is known by heart.
"""
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, takewhile
from pathlib import Path

import numpy as np
import torch
from datasets import load_from_disk
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from captioners import measured, seen, vocabulary
from manifests import splits
from training import rows, samples, tokenizer
from training.config import Config, m2ugen
from training.loss import IGNORED
from training.samples import Medium, Texts
from training.sources import Sources
from training.stages import STAGES

_LONGEST = 512
_TOLD, _LEFT_OUT = 0.75, 0.15  # share of the texts whose claims are told, and of their claims that are not
_FIRST = 3      # of a prefix's six layers something is told in these; the layers after them read it too
_WAYS = 4       # in which each training clip's measurements are said, beside its own caption
_FRAMED = 0.35  # of the steps with captions: with the prompt before them, which is longer than they are
# How often a step is of this dataset: captions, which are to be steered, more than conversations, which are longer.
_SHARES = {(1, "mucaps"): 0.36, (1, "coco"): 0.2, (1, "muvideo"): 0.28, (3, "musicqa"): 0.12, (3, "muimage"): 0.04,
           (3, "muvideo"): 0.04, (3, "muedit"): 0.04}


@dataclass(frozen=True)
class Text:
    """`tokens`, of which the prompt is the first `prompt`; `claims`, by number, each as loud as it is told; and in
    which layers they are told."""
    tokens: tuple[int, ...]
    prompt: int
    claims: tuple[tuple[int, float], ...]
    layers: range

    def bare(self) -> "Text":
        """Without the prompt, but for BOS."""
        return replace(self, tokens=(self.tokens[0], *self.tokens[self.prompt:]), prompt=1)


def train(sources: Sources, folder: Path, *, steps: int, batch: int = 16, rate: float = 4e-3,
          seed: int = 0) -> dict[str, float]:
    """Write a LLaMA in Hugging Face's layout; returns its cross-entropy on held-out captions of music, when it is told
    nothing and when it is told what they claim."""
    config, claims = m2ugen("debug"), {}
    texts = {split: _texts(sources, split, config, claims) for split in (splits.TRAIN, splits.EVAL)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, told, draw = _model(config), nn.Embedding(len(claims), config.dim), np.random.default_rng(seed)
        nn.init.normal_(told.weight, std=0.05)
        leaning = _Leaning(model, told)
        # Muon for what it is made for learns in a third of AdamW's steps here.
        wide = {name: one for name, one in model.named_parameters() if one.dim() == 2 and "layers." in name}
        other = [one for name, one in model.named_parameters() if name not in wide]
        optimizers = [torch.optim.Muon([*wide.values()], rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
                      torch.optim.AdamW([*other, *told.parameters()], rate, betas=(0.9, 0.95), weight_decay=0.01)]
        shares = {name: share for name, share in _SHARES.items() if texts[splits.TRAIN].get(name)}
        chances = np.array([*shares.values()]) / sum(shares.values())
        for step in range(steps):
            fall = 0.03 + 0.97 * (1 + math.cos(math.pi * step / steps)) / 2
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 50) * fall
            stage, name = [*shares][draw.choice(len(shares), p=chances)]
            some = texts[splits.TRAIN][stage, name]
            # Of like length, or a fifth would be padding.
            drawn = sorted(draw.integers(len(some), size=4 * batch), key=lambda at: len(some[at].tokens))
            first = batch * draw.integers(4)
            some = [some[at] for at in drawn[first:first + batch]]
            if stage == 1 and draw.random() > _FRAMED:
                some = [one.bare() for one in some]
            leaning.loss(some, draw).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        held_out = texts[splits.EVAL][1, "mucaps"]
        with torch.no_grad():
            losses = {name: float(np.mean([leaning.loss(held_out[at:at + 32], None, share).item()
                                           for at in range(0, len(held_out), 32)]))
                      for name, share in (("untold", 0.0), ("told", 1.0))}
        model.save_pretrained(folder)
    return losses


class _Leaning:
    """A LLaMA that is told what to claim, between two layers."""

    def __init__(self, model: LlamaForCausalLM, told: nn.Embedding) -> None:
        self.model, self.told, self.sums, self.layers = model, told, None, None
        for index, layer in enumerate(model.model.layers):
            layer.register_forward_pre_hook(partial(self._lean, index))

    def loss(self, texts: list[Text], draw: np.random.Generator | None, told: float = _TOLD) -> Tensor:
        """`draw` None: in the middle one of the layers, with all claims."""
        tokens, labels = (nn.utils.rnn.pad_sequence([torch.tensor(one.tokens) for one in texts], batch_first=True,
                                                    padding_value=padding) for padding in (0, IGNORED))
        sums = []
        for one in texts:
            kept = {claim: loud for claim, loud in one.claims if draw is None or draw.random() > _LEFT_OUT}
            if (draw.random() if draw else 0.5) >= told:
                kept = {}
            sums.append(torch.tensor([*kept.values()]) @ self.told(torch.tensor([*kept], dtype=torch.long)))
        self.sums = torch.stack(sums)[:, None]
        self.layers = torch.tensor([draw.choice(one.layers) if draw else one.layers[len(one.layers) // 2]
                                    for one in texts])[:, None, None]
        return functional.cross_entropy(self.model(tokens).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(),
                                        ignore_index=IGNORED)

    def _lean(self, index: int, _layer: nn.Module, args: tuple) -> tuple:
        return args[0] + self.sums * (self.layers == index), *args[1:]


def _model(config: Config) -> LlamaForCausalLM:
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=config.dim, num_hidden_layers=config.layers, num_attention_heads=config.heads,
        num_key_value_heads=config.heads, intermediate_size=config.feed_forward, vocab_size=config.vocabulary,
        rms_norm_eps=config.norm_eps, max_position_embeddings=config.positions, tie_word_embeddings=False,
        bos_token_id=config.bos, eos_token_id=config.eos, pad_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta}))
    for name, one in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            one.data /= math.sqrt(2 * config.layers)
    return model


def _texts(sources: Sources, split: str, config: Config, claims: dict) -> dict[tuple[int, str], list[Text]]:
    """By stage and dataset, as the stages will have them but without audio tokens. `claims` numbers what is claimed
    in training."""
    words, found = tokenizer.debug(config), {}
    more = ((1, "mucaps", texts) for texts in _reworded(sources)) if split == splits.TRAIN else ()
    for stage, name, texts in chain(_spoken(sources, split), more):
        whole = samples.sample(texts, words, _LONGEST)
        # Nor does the text end where audio tokens begin.
        tokens = tuple(takewhile(lambda id: id not in config.audio_ids, whole.tokens))
        said = _claims(texts, seen_too=stage == 1)
        if split == splits.TRAIN:
            for claim in said:
                claims.setdefault(claim, len(claims))
        known = tuple((claims[one], loud) for one, loud in said.items() if one in claims)
        text = Text(tokens, whole.labels.count(IGNORED), known, _layers(config, texts))
        found.setdefault((stage, name), []).append(text)
    return found


def _layers(config: Config, texts: Texts) -> range:
    """The first in which the prefix of the medium that it is about speaks."""
    group = [one.name for one in config.modalities].index(next(iter(texts.hears)))
    first = next(layer for layer in range(config.prefix_start, config.layers) if config.group(layer) == group)
    return range(first, first + _FIRST)


def _spoken(sources: Sources, split: str) -> Iterator[tuple[int, str, Texts]]:
    def lost(unusable: samples.Unusable) -> None:
        raise unusable  # in a build of ours nothing is
    for stage in (1, 3):  # what stage 2 says again is in stage 1
        for part in rows.parts(STAGES[stage], sources)[0]:
            for texts in rows.texts(part, split, stage, lost, {}):
                yield stage, part.name, texts


def _reworded(sources: Sources) -> Iterator[Texts]:
    """Training clips' measurements, each clip's in other words than another's."""
    for row in load_from_disk(f"{sources.out}/datasets/mucaps/{splits.TRAIN}").remove_columns("audio"):
        for way in range(1, 1 + _WAYS):
            yield Texts(row["id"], "mucaps", None, measured.caption(row, row["caption_seed"] + way),
                        {"audio": Medium("mucaps", row["id"])})


def _claims(texts: Texts, seen_too: bool) -> dict[tuple[str, ...], float]:
    """What a text claims, and how loud it is told: a colour the less, the more others are named before it."""
    if seen_too and "audio" not in texts.hears:
        said = seen.claims(texts.answer)
        colours = {("colour", name): 1 / (1 + place) for place, name in enumerate(said.pop("colours", ()))}
        return colours | {("look", name, str(value)): 1.0 for name, value in said.items()}
    return {("sound", name, str(value)): 1.0 for name, value in vocabulary.claims(texts.answer).items()}
