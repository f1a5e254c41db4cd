"""The audio tagger on a small random AST, saved as the published one is."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

from pairing import tagging
from pipelines import measure
from tests.conftest import encode, tone


@pytest.fixture(scope="module")
def tagger(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("ast")
    torch.manual_seed(0)
    config = ASTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                       max_length=1024, id2label={0: "Speech", 1: "Music", 2: "Rain"})
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor().save_pretrained(folder)
    return str(folder)


def test_is_the_mean_over_windows_of_the_models_own_probability(tagger):
    sound = np.concatenate([tone(10.24, 16000)[0], np.random.default_rng(0).normal(0, 0.1, 81920).astype(np.float32)])
    model, extractor = ASTForAudioClassification.from_pretrained(tagger), ASTFeatureExtractor.from_pretrained(tagger)
    windows = [extractor(part, sampling_rate=16000, return_tensors="pt").input_values
               for part in (sound[:163840], sound[163840:])]
    with torch.no_grad():
        expected = [torch.sigmoid(model.eval()(window).logits)[0, 1].item() for window in windows]
    assert abs(expected[0] - expected[1]) > 1e-3, "else the windows' order would not show"
    assert tagging.music(sound, tagger) == pytest.approx(np.mean(expected), abs=1e-4)


def test_the_stage_stores_it_and_its_revision_makes_the_stage_another(tagger, tmp_path):
    clip = {"id": "a", "audio": encode(tone(3.0), 22050, "flac", "flac")}
    assert 0 < measure.measure(clip, tagger)["music"] < 1
    assert measure.measure(clip)["music"] is None
    assert tagging.revision(tagger) == tagging.revision(tagger)
    config = json.loads(Path(tagger, "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    assert tagging.revision(str(tmp_path)) != tagging.revision(tagger)


def test_a_model_that_cannot_serve_is_refused_before_any_work(tagger, tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded"):
        tagging.revision(str(tmp_path / "nosuch"))
    config = json.loads(Path(tagger, "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"0": "cat"}, "label2id": {"cat": 0}}))
    with pytest.raises(ValueError, match="no class 'Music'"):
        tagging.revision(str(tmp_path))
