"""The three stages one after the other: what is learned, what stays, what is told, and what is refused."""
import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from manifests import storage
from tests.training import corpus, folders
from training import beginning, checkpoint, frozen, stages, train
from training.settings import Settings
from training.sources import Sources

STEPS = {1: 5, 2: 2, 3: 8}  # of an epoch: 18, 6 and 30 rows, 4 a step


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("out")
    corpus.datasets(root, 6, 2)
    corpus.features_of(root, 8)
    return root


def _chosen(out: Path, stage: int, **other: object) -> Settings:
    return corpus.settings(out, out / "runs", stage, **{"epochs": 2, **other})


@pytest.fixture(scope="module")
def told(out) -> Mapping[int, dict]:
    """All three were trained below OUT/runs; what each returned."""
    return {stage: train.train(_chosen(out, stage)) for stage in (1, 2, 3)}


def _folder(out: Path, stage: int) -> Path:
    return out / "runs" / f"stage{stage}"


def _weights(folder: Path) -> dict[str, Tensor]:
    return {name: one.load() for name, one in checkpoint.load(folder).tensors.items()}


def _files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """But for the lock, which every run opens."""
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_validation_falls_from_before_the_first_step(out, told, stage: int) -> None:
    found = told[stage]["validation"]
    assert [(one["epoch"], one["step"]) for one in found] == [(0, 0), (1, STEPS[stage]), (2, 2 * STEPS[stage])]
    assert found[0]["text"] > found[1]["text"] > found[2]["text"] > 0
    if stage > 1:
        assert found[0]["music"] > found[-1]["music"] > 0
    names = {1: {"mucaps", "coco", "muvideo"}, 2: {"mucaps"}, 3: {"musicqa", "muimage", "muvideo", "muedit"}}[stage]
    rows = {name: 4 if name == "musicqa" else 2 for name in names}
    for one in found:
        assert set(one["by_dataset"]) == names and (one["music"] is None) == (stage == 1)
        # Each sample counts alike, whatever it came with.
        mean = sum(one["by_dataset"][name] * count for name, count in rows.items()) / sum(rows.values())
        assert mean == pytest.approx(one["text"], rel=1e-9)


def _is_due(name: str, stage: int) -> bool:
    """By hand, from the paper; the audio tokens' rows apart."""
    gate = name.startswith("prefix.gates.") and int(name.rpartition(".")[2]) >= 2  # 20 layers, 18 with a prefix
    hearing = name.startswith("adapters.") or name == "prefix.query" or gate
    return {1: hearing, 2: name.startswith("projector."),
            3: hearing or name.startswith("projector.") or ".lora_" in name}[stage]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_is_frozen_stays_bit_for_bit_and_all_else_moves(out, told, stage: int) -> None:
    if stage == 1:
        begin = beginning.find(out / "runs", 1, "debug", "musicgen", None, 0)
        before = beginning.model(begin, "paper", torch.float32, torch.device("cpu"), 0).state_dict()
        before = {name.replace(".base_layer.", ".").replace(".default.", "."): one for name, one in before.items()}
    else:
        before = _weights(_folder(out, stage - 1) / "model")
    after = _weights(_folder(out, stage) / "model")
    after = {name.replace(".base_layer.", ".").replace(".default.", "."): one for name, one in after.items()}
    before = {name.replace(".base_layer.", ".").replace(".default.", "."): one for name, one in before.items()}
    assert set(before) == set(after)
    moved = 0
    for name, one in after.items():
        old = before[name]
        assert old.dtype == one.dtype == torch.float32
        if name in ("llama.model.embed_tokens.weight", "llama.lm_head.weight"):
            assert torch.equal(old[:512], one[:512]), name
            changed = (old[512:] != one[512:]).any(1)
            assert len(changed) == 8 and (changed.all() if stage > 1 else not changed.any()), name
        else:
            assert torch.equal(old, one) != _is_due(name, stage), name
            moved += _is_due(name, stage)
    assert moved > 10


