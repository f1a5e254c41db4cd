"""Speed and memory of the floor, as ratios inside one run: machines are shared and noisy, ratios less so.

`make bench` writes benchmarks/floor.json. `--clips`, `--rounds` and `--memory` make it shorter or longer.
"""
import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import pyarrow as pa

from manifests import records, shards, storage
from manifests.outcomes import Loss

HERE = Path(__file__).resolve().parent
WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", default="500,5000", help="clips of the builds whose memory is compared")
    parser.add_argument("--pool", help=argparse.SUPPRESS)
    values = parser.parse_args()
    if values.pool:
        return pool(values.pool, values.clips)
    results = {
        "machine": {"cores": os.cpu_count(), "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
                    "cpu": _cpu(), "python": platform.python_version(), "system": platform.system()},
        "stages": stages(values.clips, values.rounds),
        "shards": shard_speed(),
        "memory": memory([int(count) for count in values.memory.split(",")]),
    }
    (HERE / "floor.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def stages(clips: int, rounds: int) -> dict:
    """The pipeline and a bare process pool doing the same work, alternately."""
    pipeline, bare = [], []
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pipelines", "build", "--out", f"{folder}/a", "--limit", str(clips),
                       "--workers", str(WORKERS)]
            order = [("pipeline", pipeline, command),
                     ("pool", bare, [sys.executable, __file__, "--pool", f"{folder}/b", "--clips", str(clips)])]
            for name, times, line in order if number % 2 == 0 else reversed(order):
                times.append(_timed(line))
                print(f"round {number + 1}: {name} {times[-1]['seconds']} s, {times[-1]['cpu_seconds']} CPU s",
                      file=sys.stderr)
            run = storage.read_json(f"{folder}/a/run.json")
    by_stage = {name: {"clips": stage["clips"],
                       "clips_per_second": round(stage["clips"] * WORKERS / stage["seconds"], 2),
                       "cpu_seconds_per_clip": round(stage["cpu_seconds"] / stage["clips"], 5)}
                for name, stage in run["stages"].items() if stage["clips"]}
    pairs = list(zip(pipeline, bare, strict=True))
    ratio = {what: round(statistics.median(one[what] / other[what] for one, other in pairs), 3)
             for what in ("seconds", "cpu_seconds")}
    return {"clips": clips, "workers": WORKERS, "by_stage": by_stage, "pipeline": pipeline, "process_pool": bare,
            "pipeline_over_pool": ratio, "clips_per_second": round(clips / min(one["seconds"] for one in pipeline), 2)}


def pool(out: str, clips: int) -> None:
    """All that the pipeline does for a clip, without stages, markers, ledger or the means to resume."""
    from threadpoolctl import threadpool_limits

    from pipelines import measure, mucaps, sample  # noqa: F401  imported once: the pool's processes are forks
    threadpool_limits(1)
    keys = sample.ids(0, clips)
    os.makedirs(out)
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as workers:
        list(workers.map(_chunk, [(f"{out}/{start}.arrow", keys[start:start + 8]) for start in range(0, clips, 8)]))


def _chunk(job: tuple[str, list[str]]) -> None:
    from captioners import agreement
    from manifests import media
    from pipelines import caption, measure, mucaps, sample
    from pipelines.filter import Thresholds, judge
    rows = []
    for key in job[1]:
        try:
            clip = media.part(sample.render(key)) | {"id": key, "source_id": key}
            found = measure.measure(clip)
            judge(found, Thresholds())
            text = caption.say({"id": key, "measurement": found}, "music", 0)
        except (Loss, media.MediaError):
            continue
        rows.append(mucaps.row({"id": key, "source_id": key, "clip": clip, "caption": text,
                                "measurement": {name: found[name] for name in mucaps.PARTS["measurement"]},
                                "check": agreement.check({"caption": text, "measurement": found}, drop=False)}))
    shards.write(job[0], mucaps.features().arrow_schema, rows)


def shard_speed(rows: int = 2000, size: int = 160_000, rounds: int = 5) -> dict:
    """Our writer and reader beside plain pyarrow's: MB/s, the best of some rounds, on the same disk."""
    data = [{"id": f"clip-{index}", "outcome": "done", "detail": "", "audio": os.urandom(size)}
            for index in range(rows)]
    schema = pa.schema([field for field in records.CLIP if field.name in data[0]])
    megabytes = rows * size / 1e6
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, work in {
                "write": lambda: shards.write(f"{folder}/a", schema, iter(data)),
                "plain_write": lambda: _plain_write(f"{folder}/b", schema, data),
                "read": lambda: sum(len(row["audio"]) for row in shards.read(f"{folder}/a")),
                "plain_read": lambda: _plain_read(f"{folder}/b"),
            }.items():
                start = time.perf_counter()
                work()
                found.setdefault(name, []).append(megabytes / (time.perf_counter() - start))
    best = {f"{name}_mb_per_second": round(max(values)) for name, values in found.items()}
    return best | {"write_over_plain": round(max(found["write"]) / max(found["plain_write"]), 2),
                   "read_over_plain": round(max(found["read"]) / max(found["plain_read"]), 2)}


def _plain_write(path: str, schema: pa.Schema, data: list[dict]) -> None:
    with open(path, "wb") as file, pa.ipc.new_stream(file, schema) as sink:
        for start in range(0, len(data), 50):
            sink.write_batch(pa.RecordBatch.from_pylist(data[start:start + 50], schema=schema))
        file.flush()
        os.fsync(file.fileno())


def _plain_read(path: str) -> int:
    with pa.memory_map(path) as file:
        return sum(len(row["audio"]) for batch in pa.ipc.open_stream(file) for row in batch.to_pylist())


def memory(sizes: list[int]) -> dict:
    """Peak of the launcher's and the workers' own memory (pages of mapped files can be dropped and do not count)."""
    peaks = {}
    for clips in sizes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pipelines", "build", "--out", folder, "--limit", str(clips),
                       "--workers", str(WORKERS)]
            peaks[str(clips)] = _timed(command, watch=True)
            print(f"memory at {clips} clips: {peaks[str(clips)]}", file=sys.stderr)
    first, last = peaks[str(sizes[0])], peaks[str(sizes[-1])]
    return {"by_clips": peaks, "growth": {name: round(last[name] / first[name], 3)
                                          for name in ("launcher_mb", "largest_worker_mb", "all_mb")}}


def _timed(command: list[str], watch: bool = False) -> dict:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = {"launcher_mb": 0.0, "largest_worker_mb": 0.0, "all_mb": 0.0}
    if watch:
        watcher = threading.Thread(target=_watch, args=(process, peak))
        watcher.start()
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    seconds = time.perf_counter() - start
    if watch:
        watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2),
            **({name: round(value) for name, value in peak.items()} if watch else {})}


def _watch(process: subprocess.Popen, peak: dict[str, float]) -> None:
    while process.poll() is None:
        try:
            launcher = psutil.Process(process.pid)
            own = _own(launcher)
            others = [_own(child) for child in launcher.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for name, value in (("launcher_mb", own), ("largest_worker_mb", max(others, default=0.0)),
                            ("all_mb", own + sum(others))):
            peak[name] = max(peak[name], value)
        time.sleep(0.1)


def _own(process: psutil.Process) -> float:
    found = process.memory_info()
    return (found.rss - found.shared) / 2**20


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
