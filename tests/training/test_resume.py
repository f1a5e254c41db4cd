"""Killed anywhere and started again: what comes out is what an undisturbed run gives, bit for bit."""
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.training import corpus, forked
from training import state, train


@pytest.mark.slow
def test_killed_at_ten_random_steps_of_the_three_stages(tmp_path) -> None:
    corpus.datasets(tmp_path, 6, 2)
    corpus.features_of(tmp_path, 8)
    forked.run(tmp_path, "killed")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_exits_with_130_and_goes_on(tmp_path, by: signal.Signals) -> None:
    """As the command line, by Ctrl-C or a scheduler in the middle of the first epoch."""
    corpus.datasets(tmp_path, 8, 1, names=["mucaps"])
    corpus.features_of(tmp_path, 9, names=["mucaps"])
    command = [sys.executable, "-u", "-m", "training", "train", "--stage", "1", "--out", str(tmp_path), "--batch", "1",
               "--save-every", "100", "--log-every", "1", "--epochs", "2", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # What runs the tests in the background may have Ctrl-C ignored, which its children inherit.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)) as run:
        for line in run.stdout:
            if line.startswith("epoch 1/2, step 3/16"):
                run.send_signal(by)
                break
        _, error = run.communicate(timeout=60)
    assert run.returncode == 130
    assert error.splitlines()[-1] == "interrupted; the same command goes on from the last checkpoint"
    assert "Traceback" not in error
    folder = tmp_path / "runs" / "stage1"
    saved = state.steps(folder / "checkpoints")
    assert saved[-1] in range(3, 16) and not (folder / "model").exists()
    assert json.loads((folder / "run.json").read_text())["ended"] is False
    chosen = corpus.settings(tmp_path, tmp_path / "runs", 1, epochs=2, batch=1, micro=1)
    assert train.train(chosen)["step"] == 16


def test_a_broken_checkpoint_is_told_and_the_one_before_is_taken(tmp_path, monkeypatch, capsys) -> None:
    corpus.datasets(tmp_path, 8, 1, names=["mucaps"])
    corpus.features_of(tmp_path, 9, names=["mucaps"])
    chosen = [corpus.settings(tmp_path, tmp_path / run, 1, batch=1, micro=1) for run in ("whole", "broken")]
    wanted = train.train(chosen[0])
    step = train.Steps.step

    def stops(self, number: int, *rest: object) -> float:
        if number == 7:
            raise KeyboardInterrupt
        return step(self, number, *rest)
    monkeypatch.setattr(train.Steps, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        train.train(chosen[1])
    monkeypatch.undo()
    states = tmp_path / "broken" / "stage1" / "checkpoints"
    assert state.steps(states) == [4, 6]
    with open(states / "step-00000006" / "state.safetensors", "r+b") as file:
        file.seek(-40, os.SEEK_END)
        file.write(b"wrong")
    capsys.readouterr()
    found = train.train(chosen[1])
    told = capsys.readouterr()
    assert "step-00000006/state.safetensors: is not what was saved there" in told.err
    assert "goes on behind step 4" in told.out
    assert found["validation"] == wanted["validation"]
    for name in ("adapters", "prefix", "tokens", "tuned", "base-00001-of-00001", "lora", "projector"):
        one, other = (tmp_path / run / "stage1" / "model" / f"{name}.safetensors" for run in ("whole", "broken"))
        assert one.read_bytes() == other.read_bytes(), name


def test_a_killed_run_is_refused_other_settings_and_data(tmp_path, monkeypatch) -> None:
    corpus.datasets(tmp_path, 4, 1, names=["mucaps"])
    corpus.features_of(tmp_path, 5, names=["mucaps"])

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt
    chosen = corpus.settings(tmp_path, tmp_path / "runs", 1, batch=1, micro=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.checkpoint, "save", interrupted)
        train.train(chosen)
    folder = tmp_path / "runs" / "stage1"
    assert state.steps(folder / "checkpoints") == [2, 4]
    with pytest.raises(ValueError, match=r"stage1: holds a training with other settings or data \(seed: 0, now 4; "):
        train.train(corpus.settings(tmp_path, tmp_path / "runs", 1, batch=1, micro=1, seed=4))
    (folder / "run.json").unlink()  # the checkpoints know it as well
    with pytest.raises(ValueError, match=r"stage1: holds a training with other settings or data \(batch: 1, now 2\)"):
        train.train(corpus.settings(tmp_path, tmp_path / "runs", 1, batch=2, micro=1))
    assert state.steps(folder / "checkpoints") == [2, 4]
    assert train.train(chosen)["step"] == 4
