"""The LLaMA of `make learn`: what it is told changes one layer's states, and nothing where nothing is told."""
import numpy as np
import torch
from datasets import Dataset
from torch import nn

from benchmarks.learning import language
from benchmarks.learning.language import Text
from captioners.measured import caption
from captioners.vocabulary import claims
from tests.captioners.test_measured import CLIP
from training.config import m2ugen
from training.samples import Medium, Texts
from training.sources import Sources


def test_untold_it_is_the_plain_model_and_told_it_is_steered() -> None:
    torch.manual_seed(0)
    config = m2ugen("debug")
    model, told = language._model(config), nn.Embedding(5, config.dim)
    texts = [Text((1, 300, 301, 302, 2), 1, ((0, 1.0), (3, 0.5)), range(2, 8)), Text((1, 300, 2), 1, (), range(8, 14))]
    tokens = torch.tensor([[1, 300, 301, 302, 2], [1, 300, 2, 0, 0]])
    labels = tokens.masked_fill(torch.tensor([[False] * 5, [False] * 3 + [True] * 2]), -100)
    plain = model(tokens, labels=labels).loss
    leaning = language._Leaning(model, told)
    torch.testing.assert_close(leaning.loss(texts, None, 0.0), plain)
    one = leaning.loss(texts, None, 1.0)
    assert not torch.isclose(one, plain)
    one.backward()
    moved = told.weight.grad.abs().sum(1) > 0
    assert moved.tolist() == [True, False, False, True, False]
    torch.testing.assert_close(told.weight.grad[3], 0.5 * told.weight.grad[0])


def test_some_texts_are_told_and_in_different_layers() -> None:
    config = m2ugen("debug")
    leaning = language._Leaning(language._model(config), nn.Embedding(5, config.dim))
    with torch.no_grad():
        leaning.loss([Text((1, 300, 2), 1, ((0, 1.0), (3, 1.0)), range(8, 14))] * 200, np.random.default_rng(0))
    share = (leaning.sums.abs().sum((1, 2)) > 0).float().mean()
    assert 0.6 < share < 0.85 and set(leaning.layers.flatten().tolist()) == set(range(8, 14))


def test_claims_are_of_what_a_text_is_about() -> None:
    seen = Texts("a", "coco", None, "A dark image mostly in red with some blue.", {"image": Medium("muimage", "a")})
    heard = Texts("a", "mucaps", None, "A dark-toned piece at 96 BPM.", {"audio": Medium("mucaps", "a")})
    assert language._claims(seen, True) == {("colour", "red"): 1.0, ("colour", "blue"): 0.5,
                                            ("look", "brightness", "dark"): 1.0, ("look", "dominance", "main"): 1.0}
    assert set(language._claims(heard, True)) == {("sound", "brightness", "dark"), ("sound", "tempo", "96"),
                                                  ("sound", "beat", "sure")}


def test_what_is_told_is_told_where_the_prefix_of_the_medium_speaks() -> None:
    config = m2ugen("debug")
    for place, kind in enumerate(("audio", "image", "video")):
        layers = language._layers(config, Texts("a", "b", None, "c", {kind: Medium("b", "a")}))
        assert [config.group(layer) for layer in layers] == [place] * 3
        assert layers[0] == config.prefix_start or config.group(layers[0] - 1) == place - 1


def test_without_its_prompt_a_text_is_what_is_said() -> None:
    assert Text((1, 5, 6, 7, 2), 3, ((4, 1.0),), range(2, 8)).bare() == Text((1, 7, 2), 1, ((4, 1.0),), range(2, 8))


def test_training_clips_are_said_in_more_ways_each_in_its_own_and_no_others(tmp_path) -> None:
    rows = [CLIP | {"id": name, "audio": b"", "caption_seed": seed} for name, seed in (("a", 5), ("b", 5000))]
    Dataset.from_list(rows).save_to_disk(tmp_path / "datasets" / "mucaps" / "train")
    Dataset.from_list([CLIP | {"id": "c", "audio": b"", "caption_seed": 7}]).save_to_disk(
        tmp_path / "datasets" / "mucaps" / "eval")
    said = list(language._reworded(Sources(str(tmp_path))))
    assert [(one.id, one.hears["audio"].id) for one in said] == [(name, name) for name in "ab" for _ in range(4)]
    ways = {one.answer for one in said}
    assert len(ways) == 8 and caption(CLIP, 5) not in ways and caption(CLIP, 5000) not in ways
    assert len({facts["percussiveness"] for one in ways if "percussiveness" in (facts := claims(one))}) == 1
