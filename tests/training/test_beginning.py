"""Where a stage begins, what is refused before anything is read, and that what was trained stays float32."""
import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.training import toys
from training import beginning, checkpoint, stages
from training.beginning import Beginning
from training.config import m2ugen
from training.stages import Recipe
from training.tokenizer import debug

CPU = torch.device("cpu")


def _find(run: Path, stage: int, **other: object) -> Beginning:
    said = {"size": "debug", "music_decoder": "musicgen", "llama": None, "seed": 0, **other}
    return beginning.find(run, stage, **said)


def _saved(run: Path, stage: int, dtype: torch.dtype = torch.float32, recipe: Recipe = "paper") -> Beginning:
    """A result of a stage, every number that it trains moved a little."""
    begin = _find(run, stage, recipe=recipe)
    made = beginning.model(begin, recipe, dtype, CPU, 0)
    trained = stages.train(made, stages.STAGES[stage], recipe)
    beginning.lighten(made, dtype)
    with torch.no_grad():
        for one in trained.parameters.values():
            one += 1e-4 * torch.randn(one.shape, generator=torch.Generator().manual_seed(one.numel()))
    checkpoint.save(run / f"stage{stage}" / "model", begin.config, made.state_dict(), base=begin.base,
                    encoders={"audio": {"id": "debug", "revision": ""}},
                    trained=[*begin.trained, beginning.told(stage, recipe, ["gates"])],
                    whole_embeddings=recipe == "released", replace_old=True)
    return begin


def test_the_first_stage_begins_anew(tmp_path) -> None:
    begin = _find(tmp_path, 1)
    assert (begin.previous, begin.base, begin.trained, dict(begin.encoders)) == (None, None, (), {})
    assert begin.told() == "begins with a small random model (SIZE=debug)" and begin.config == m2ugen("debug")
    one, same = (beginning.model(begin, "paper", torch.float32, CPU, 3).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    other = beginning.model(begin, "paper", torch.float32, CPU, 4).state_dict()
    assert not torch.equal(one["llama.lm_head.weight"], other["llama.lm_head.weight"])
    assert _find(tmp_path, 1, seed=4).revision != begin.revision


def test_audio_tokens_begin_among_the_other_rows(tmp_path) -> None:
    """Neither all 1 nor outside of what the tables hold: each its own."""
    made = beginning.model(_find(tmp_path, 1), "paper", torch.float32, CPU, 0)
    for table in (made.llama.model.embed_tokens.weight, made.llama.lm_head.weight):
        rows, others = table[512:], table[:512]
        assert len({tuple(row.tolist()) for row in rows}) == 8
        assert (rows - others.mean(0)).norm(dim=1).max() < others.norm(dim=1).mean()


def test_it_draws_no_random_numbers_of_others(tmp_path) -> None:
    before = torch.get_rng_state()
    beginning.model(_find(tmp_path, 1), "paper", torch.float32, CPU, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("stage", "given", "said"), [
    (2, {}, "stage1/model: stage 2 goes on from stage 1, which has not ended there; run `make train-stage1`"),
    (3, {}, "stage2/model: stage 3 goes on from stage 2, which has not ended there; run `make train-stage2`"),
    (1, {"size": "7b"}, "7b stands on LLaMA-2 7B: say where it is, LLAMA=")])
def test_what_is_missing_is_said(tmp_path, stage: int, given: dict, said: str) -> None:
    with pytest.raises(ValueError) as missing:
        _find(tmp_path, stage, **given)
    assert said in str(missing.value)


def test_the_debug_size_stands_on_a_llama_of_its_size(tmp_path) -> None:
    config = m2ugen("debug")
    small = LlamaForCausalLM(LlamaConfig(
        hidden_size=config.dim, num_hidden_layers=config.layers, num_attention_heads=config.heads,
        num_key_value_heads=config.heads, intermediate_size=config.feed_forward, vocab_size=config.vocabulary,
        rms_norm_eps=config.norm_eps, max_position_embeddings=config.positions, bos_token_id=config.bos,
        eos_token_id=config.eos, tie_word_embeddings=False))
    small.save_pretrained(tmp_path / "llama")
    begin = _find(tmp_path, 1, llama=str(tmp_path / "llama"))
    made = beginning.model(begin, "paper", torch.float32, CPU, 0).state_dict()
    assert torch.equal(made["llama.lm_head.weight"][:config.vocabulary], small.lm_head.weight)
    assert begin.told() == "begins with llama and new parts" and begin.base["id"] == "llama"
    assert beginning.words(begin).encode("A slow piece") == debug(config).encode("A slow piece")


def test_another_decoder_than_the_stage_before_is_refused(tmp_path) -> None:
    _saved(tmp_path, 1)
    assert _find(tmp_path, 2).previous == tmp_path / "stage1" / "model"
    with pytest.raises(ValueError, match=r"stage1/model: was trained with another SIZE or DECODER \(64 dimensions, "):
        _find(tmp_path, 2, music_decoder="audioldm2")


@pytest.mark.parametrize(("before", "now"), [("paper", "released"), ("released", "paper")])
def test_another_recipe_than_the_stage_before_is_refused(tmp_path, before: Recipe, now: Recipe) -> None:
    _saved(tmp_path, 1, recipe=before)
    assert _find(tmp_path, 2, recipe=before).trained == (beginning.told(1, before, ["gates"]),)
    with pytest.raises(ValueError, match=rf"stage1/model: is of stage 1 \({before}\): gates, .* by the recipe "):
        _find(tmp_path, 2, recipe=now)


def test_another_llama_than_the_stage_before_is_refused(tmp_path, monkeypatch) -> None:
    """Told by its revision, before any weight is read; of the size 7b, which is made small here."""
    _saved(tmp_path, 1)
    place = tmp_path / "stage1" / "model" / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "base": {"id": "some/llama", "revision": "abc"}}))
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text("{}")
    torch.save(toys.meta_llama(toys.M2UGEN), tmp_path / "llama" / "consolidated.00.pth")
    monkeypatch.setattr(beginning, "m2ugen", lambda size, decoder: m2ugen("debug", decoder))
    with pytest.raises(ValueError, match=r"stage1/model: stands on some/llama at abc, and .*llama is at "):
        _find(tmp_path, 2, size="7b", llama=str(tmp_path / "llama"))


