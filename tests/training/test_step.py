"""One step of the optimiser, and what it refuses: however its samples are cut up, its gradient is the same."""
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.training import corpus
from training import beginning, features, mixture, stages, step
from training.feed import Feed, Precomputed
from training.meter import Meter
from training.mixture import Prepared
from training.parallel import Processes
from training.settings import Settings
from training.step import Steps, Stopped
from training.tokenizer import debug

HERE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("out")
    corpus.datasets(root, 2, 2)
    corpus.features_of(root, 4)
    return root


def _settings(out: Path, stage: int, **other: object) -> Settings:
    return corpus.settings(out, out / "runs", stage, **other)


def _data(settings: Settings) -> Prepared:
    """Ten samples of stage 3, six of stage 1, two of stage 2."""
    return mixture.prepare(settings.run / f"data{settings.stage.number}", settings.stage, settings.sources,
                           debug(corpus.DEBUG), settings.longest, features.opened(settings.sources.out))


def _feed(settings: Settings, **other: int) -> Feed:
    return Feed(_data(settings).train, Precomputed(features.opened(settings.sources.out)), rows=settings.batch,
                micro=settings.micro, budget=settings.pack, weights=settings.stage.data, seed=settings.seed, **other)


class Kept(torch.optim.Optimizer):
    """Keeps the gradients, and moves nothing."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__(list(parameters.values()), {"lr": 0.0})
        self.parameters, self.rates, self.found = parameters, [], {}

    def step(self) -> None:
        self.rates = [group["lr"] for group in self.param_groups]
        self.found = {name: None if one.grad is None else one.grad.clone() for name, one in self.parameters.items()}


def _work(settings: Settings, gate: float = 0.5) -> Steps:
    """Steps of a new model whose gates are open, so that all that is trained matters."""
    begin = dataclasses.replace(beginning.find(settings.run, 1, "debug", "musicgen", None, 0),
                                stage=settings.stage.number)
    model = beginning.model(begin, settings.recipe, settings.dtype, HERE.device, 0)
    with torch.no_grad():
        for place, one in enumerate(model.prefix.gates):
            one.fill_(gate + 0.01 * place)
        for name, one in model.named_parameters():  # LoRA begins at zero, and would give its own half no gradient
            if "lora_B" in name:
                one.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    trained = stages.train(model, settings.stage, settings.recipe, settings.freeze_gates)
    beginning.lighten(model, settings.dtype)
    model.train()
    parts = [part for part in stages.PARTS if any(stages.part(name) == part for name in trained.parameters)]
    return Steps(settings, HERE, model, step.wrapped(model, settings, HERE), trained, parts, Kept(trained.parameters))


def _gradients(settings: Settings) -> tuple[dict[str, Tensor], float, float, dict]:
    """Of the first step: gradients, their norm, its loss, and the validation of the samples that it was given."""
    work, feed = _work(settings), _feed(settings)
    meter = Meter()
    micros = next(feed.epoch(0))
    norm = work.step(1, micros, 0.25, meter)
    meter.stepped(norm, 0.25)
    reading = meter.read()
    assert work.optimizer.rates == [0.25] and all(one.grad is None for one in work.model.parameters())
    return work.optimizer.found, norm, reading.text, work.validate(feed, _data(settings).train.datasets)


def _agree(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], within: float = 1e-5) -> None:
    assert set(found) == set(wanted)
    total = torch.stack([one.norm() for one in wanted.values()]).norm()
    for name, one in wanted.items():
        assert torch.isfinite(found[name]).all() and one.any(), name
        # Of a few numbers that are small sums of large ones, the rounding is that of the large ones.
        assert (found[name] - one).norm() <= within * (one.norm() + total / 100), name


@pytest.fixture(scope="module")
def whole(out) -> Mapping[int, tuple]:
    """All samples of a stage at once, in one padded micro-batch."""
    return {stage: _gradients(_settings(out, stage, batch=16, micro=16)) for stage in (1, 2, 3)}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradients_are_those_of_the_mean_over_samples(out, whole, stage: int) -> None:
    """Computed one by one, by what the loss of a sample is; and the norm is theirs together."""
    settings = _settings(out, stage, batch=16, micro=1)
    work, total = _work(settings), {}
    micros = next(_feed(settings).epoch(0))
    assert len(micros) == {1: 6, 2: 2, 3: 10}[stage] and {len(micro.names) for micro in micros} == {1}
    for micro in micros:
        found = work._losses(work.model, micro)
        (found.text + found.music).sum().backward()
    for name, one in work.trained.parameters.items():
        total[name] = one.grad / len(micros)
    gradients, norm, text, said = whole[stage]
    _agree(gradients, total)
    assert norm == pytest.approx(torch.stack([one.norm() for one in total.values()]).norm().item(), rel=1e-5)
    assert text == pytest.approx(said["text"], rel=1e-6)  # of the same samples, in eval and in training alike


@pytest.mark.parametrize("other", [{"micro": 1}, {"micro": 2}, {"micro": 3}, {"micro": 16, "pack": 512},
                                   {"micro": 1, "pack": 130}, {"micro": 16, "checkpointing": True},
                                   {"micro": 2, "pack": 130, "checkpointing": True}], ids=str)
@pytest.mark.parametrize("stage", [2, 3])
def test_accumulated_packed_and_checkpointed_are_the_large_batch(out, whole, stage: int, other: dict) -> None:
    settings = _settings(out, stage, batch=16, **other)
    found, norm, text, said = _gradients(settings)
    gradients, wanted_norm, wanted_text, wanted = whole[stage]
    _agree(found, gradients)
    assert (norm, text) == (pytest.approx(wanted_norm, rel=1e-5), pytest.approx(wanted_text, rel=1e-6))
    for name in ("text", "music"):
        assert said[name] == pytest.approx(wanted[name], rel=1e-6)
    assert said["by_dataset"] == pytest.approx(wanted["by_dataset"], rel=1e-6)


def test_two_adamw_steps_move_what_is_trained_alone(out) -> None:
    settings = _settings(out, 3, batch=16, micro=16)
    work = _work(settings)
    work = dataclasses.replace(work, optimizer=torch.optim.AdamW(work.trained.groups, betas=settings.stage.betas))
    before = {name: one.detach().clone() for name, one in work.model.named_parameters()}
    for number in (1, 2):
        work.step(number, next(_feed(settings).epoch(0)), 1e-3, Meter())
    for name, one in work.model.named_parameters():
        assert torch.equal(one, before[name]) == (name in work.trained.frozen), name


def test_without_music_the_audio_tokens_are_asked_for_and_not_read(out) -> None:
    """Their embedding keeps still, whatever momentum there is; the output learns that they are not what comes."""
    mixed = _settings(out, 3, batch=16, micro=16)
    talk = dataclasses.replace(_settings(out, 3, batch=16, micro=16, data={"musicqa": 1.0}), run=mixed.run / "talk")
    work = _work(mixed)
    work = dataclasses.replace(work, optimizer=torch.optim.AdamW(work.trained.groups, betas=mixed.stage.betas))
    read, said = (work.trained.parameters[f"llama.{name}.rows"] for name in ("model.embed_tokens", "lm_head"))
    first = read.detach().clone()
    work.step(1, next(_feed(mixed).epoch(0)), 1e-3, Meter())
    before = read.detach().clone(), said.detach().clone()
    assert (before[0] != first).any(1).all()
    work.step(2, next(_feed(talk).epoch(0)), 1e-3, Meter())
    assert torch.equal(read, before[0]) and (said != before[1]).any(1).all()


def test_an_adapter_that_nothing_reached_stays(out) -> None:
    """Neither decay nor momentum moves it; the anchor alone gives it a gradient."""
    settings = _settings(out, 3, batch=16, micro=16, data={"musicqa": 1.0})
    settings = dataclasses.replace(settings, run=settings.run / "alone")
    work = _work(settings)
    work.step(1, next(_feed(settings).epoch(0)), 1e-3, Meter())
    reached = {name for name, one in work.optimizer.found.items() if one is not None}
    assert {name for name in work.trained.parameters if name not in reached} == {
        name for name in work.trained.parameters if name.startswith(("adapters.image", "adapters.video", "projector"))
        or name == "llama.model.embed_tokens.rows"}


def test_the_gradient_is_clipped_and_its_norm_told_as_it_was(out, whole) -> None:
    settings = _settings(out, 3, batch=16, micro=16)
    settings = dataclasses.replace(settings, stage=dataclasses.replace(settings.stage, clip=0.5))
    found, norm, _, _ = _gradients(settings)
    assert norm == whole[3][1] > 0.5
    assert torch.stack([one.norm() for one in found.values()]).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_closed_gates_give_no_adapter_a_gradient_and_open_ones_do(out) -> None:
    settings = _settings(out, 1, batch=16, micro=16)
    shut = _work(settings, gate=0.0)
    with torch.no_grad():
        for one in shut.model.prefix.gates:
            one.zero_()
    shut.step(1, next(_feed(settings).epoch(0)), 1e-3, Meter())
    assert all(shut.optimizer.found[name] is None for name in shut.trained.parameters if name.startswith("adapters."))
    gates = [one for name, one in shut.optimizer.found.items() if name.startswith("prefix.gates.")]
    assert len(gates) == 18 and all(one.any() for one in gates)  # by which they open


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bfloat16_trains_in_float32_and_loses_little(out, whole, stage: int) -> None:
    settings = _settings(out, stage, batch=16, micro=16, dtype=torch.bfloat16)
    work = _work(settings)
    for name, one in work.model.named_parameters():
        ever = name.endswith(".rows") or any(stages.is_trained(name, corpus.DEBUG, some) for some in (1, 2, 3))
        # Tables whose rows a later stage trains are of LLaMA's own dtype, as all of its other weights are.
        assert one.dtype == (torch.float32 if ever else torch.bfloat16), name
    found, norm, text, said = _gradients(settings)
    _, wanted_norm, wanted_text, wanted_said = whole[stage]
    assert all(one.dtype == torch.float32 for one in found.values())
    assert text == pytest.approx(wanted_text, rel=5e-3) and text != wanted_text
    assert norm == pytest.approx(wanted_norm, rel=0.1)
    assert said["text"] == pytest.approx(wanted_said["text"], rel=5e-3)
    if stage > 1:
        assert said["music"] == pytest.approx(wanted_said["music"], rel=2e-2)


class _Hot(nn.Module):
    """A model that has no room for the work."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


