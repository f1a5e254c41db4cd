"""Each stage trains what its table says, and nothing else moves by a bit."""
import copy
import dataclasses
import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from tests.training import tiny
from training import checkpoint, config, stages
from training.loss import IGNORED, losses
from training.m2ugen import M2UGen
from training.stages import STAGES, Stage, Trained

TABLES = ("llama.model.embed_tokens.weight", "llama.lm_head.weight")
BASE = tiny.M2UGEN.vocabulary
ROOT = Path(__file__).parents[2]
EACH = [(number, recipe, freeze) for number in STAGES for recipe in stages.TRAINED for freeze in (False, True)]


def _loss(model: M2UGen, rows: list[tuple[tuple[str, ...], bool]], trained: Trained, wrapped: object = None) -> Tensor:
    """Of samples of one length, each with what it hears, and whether its answer is music."""
    count = model.config.audio_tokens
    music = list(model.config.audio_ids)
    said = [tiny.tokens(12 - count * asked, row) + music * asked for row, (_, asked) in enumerate(rows)]
    tokens = torch.tensor(said)
    labels = tokens.clone()
    labels[:, :3] = IGNORED
    encoded = {one.name: [tiny.encoded(model.config, one.name, row) if one.name in heard else None
                          for row, (heard, _) in enumerate(rows)] for one in model.config.modalities}
    targets = [torch.ones(model.config.projector.queries, model.config.projector.out) if asked else None
               for _, asked in rows]
    return losses(model, (wrapped or model)(tokens, encoded=encoded), labels, targets).total + trained.anchor()


MIXED = [(("audio",), True), (("image", "video"), False), ((), True), ((), False)]


def _steps(model: M2UGen, trained: Trained, rows: list = MIXED, count: int = 3) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(trained.groups, lr=1e-3, betas=(0.9, 0.95))
    for _ in range(count):
        _step(model, trained, optimizer, rows)
    return optimizer


def _step(model: M2UGen, trained: Trained, optimizer: torch.optim.AdamW, rows: list = MIXED) -> None:
    _loss(model, rows, trained).backward()
    trained.leave_unreached()
    optimizer.step()
    optimizer.zero_grad()


def _copied(model: M2UGen) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in model.state_dict().items()}


def _equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    assert all(torch.equal(one, wanted[name]) for name, one in found.items())


def _expected(name: str, number: int, recipe: str, freeze: bool) -> bool | str:
    """Written down apart from the code's table: whether a tensor changes, or its last rows do."""
    inside = name.startswith("llama.")
    if name.startswith("prefix.gates."):
        deaf = int(name.split(".")[2]) < tiny.M2UGEN.prefix_start
        return not deaf and not freeze and (recipe == "released" or number != 2)
    if recipe == "paper":
        if name in TABLES:
            return "rows" if number > 1 else False
        if name.startswith(("adapters.", "prefix.")):
            return number != 2
        return (name.startswith("projector.") and number > 1) or (".lora_" in name and number == 3)
    return ((inside and (name.endswith((".bias", "norm.weight")) or ".lora_" in name)) or name == "prefix.query"
            or (name == TABLES[0] and number < 3) or (name.startswith("adapters.") and number == 1)
            or (name.startswith("projector.") and number < 3))


@pytest.mark.parametrize(("number", "recipe", "freeze"), EACH)
def test_only_what_is_trained_changes(number: int, recipe: str, freeze: bool) -> None:
    model = tiny.model()
    before = _copied(model)
    trained = stages.train(model, STAGES[number], recipe, freeze)
    names = [name for name, _ in model.named_parameters()]
    assert sorted([*trained.parameters, *trained.frozen]) == sorted(names) and len(set(names)) == len(names)
    assert all(one.requires_grad == (name in trained.parameters) for name, one in model.named_parameters())
    _steps(model, trained)
    after = model.state_dict()
    assert list(after) == list(before)
    for name, old in before.items():
        expected = _expected(name, number, recipe, freeze)
        if expected == "rows":
            assert torch.equal(after[name][:BASE], old[:BASE]), name
            assert (after[name][BASE:] != old[BASE:]).any(1).all(), name
        elif name == TABLES[0] and expected:  # decay alone moves the rows of tokens that are not there
            assert (after[name] != old).any(1).all(), name
        else:
            assert torch.equal(after[name], old) != expected, name


