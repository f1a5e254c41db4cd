"""The command line becomes typed settings; what cannot be meant is said, with exit code 2."""
import argparse
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.training import corpus
from training import settings, stages
from training.__main__ import main
from training.settings import Settings
from training.sources import Sources


def _parsed(*arguments: str) -> Settings:
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser)
    return settings.parse(parser, parser.parse_args(["--out", "data", *arguments]))


@pytest.mark.parametrize(("stage", "epochs"), [(1, 5), (2, 5), (3, 2)])
def test_the_papers_values_are_the_defaults(stage: int, epochs: int) -> None:
    found = _parsed("--stage", str(stage), "--size", "7b", "--llama", "x")
    assert found.stage == stages.STAGES[stage] and found.stage.epochs == epochs
    assert (found.stage.rate, found.stage.floor, found.stage.weight_decay, found.stage.betas) == (
        1e-4, 1e-6, 0.05, (0.9, 0.95))
    assert (found.stage.warm_up, found.stage.clip, found.recipe, found.freeze_gates) == (0, None, "paper", False)
    assert (found.dtype, found.longest, found.pack, found.music_decoder) == (torch.bfloat16, 512, None, "musicgen")
    assert found.sources == Sources("data") and found.run == Path("data/runs").absolute()


def test_the_debug_size_takes_its_own() -> None:
    found = _parsed("--stage", "1")
    assert (found.size, found.stage.rate, found.batch, found.micro, found.dtype) == ("debug", 3e-3, 8, 8, torch.float32)
    assert dataclasses.replace(found.stage, rate=1e-4) == stages.STAGES[1]
    assert _parsed("--stage", "1", "--batch", "3").micro == 3


def test_every_option_arrives() -> None:
    found = _parsed(
        "--stage", "3", "--run", "here", "--size", "7b", "--llama", "L", "--decoder", "audioldm2", "--coco", "c,d",
        "--alpaca", "a", "--musicqa", "m", "--weights", "alpaca=0.5,musicqa=0,muedit=2", "--longest", "300", "--pack",
        "900", "--mert", "M", "--vit", "V", "--vivit", "W", "--text-encoder", "T", "--recipe", "released",
        "--freeze-gates", "--epochs", "7", "--rate", "0.01", "--warm-up", "5", "--weight-decay", "0", "--clip", "1",
        "--batch", "16", "--micro", "2", "--dtype", "float32", "--checkpointing", "--compile", "--device", "cpu",
        "--seed", "9", "--log-every", "3", "--save-every", "4", "--keep", "5")
    stage = stages.Stage(3, 7, {"alpaca": 0.5, "muimage": 1.0, "muvideo": 1.0, "muedit": 2.0}, 0.01, 1e-6, 5, 0.0,
                         (0.9, 0.95), 1.0)
    assert found == Settings(
        stage, Sources("data", "c,d", "a", "m"), Path("here").absolute(), "7b", "audioldm2", "L",
        {"audio": "M", "image": "V", "video": "W", "text": "T"}, "released", True, 16, 2, 900, 300, torch.float32, True,
        True, "cpu", 9, 3, 4, 5)


@pytest.mark.parametrize(("arguments", "said"), [
    (["--stage", "4"], "--stage"), (["--stage", "1", "--batch", "0"], "--batch: must be at least 1, not 0"),
    (["--stage", "1", "--epochs", "x"], "--epochs"), (["--stage", "1", "--rate", "0"], "a stage's rate cannot be 0.0"),
    (["--stage", "1", "--rate", "nan"], "a stage's rate cannot be nan"),
    (["--stage", "1", "--rate", "1e-7"], "a stage's floor cannot be 1e-06"),
    (["--stage", "1", "--clip", "0"], "a stage's clip cannot be 0.0"),
    (["--stage", "1", "--warm-up", "-1"], "a stage's warm_up cannot be -1"),
    (["--stage", "2", "--weights", "coco=1"], "--weights: stage 2 has no coco; it has mucaps"),
    (["--stage", "1", "--weights", "coco"], "--weights: coco: should be like coco=0.5"),
    (["--stage", "1", "--weights", "coco=-1"], "a stage's data cannot be"),
    (["--stage", "2", "--weights", "mucaps=0"], "a stage's data cannot be {}"),
    (["--stage", "1", "--pack", "300"], "--pack: a row of 300 tokens has no room for a sample of 512 (--longest)"),
    (["--stage", "1", "--run", ""], "--run: empty"), (["--stage", "1", "--coco", ""], "--coco: empty"),
    (["--stage", "1", "--rec", "paper"], "unrecognized arguments: --rec paper")])