def test_gradient_reaches_every_adapter_in_both_stages_that_train_them(out, told) -> None:
    """Not decay alone: what decay does not touch moved too, and the gates are open."""
    for stage in (1, 3):
        after = _weights(_folder(out, stage) / "model")
        begin = _weights(_folder(out, 2) / "model") if stage == 3 else beginning.model(
            beginning.find(out / "runs", 1, "debug", "musicgen", None, 0), "paper", torch.float32,
            torch.device("cpu"), 0).state_dict()
        for modality in ("audio", "image", "video"):
            still = [name for name in after if name.startswith(f"adapters.{modality}.") and after[name].dim() == 1]
            assert still and not any(torch.equal(after[name], begin[name]) for name in still), modality
        assert all(after[f"prefix.gates.{layer}"].ne(0).all() for layer in range(2, 20))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_a_run_leaves(out, told, stage: int) -> None:
    folder = _folder(out, stage)
    assert sorted(path.name for path in folder.iterdir()) == ["data", "lock", "model", "run.json", "tensorboard"]
    said = json.loads((folder / "run.json").read_text())
    assert said == json.loads(json.dumps(told[stage]))
    assert (said["ended"], said["step"], said["steps"]) == (True, 2 * STEPS[stage], 2 * STEPS[stage])
    assert (said["processes"], said["device"], said["unreadable"]) == (1, "cpu", {})
    assert said["identity"]["stage rate"] == 3e-3 and said["identity"]["seed"] == 0
    assert said["data"]["counts"]["mucaps" if stage < 3 else "muedit"] == {"train": 6, "eval": 2}
    assert set(said["encoders"]) == {1: {"audio", "image", "video"}, 2: {"text"},
                                     3: {"audio", "image", "video", "text"}}[stage]
    _, _, _, about = checkpoint.opened(folder / "model")
    assert [one.partition(" (")[0] for one in about["trained"]] == [f"stage {one}" for one in range(1, stage + 1)]
    assert set(about["encoders"]) == {1: {"audio", "image", "video"}}.get(stage, set(frozen.KINDS))
    assert f"{told[stage]['validation'][-1]['text']:.4f}" in about["notes"]


def test_tensorboard_reads_every_step(out, told) -> None:
    found = EventAccumulator(str(_folder(out, 3) / "tensorboard")).Reload()
    tags = set(found.Tags()["scalars"])
    names = ("musicqa", "muimage", "muvideo", "muedit")
    assert {"loss/text", "loss/music", "train/lr", "train/gradient_norm", "speed/tokens_per_second",
            "speed/samples_per_second", "speed/waiting", "memory/peak_bytes", "validation/text", "validation/music",
            *(f"validation_text/{name}" for name in names)} == tags  # no speed/mfu: what a CPU could do is not known
    rates = found.Scalars("train/lr")
    assert [one.step for one in rates] == list(range(1, 17))
    stage = _chosen(out, 3).stage
    assert [one.value for one in rates] == pytest.approx([stage.rate_at(step, 16) for step in range(16)])
    assert all(one.value > 0 for one in found.Scalars("train/gradient_norm"))
    told_there = [(one.step, one.value) for one in found.Scalars("validation/text")]
    assert told_there == [(one["step"], pytest.approx(one["text"])) for one in told[3]["validation"]]


def test_once_trained_is_trained(out, told, capsys) -> None:
    before = _files(out / "runs")
    again = train.train(_chosen(out, 2))
    said = capsys.readouterr().out
    assert "stage 2 is trained already" in said and str(_folder(out, 2)) in said and said.count("\n") == 1
    assert again == json.loads(json.dumps(told[2])) and _files(out / "runs") == before
    # How often it says something, saves, and computes at once is no part of what comes out.
    train.train(_chosen(out, 2, log_every=7, save_every=9, keep=1, micro=2, checkpointing=True))
    assert _files(out / "runs") == before


@pytest.mark.parametrize(("changed", "named"), [
    ({"rate": 1e-3}, "stage rate: 0.003, now 0.001"), ({"epochs": 3}, "stage epochs: 2, now 3"),
    ({"batch": 2}, "batch: 4, now 2"), ({"seed": 1}, "seed: 0, now 1"), ({"pack": 512}, "pack: None, now 512"),
    ({"freeze_gates": True}, "freeze_gates: False, now True"),
    ({"dtype": torch.bfloat16}, "dtype: float32, now bfloat16"), ({"longest": 40}, "longest: 512, now 40"),
    ({"data": {"mucaps": 2.0}}, "stage data: {'mucaps': 1.0}, now {'mucaps': 2.0}")])
