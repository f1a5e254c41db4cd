"""A row's tokens are its own; stops stop; music comes where the audio tokens do."""
import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from tests.training import tiny
from training.generate import generate
from training.loss import losses
from training.m2ugen import M2UGen
from training.projector import FACTOR

PROMPTS = [tiny.tokens(length, length) for length in (5, 11, 3, 8)]
HEARD = [("audio",), (), ("image", "video"), ("audio", "video")]
SEEDS = [11, 12, 13, 14]


def _encoded(model: M2UGen, rows: list[int]) -> dict[str, list[Tensor | None]]:
    return {one.name: [tiny.encoded(model.config, one.name, row) if one.name in HEARD[row] else None for row in rows]
            for one in model.config.modalities}


@pytest.mark.parametrize("temperature", [0, 1.3])
def test_a_row_does_not_depend_on_its_neighbours(temperature: float) -> None:
    model = tiny.model()
    settings = {"temperature": temperature, "top_p": 0.9, "max_new": 14, "eos": ()}
    together = generate(model, PROMPTS, _encoded(model, [0, 1, 2, 3]), seeds=SEEDS, **settings)
    for rows in ([1], [2], [3, 0, 2]):
        some = generate(model, [PROMPTS[row] for row in rows], _encoded(model, rows),
                        seeds=[SEEDS[row] for row in rows], **settings)
        assert [one.tokens for one in some] == [together[row].tokens for row in rows]
    if temperature:
        assert len({tuple(one.tokens) for one in together}) == 4


def test_cached_is_uncached() -> None:
    model = tiny.model()
    settings = {"seeds": SEEDS, "temperature": 1.0, "top_p": 1.0, "max_new": 12, "eos": ()}
    cached = generate(model, PROMPTS, _encoded(model, [0, 1, 2, 3]), **settings)
    plain = generate(model, PROMPTS, _encoded(model, [0, 1, 2, 3]), cached=False, **settings)
    assert [one.tokens for one in cached] == [one.tokens for one in plain]
    for one, other in zip(cached, plain, strict=True):
        torch.testing.assert_close(one.hidden, other.hidden, rtol=0, atol=1e-5)


def test_greedy_is_argmax_of_whole_forwards() -> None:
    model = tiny.model()
    encoded = {name: [values[0]] for name, values in _encoded(model, [0]).items()}
    tokens = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        for _ in range(10):
            tokens = torch.cat([tokens, model(tokens, encoded=encoded).logits[:, -1].argmax(-1)[:, None]], 1)
    answer = generate(model, [PROMPTS[0]], encoded, temperature=0, max_new=10, eos=())[0]
    assert answer.tokens == tokens[0, 5:].tolist() and answer.ended == "length"


def test_seeds_make_the_answer() -> None:
    model = tiny.model()

    def say(seed: int) -> list[int]:
        return generate(model, [PROMPTS[0]], seeds=[seed], temperature=2.0, top_p=1.0, max_new=12, eos=())[0].tokens

    torch.manual_seed(5)
    first = say(1)
    torch.manual_seed(6)
    assert say(1) == first and say(2) != first


def _says(model: M2UGen, script: list[list[int]]) -> M2UGen:
    """The same model, whose likeliest next tokens are those of `script`, row by row."""
    lengths: list[int] = []

    class Head(nn.Module):
        def forward(self, states: Tensor) -> Tensor:
            step = len(lengths)
            lengths.append(states.shape[1])
            logits = torch.zeros(len(states), 1, model.config.all_tokens)
            for row, line in enumerate(script):
                logits[row, 0, line[min(step, len(line) - 1)]] = 50
            return logits

    model.llama.lm_head = Head()
    return model


def test_eos_and_stops_end_their_row_alone() -> None:
    model = tiny.model()
    _says(model, [[10, 11, 2, 12], [10, 11, 12, 13, 14, 15], [20, 21, 22, 30, 31, 23], [30, 10, 31, 30, 2, 2]])
    said = generate(model, PROMPTS, temperature=0, max_new=6, stops=[[30, 31], [15]])
    assert [one.tokens for one in said] == [[10, 11], [10, 11, 12, 13, 14], [20, 21, 22], [30, 10, 31, 30]]
    assert [one.ended for one in said] == ["eos", "stop", "stop", "eos"]


