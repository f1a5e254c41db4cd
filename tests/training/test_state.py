"""A killed run goes on as if nothing had happened, from whatever it was killed in."""
import json
import os
import random
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.training import test_stages
from tests.training.killed import ABOUT, is_made, made, names
from training import config, folders, safefile, stages, state, stored
from training.m2ugen import M2UGen
from training.stages import STAGES

# What is saved.

def test_every_dtype_and_layout_comes_back_bit_for_bit(tmp_path: Path) -> None:
    noise = torch.randn(4, 6)
    tensors = {"scalar": torch.tensor(3.5), "none": torch.zeros(0, 3), "odd": torch.tensor([1, 2, 255]).byte(),
               "across": noise.T, "piece": noise[1:3, ::2], "half": noise.bfloat16(), "whole": torch.tensor([-2 ** 62]),
               "yes": torch.tensor([True, False]), "trained": nn.Parameter(noise),
               "bits": torch.tensor([float("nan"), -0.0, float("inf"), 1e-45])}
    about = {**ABOUT, "gone": None, "best": float("inf"), "weights": {10: 1.0, 9: 0.1 + 0.2}, "pair": (1, 2), "ö": "é"}
    assert state.save(tmp_path / "a" / "b", 7, tensors, about) == tmp_path / "a" / "b" / "step-00000007"
    step, found, told = state.newest(tmp_path / "a" / "b")
    assert step == 7 and set(found) == set(tensors)
    for name, one in tensors.items():
        assert (found[name].dtype, found[name].shape) == (one.dtype, one.shape) and not found[name].requires_grad
        assert found[name].contiguous().view(-1).view(torch.uint8).tolist() == (
            one.detach().contiguous().view(-1).view(torch.uint8).tolist()), name
    assert told == {**about, "weights": {"10": 1.0, "9": 0.1 + 0.2}, "pair": [1, 2]}


def test_a_state_holds_one_tensor_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies, as from a GPU, are made when their turn comes, and are gone before the next one's."""
    copies: list[weakref.ref] = []
    alive: list[int] = []

    def copied(where: str, tensor: Tensor) -> stored.Stored:
        def load() -> Tensor:
            alive.append(sum(one() is not None for one in copies))
            copy = tensor.clone()
            copies.append(weakref.ref(copy))
            return copy
        return stored.Stored(where, tuple(tensor.shape), tensor.dtype, load)
    monkeypatch.setattr(state.stored, "in_memory", copied)
    state.save(tmp_path, 1, made(1, count=8), ABOUT)
    assert len(alive) == 8 and max(alive) <= 1 and not any(one() is not None for one in copies)
    assert set(state.load(tmp_path, 1)[0]) == set(made(1, count=8))


# A run that goes on.

def debug(number: int) -> tuple[M2UGen, stages.Trained, torch.optim.AdamW]:
    torch.manual_seed(5)
    model = M2UGen(config.m2ugen("debug"))
    trained = stages.train(model, STAGES[number])
    return model, trained, torch.optim.AdamW(trained.groups, lr=1e-3, betas=(0.9, 0.95))


def step(model: M2UGen, trained: stages.Trained, optimizer: torch.optim.AdamW) -> None:
    """On rows that both kinds of random numbers choose, and now and then without a modality."""
    rows = [random.choice(test_stages.MIXED) for _ in range(2)]
    with torch.no_grad():
        next(iter(trained.parameters.values())).add_(1e-3 * torch.randn(()))
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * random.gauss(1, 0.1)
    test_stages._step(model, trained, optimizer, rows)


@pytest.mark.parametrize("number", STAGES)
def test_resumed_is_undisturbed(tmp_path: Path, number: int) -> None:
    """Whatever the process did in between, and whatever was trained in the model that it goes on with."""
    random.seed(number)
    one = debug(number)
    for _ in range(3):
        step(*one)
    random.gauss(0, 1)  # of which Python keeps a second one for later
    state.save(tmp_path, 3, {**state.of_optimizer(one[1].parameters, one[2]), **state.random_states()}, ABOUT)
    for _ in range(2):
        step(*one)
    last = random.random(), random.gauss(0, 1), torch.rand(3).tolist()

    other = debug(number)
    step(*other)  # moves what must not stay
    _, tensors, about = state.newest(tmp_path)
    before = {name: value.clone() for name, value in tensors.items()}
    state.into_optimizer(tensors, other[1].parameters, other[2])
    state.set_random_states(tensors)
    for _ in range(2):
        step(*other)
    assert (random.random(), random.gauss(0, 1), torch.rand(3).tolist()) == last and about == ABOUT
    test_stages._equal(other[0].state_dict(), one[0].state_dict())
    test_stages._equal(state.of_optimizer(other[1].parameters, other[2]), state.of_optimizer(one[1].parameters, one[2]))
    test_stages._equal(tensors, before)  # what was loaded does not train along


