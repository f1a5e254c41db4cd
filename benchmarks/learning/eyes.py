"""A small ViViT for the debug size, trained on the clips that M²UGen trains on.

The debug size's own video encoder is random. Of a film it says little that is told in words: a linear probe finds the
main colour of fewer than half. The published one has learnt to tell 400 classes of films; this one learns to tell what
the captions of the training films claim: the attributes that are asked for afterwards, of other films.
"""
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Video
from torch import Tensor, nn
from torch.nn import functional
from transformers import VivitConfig, VivitImageProcessor, VivitModel

from benchmarks.learning import hearing
from benchmarks.learning.fitting import fit
from captioners import seen
from training import encoders, frozen

_KEPT = 512   # tubelets of a film, of 3136, that are kept in memory
_DRAWN = 128  # of them, of which a step makes its mean: attention among all is minutes' work
_UNKNOWN = -1

Words = Mapping[str, Sequence[str]]  # attribute: what may be told of it


def train(films: Dataset, held_out: Dataset, folder: Path, *, steps: int, batch: int = 16, rate: float = 1e-2,
          seed: int = 0) -> dict[str, float | None]:
    """Write a ViViT in the Hub's layout that gives [3137, 32] of a film, and return the share of the held-out films, of
    those whose captions say of an attribute what some training film's does, of which a linear layer upon the mean of
    _KEPT tubelets tells it rightly.

    `films`: rows of MUVideo, with video and captions.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, order = _model(), np.random.default_rng(seed)
        told = _told(films)
        words = {name: sorted({one[name] for one in told if name in one}) for name in sorted(set().union(*told))}
        head = nn.Linear(model.config.hidden_size, sum(map(len, words.values())))
        wanted, (places, tubelets) = _numbered(told, words), _tubelets(films, order)

        def error(some: list[int]) -> Tensor:
            drawn = order.permutation(_KEPT)[:_DRAWN]
            guessed = head(_seen(model, places[some][:, drawn], tubelets[some][:, drawn]))
            return sum(functional.cross_entropy(guess, truth, ignore_index=_UNKNOWN, reduction="sum")
                       for guess, truth in _each(guessed, wanted[some], words)) / len(some)
        fit([model, head], error, len(films), order, steps=steps, batch=batch, rate=rate)
        model.eval().save_pretrained(folder)
        VivitImageProcessor().save_pretrained(folder)
        with torch.no_grad():
            places, tubelets = _tubelets(held_out, order)
            guessed = torch.cat([head(_seen(model, *some)) for some in zip(
                places.split(16), tubelets.split(16), strict=True)])
        truths, found = _numbered(_told(held_out), words), {}
        for name, (guess, truth) in zip(words, _each(guessed, truths, words), strict=True):
            right = (guess.argmax(1) == truth)[truth != _UNKNOWN]
            found[name] = float(right.float().mean()) if len(right) else None
        return found


def _model() -> VivitModel:
    return VivitModel(encoders.debug().video.config, add_pooling_layer=False).train()


def _seen(model: VivitModel, places: Tensor, tubelets: Tensor) -> Tensor:
    """[n, width]: the mean of what it says of some tubelets [n, some, 3 * 2 * 16 * 16], which are at `places`."""
    parts = model.embeddings
    states = functional.linear(tubelets / 63.75 - 3, parts.patch_embeddings.projection.weight.flatten(1),
                               parts.patch_embeddings.projection.bias) + parts.position_embeddings[0][1 + places]
    first = (parts.cls_token + parts.position_embeddings[:, :1]).expand(len(states), -1, -1)
    states = torch.cat([first, states], 1)
    for layer in model.layers:
        states = layer(states, None)
    return model.layernorm(states).mean(1)


def _tubelets(films: Dataset, order: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Some of each film's, drawn: places [n, _KEPT] and bytes [n, _KEPT, 3 * 2 * 16 * 16], of its processor's."""
    whole, processor = VivitConfig(), VivitImageProcessor()
    deep, high, wide = whole.tubelet_size
    places = torch.empty(len(films), _KEPT, dtype=torch.long)
    tubelets = torch.empty(len(films), _KEPT, 3 * deep * high * wide, dtype=torch.uint8)
    for number, video in enumerate(films.select_columns("video").cast_column("video", Video(decode=False))["video"]):
        item = frozen.decode("video", video["bytes"])
        frames = np.frombuffer(item["pixels"], np.uint8).reshape(item["count"], item["height"], item["width"], 3)
        pixels = processor([*frames], return_tensors="pt")["pixel_values"][0]
        pixels = pixels.unfold(0, deep, deep).unfold(2, high, high).unfold(3, wide, wide)  # [16, 3, 14, 14, 2, 16, 16]
        pixels = pixels.transpose(0, 1).flatten(1, 3).transpose(0, 1).flatten(1)
        places[number] = torch.from_numpy(order.permutation(len(pixels))[:_KEPT])
        tubelets[number] = ((pixels[places[number]] + 3) * 63.75).round().to(torch.uint8)
    return places, tubelets


def _told(films: Dataset) -> list[Mapping[str, str]]:
    return [hearing.sight(seen.claims(caption)) for caption in films["video_caption"]]


def _numbered(told: Sequence[Mapping[str, str]], words: Words) -> Tensor:
    """[n, attributes]"""
    return torch.tensor([[known.index(one[name]) if one.get(name) in known else _UNKNOWN
                          for name, known in words.items()] for one in told])


def _each(guessed: Tensor, wanted: Tensor, words: Words) -> Iterator[tuple[Tensor, Tensor]]:
    """Attribute by attribute."""
    return zip(guessed.split([*map(len, words.values())], 1), wanted.unbind(1), strict=True)