def test_what_any_stage_trains_is_float32_across_them_bit_for_bit(tmp_path) -> None:
    """bfloat16 for what none does: rounded in between, a stage would not begin with what the one before made."""
    _saved(tmp_path, 1, torch.bfloat16)
    first = {name: one.load() for name, one in checkpoint.load(tmp_path / "stage1" / "model").tensors.items()}
    for stage in (2, 3):
        begin = _find(tmp_path, stage)
        model = beginning.model(begin, "paper", torch.bfloat16, CPU, 0)
        trained = stages.train(model, stages.STAGES[stage])
        beginning.lighten(model, torch.bfloat16)
        held = {name: one.load() for name, one in checkpoint.load(
            tmp_path / f"stage{stage - 1}" / "model").tensors.items()}
        state = model.state_dict()
        assert set(state) == set(held)
        for name, one in state.items():
            ever = any(stages.is_trained(name, begin.config, some) for some in (1, 2, 3))
            assert torch.equal(one, held[name].to(one.dtype)), name
            if ever:
                assert one.dtype == held[name].dtype == torch.float32, name
            elif name not in ("llama.model.embed_tokens.weight", "llama.lm_head.weight"):
                assert one.dtype == held[name].dtype == torch.bfloat16, name
        assert all(one.dtype == torch.float32 for one in trained.parameters.values())
        _saved(tmp_path, stage, torch.bfloat16)
    last = {name: one.load() for name, one in checkpoint.load(tmp_path / "stage3" / "model").tensors.items()}
    for name, one in last.items():
        if not any(stages.is_trained(name, m2ugen("debug"), stage) for stage in (2, 3)):
            same = slice(None, 512) if name in ("llama.model.embed_tokens.weight", "llama.lm_head.weight") else slice(
                None)
            assert torch.equal(one[same].float(), first[name][same].float()), name


def test_the_released_recipes_embeddings_stay_float32(tmp_path) -> None:
    begin = _find(tmp_path, 1)
    model = beginning.model(begin, "released", torch.bfloat16, CPU, 0)
    stages.train(model, stages.STAGES[1], "released")
    beginning.lighten(model, torch.bfloat16)
    dtypes = {name: one.dtype for name, one in model.named_parameters()}
    assert dtypes["llama.model.embed_tokens.weight"] == dtypes["llama.model.norm.weight"] == torch.float32
    assert dtypes["llama.lm_head.weight"] == torch.bfloat16


def test_words_are_the_debug_sizes_own(tmp_path) -> None:
    found = beginning.words(_find(tmp_path, 1))
    assert found.decode(found.encode("A loud piece in minor.")) == "A loud piece in minor." and found.size == 520
