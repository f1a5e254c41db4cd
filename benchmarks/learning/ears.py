"""A small MERT for the debug size: HuBERT of MERT's form, trained on the clips that M²UGen trains on.

The debug size's own audio encoder is random, and all but deaf: it normalises each channel over time, so that a linear
probe finds neither brightness nor percussion in what it says. This one begins with a bank of filters, and learns what
was measured of the training clips. It hears no level: as MERT's, its input is brought to unit variance.
"""
import math
from pathlib import Path

import numpy as np
import torch
from datasets import Audio, Dataset
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from benchmarks.learning.fitting import fit
from captioners.vocabulary import SURE, VOICED
from training import frozen
from training.config import m2ugen
from training.inputs import RATE

_SECONDS = 5  # that are heard at a time in training
_TAPS = 512
_BANDS = 32
# name: (column, a number of it, the column that says how sure it is, how sure it must be)
_MEASURED = {
    "tempo": ("tempo", math.log, "tempo_confidence", SURE),
    "onsets": ("onset_rate", float, None, 0),
    "brightness": ("centroid", math.log, None, 0),
    "flatness": ("flatness", float, None, 0),
    "percussion": ("percussiveness", float, None, 0),
    "dynamics": ("dynamics", math.log1p, None, 0),
    "pitch": ("pitch_median", float, "pitch_salience", VOICED),
    "mode": ("mode", ("minor", "major").index, "key_confidence", SURE),
}


def train(clips: Dataset, held_out: Dataset, folder: Path, *, steps: int, batch: int = 16, rate: float = 2e-3,
          seed: int = 0) -> dict[str, float | None]:
    """Write a HuBERT in the Hub's layout that gives [25, 32] of a clip, and return how much of the variance of each
    measurement a linear layer upon it explains on clips that were not trained on (R²).

    `clips`: rows of MUCaps, with audio and measurements.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, order = _model(), np.random.default_rng(seed)
        head = nn.Linear(model.config.hidden_size, len(_MEASURED))
        waves, wanted = _heard(clips), _measured(clips)
        mean, spread = (torch.from_numpy(some(wanted.numpy(), 0)) for some in (np.nanmean, np.nanstd))
        wanted = (wanted - mean) / spread

        def error(places: list[int]) -> Tensor:
            start = int(order.integers(waves.shape[1] - RATE * _SECONDS))
            off = head(_said(model, waves[places, start:start + RATE * _SECONDS])) - wanted[places]
            return off[~off.isnan()].square().mean()
        fit([model, head], error, len(waves), order, steps=steps, batch=batch, rate=rate)
        model.eval().save_pretrained(folder)
        with torch.no_grad():
            heard = torch.cat([head(_said(model, some)) for some in _heard(held_out).split(32)])
        truth = (_measured(held_out) - mean) / spread
        left, there = (heard - truth).square().nanmean(0), (truth - truth.nanmean(0)).square().nanmean(0)
        explained = (1 - left / there).tolist()  # of few clips there may be none with a sure mode
        return {name: None if math.isnan(one) else one for name, one in zip(_MEASURED, explained, strict=True)}


def _model() -> HubertModel:
    """250 frames a second after the filters, 16 at the end; 24 layers of 32, as the debug size has it."""
    width = next(one.width for one in m2ugen("debug").modalities if one.name == "audio")
    off = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout",
                         "layerdrop"), 0.0)
    model = HubertModel(HubertConfig(
        hidden_size=width, num_attention_heads=2, intermediate_size=2 * width, num_hidden_layers=24,
        conv_dim=(2 * _BANDS, 64, 64, 48, 48), conv_kernel=(_TAPS, 4, 4, 4, 4), conv_stride=(120, 2, 2, 2, 2),
        num_feat_extract_layers=5, conv_bias=True, num_conv_pos_embeddings=32, num_conv_pos_embedding_groups=4,
        do_stable_layer_norm=True, feat_extract_norm="layer", apply_spec_augment=False, **off)).train()
    for name, one in model.named_parameters():
        if name.endswith(("out_proj.weight", "output_dense.weight")):
            one.data /= math.sqrt(2 * model.config.num_hidden_layers)  # or 24 layers drown what comes in
    model.feature_extractor.conv_layers[0].conv.weight.data = _filters()[:, None]
    return model


def _filters() -> Tensor:
    """[2 * _BANDS, _TAPS]: windowed cosines and sines, evenly spaced on the mel scale from 90 Hz to 10.5 kHz."""
    lowest, highest = (math.log10(1 + edge / 700) for edge in (90, 10_500))
    times = (np.arange(_TAPS) - (_TAPS - 1) / 2) / RATE
    found = []
    for centre in 700 * (10 ** np.linspace(lowest, highest, _BANDS) - 1):
        bell = np.hanning(_TAPS) * np.exp(-0.5 * (times * math.pi * max(60.0, 0.2 * centre)) ** 2)
        for wave in (np.cos, np.sin):
            one = bell * wave(2 * math.pi * centre * times)
            found.append(8 * one / np.linalg.norm(one))
    return torch.tensor(np.stack(found), dtype=torch.float32)


def _said(model: HubertModel, waves: Tensor) -> Tensor:
    waves = waves.float()
    waves = (waves - waves.mean(1, keepdim=True)) / (waves.var(1, correction=0, keepdim=True) + 1e-7).sqrt()
    return model(waves).last_hidden_state.mean(1)


def _heard(clips: Dataset) -> Tensor:
    """[n, samples], float16: clips are of one length, but for a frame of the codec."""
    found = [np.frombuffer(frozen.decode("audio", audio["bytes"])["windows"][0], "<f4").astype(np.float16)
             for audio in clips.cast_column("audio", Audio(decode=False))["audio"]]
    shortest = min(map(len, found))
    return torch.from_numpy(np.stack([one[:shortest] for one in found]))


def _measured(clips: Dataset) -> Tensor:
    """[n, measurements], NaN where one is not sure."""
    rows = clips.remove_columns("audio").to_list()
    return torch.tensor([[math.nan if row[column] is None or (sure and (row[sure] or 0) < least) else turn(row[column])
                          for column, turn, sure, least in _MEASURED.values()] for row in rows])
