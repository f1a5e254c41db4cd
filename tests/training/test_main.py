"""As a program: what is printed, and the exit codes."""
import argparse
import subprocess
import sys

import pytest
import torch

from tests.training import toys
from training.__main__ import main


@pytest.fixture
def published(tmp_path) -> str:
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": toys.checkpoint(toys.M2UGEN), "epoch": 4, "args": argparse.Namespace(lr=1e-4)}, path)
    return str(path)


def test_there_and_back(published, tmp_path, capsys):
    assert main(["inspect", published]) == 0
    told = capsys.readouterr().out
    assert "largest |tanh(gate)|: audio" in told and "epoch: 4" in told and "ZERO" not in told
    assert main(["convert", published, str(tmp_path / "ours")]) == 0
    assert main(["inspect", str(tmp_path / "ours")]) == 0
    told = capsys.readouterr().out
    assert "M²UGen" in told and "No modality's gates are all zero" in told
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "back.safetensors")]) == 0
    assert main(["inspect", str(tmp_path / "back.safetensors")]) == 0
    assert main(["convert", published, str(tmp_path / "ours")]) == 2
    assert "ours" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_hear_is_told(tmp_path, capsys):
    tensors = {name: torch.zeros_like(one) if name.endswith("attention.gate") else one
               for name, one in toys.checkpoint(toys.M2UGEN).items()}
    torch.save({"model": tensors}, tmp_path / "deaf.pth")
    assert main(["inspect", str(tmp_path / "deaf.pth")]) == 0
    assert "THE GATES ARE ZERO for audio, image, video" in capsys.readouterr().out


class Runs:
    def __reduce__(self):
        return print, ("it ran",)


def test_what_would_run_is_refused(tmp_path, capsys):
    torch.save({"model": {}, "args": Runs()}, tmp_path / "evil.pth")
    for command in (["inspect", str(tmp_path / "evil.pth")],
                    ["convert", str(tmp_path / "evil.pth"), str(tmp_path / "ours")],
                    ["inspect", str(tmp_path / "nosuch.pth")]):
        assert main(command) == 2
        said = capsys.readouterr()
        assert "it ran" not in said.out and command[1] in said.err
    assert not (tmp_path / "ours").exists()


def test_a_base_is_named_with_its_revision(published, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["convert", published, str(tmp_path / "ours"), "--base", "meta-llama/Llama-2-7b"])
    assert ended.value.code == 2 and "@REVISION" in capsys.readouterr().err
    assert main(["convert", published, str(tmp_path / "ours"), "--base", "meta-llama/Llama-2-7b@abc"]) == 0
    assert not list((tmp_path / "ours").glob("base-*"))
    assert "stands on meta-llama/Llama-2-7b at abc; left out: its own LLaMA (181 tensors)" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "ours")]) == 0  # without the LLaMA, which is not here
    assert "No modality's gates are all zero" in capsys.readouterr().out


def test_a_mullama_without_any_llama_is_not_converted(tmp_path, capsys):
    part = {name: one for name, one in toys.checkpoint(toys.MULLAMA).items()
            if not name.startswith("llama.") or name.endswith("gate")}
    torch.save({"model": part}, tmp_path / "mu.pth")
    assert main(["convert", str(tmp_path / "mu.pth"), str(tmp_path / "ours")]) == 2
    assert "--llama" in capsys.readouterr().err and not (tmp_path / "ours").exists()


def test_help_is_quick():
    code = ("import sys, contextlib, io; from training.__main__ import main\n"
            "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main(['--help'])\n"
            "print('torch' in sys.modules)")
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
