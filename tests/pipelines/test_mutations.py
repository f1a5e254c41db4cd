"""A folder of damaged and lying files, through the front door: nothing falls over, and every file gets an answer."""
import json
import subprocess
import sys
import threading
import time
from collections import Counter

import psutil
import pytest

from manifests.outcomes import DONE, REASONS
from pipelines import report
from tests.conftest import SHARED
from tests.pipelines import mutations

COUNT = 1000
MEMORY = 512 * 2**20  # bytes that a file may cost


class Peak(threading.Thread):
    """Resident bytes of a process and all that descends from it, at most. Shared pages count for each."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.process, self.bytes = psutil.Process(pid), 0
        self.start()

    def run(self) -> None:
        while self.process.is_running():
            total = 0
            try:
                for process in [self.process, *self.process.children(recursive=True)]:
                    total += process.memory_info().rss
            except psutil.Error:
                continue
            self.bytes = max(self.bytes, total)
            time.sleep(0.1)


def build(media, out) -> tuple[dict, int]:
    """Runs a build; what run.json says, and its peak memory."""
    process = subprocess.Popen([sys.executable, "-m", "pipelines", "build", "--source", "folder", "--media", str(media),
                                "--out", str(out), "--workers", "2", "--max-file-memory", str(MEMORY)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = Peak(process.pid)
    _, told = process.communicate(timeout=600)
    assert process.returncode in (0, 3), told
    assert "Traceback" not in told
    run = json.loads((out / "run.json").read_text())
    assert run["state"] == "done"
    return run, peak.bytes


@pytest.mark.slow
def test_a_thousand_mutated_files(tmp_path):
    media, out = tmp_path / "media", tmp_path / "out"
    media.mkdir()
    bases = mutations.bases(SHARED if SHARED.is_dir() else None)
    for name, data in mutations.files(COUNT, 0, bases):
        (media / name).write_bytes(data)
    _, peak = build(media, out)
    rows = {row["uri"]: row for row in report.ledger(str(out)) if row["dataset"] == "mucaps"}
    assert set(rows) == {str(path) for path in media.iterdir()}
    outcomes = Counter(row["outcome"] for row in rows.values())
    stats = json.loads((out / "stats.json").read_text())["datasets"]["mucaps"]
    assert stats["requested"] == stats["done"] + sum(stats["lost"].values()) == COUNT
    assert set(outcomes) <= {DONE, *REASONS}
    unexpected = [row for row in rows.values() if row["outcome"] in ("failed", "interrupted", "unreadable")]
    assert not unexpected
    assert outcomes["decode_error"] > 100, "these mutations are too tame"
    assert outcomes[DONE] + outcomes["duplicate"] > 100, "these mutations are too wild"
    # Launcher, runner, two workers and their decoders take 1.5 GB without a file.
    assert peak < 3e9, f"{peak / 1e9:.2f} GB"
    again, _ = build(media, out)
    assert {name: stage["clips"] for name, stage in again["stages"].items() if stage["clips"]} == {}
