"""A disk that fills up, and one that may not be written: in a mount namespace of their own."""
import shutil
import subprocess
import sys

import pytest

from tests.pipelines.test_build import promised

LIMIT = "8"


def script(tmp_path, *lines: str) -> subprocess.CompletedProcess:
    """Run shell lines that may mount; `$BUILD OUT` is a build."""
    text = "\n".join([f'BUILD="{sys.executable} -m pipelines build --limit {LIMIT} --workers 2 --out"', *lines])
    return subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", text], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=300)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    if not shutil.which("unshare") or script(out, f"mount -t tmpfs none {out}").returncode != 0:
        pytest.skip("this system lets nobody mount")
    assert script(out, f"$BUILD {out}/out").returncode == 0
    return promised(out / "out")


@pytest.mark.slow
@pytest.mark.parametrize("size", ["16k", "1m"])
def test_a_full_disk_is_a_clear_end_and_the_next_run_finishes(undisturbed, tmp_path, size):
    """Full while fetching, or while writing the datasets; then there is room, and the same command goes on."""
    ended = script(tmp_path, f"mkdir {tmp_path}/disk", f"mount -t tmpfs -o size={size} none {tmp_path}/disk",
                   f"$BUILD {tmp_path}/disk/out; echo exit $?", f"mount -o remount,size=200m {tmp_path}/disk",
                   f"$BUILD {tmp_path}/disk/out; echo exit $?", f"cp -r {tmp_path}/disk/out {tmp_path}/copy")
    first, _, second = ended.stdout.partition("exit 1\n")
    assert "No space left on device" in first and "the same command goes on" in first, ended.stdout
    assert "Traceback" not in first
    assert second.endswith("exit 0\n"), ended.stdout
    assert promised(tmp_path / "copy") == undisturbed


def test_an_out_that_may_not_be_written_is_a_clear_end(undisturbed, tmp_path):
    ended = script(tmp_path, f"mkdir {tmp_path}/out", f"mount --bind {tmp_path}/out {tmp_path}/out",
                   f"mount -o remount,bind,ro {tmp_path}/out", f"$BUILD {tmp_path}/out; echo exit $?",
                   f"umount {tmp_path}/out", f"$BUILD {tmp_path}/out; echo exit $?")
    first, _, second = ended.stdout.partition("exit 1\n")
    assert "Read-only file system" in first and "Traceback" not in first, ended.stdout
    assert second.endswith("exit 0\n"), ended.stdout
    assert promised(tmp_path / "out") == undisturbed