def test_released_gates_never_open_and_ours_do() -> None:
    """As training begins, at gate 0: with frozen gates no adapter learns for ever, else from the second step on."""
    for freeze in (False, True):
        model = tiny.model()
        with torch.no_grad():
            for gate in model.prefix.gates:
                gate.zero_()
        trained = stages.train(model, STAGES[1], freeze_gates=freeze)
        before = _copied(model)
        optimizer = _steps(model, trained, count=1)
        assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items() if "adapters" in name)
        _loss(model, MIXED, trained).backward()
        for name, one in trained.parameters.items():
            if name.startswith("adapters."):
                assert bool(one.grad.any()) != freeze, name
        optimizer.zero_grad()


@pytest.mark.parametrize("which", [config.m2ugen("debug"), config.m2ugen("7b"), config.mullama("7b")],
                         ids=["debug", "7b", "mullama"])
def test_every_parameter_has_a_part(which: config.Config) -> None:
    """Counts by hand: five biases and seven linears a layer, two norms and a last one."""
    with torch.device("meta"):
        names = [name for name, _ in M2UGen(which).named_parameters()]
    counts = {one: sum(stages.part(name) == one for name in names) for one in stages.PARTS}
    projector = sum(name.startswith("projector.") for name in names)
    assert counts == {"adapters": 16 * len(which.modalities), "queries": 1, "gates": which.layers,
                      "projector": projector, "rows": 0, "lora": 14 * which.layers, "embeddings": 1, "output": 1,
                      "norms": 2 * which.layers + 1, "biases": 5 * which.layers, "linears": 7 * which.layers}


def test_the_optimiser_holds_eight_rows_a_table() -> None:
    """Not the 520 of the debug size, let alone the paper's 32,008."""
    trained = stages.train(M2UGen(config.m2ugen("debug")), STAGES[2])
    assert sorted(tuple(one.shape) for name, one in trained.parameters.items() if not name.startswith("projector.")
                  ) == [(8, 64), (8, 64)]
    optimizer = torch.optim.AdamW(trained.groups)
    for one in trained.parameters.values():
        one.grad = torch.zeros_like(one)
    optimizer.step()
    states = sum(value.numel() for state in optimizer.state.values() for key, value in state.items() if key != "step")
    assert states == 2 * sum(one.numel() for one in trained.parameters.values())


def test_decay_spares_biases_norms_and_gates() -> None:
    for recipe in stages.TRAINED:
        trained = stages.train(tiny.model(), STAGES[1], recipe)
        decayed, spared = ([name for name, _ in group["params"]] for group in trained.groups)
        assert [group["weight_decay"] for group in trained.groups] == [0.05, 0.0]
        assert [*decayed, *spared] != [] and sorted([*decayed, *spared]) == sorted(trained.parameters)
        assert all("gates" in name or "norm" in name or name.endswith("bias") for name in spared)
        assert not any("gates" in name or "norm" in name or name.endswith("bias") for name in decayed)


@torch.no_grad()
def test_rows_of_their_own_compute_the_same() -> None:
    plain, model = tiny.model(), tiny.model()
    stages.train(model, STAGES[2])
    tokens = torch.tensor([tiny.tokens(6, 0) + list(model.config.audio_ids)])
    ours, wanted = model(tokens), plain(tokens)
    torch.testing.assert_close(ours.logits, wanted.logits, rtol=1e-6, atol=1e-6)
    assert torch.equal(model.conditions(ours.hidden[:, 6:]), plain.conditions(wanted.hidden[:, 6:]))
    _equal(model.state_dict(), plain.state_dict())


def test_rows_get_the_gradients_of_the_whole_tables() -> None:
    for number in (2, 3):
        plain, model = tiny.model(), tiny.model()
        trained = stages.train(model, STAGES[number])
        _loss(model, MIXED, trained).backward()
        _loss(plain, MIXED, Trained(dict(plain.named_parameters()), (), [])).backward()
        for name in TABLES:
            wanted = plain.get_parameter(name).grad[BASE:]
            assert wanted.abs().max() > 1e-4
            torch.testing.assert_close(trained.parameters[name.replace("weight", "rows")].grad, wanted, rtol=1e-5,
                                       atol=3e-7)