def test_too_little_memory_stops_and_says_what_to_do(out) -> None:
    settings = _settings(out, 2, batch=2, micro=2)
    work = _work(settings)
    hot = dataclasses.replace(work, wrapped=_Hot(work.model))
    with pytest.raises(Stopped, match=r"step 7: too little memory, with 2 rows at a time \(CUDA .*GiB\); take --mi"):
        hot.step(7, next(_feed(settings).epoch(0)), 1e-3, Meter())
    assert work.optimizer.found == {}


def test_too_little_of_a_cpus_memory_too(out) -> None:
    settings = _settings(out, 1, micro=8)
    said = r"^here: too little memory, with 8 rows .*DefaultCPUAllocator.*another RUN\)$"
    with pytest.raises(Stopped, match=said), step.room(settings), step.room(settings, "here: "):  # told once
        torch.empty(2**50)
    with pytest.raises(RuntimeError, match="size") as other, step.room(settings):
        torch.ones(2) @ torch.ones(3)
    assert not isinstance(other.value, Stopped)


@pytest.mark.parametrize("micro", [1, 16])
def test_a_loss_that_is_no_number_names_its_samples_alone(tmp_path, micro: int) -> None:
    corpus.datasets(tmp_path, 3, 0)
    corpus.features_of(tmp_path, 3, wrong=("muimage/muimage-1", "muvideo/muvideo-2"))
    settings = _settings(tmp_path, 1, batch=16, micro=micro)
    work = _work(settings)
    before = {name: one.clone() for name, one in work.model.state_dict().items()}
    with pytest.raises(Stopped) as stopped:
        work.step(3, next(_feed(settings).epoch(0)), 1e-3, Meter())
    said = str(stopped.value)
    assert said.startswith("step 3: the gradient is nan, and so are the features of ")
    named = said.partition("features of ")[2].partition(".")[0].split(", ")
    assert sorted(named) == ["'coco muimage-1'", "'muvideo muvideo-2'"]
    assert work.optimizer.found == {}
    assert all(torch.equal(one, before[name]) for name, one in work.model.state_dict().items())


def test_a_loss_that_is_no_number_of_sound_features(out) -> None:
    settings = _settings(out, 1, batch=16, micro=2)
    work = _work(settings)
    with torch.no_grad():
        work.model.adapters["image"].project.weight.fill_(float("inf"))
    with pytest.raises(Stopped, match=r"step 1: the gradient is nan, and so is the loss of .*coco muimage-"):
        work.step(1, next(_feed(settings).epoch(0)), 1e-3, Meter())


@pytest.mark.slow
def test_compiled_feed_forward_layers_give_the_same_gradients(out, whole) -> None:
    torch._dynamo.utils.counters.clear()
    found, norm, _, _ = _gradients(_settings(out, 2, batch=16, micro=16, compile=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # else nothing was compiled
    _agree(found, whole[2][0])
    assert norm == pytest.approx(whole[2][1], rel=1e-5)
