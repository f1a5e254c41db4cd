"""Two processes are one with the same steps; and what either could not read is told."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import corpus


def _run(work: str, out: Path) -> str:
    return subprocess.run([sys.executable, "-m", "tests.training.forked", work, str(out)], check=True, timeout=600,
                          stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}).stdout


@pytest.mark.slow
def test_two_processes_are_one(tmp_path) -> None:
    """All three stages, whose last steps are too small for both."""
    corpus.datasets(tmp_path, 6, 2)
    corpus.features_of(tmp_path, 8)
    _run("shared", tmp_path)


def test_what_any_process_could_not_read_is_told(tmp_path) -> None:
    """Three broken pictures of six, a row at a time: both processes meet some."""
    corpus.datasets(tmp_path, 6, 2, names=["muimage"], medium=lambda modality, number: (
        b"broken" if number % 2 else corpus.media(modality, number)))
    told = json.loads(_run("unreadable", tmp_path).splitlines()[-1])
    assert sorted(told) == [f"coco muimage-{number}" for number in (1, 3, 5, 7)]
