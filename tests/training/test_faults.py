"""What goes wrong in the middle is named, and costs nothing that was saved."""
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training import corpus
from training import safefile, state, train
from training.__main__ import main
from training.m2ugen import M2UGen
from training.settings import Settings
from training.step import Steps, Stopped


@pytest.fixture
def out(tmp_path) -> Path:
    corpus.datasets(tmp_path, 4, 1, names=["mucaps", "muimage"])
    corpus.features_of(tmp_path, 5, names=["mucaps", "muimage"])
    return tmp_path


def _chosen(out: Path, **other: object) -> Settings:
    """Eight steps of one sample."""
    return corpus.settings(out, out / "runs", 1, **{"batch": 1, "micro": 1, **other})


def _states(out: Path) -> list[int]:
    """Those that load."""
    folder = out / "runs" / "stage1" / "checkpoints"
    found = state.steps(folder)
    assert all(state.load(folder, one)[0] for one in found)
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{one:08d}" for one in found]
    return found


def _ends_well(out: Path, capsys: pytest.CaptureFixture, after: int) -> None:
    capsys.readouterr()
    assert train.train(_chosen(out))["step"] == 8
    assert f"goes on behind step {after}" in capsys.readouterr().out


def _order(out: Path) -> list[str]:
    """The names of the samples, step by step."""
    names = []

    def kept(self: Steps, number: int, micros: list, *rest: object) -> float:
        names.extend(micros[0].names)
        return 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "step", kept)
        train.train(corpus.settings(out, out / "order", 1, batch=1, micro=1))
    return names


def test_a_feature_that_is_no_number(out, capsys) -> None:
    name = _order(out)[6]
    seventh = name.partition(" ")[2]
    corpus.features_of(out, 5, names=["mucaps", "muimage"], wrong=(f"{seventh.partition('-')[0]}/{seventh}",))
    command = ["train", "--stage", "1", "--out", str(out), "--batch", "1", "--epochs", "1", "--save-every", "2",
               "--device", "cpu"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("stage 1 stopped: step 7: the gradient is nan, and so are the features of ")
    assert f"features of '{name}'. Nothing of this step was taken" in error and error.count("\n") == 1
    assert _states(out) == [4, 6]
    assert main(command) == 1  # again at the same step, from the last checkpoint
    assert "step 7: the gradient is nan" in capsys.readouterr().err and _states(out) == [4, 6]


def test_out_of_memory(out, monkeypatch, capsys) -> None:
    forward, calls = M2UGen.forward, []

    def full(self: M2UGen, *arguments: object, **named: object) -> object:
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == 6:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, *arguments, **named)
    with monkeypatch.context() as patch:
        patch.setattr(M2UGen, "forward", full)
        with pytest.raises(Stopped, match=r"step 6: too little memory, with 1 rows at a time .*; take --micro 1, "):
            train.train(_chosen(out))
    assert _states(out) == [2, 4]
    _ends_well(out, capsys, 4)


@pytest.mark.parametrize("error", [KeyboardInterrupt, AssertionError])
def test_nothing_is_swallowed(out, monkeypatch, capsys, error: type[BaseException]) -> None:
    step = Steps.step

    def fails(self: Steps, number: int, *rest: object) -> float:
        if number == 5:
            raise error("in the middle")
        return step(self, number, *rest)
    with monkeypatch.context() as patch:
        patch.setattr(Steps, "step", fails)
        with pytest.raises(error):
            train.train(_chosen(out))
    assert _states(out) == [2, 4]
    _ends_well(out, capsys, 4)


def test_no_bare_except_in_the_code() -> None:
    for path in (Path(train.__file__).parent).glob("*.py"):
        text = path.read_text()
        assert "except:" not in text and "except Exception" not in text and "except BaseException" not in text, path


