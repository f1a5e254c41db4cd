"""Other runners and other file systems: Beam's portable runner with a job service and workers of their own, and S3."""
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import s3fs
from apache_beam.options.pipeline_options import PipelineOptions

from tests.pipelines.test_build import promised

DOCS = Path(__file__).resolve().parents[2] / "docs" / "runners.md"
LIMIT = "10"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def portable(python: Path, **environment: str) -> Iterator[list[str]]:
    """A job service, and a worker pool that starts the `python` of a folder; yields the build's options."""
    job, pool = free_port(), free_port()
    with ExitStack() as stack:
        for module, options, extra in (
                ("apache_beam.runners.portability.local_job_service_main", ["-p", str(job)], {}),
                ("apache_beam.runners.worker.worker_pool_main", [f"--service_port={pool}"],
                 {"PATH": f"{python}:{os.environ['PATH']}", **environment})):
            process = subprocess.Popen([sys.executable, "-m", module, *options], env=os.environ | extra,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            stack.callback(lambda one=process: (os.killpg(one.pid, 9), one.wait()))
        for port in (job, pool):
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
        yield ["--runner=PortableRunner", f"--job_endpoint=localhost:{job}", "--environment_type=EXTERNAL",
               f"--environment_config=localhost:{pool}"]


def start(out: str, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "pipelines", "build", "--out", out, "--limit", LIMIT, *options],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("local") / "out"
    assert start(str(out), "--workers", "1").returncode == 0
    return promised(out)


@pytest.mark.slow
def test_the_portable_runner_gives_the_same_bytes(local, tmp_path):
    with portable(Path(sys.executable).parent) as options:
        ended = start(str(tmp_path / "out"), *options)
        assert ended.returncode == 0, ended.stdout
        assert promised(tmp_path / "out") == local
        again = start(str(tmp_path / "out"), *options)
        assert "nothing was left to do" in again.stdout
    assert promised(tmp_path / "out") == local


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["local", "portable"])
def test_a_bucket_gives_the_same_bytes(local, bucket, tmp_path, runner):
    with ExitStack() as stack:
        options = (["--workers", "2"] if runner == "local"
                   else stack.enter_context(portable(Path(sys.executable).parent)))
        ended = start(f"{bucket}/build", *options)
        assert ended.returncode == 0, ended.stdout
    s3fs.S3FileSystem().get(f"{bucket}/build", str(tmp_path / "out"), recursive=True)
    assert promised(tmp_path / "out") == local


def test_a_python_that_is_not_ours_is_an_error_and_no_hang(tmp_path):
    """The first `python` on the worker pool's PATH is one without Beam."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(Path(sys.base_prefix, "bin", "python3"))
    with portable(tmp_path / "bin") as options:
        ended = start(str(tmp_path / "out"), "--worker-timeout", "8", *options)
    assert ended.returncode == 1
    assert "no worker answered within 8 s" in ended.stdout and "PATH" in ended.stdout
    assert not list((tmp_path / "out").rglob("*.arrow"))


def test_a_runner_that_is_not_there_is_an_error_and_no_hang(tmp_path):
    ended = start(str(tmp_path / "out"), "--worker-timeout", "3", "--runner=PortableRunner",
                  f"--job_endpoint=localhost:{free_port()}", "--environment_type=EXTERNAL",
                  "--environment_config=localhost:1")
    assert ended.returncode == 1
    assert "no worker answered within 3 s" in ended.stdout and "Traceback" not in ended.stdout


@pytest.mark.slow
def test_an_interrupted_build_takes_its_job_with_it(tmp_path):
    out = tmp_path / "out"
    with portable(Path(sys.executable).parent) as options:
        process = subprocess.Popen([sys.executable, "-m", "pipelines", "build", "--out", str(out), "--limit", "200",
                                    *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while len(list(out.glob("stages/fetch/sample/*.json"))) < 2:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        time.sleep(5)  # a shard on its way may still be finished
        markers = len(list(out.glob("stages/*/*/*.json")))
        time.sleep(5)
        assert len(list(out.glob("stages/*/*/*.json"))) == markers < 100


def test_a_worker_that_lacks_a_package_says_so(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['pyloudnorm'] = None\n")
    with portable(Path(sys.executable).parent, PYTHONPATH=str(tmp_path)) as options:
        ended = start(str(tmp_path / "out"), *options)
    assert ended.returncode == 1
    assert re.search(r"worker \S+: a package is missing: pyloudnorm", ended.stdout), ended.stdout
    assert not list((tmp_path / "out").rglob("*.arrow"))


def test_the_documented_flags_are_beams():
    commands = re.findall(r"make datasets .*RUNNER=(\w+) ARGS=\"(.*)\"", DOCS.read_text())
    assert [runner for runner, _ in commands] == ["PortableRunner", "FlinkRunner", "SparkRunner", "DataflowRunner"]
    offline = re.findall(r"`(--\w+_job_server_jar=\S+)`", DOCS.read_text())
    assert len(offline) == 2
    for flags in [*(flags.split() for _, flags in commands), offline]:
        known = PipelineOptions(flags).get_all_options()  # without those that Beam does not know
        assert {flag.partition("=")[0].lstrip("-") for flag in flags} <= known.keys() | {"no_use_public_ips"}, flags
        assert known["use_public_ips"] is (False if "--no_use_public_ips" in flags else None)
