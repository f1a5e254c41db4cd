"""Ask another runner's workers, before any work, whether they are there and are ours.

A worker whose PATH leads to another Python never answers, and the runner waits for it for ever; one that lacks a
package, runs other code or cannot reach OUT would lose every clip. All of these are errors at the start instead.
"""
import hashlib
import importlib
import platform
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.runners.runner import PipelineResult

import captioners
import manifests
import pairing
import pipelines
import training
from captioners import model
from captioners.model import Spec
from manifests import storage

_NEEDED = ("av", "datasets", "fsspec", "numpy", "onnxruntime", "pyarrow", "pyloudnorm", "scipy", "silero_vad", "soxr",
           "threadpoolctl", "yt_dlp")
_LOOK = 0.2  # s


def greet(out: str, pipeline: beam.Pipeline, timeout: float, models: Sequence[Spec] = ()) -> None:
    """Run a job that answers through OUT, and loads `models` there; RuntimeError says what is wrong, after `timeout`
    seconds at the latest.
    """
    url = storage.join(out, "stages", f"{storage.TEMPORARY}greeting-{uuid.uuid4().hex}.json")
    _ = pipeline | "greeting" >> beam.Create([url]) | "answer" >> beam.Map(_answer, code=_code(), models=models)
    ended: list[Exception | None] = []
    job: list[PipelineResult] = []

    def run() -> None:
        try:
            job.append(pipeline.run())
            job[0].wait_until_finish()
            ended.append(None)
        except Exception as error:  # whatever a runner raises
            ended.append(error)

    # In a thread of its own: a runner that is not there is waited for without end.
    threading.Thread(target=run, daemon=True).start()
    deadline = time.monotonic() + timeout
    while not ended and not storage.exists(url) and time.monotonic() < deadline:
        time.sleep(_LOOK)
    if storage.exists(url):
        answer = storage.read_json(url)
        while not ended and time.monotonic() < deadline:
            time.sleep(_LOOK)
        storage.remove(url)
        if answer["wrong"]:
            raise RuntimeError(f"worker {answer['worker']}: {answer['wrong']}")
    elif not ended:
        if job:
            job[0].cancel()
        raise RuntimeError(
            f"no worker answered within {timeout:g} s (--worker-timeout). Is the runner there, is a worker running "
            "where it looks for one, and is the `python` that this starts, the first on its PATH, the one that this "
            "distribution is installed in?")
    elif ended[0] is None:
        raise RuntimeError(f"a worker ran, but what it wrote is not in {out}: OUT must be the same place for every "
                           "machine, a shared folder or a bucket")
    else:
        raise RuntimeError(f"the workers could not run a first job: {ended[0]}") from ended[0]


def _answer(url: str, code: str, models: Sequence[Spec]) -> None:
    """On the worker: say what is wrong there."""
    absent = []
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            absent.append(f"{name} ({error})")
    wrong = ""
    if absent:
        wrong = f"a package is missing: {', '.join(absent)}; install this distribution and all that it requires there"
    elif _code() != code:
        wrong = "it has another version of this distribution than the machine that starts the build; install the same"
    else:
        try:
            for spec in models:
                model.try_out(spec)
        except ValueError as error:
            wrong = str(error)
    storage.write_json(url, {"worker": platform.node(), "wrong": wrong})


def _code() -> str:
    """A hash of this distribution's source."""
    found = hashlib.sha256()
    for package in (captioners, manifests, pairing, pipelines, training):
        root = Path(package.__file__).parent
        for path in sorted(root.rglob("*.py")):
            found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return found.hexdigest()