@pytest.mark.parametrize("at", ["checkpoint", "model"])
def test_a_full_disk_while_it_saves(out, monkeypatch, capsys, at: str) -> None:
    write = safefile.write

    def full(path: str, *rest: object) -> None:
        if ("step-00000006" in path) if at == "checkpoint" else path.endswith("prefix.safetensors"):
            with open(path, "wb") as file:
                file.write(b"half")
            raise OSError(28, "No space left on device", path)
        write(path, *rest)
    with monkeypatch.context() as patch:
        patch.setattr(safefile, "write", full)
        with pytest.raises(OSError, match="No space left on device") as failed:
            train.train(_chosen(out))
    if at == "checkpoint":
        assert "step-00000006: the training state could not be saved" in str(failed.value)
    assert _states(out) == ([2, 4] if at == "checkpoint" else [6, 8])
    assert not (out / "runs" / "stage1" / "model").exists()
    assert not list((out / "runs" / "stage1").glob(".tmp-*"))
    _ends_well(out, capsys, 4 if at == "checkpoint" else 8)


def test_a_real_limit_on_the_size_of_files(out) -> None:
    """As the command line, in a process that may write no file of more than 200 kB: a state has 1.4 MB."""
    run = subprocess.run(
        [sys.executable, "-m", "training", "train", "--stage", "1", "--out", str(out), "--batch", "4", "--epochs", "1",
         "--device", "cpu"], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)))
    assert run.returncode == 2 and "Traceback" not in run.stderr
    assert "step-00000002: the training state could not be saved ([Errno 27] File too large" in run.stderr
    assert not list((out / "runs" / "stage1" / "checkpoints").iterdir())
    assert train.train(corpus.settings(out, out / "runs", 1, batch=4, save_every=200))["ended"]


def test_a_shard_of_features_that_vanishes(out, monkeypatch) -> None:
    """All are mapped at the start: what is removed later is there as long as this training is."""
    shard = out / "stages" / "features-image" / "muimage.0.arrow"
    whole, validate = shard.read_bytes(), Steps.validate
    wanted = train.train(corpus.settings(out, out / "calm", 1, batch=1, micro=1))

    def gone(self: Steps, *rest: object) -> dict:
        shard.unlink(missing_ok=True)
        return validate(self, *rest)
    with monkeypatch.context() as patch:
        patch.setattr(Steps, "validate", gone)
        found = train.train(_chosen(out))
    assert found["validation"] == wanted["validation"] and not shard.exists()
    other = corpus.settings(out, out / "other", 1)
    with pytest.raises(ValueError, match=r"muimage.0.arrow: is not there, and holds image features; run `make feat"):
        train.train(other)
    shard.write_bytes(whole[:-200])
    with pytest.raises(ValueError, match=r"muimage.0.arrow: not a whole shard of features .*run `make features` again"):
        train.train(other)
    assert json.loads((out / "other" / "stage1" / "data" / "data.json").read_text())["stage"] == 1
    assert not (out / "other" / "stage1" / "run.json").exists()  # nothing was computed
    shard.write_bytes(whole)
    assert train.train(other)["ended"]


def test_a_shard_of_a_dataset_that_vanished(out) -> None:
    shard = out / "datasets" / "mucaps" / "train" / "data-00001.arrow"
    shard.unlink()
    with pytest.raises(OSError, match=r"mucaps/train/data-00001.arrow.*build its dataset again"):
        train.train(_chosen(out))


def test_features_of_another_size_are_refused(out) -> None:
    from training import features, frozen
    about = frozen.choose(corpus.DEBUG, {})["audio"].about()
    features.publish(str(out), "audio", about | {"shape": [25, 1024]}, (25, 1024), [
        (f"{name}/{name}-{number}", None, -1, "too_short", "") for name in ("mucaps",) for number in range(5)])
    with pytest.raises(ValueError, match=r"features of audio are \[25, 1024\], by debug, and this model takes \[25, 3"):
        train.train(_chosen(out))
