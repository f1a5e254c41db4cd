"""What `make` would run, and that it runs."""
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from manifests import storage
from tests.training import corpus

ROOT = Path(__file__).resolve().parents[2]


def _command(*variables: str) -> list[str]:
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    # As if from a shell: a make that runs the tests hands its own flags on.
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    said = subprocess.run(["make", "-n", "train-stage1", f"PY={sys.executable}", *variables], cwd=ROOT, check=True,
                          capture_output=True, text=True, env=own)
    return shlex.split(said.stdout.splitlines()[-1])


def test_without_gpus_it_is_one_process() -> None:
    assert _command("RUN=x y", "OUT=o", "ARGS=--seed 3") == [
        sys.executable, "-m", "training", "train", "--out", "o", "--size", "debug", "--decoder", "musicgen", "--run",
        "x y", "--seed", "3", "--stage", "1"]


@pytest.mark.slow
def test_with_gpus_torchrun_starts_as_many(tmp_path) -> None:
    """On CPUs here; none of the training's options is taken for one of torchrun's."""
    corpus.datasets(tmp_path / "out", 4, 1, names=["mucaps"])
    corpus.features_of(tmp_path / "out", 5, names=["mucaps"])
    command = _command("GPUS=2", f"RUN={tmp_path}/run", f"OUT={tmp_path}/out", "ARGS=--epochs 1 --device cpu --batch 2")
    assert command[:4] == [sys.executable, "-m", "torch.distributed.run", "--standalone"] and "--run" in command
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={
        **os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    assert "1 epochs, 2 steps of 2 rows, float32, on 2 processes, cpu" in run.stdout
    said = storage.read_json(f"{tmp_path}/run/stage1/run.json")
    assert said["ended"] and said["processes"] == 2 and (tmp_path / "run" / "stage1" / "model").is_dir()