def test_what_had_no_gradient_has_no_state(tmp_path: Path) -> None:
    def trained() -> tuple[dict[str, nn.Parameter], torch.optim.AdamW]:
        ones = {name: nn.Parameter(torch.ones(2)) for name in ("a", "b")}
        return ones, torch.optim.AdamW(ones.values(), lr=0.1)
    parameters, optimizer = trained()
    parameters["a"].grad = torch.ones(2)
    optimizer.step()
    tensors = state.of_optimizer(parameters, optimizer)
    assert sorted(tensors) == ["exp_avg.a", "exp_avg_sq.a", "parameters.a", "parameters.b", "step.a"]
    assert tensors["parameters.a"].data_ptr() == parameters["a"].data_ptr()  # no copy
    others, other = trained()
    for one in others.values():
        one.grad = torch.ones(2)
    other.step()
    state.into_optimizer({**tensors, "random.torch": torch.get_rng_state()}, others, other)
    assert list(other.state) == [others["a"]] and torch.equal(others["b"], torch.ones(2))
    assert other.state[others["a"]]["step"].item() == 1


def test_a_state_of_another_training_is_refused() -> None:
    _, trained, optimizer = debug(2)
    test_stages._step(_, trained, optimizer)
    tensors = state.of_optimizer(trained.parameters, optimizer)
    name = "llama.lm_head.rows"
    before = {key: one.clone() for key, one in tensors.items()}
    for changes, told in (({"parameters.more": torch.ones(1)}, "1 parameters .* only there or only here: more; go on"),
                          ({f"parameters.{name}": torch.ones(8, 63)}, rf"parameters\.{name} is torch\.float32 \[8, 63\]"
                           r", and the parameter torch\.float32 \[8, 64\]"),
                          ({f"exp_avg.{name}": torch.ones(8, 64).bfloat16()}, rf"exp_avg\.{name} is torch\.bfloat16"),
                          ({"exp_avg.more": torch.ones(1)}, "exp_avg and step are of other parameters"),
                          ({f"{kind}.more": torch.ones(1) for kind in ("exp_avg", "exp_avg_sq", "step")},
                           "exp_avg.more is .*, and the parameter is not trained")):
        with pytest.raises(ValueError, match=f"^the state is .*{told}"):
            state.into_optimizer({**tensors, **changes}, trained.parameters, optimizer)
    for key in tensors:
        with pytest.raises(ValueError, match=r"is of another training: 1 param|is not whole"):
            state.into_optimizer({k: one for k, one in tensors.items() if k != key}, trained.parameters, optimizer)
    test_stages._equal(state.of_optimizer(trained.parameters, optimizer), before)
    with pytest.raises(ValueError, match="steps other parameters"):
        state.of_optimizer({name: trained.parameters[name]}, optimizer)
    one = nn.Parameter(torch.ones(2))
    one.grad = torch.ones(2)
    momentum = torch.optim.AdamW([one], amsgrad=True)
    momentum.step()
    with pytest.raises(ValueError, match="holds step, exp_avg, exp_avg_sq, max_exp_avg_sq; only AdamW's"):
        state.of_optimizer({"one": one}, momentum)
    with pytest.raises(ValueError, match=r"lacks random\.python, random\.python_gauss, random\.torch"):
        state.set_random_states(tensors)


# What is kept.

def test_the_newest_stay(tmp_path: Path) -> None:
    assert state.newest(tmp_path / "nowhere") is None and state.steps(tmp_path / "nowhere") == []
    for number in (0, 5, 10, 123456789, 1234567890):
        state.save(tmp_path, number, made(number), {"at": number})
    assert state.steps(tmp_path) == [123456789, 1234567890]
    assert names(tmp_path) == ["step-123456789", "step-1234567890"]
    assert state.newest(tmp_path)[::2] == (1234567890, {"at": 1234567890})
    state.save(tmp_path, 1234567890, made(2), {"at": "again"}, keep=1)
    assert names(tmp_path) == ["step-1234567890"] and is_made(state.newest(tmp_path)[1], 2)
    with pytest.raises(ValueError, match="keep is 0; at least one"):
        state.save(tmp_path, 1, made(1), {}, keep=0)


def test_a_run_that_fell_back_keeps_what_it_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2, 9):
        state.save(tmp_path, number, made(number), ABOUT, keep=3)
    os.truncate(tmp_path / "step-00000009" / "state.safetensors", 99)
    state.save(tmp_path, 3, made(3), ABOUT, keep=1)
    assert state.steps(tmp_path) == [3] and state.newest(tmp_path)[0] == 3
    assert "step-00000009" in capsys.readouterr().err
    state.save(tmp_path, 10, made(10), ABOUT, keep=2)  # what is broken counts for nothing
    assert state.steps(tmp_path) == [3, 10] and "step-00000009" not in names(tmp_path)