def test_other_settings_in_the_same_folder_are_refused(out, told, changed: dict, named: str) -> None:
    before = _files(_folder(out, 2) / "model")
    with pytest.raises(ValueError) as refused:
        train.train(_chosen(out, 2, **changed))
    assert f"{_folder(out, 2)}: holds a training with other settings or data (" in str(refused.value)
    assert named in str(refused.value) and "take another RUN" in str(refused.value)
    assert _files(_folder(out, 2) / "model") == before
    assert train.train(_chosen(out, 2))["ended"]  # those that it was trained with still are


@pytest.mark.parametrize("ended", [True, False])
def test_other_data_in_the_same_folder_is_refused(out, told, tmp_path, ended: bool) -> None:
    """Of a run that ended, and of one that was killed before its first checkpoint."""
    shutil.copytree(out, tmp_path / "out", copy_function=shutil.copy2)
    folder = _folder(tmp_path / "out", 2)
    if not ended:
        shutil.rmtree(folder / "model")
        storage.write_json(str(folder / "run.json"), told[2] | {"ended": False})
    corpus.datasets(tmp_path / "out", 4, 2, names=["mucaps"])
    with pytest.raises(ValueError, match=r"stage2: holds a training with other settings or data \(data: "):
        train.train(_chosen(tmp_path / "out", 2))


def test_another_stage_before_is_refused(out, told, tmp_path) -> None:
    """A stage that is trained goes on from weights that are no longer those."""
    shutil.copytree(out / "runs", tmp_path / "runs")
    first, second = (tmp_path / "runs" / f"stage{stage}" / "model" for stage in (1, 2))
    shutil.rmtree(first)
    shutil.copytree(second, first)
    about = json.loads((first / "config.json").read_text())
    (first / "config.json").write_text(json.dumps(about | {"trained": about["trained"][:1]}))
    with pytest.raises(ValueError, match=r"stage2: holds a training with other settings or data \(begins: "):
        train.train(dataclasses.replace(_chosen(out, 2), run=tmp_path / "runs"))


def _copied(out: Path, there: Path, *stages: int) -> Path:
    """The build, and of its runs these stages' results alone."""
    shutil.copytree(out, there, copy_function=shutil.copy2, ignore=shutil.ignore_patterns("runs"))
    for stage in stages:
        shutil.copytree(_folder(out, stage) / "model", _folder(there, stage) / "model")
    return there


@pytest.mark.parametrize("other", [{"model": "some/model"}, {"revision": "abc"}])
def test_features_of_another_model_are_refused(out, told, tmp_path, other: dict) -> None:
    """Of the same keys and shapes: in the folder of a training, and in a stage behind it."""
    there = _copied(out, tmp_path / "out", 2)
    corpus.features_of(there, 8, **other)
    with pytest.raises(ValueError, match=r"audio was encoded by debug in a stage before, and is by .* take the "):
        train.train(_chosen(there, 3))
    assert not (_folder(there, 3) / "run.json").exists()
    _copied(out, tmp_path / "again", 1)
    shutil.copytree(_folder(out, 2), _folder(tmp_path / "again", 2))
    train.train(_chosen(tmp_path / "again", 2))  # copied as it is, nothing has changed
    corpus.features_of(tmp_path / "again", 8, **other)
    told_at = _folder(tmp_path / "again", 2) / "run.json"  # as of a training that goes on
    told_at.write_text(json.dumps(json.loads(told_at.read_text()) | {"ended": False}))
    with pytest.raises(ValueError, match=r"stage2: holds a training with other settings or data \(encoders: .*abc" if (
            "revision" in other) else r"stage2: holds a training .*\(encoders: .*some/model"):
        train.train(_chosen(tmp_path / "again", 2))


def test_an_encoder_that_the_features_are_not_of_is_refused(out, told, tmp_path) -> None:
    mert = folders.mert(tmp_path / "mert")
    chosen = dataclasses.replace(_chosen(out, 1, frozen={"audio": str(mert)}), run=tmp_path / "runs")
    with pytest.raises(ValueError, match=rf"features of audio are by debug, and not by {mert}; make features with"):
        train.train(chosen)
    # Of what the stage does not need it may be any.
    train.train(dataclasses.replace(_chosen(_copied(out, tmp_path / "out", 1), 2, epochs=1), frozen=chosen.frozen))