@pytest.mark.parametrize("number", STAGES)
def test_activation_checkpointing_loses_no_gradient(number: int) -> None:
    """In stages 1 and 2 nothing that enters the first layer needs a gradient, or little does."""
    gradients = []
    for again in (False, True):
        model = tiny.model().train()
        trained = stages.train(model, STAGES[number])
        if again:
            model.llama.activation_checkpointing_enable()
        _loss(model, MIXED, trained).backward()
        gradients.append({name: one.grad for name, one in trained.parameters.items()})
    assert all(one.any() for name, one in gradients[0].items() if "projector" not in name or number > 1)
    for name, wanted in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], wanted, rtol=1e-5, atol=1e-7, msg=name)


def test_trained_is_float32_upon_frozen_bfloat16(tmp_path: Path) -> None:
    """A step of 1e-4 on a weight of 1 is lost in bfloat16. What was saved is what was trained, to the bit."""
    model = tiny.model().bfloat16()
    before = _copied(model)
    trained = stages.train(model, STAGES[3])
    assert {one.dtype for one in trained.parameters.values()} == {torch.float32}
    assert {model.get_parameter(name).dtype for name in trained.frozen} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        _steps(model, trained)
    assert all(torch.equal(model.get_parameter(name)[:BASE], before[name][:BASE])
               for name in trained.frozen if stages.part(name) != "gates")
    assert not any(torch.equal(one, before[name.replace("rows", "weight")][-len(one):].float())
                   for name, one in trained.parameters.items())
    checkpoint.save(tmp_path / "saved", model.config, model.state_dict(), base={"id": "a", "revision": "b"})
    tokens = checkpoint.safefile.read(str(tmp_path / "saved" / "tokens.safetensors"))[0]
    for name in TABLES:
        assert tokens[name].shape == (8, 32)
        assert torch.equal(tokens[name].load(), trained.parameters[name.replace("weight", "rows")])


def test_stages_follow_each_other() -> None:
    """Nothing of a stage stays behind but what it trained; a state dict goes into a model of any stage."""
    model = tiny.model()
    for number in (2, 3, 1):
        before = _copied(model)
        trained = stages.train(model, STAGES[number])
        _equal(model.state_dict(), before)
        _steps(model, trained, count=1)
        assert sum(name.endswith(".rows") for name, _ in model.named_parameters()) == (2 if number > 1 else 0)
        for into in (1, 2):
            other = tiny.model(seed=1)
            stages.train(other, STAGES[into])
            assert not torch.equal(other.state_dict()[TABLES[0]], model.state_dict()[TABLES[0]])
            other.load_state_dict(model.state_dict())
            _equal(other.state_dict(), model.state_dict())
    assert isinstance(model.llama.lm_head, torch.nn.Linear) and not model.llama.lm_head.weight.requires_grad


def test_resumed_is_undisturbed() -> None:
    model = tiny.model()
    trained = stages.train(model, STAGES[3])
    optimizer = _steps(model, trained, count=2)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    _step(model, trained, optimizer)
    again = tiny.model(seed=1)
    retrained = stages.train(again, STAGES[3])
    again.load_state_dict(saved[0])
    other = torch.optim.AdamW(retrained.groups)
    other.load_state_dict(saved[1])
    assert [group["param_names"] for group in other.param_groups] == [
        group["param_names"] for group in optimizer.param_groups]
    _step(again, retrained, other)
    _equal(again.state_dict(), model.state_dict())


def test_what_no_sample_reaches_is_left_alone() -> None:
    """Not decayed, nor moved by momentum from an earlier batch."""
    model = tiny.model()
    trained = stages.train(model, STAGES[3])
    optimizer = _steps(model, trained, count=2)
    before = _copied(model)
    _step(model, trained, optimizer, [(("audio",), False), ((), False)])
    for name, one in model.state_dict().items():
        if name.startswith(("adapters.image", "adapters.video", "projector.")):
            assert torch.equal(one, before[name]), name
        elif name.startswith("adapters.audio"):
            assert not torch.equal(one, before[name]), name


