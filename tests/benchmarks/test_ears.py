"""The small MERT of `make learn`."""
import math

import numpy as np
import torch
from datasets import Dataset

from benchmarks.learning import ears
from training.config import m2ugen
from training.inputs import RATE


def test_its_filters_are_in_order_from_low_to_high() -> None:
    filters = ears._filters()
    peaks = np.abs(np.fft.rfft(filters.numpy(), 8192)).argmax(1) * RATE / 8192
    assert np.allclose(peaks[::2], peaks[1::2], atol=RATE / ears._TAPS, rtol=0.02)
    assert (np.diff(peaks[::2]) > 0).all() and 70 < peaks[0] < 110 and 10_000 < peaks[-1] < 11_000


def test_it_gives_what_the_debug_size_takes_and_hears_no_level() -> None:
    model = ears._model().eval()
    audio = next(one for one in m2ugen("debug").modalities if one.name == "audio")
    assert (model.config.num_hidden_layers + 1, model.config.hidden_size) == (audio.tokens, audio.width)
    wave = torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ears._said(model, wave), ears._said(model, 0.01 * wave), rtol=0, atol=1e-3)


def test_what_is_not_sure_is_not_learnt() -> None:
    row = {"audio": None, "tempo": 120.0, "tempo_confidence": 0.2, "onset_rate": 2.0, "centroid": math.e,
           "flatness": None, "percussiveness": 0.5, "dynamics": 0.0, "pitch_median": 60.0, "pitch_salience": 0.9,
           "mode": "major", "key_confidence": 0.9}
    found = ears._measured(Dataset.from_list([row])).tolist()[0]
    assert [math.isnan(value) for value in found] == [True, False, False, True, False, False, False, False]
    assert np.allclose([found[at] for at in (1, 2, 4, 5, 6, 7)], [2.0, 1.0, 0.5, 0.0, 60.0, 1.0])