def test_another_recipe_than_the_stage_before_is_refused(out, told, tmp_path) -> None:
    there = _copied(out, tmp_path / "out", 1)
    with pytest.raises(ValueError, match=r"stage1/model: is of stage 1 \(paper\).* by the recipe released"):
        train.train(_chosen(there, 2, recipe="released"))
    assert not _folder(there, 2).exists()


def test_weights_that_leave_no_step_are_told(out, tmp_path) -> None:
    chosen = dataclasses.replace(_chosen(out, 1, data={"mucaps": 1e-6, "muvideo": 1e-6}), run=tmp_path)
    with pytest.raises(ValueError, match=r"2 epochs of the weights .*1e-06.* hold no row: give larger --weights"):
        train.train(chosen)


def test_a_result_that_is_gone_is_made_again(out, told, tmp_path, capsys) -> None:
    """run.json says that the stage has ended, and is not believed alone."""
    there = _copied(out, tmp_path / "out", 1)
    shutil.copytree(_folder(out, 2), _folder(there, 2))
    shutil.rmtree(_folder(there, 2) / "model")
    assert train.train(_chosen(there, 2))["ended"] and "step 4/4" in capsys.readouterr().out
    for path in (_folder(out, 2) / "model").iterdir():
        assert (_folder(there, 2) / "model" / path.name).read_bytes() == path.read_bytes(), path.name


def test_killed_behind_the_end_its_checkpoints_go_the_next_time(out, told, tmp_path, monkeypatch, capsys) -> None:
    there, remove = _copied(out, tmp_path / "out", 1), shutil.rmtree

    def dies(path: Path, *rest: object, **named: object) -> None:
        if Path(path).name == "checkpoints":
            raise KeyboardInterrupt
        remove(path, *rest, **named)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.shutil, "rmtree", dies)
        train.train(_chosen(there, 2))
    states = _folder(there, 2) / "checkpoints"
    assert list(states.iterdir()) and json.loads((_folder(there, 2) / "run.json").read_text())["ended"]
    before = _files(_folder(there, 2) / "model")
    assert train.train(_chosen(there, 2))["ended"] and "is trained already" in capsys.readouterr().out
    assert not states.exists() and _files(_folder(there, 2) / "model") == before


def test_a_folder_of_media_that_is_not_there_is_told_before_all_else(out, tmp_path) -> None:
    there = _copied(out, tmp_path / "out")
    shutil.rmtree(there / "features")
    sources = Sources(str(there), coco=f"{tmp_path}/a.json,{tmp_path}/none")
    given = dataclasses.replace(_chosen(there, 1), sources=sources)
    with pytest.raises(OSError, match=rf"{tmp_path}/none: no such folder; the media of coco"):
        train.train(given)
    assert not (_folder(there, 1) / "data").exists()


@pytest.mark.parametrize("stage", [2, 3])
def test_a_stage_without_the_one_before_says_so(out, told, tmp_path, stage: int) -> None:
    with pytest.raises(ValueError) as missing:
        train.train(dataclasses.replace(_chosen(out, stage), run=tmp_path))
    assert f"{tmp_path}/stage{stage - 1}/model" in str(missing.value)
    assert f"make train-stage{stage - 1}" in str(missing.value)
    assert not (tmp_path / f"stage{stage}" / "run.json").exists()


def test_two_at_once_are_refused(out, told) -> None:
    with storage.lock(str(_folder(out, 2))), pytest.raises(
            ValueError, match=r"stage2: another training is at work here; wait for it, or take another RUN$"):
        train.train(_chosen(out, 2))