UNLIKE = [[(("audio",), False)], [(("image",), True)]]  # what each of two processes is dealt: nobody has a video


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2,
                                         timeout=timedelta(minutes=2))
    model = tiny.model().train()
    trained = stages.train(model, STAGES[3])
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(trained.groups, lr=1e-3)
    for _ in range(2):
        _loss(model, UNLIKE[rank], trained, wrapped).backward()
        trained.leave_unreached()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_with_unlike_batches_are_one(tmp_path: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(target=_process, args=(1, str(tmp_path)))
    other.start()
    _process(0, str(tmp_path))
    other.join()
    assert other.exitcode == 0
    model = tiny.model().train()
    before = _copied(model)
    trained = stages.train(model, STAGES[3])
    optimizer = torch.optim.AdamW(trained.groups, lr=1e-3)
    for _ in range(2):
        for rows in UNLIKE:
            (_loss(model, rows, trained) / 2).backward()
        trained.leave_unreached()
        optimizer.step()
        optimizer.zero_grad()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name, one in model.state_dict().items():
        assert torch.equal(found[0][name], found[1][name]), name
        torch.testing.assert_close(found[0][name], one, rtol=1e-5, atol=1e-5, msg=name)
        assert torch.equal(one, before[name]) == ((name in trained.frozen and name not in TABLES)
                                                  or name.startswith("adapters.video")), name


def test_mullama_trains_in_stages_1_and_3() -> None:
    model = tiny.model(tiny.MULLAMA)
    for recipe in stages.TRAINED:
        assert not any(name.endswith("rows") or name.startswith("projector")
                       for number in (1, 3) for name in stages.train(model, STAGES[number], recipe).parameters)
        with pytest.raises(ValueError, match="mullama has none: it makes no music; train it in stages 1 and 3"):
            stages.train(model, STAGES[2], recipe)
    assert {stages.part(name) for name in stages.train(model, STAGES[3]).parameters} == {"adapters", "queries", "gates",
                                                                                         "lora"}
    with pytest.raises(ValueError, match="recipe is 'mine'; it may be paper or released"):
        stages.train(model, STAGES[1], "mine")


def test_values_are_the_papers() -> None:
    assert [stage.epochs for stage in STAGES.values()] == [5, 5, 2]
    assert [list(stage.data) for stage in STAGES.values()] == [
        ["mucaps", "coco", "muvideo"], ["mucaps"], ["alpaca", "musicqa", "muimage", "muvideo", "muedit"]]
    for stage in STAGES.values():
        assert (stage.rate, stage.floor, stage.weight_decay, stage.betas, stage.warm_up, stage.clip) == (
            1e-4, 1e-6, 0.05, (0.9, 0.95), 0, None)
    for wrong, named in (({"epochs": 0}, "epochs cannot be 0"), ({"floor": 1.0}, "floor"), ({"rate": math.nan}, "rate"),
                         ({"data": {"mucaps": 0}}, "data"), ({"betas": [1.0, 0.9]}, "betas"), ({"clip": 0}, "clip")):
        with pytest.raises(ValueError, match=named):
            dataclasses.replace(STAGES[1], **wrong)


def test_the_learning_rate_is_a_cosine() -> None:
    stage = Stage(1, 5, {"mucaps": 1.0}, warm_up=4)
    assert [stage.rate_at(step, 104) for step in range(4)] == pytest.approx([2.5e-5, 5e-5, 7.5e-5, 1e-4])
    assert stage.rate_at(4, 104) == 1e-4
    assert stage.rate_at(54, 104) == pytest.approx((1e-4 + 1e-6) / 2)
    assert stage.rate_at(29, 104) == pytest.approx(1e-6 + 99e-6 * (1 + math.sqrt(0.5)) / 2)
    assert stage.rate_at(104, 104) == stage.rate_at(200, 104) == 1e-6
    assert STAGES[1].rate_at(0, 1) == 1e-4


def test_the_table_says_what_is_trained() -> None:
    lines = stages.table().splitlines()
    assert lines[0] == "| | stage 1 | stage 2 | stage 3 |"
    assert "| output projector |  | trained | trained |" in lines and "| LoRA |  |  | trained |" in lines
    assert "| LLaMA's norms | trained | trained | trained |" in stages.table("released").splitlines()
    assert len(lines) == 2 + 6 and "norms" not in stages.table()


def test_the_documents_have_the_table() -> None:
    for name in ("README.md", "docs/training.md"):
        assert stages.table() in (ROOT / name).read_text(encoding="utf-8"), name
    assert stages.table("released") in (ROOT / "docs/training.md").read_text(encoding="utf-8")
