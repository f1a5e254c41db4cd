"""The paper's sizes, and configs as data."""
import dataclasses
import json

import pytest
import torch

from training import config, names
from training.m2ugen import M2UGen


@pytest.mark.parametrize(("which", "count"), [
    (config.m2ugen(), 6_738_415_616 + 8 * 2 * 4096), (config.mullama(), 6_738_415_616)])
def test_the_paper_s_sizes(which: config.Config, count: int) -> None:
    """On the meta device: nothing is allocated. 6,738,415,616 is what LLaMA-2 7B has."""
    with torch.device("meta"):
        model = M2UGen(which)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    extra = (".lora_", ".bias")
    assert sum(parameter.numel() for name, parameter in model.llama.named_parameters()
               if not any(one in name for one in extra)) == count
    lora = sum(parameter.numel() for name, parameter in model.named_parameters() if ".lora_" in name)
    assert lora == 32 * 16 * (4 * 2 * 4096 + 3 * (4096 + 11008))
    assert not model.llama.model.rotary_emb.inv_freq.is_meta
    if which.projector:
        assert shapes["projector.query_embs"] == (1, 128, 512) and shapes["projector.model.weight"] == (768, 512)
        assert shapes["adapters.video.aggregate.weight"] == (1, 3137, 1)
        assert shapes["llama.lm_head.weight"] == (32008, 4096)
        starts = [next(layer for layer in range(which.prefix_start, 32) if which.group(layer) == group)
                  for group in range(3)]
        assert starts == [14, 20, 26]
    else:
        assert shapes["adapters.audio.blocks.0.f1.weight"] == (4 * 4096, 4096) and which.prefix_start == 12
    other = config.m2ugen(music_decoder="audioldm2")
    assert other.projector.queries == 1 and other.projector.out == 137216


def test_configs_survive_json() -> None:
    for which in (config.m2ugen(), config.m2ugen("debug", "audioldm2", config.SUMMED), config.mullama()):
        assert config.from_dict(json.loads(json.dumps(which.as_dict()))) == which
    with pytest.raises(ValueError, match="colour"):
        config.from_dict({**config.mullama().as_dict(), "colour": "red"})
    with pytest.raises(ValueError, match="dim"):
        config.from_dict({name: value for name, value in config.mullama().as_dict().items() if name != "dim"})
    assert config.feed_forward(4096, 256) == 11008


@pytest.mark.parametrize(("field", "value", "said"), [
    ("dim", 0, "dim is 0"), ("layers", -1, "layers is -1"), ("heads", 0, "heads is 0"), ("vocabulary", 0, "vocabulary"),
    ("feed_forward", 0, "feed_forward"), ("lora_rank", 0, "lora_rank is 0"), ("positions", 0, "positions"),
    ("adapter_ratio", 0, "adapter_ratio"), ("prefix_rows", 0, "prefix_rows is 0"), ("prefix_rows", 21, "21 rows"),
    ("layers", 20.0, "layers is 20.0"), ("dim", "64", "dim is '64'"), ("audio_tokens", -8, "audio_tokens is -8"),
    ("modalities", (), "at least one modality"), ("norm_eps", float("nan"), "norm_eps"),
    ("rope_theta", 0, "rope_theta"), ("norm_eps", "x", "norm_eps is 'x'"), ("bos", -1, "bos"),
    ("modalities", (config.Modality("smell", 1, 2),), "'smell' is unknown"),
    ("modalities", (config.Modality("audio", 0, 2),), "audio's tokens is 0"),
    ("modalities", (config.Modality("audio", 1, -2),), "audio's width is -2"),
    ("modalities", (config.Modality("audio", 1, 2),) * 2, "only once"),
    ("projector", config.Projector(16, 24, 6, 4), "4 heads do not share its width of 6"),
    ("projector", config.Projector(16, 24, 64, 0), "projector's heads is 0"),
    ("projector", config.Projector(0, 24), "projector's queries is 0")])
def test_what_no_model_can_be_made_of_is_told(field: str, value: object, said: str) -> None:
    good = config.m2ugen("debug")
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(good, **{field: value})
    with pytest.raises(ValueError, match=said):  # as JSON brings it
        plain = [dataclasses.asdict(one) for one in value] if isinstance(value, tuple) else \
            dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        config.from_dict({**good.as_dict(), field: plain})


def test_known_modalities_are_those_with_published_names() -> None:
    assert set(config.MODALITIES) == set(names.ADAPTERS)