def test_what_it_says_at_the_start(out, told, tmp_path, capsys) -> None:
    shutil.copytree(out / "runs" / "stage1", tmp_path / "stage1")
    train.train(dataclasses.replace(_chosen(out, 2, epochs=1), run=tmp_path))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"stage 2: begins with {tmp_path}/stage1/model"
    assert said[1] == "features: as `make features` has stored them"
    assert "output projector, the audio tokens' rows of embedding and output (" in said[2] and "recipe paper" in said[2]
    assert "stage 2: 6 samples of " in said[3] and said[4] == "  mucaps: 6 (validation 2)"
    assert said[5].startswith("memory needed: ")
    assert said[6] == "1 epochs, 2 steps of 4 rows, float32, on cpu"
    assert said[7].startswith("validation before the first step: CE ")
    assert [line.partition(": CE ")[0] for line in said[8:]] == [
        "epoch 1/1, step 1/2", "epoch 1/1, step 2/2", "validation after epoch 1",
        f"{tmp_path}/stage2/model: the model after stage 2"]


def test_freeze_gates_reproduces_the_released_defect(out, told, tmp_path, capsys) -> None:
    """At gates of 0 nothing is heard, and no adapter learns; the rest of the recipe does."""
    chosen = _chosen(out, 1, epochs=1, recipe="released", freeze_gates=True)
    train.train(dataclasses.replace(chosen, run=tmp_path))
    assert "the gates stay shut (--freeze-gates): nothing is heard" in capsys.readouterr().out
    begin = beginning.model(beginning.find(tmp_path, 1, "debug", "musicgen", None, 0), "released", torch.float32,
                            torch.device("cpu"), 0).state_dict()
    after = _weights(tmp_path / "stage1" / "model")
    for name, one in after.items():
        if stages.part(name) in ("gates", "adapters", "projector", "output", "linears"):
            assert torch.equal(one, begin.get(name, begin.get(name.replace(".weight", ".base_layer.weight")))), name
    assert not torch.equal(after["llama.model.embed_tokens.weight"], begin["llama.model.embed_tokens.weight"])
    assert all(after[f"prefix.gates.{layer}"].eq(0).all() for layer in range(20))


def test_the_released_recipe_trains_its_gates(out, told, tmp_path) -> None:
    chosen = _chosen(out, 1, epochs=1, recipe="released")
    found = train.train(dataclasses.replace(chosen, run=tmp_path))
    assert found["trained"] == ["adapters", "queries", "gates", "projector", "lora", "embeddings", "norms", "biases"]
    first, last = found["validation"][0]["text"], found["validation"][-1]["text"]
    after = _weights(tmp_path / "stage1" / "model")
    assert all(after[f"prefix.gates.{layer}"].ne(0).all() for layer in range(2, 20)) and last < first
    # The next stage begins with all of it, embeddings too.
    begin = beginning.find(tmp_path, 2, "debug", "musicgen", None, 0, "released")
    model = beginning.model(begin, "released", torch.bfloat16, torch.device("cpu"), 0).state_dict()
    table = "llama.model.embed_tokens.weight"
    assert torch.equal(model[table], after[table]) and torch.equal(
        model["llama.model.norm.weight"], after["llama.model.norm.weight"])


def test_muimage_is_named_as_stand_in_and_coco_is_not(out, tmp_path, capsys) -> None:
    (tmp_path / "coco.json").write_text(json.dumps({
        "images": [{"id": 7, "file_name": "b.jpg"}],
        "annotations": [{"id": 1, "image_id": 7, "caption": "A picture in major."}]}))
    chosen = _chosen(out, 1, epochs=1)
    given = dataclasses.replace(chosen, run=tmp_path, sources=Sources(str(out), coco=str(tmp_path / "coco.json")))
    with pytest.raises(ValueError, match=r"coco 'b.jpg#0': its image is not among the precomputed features; run `make"):
        train.train(given)


def test_nothing_to_learn_from(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"stage 1 has nothing to learn from: .*make the datasets first"):
        train.train(corpus.settings(tmp_path, tmp_path / "runs", 1))


def test_without_rows_for_validation(tmp_path, capsys) -> None:
    corpus.datasets(tmp_path, 4, 0, names=["mucaps"])
    corpus.features_of(tmp_path, 4, names=["mucaps"])
    found = train.train(corpus.settings(tmp_path, tmp_path / "runs", 1))
    assert found["ended"] and found["validation"] == []
    assert "; 0 for validation" in capsys.readouterr().out
    train.train(corpus.settings(tmp_path, tmp_path / "runs", 1))
    assert "trained already: no row is held out for validation" in capsys.readouterr().out
