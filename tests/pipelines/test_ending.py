"""Sudden ends of a build in processes of its own: clear, at once, and mended by the next run."""
import signal
import subprocess
import sys
import time

import psutil
import pytest

from pipelines import report


def start(out) -> tuple[subprocess.Popen, list[psutil.Process]]:
    process = subprocess.Popen([sys.executable, "-m", "pipelines", "build", "--out", str(out), "--limit", "60",
                                "--workers", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(out.glob("stages/fetch/sample/*.json")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    return process, [child for child in psutil.Process(process.pid).children() if "pipelines.worker" in child.cmdline()]


@pytest.mark.parametrize(("number", "to_worker", "code", "words"), [
    (signal.SIGINT, False, 130, "SIGINT"), (signal.SIGTERM, False, 143, "SIGTERM"),
    (signal.SIGKILL, True, 1, "a worker process died")])
def test_a_sudden_end_is_clear_and_leaves_nobody_behind(tmp_path, number, to_worker, code, words):
    process, workers = start(tmp_path)
    assert len(workers) == 2
    (workers[0] if to_worker else process).send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert words in said and "the same command goes on" in said
    assert "Traceback" not in said
    assert report.status(str(tmp_path)).splitlines()[0].startswith(f"{tmp_path}: failed: {words}")
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