def test_what_cannot_be_meant_is_refused(arguments: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--out", "data", *arguments])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_home_is_found_in_what_no_shell_has_seen(monkeypatch) -> None:
    """As make gives it, in quotes."""
    monkeypatch.setenv("HOME", "/home/of/mine")
    found = _parsed("--stage", "3", "--run", "~/runs", "--coco", "~/c.json,~/c", "--alpaca", "~/a.json", "--musicqa",
                    "m.json,~/m", "--out", "~/out")
    assert found.run == Path("/home/of/mine/runs")
    assert found.sources == Sources("/home/of/mine/out", "/home/of/mine/c.json,/home/of/mine/c", "/home/of/mine/a.json",
                                    "m.json,/home/of/mine/m")
    assert _parsed("--stage", "3", "--out", "~/out").run == Path("/home/of/mine/out/runs")


def test_a_bucket_needs_a_run_of_its_own(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--stage", "1", "--out", "s3://b/x"])
    assert "--run: say where checkpoints go" in capsys.readouterr().err
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser)
    found = settings.parse(parser, parser.parse_args(["--stage", "1", "--out", "s3://b/x", "--run", "r"]))
    assert (found.sources.out, found.run) == ("s3://b/x", Path("r").absolute())


def test_the_identity_survives_json_and_tells_what_weights_depend_on(tmp_path) -> None:
    base = corpus.settings(tmp_path, tmp_path, 3)
    said = base.identity()
    assert json.loads(json.dumps(said, sort_keys=True)) == said
    for name in ("checkpointing", "compile", "micro", "device", "log_every", "save_every", "keep", "run"):
        changed = {"micro": 1, "device": "cuda", "log_every": 5, "save_every": 5, "keep": 5, "run": Path("/")}
        assert dataclasses.replace(base, **{name: changed.get(name, True)}).identity() == said, name
    for name, value in (("recipe", "released"), ("freeze_gates", True), ("batch", 5), ("pack", 600), ("longest", 9),
                        ("dtype", torch.bfloat16), ("seed", 5), ("size", "7b"), ("music_decoder", "audioldm2")):
        other = dataclasses.replace(base, **{name: value}).identity()
        assert [key for key in said if said[key] != other[key]] == [name]
    for name, value in (("epochs", 9), ("rate", 1.0), ("floor", 0.0), ("warm_up", 1), ("weight_decay", 0.0),
                        ("betas", (0.5, 0.5)), ("clip", 1.0), ("data", {"muedit": 1.0})):
        other = dataclasses.replace(base, stage=dataclasses.replace(base.stage, **{name: value})).identity()
        assert [key for key in said if said[key] != other[key]] == [f"stage {name}"]


@pytest.mark.parametrize(("arguments", "said"), [
    (["--size", "7b"], "7b stands on LLaMA-2 7B: say where it is, LLAMA="),
    (["--stage", "2"], "stage 2 goes on from stage 1, which has not ended there; run `make train-stage1`"),
    ([], "stage 1 has nothing to learn from")])
def test_wrong_input_is_one_line_and_exit_2(arguments: list[str], said: str, tmp_path, capsys) -> None:
    given = ["train", "--out", str(tmp_path), "--device", "cpu", *arguments]
    assert main(given if "--stage" in arguments else [*given, "--stage", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m training train: ") and said in error and error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(tmp_path, capsys) -> None:
    assert main(["train", "--stage", "1", "--out", str(tmp_path), "--device", "cuda"]) == 2
    assert "sees no GPU here; take --device cpu" in capsys.readouterr().err