def test_music_comes_with_all_audio_tokens_in_order() -> None:
    model = tiny.model()
    aud = list(model.config.audio_ids)
    script = [[9, *aud, 2], [*aud[:7], 9, 9, 2], [*aud[::-1], 9, 2], [aud[0], 9, *aud, 2]]
    _says(model, script)
    said = generate(model, PROMPTS, _encoded(model, [0, 1, 2, 3]), temperature=0, max_new=12)
    assert [len(one.hidden) for one in said] == [8, 7, 8, 9]
    assert [one.condition is not None for one in said] == [True, False, False, True]
    for row, start in ((0, 1), (3, 2)):
        tokens = torch.tensor([PROMPTS[row] + script[row]])
        labels = torch.full_like(tokens, -100)
        at = len(PROMPTS[row]) + start
        labels[0, at:at + 8] = torch.tensor(aud)
        model.llama.lm_head = tiny.model().llama.lm_head
        with torch.no_grad():
            output = model(tokens, encoded=_encoded(model, [row]))
            whole = model.conditions(output.hidden[:, at - 1:at + 7])[0]
            # That is also what training compares with a target: none is left where the target is it.
            assert losses(model, output, labels, [said[row].condition]).music.item() < 1e-6
        torch.testing.assert_close(said[row].condition * FACTOR, whole, rtol=0, atol=1e-4)
        torch.testing.assert_close(said[row].hidden[-8:], output.hidden[0, at - 1:at + 7], rtol=0, atol=1e-5)


def test_training_state_comes_back_and_checkpointing_does_no_harm() -> None:
    model = tiny.model()
    expected = generate(model, PROMPTS, temperature=0, max_new=6, eos=())
    model.llama.activation_checkpointing_enable()
    model.train()
    said = generate(model, PROMPTS, temperature=0, max_new=6, eos=())
    assert model.training and model.llama.training
    assert [one.tokens for one in said] == [one.tokens for one in expected]
    assert model.prefix._remembered is None


def test_each_module_s_own_training_flag_comes_back() -> None:
    """A trainer may keep a frozen part in eval."""
    model = tiny.model().train()
    model.llama.eval()
    model.llama.model.layers[2].train()
    flags = {name: module.training for name, module in model.named_modules()}
    generate(model, [[5, 6]], temperature=0, max_new=1)
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert len(set(flags.values())) == 2
    with pytest.raises(ValueError, match="adapter"):
        generate(model, [[5, 6]], {"smell": torch.zeros(1, 2, 3)}, temperature=0, max_new=1)
    assert {name: module.training for name, module in model.named_modules()} == flags


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 1e-60, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    """Divided by it, float32 logits would be infinite, and noise would choose among the infinite ones."""
    model = tiny.model()
    greedy = generate(model, PROMPTS, temperature=0, max_new=8, eos=())
    for top_p in (1.0, 0.8):
        cold = generate(model, PROMPTS, seeds=SEEDS, temperature=temperature, top_p=top_p, max_new=8, eos=())
        assert [one.tokens for one in cold] == [one.tokens for one in greedy]


def test_bad_settings_are_errors() -> None:
    model = tiny.model()
    for wrong, said in (({"prompts": [[]]}, "prompt 0 is empty"), ({"prompts": []}, "at least one"),
                        ({"seeds": None}, "seed"), ({"seeds": [1, 2]}, "seed"), ({"top_p": 0}, "top-p"),
                        ({"temperature": -1}, "temperature"), ({"temperature": math.nan}, "temperature"),
                        ({"temperature": math.inf}, "temperature"), ({"prompts": [[5, 68]]}, "prompt 0 is not of"),
                        ({"prompts": [[-1, 5]]}, "prompt 0 is not of"), ({"prompts": [[5.0]]}, "prompt 0 is not of"),
                        ({"max_new": 0}, "at least"), ({"stops": [[]]}, "stop")):
        with pytest.raises(ValueError, match=said):
            generate(model, **{"prompts": [[5, 6]], "seeds": [1], **wrong})
    with torch.no_grad():
        model.llama.lm_head.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        generate(model, [[5, 6]], seeds=[1])


def test_mullama_answers_in_words() -> None:
    model = tiny.model(dataclasses.replace(tiny.MULLAMA, eos=7))
    said = generate(model, PROMPTS, _encoded(model, [0, 1, 2, 3]), seeds=SEEDS, temperature=1.0, max_new=30)
    assert all(one.condition is None and one.hidden.shape == (0, 32) and 7 not in one.tokens for one in said)