def test_what_somebody_else_put_there_stays(tmp_path: Path) -> None:
    for name in ("step-00000001", "step-00000002", "step-1", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.pth").write_text("precious")
    (tmp_path / "step-00000003").write_text("a file")
    with pytest.raises(FileExistsError, match=r"step-00000002: holds what is no training state; move it away"):
        state.save(tmp_path, 2, made(2), ABOUT)
    for number in (5, 6, 7):
        state.save(tmp_path, number, made(number), ABOUT, keep=1)
    assert names(tmp_path) == ["other", *(f"step-{number:08d}" for number in (1, 2, 3, 7)), "step-1"]
    assert state.newest(tmp_path)[0] == 7 and (tmp_path / "step-00000001" / "model.pth").read_text() == "precious"


def test_leftovers_are_swept_and_an_old_folder_comes_back(tmp_path: Path) -> None:
    state.save(tmp_path, 4, made(4), ABOUT)
    half = tmp_path / f".tmp-{'a' * 32}-step-00000005"
    half.mkdir()
    (half / "state.safetensors").write_bytes(b"half")
    os.rename(tmp_path / "step-00000004", tmp_path / f".tmp-{'b' * 32}-old-step-00000004")
    (tmp_path / f".tmp-{'c' * 32}-old-step-00000006").mkdir()
    (tmp_path / "step-00000006").mkdir()
    assert state.newest(tmp_path)[0] == 4
    assert names(tmp_path) == ["step-00000004", "step-00000006"]


# What is broken.

def flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def rewritten(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


TENSORS, SAID = "state.safetensors", "state.json"
BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "first byte": (TENSORS, lambda path: flipped(path, 0), "is not what was saved"),
    "name": (TENSORS, lambda path: flipped(path, path.read_bytes().index(b"x.1") + 2), "is not what was saved"),
    "element": (TENSORS, lambda path: flipped(path, 30000), "is not what was saved"),
    "last byte": (TENSORS, lambda path: flipped(path, -1), "is not what was saved"),
    "cut": (TENSORS, lambda path: os.truncate(path, 30000), "is not what was saved"),
    "longer": (TENSORS, lambda path: path.write_bytes(path.read_bytes() + b"0"), "is not what was saved"),
    "empty": (TENSORS, lambda path: os.truncate(path, 0), "is not what was saved"),
    "pickle": (TENSORS, lambda path: torch.save(made(3), path), "is not what was saved"),
    "other tensors": (TENSORS, lambda path: safefile.write(str(path), {
        name: stored.in_memory("", one + 1) for name, one in made(3).items()}), "is not what was saved"),
    "no tensors": (TENSORS, os.remove, "No such file"),
    "no JSON": (SAID, os.remove, "no such file"),
    "JSON cut": (SAID, lambda path: os.truncate(path, 50), "not valid JSON"),
    "JSON empty": (SAID, lambda path: os.truncate(path, 0), "not valid JSON"),
    "bytes for text": (SAID, lambda path: path.write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
    "a list": (SAID, lambda path: path.write_text("[1]"), "no training state that this version saved"),
    "later version": (SAID, lambda path: rewritten(path, m2ugen_state=2), "no training state that this version saved"),
    "position": (SAID, lambda path: rewritten(path, about={**ABOUT, "sampler": {"position": 8}}), "is not what was sa"),
    "nothing in it": (SAID, lambda path: path.write_text('{"m2ugen_state": 1}'), "is not what was saved"),
}


@pytest.mark.parametrize("which", BROKEN)
def test_what_is_broken_is_told_and_the_one_before_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                        which: str) -> None:
    file, breaks, told = BROKEN[which]
    for number in (2, 3):
        state.save(tmp_path, number, made(number), ABOUT)
    path = tmp_path / "step-00000003" / file
    breaks(path)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"step-00000003/{file}.*{told}|{told}.*/{file}"):
        state.load(tmp_path, 3)
    number, tensors, about = state.newest(tmp_path)
    assert number == 2 and is_made(tensors, 2) and about == ABOUT
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f"step-00000003/{file}" in lines[0] and lines[0].endswith("This state is left out")
    breaks(tmp_path / "step-00000002" / file)
    with pytest.raises(ValueError, match="none of the 2 training states in it can be read; move them away to begin"):
        state.newest(tmp_path)


def test_a_state_of_another_step_is_none(tmp_path: Path) -> None:
    state.save(tmp_path, 3, made(3), ABOUT)
    os.rename(tmp_path / "step-00000003", tmp_path / "step-00000004")
    with pytest.raises(ValueError, match=r"step-00000004/state\.json: is not what was saved"):
        state.load(tmp_path, 4)
    with pytest.raises(FileNotFoundError, match=r"step-00000003/state\.json: no such file"):
        state.load(tmp_path, 3)


def test_what_json_cannot_hold_is_no_state(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        state.save(tmp_path, 3, made(3), {"model": nn.Linear(1, 1)})
    assert not names(tmp_path)


# Killed, and no room.

@pytest.mark.parametrize("what", ["at_random", "everywhere", "no_room"])
def test_whatever_ends_a_save(tmp_path: Path, what: str) -> None:
    done = subprocess.run([sys.executable, "-m", "tests.training.killed", what, tmp_path], check=False, text=True,
                          cwd=Path(__file__).resolve().parents[2], capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), folders.create(tmp_path / "x") as temporary:
        (temporary / "new").write_text("new")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["x"] and names(tmp_path / "x") == ["old"]
    with folders.create(tmp_path / "x") as temporary:
        folders.write_text(temporary / "new", "é")
    assert names(tmp_path) == ["x"] and (tmp_path / "x" / "new").read_bytes() == "é".encode()
