"""Pairing: time and memory from ten thousand clips to a million, and beside it the published method.

`make bench` writes benchmarks/pairing.json and benchmarks/pairing.png. `--largest` makes it shorter. Measurements are
simulated; everything after them is what a build does: shards read, points made, buckets searched, the result written.
"""
import argparse
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from manifests import media, records, storage  # noqa: E402
from pairing.match import Settings  # noqa: E402
from pipelines import options, pairs, sample  # noqa: E402
from pipelines.marks import Entry  # noqa: E402

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
PROCESSES = (1, 2)       # one alone: its growth is that of the work, without what starting others costs
SHARD, BATCH = 512, 50   # rows
RATE = 32_000            # Hz, at which the published scripts decode
FRAME, HOP = 2048, 512   # samples, of RMS and beats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="clips of the last size")
    parser.add_argument("--listened", type=int, default=50, help="candidate pairs for the published method")
    parser.add_argument("--simulate", help=argparse.SUPPRESS)
    parser.add_argument("--find", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    values = parser.parse_args()
    if values.simulate:
        return simulate(values.simulate, values.largest)
    if values.find:
        print(json.dumps(find(values.find, values.processes)))
        return None
    sizes = [one for size in SIZES if size <= values.largest for one in measured(size)]
    published = listen(values.listened)
    for one in sizes:
        candidates = one["clips"] * (one["clips"] - 1) // 2
        one["published_hours"] = round(candidates * published["seconds_per_candidate"] / 3600, 1)
    results = {"machine": {"cores": os.cpu_count(), "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
                           "python": platform.python_version(), "system": platform.system()},
               "settings": Settings().__dict__, "sizes": sizes, "exponent": exponent(sizes), "published": published}
    (HERE / "pairing.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(sizes)
    print(json.dumps(results, indent=1))
    return None


def measured(clips: int) -> list[dict]:
    """Time of `pairs.find` alone, and the peak memory of all its processes, for each number of PROCESSES."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--simulate", folder, "--largest", str(clips)], check=True)
        for processes in PROCESSES:
            storage.remove(storage.join(folder, "stages"))
            command = [sys.executable, __file__, "--find", folder, "--processes", str(processes)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            peak = {"launcher_mb": 0.0, "all_mb": 0.0}
            watcher = threading.Thread(target=_watch, args=(process, peak))
            watcher.start()
            told, _ = process.communicate()
            watcher.join()
            if process.returncode:
                raise RuntimeError(f"pairing {clips} clips ended with {process.returncode}: {' '.join(command)}")
            results.append(json.loads(told) | {name: round(value) for name, value in peak.items()})
            print(json.dumps(results[-1]), file=sys.stderr)
    return results


def find(folder: str, processes: int) -> dict:
    """As a build calls it, with the mappings that a build holds."""
    entries, source, split, recording = {}, {}, {}, {}
    for url in sorted(str(path) for path in Path(folder, "measure").iterdir()):
        with pa.memory_map(url) as file:
            ids = pa.ipc.open_stream(file).read_all()["id"].to_pylist()
        for key in ids:
            draw = random.Random(f"{key} recording").random()
            source[key] = key.partition(".")[0]
            split[key] = "eval" if random.Random(source[key]).random() < 0.05 else "train"
            recording[key] = f"hit {int(draw * 1e5)}" if draw < 0.01 else key
            entries[key] = Entry(url, url, "done", f"{random.Random(key).getrandbits(64):016x}", "", None, None, 0)
    start, before = time.perf_counter(), os.times()
    factory = _pipeline(processes)
    found, single = pairs.find(folder, entries, entries, source, split, recording, Settings(), factory)
    seconds, after = time.perf_counter() - start, os.times()
    spent = sum(after[:4]) - sum(before[:4])
    return {"clips": len(entries), "processes": processes, "seconds": round(seconds, 2), "cpu_seconds": round(spent, 2),
            "pairs": len(found), "clips_in_pairs": len(entries) - len(single)}


def _pipeline(workers: int):
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    values = parser.parse_args(["--out", "unused", "--workers", str(workers)])
    return options.parse(parser, values, []).pipeline


def simulate(folder: str, clips: int) -> None:
    """Shards of measurements: genres of a tempo, texture and level, artists with a sound of their own within them,
    albums' videos of one to six clips near to each other; a tenth of all at 120 BPM or a hundredth off it.
    """
    rng = np.random.default_rng(clips)
    genre = {"tempo": rng.uniform(75, 165, 24), "onset_rate": rng.uniform(1.5, 6, 24),
             "loudness": rng.uniform(-22, -9, 24), "pitch_median": rng.uniform(52, 76, 24),
             "dynamics": rng.uniform(4, 14, 24), "division": rng.choice(3, 24, p=(0.6, 0.3, 0.1))}
    weight = 1 / np.arange(1, 25)
    artist = {"genre": rng.choice(24, max(clips // 60, 1), p=weight / weight.sum())}
    count = len(artist["genre"])
    artist |= {"tempo": genre["tempo"][artist["genre"]] * 2 ** rng.normal(0, 0.15, count),
               "onset_rate": genre["onset_rate"][artist["genre"]] * 2 ** rng.normal(0, 0.2, count),
               **{name: genre[name][artist["genre"]] + rng.normal(0, spread, count)
                  for name, spread in (("loudness", 2), ("pitch_median", 4), ("dynamics", 2))}}
    video = np.repeat(np.arange(clips), rng.integers(1, 7, clips))[:clips]
    songs = video[-1] + 1
    by = rng.integers(0, count, songs)
    tempo = artist["tempo"][by] * 2 ** rng.normal(0, 0.12, songs)
    tempo = np.where(rng.random(songs) < 0.1, 120 + rng.normal(0, 0.02, songs), np.clip(tempo, 45, 195))
    key = (rng.integers(0, 12, count)[by] + rng.choice((0, 5, 7), songs)) % 12
    pulse = np.array(((-0.1, -0.1, 0.4, -0.1, -0.1, 0.8), (0.3, -0.1, 0.5, -0.1, 0.3, 0.8),
                      (-0.1, 0.4, -0.1, 0.4, -0.1, 0.8)))[genre["division"][artist["genre"][by]]][video]
    scale = np.isin((np.arange(12) - key[:, None]) % 12, (0, 2, 4, 5, 7, 9, 11))
    chroma = scale[video] + rng.uniform(0.1, 0.6, (clips, 12))
    pitched = rng.random(clips) > 0.03
    columns = {
        "tempo": np.round(tempo[video] * 2 ** rng.normal(0, 0.001, clips), 2),
        "tempo_confidence": np.round(1 - rng.beta(0.6, 6, clips), 4),
        "onset_rate": np.round(artist["onset_rate"][by][video] * 2 ** rng.normal(0, 0.2, clips), 4),
        "pulse": np.clip(pulse + rng.normal(0, 0.08, pulse.shape), -1, 1).round(4),
        "chroma": (chroma / chroma.sum(axis=1, keepdims=True)).round(4),
        "pitch_median": np.where(pitched, artist["pitch_median"][by][video] + rng.normal(0, 3, clips), np.nan).round(4),
        "loudness": (artist["loudness"][by][video] + rng.normal(0, 1.5, clips)).round(2),
        "dynamics": np.abs(artist["dynamics"][by][video] + rng.normal(0, 2, clips)).round(2),
    }
    for start in range(0, clips, SHARD):
        rows = slice(start, min(start + SHARD, clips))
        ids = [f"video{song:07d}.{index:07d}" for index, song in enumerate(video[rows].tolist(), start)]
        arrays = {"id": pa.array(ids), "outcome": pa.array(["done"] * len(ids)), "detail": pa.array([""] * len(ids))}
        for name, values in columns.items():
            values = values[rows]
            if values.ndim == 1:
                arrays[name] = pa.array(values, from_pandas=True)
            else:
                offsets = np.arange(len(ids) + 1, dtype=np.int32) * values.shape[1]
                arrays[name] = pa.ListArray.from_arrays(offsets, values.ravel().astype(np.float32))
        table = pa.table([arrays.get(field.name, pa.nulls(len(ids), field.type)) for field in records.MEASUREMENT],
                         schema=records.MEASUREMENT)
        with (storage.create(storage.join(folder, "measure", f"{start:08d}.arrow")) as file,
              pa.ipc.new_stream(file, table.schema) as sink):
            sink.write_table(table, max_chunksize=BATCH)


def listen(candidates: int, songs: int = 20) -> dict:
    """The published way to know whether two clips are a pair: decode both, track the beats of both, and sum how far
    their loudness, their tempi and their beats lie apart. Each candidate pair anew, as there.
    """
    import librosa
    import soundfile
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for key in sample.ids(0, songs):
            try:
                sound = media.decode_audio(sample.render(key))
            except media.MediaError:
                continue
            paths.append(f"{folder}/{key}.wav")
            soundfile.write(paths[-1], sound.samples.T, sound.rate)
        draw = random.Random(0)
        _score(librosa, *paths[:2])  # compiles what librosa compiles
        start = time.perf_counter()
        for _ in range(candidates):
            _score(librosa, *draw.sample(paths, 2))
        seconds = time.perf_counter() - start
    return {"candidates": candidates, "seconds": round(seconds, 2),
            "seconds_per_candidate": round(seconds / max(candidates, 1), 4)}


def _score(librosa, one: str, other: str) -> float:
    level, tempo, beats = [], [], []
    for path in (one, other):
        y, _ = librosa.load(path, sr=RATE)
        level.append(librosa.feature.rms(y=y, frame_length=FRAME, hop_length=HOP)[0])
        found, frames = librosa.beat.beat_track(y=y, sr=RATE, hop_length=HOP)
        tempo.append(float(np.atleast_1d(found)[0]))
        beats.append(frames)
    frames, count = min(map(len, level)), min(map(len, beats))
    return (math.sqrt(np.mean(np.square(level[0][:frames] - level[1][:frames]))) + abs(tempo[0] - tempo[1])
            + (float(np.abs(beats[0][:count] - beats[1][:count]).mean()) if count else 0.0))


def exponent(sizes: list[dict]) -> float | None:
    """Of the growth of one process's seconds with clips, by least squares over the logarithms: 1 is linear."""
    alone = [one for one in sizes if one["processes"] == 1]
    if len(alone) < 2:
        return None
    clips, seconds = np.log([[one[name] for one in alone] for name in ("clips", "cpu_seconds")])
    return round(float(np.polyfit(clips, seconds, 1)[0]), 3)


def plot(sizes: list[dict]) -> None:
    import matplotlib
    matplotlib.use("agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    for processes, name, label in ((1, "cpu_seconds", "CPU seconds, one process"),
                                   (1, "seconds", "seconds, one process"),
                                   (2, "seconds", "seconds, two processes (with their start)")):
        some = [one for one in sizes if one["processes"] == processes]
        axes.loglog([one["clips"] for one in some], [one[name] for one in some], "o-", label=label)
    clips = np.array([sizes[0]["clips"], sizes[-1]["clips"]])
    axes.loglog(clips, sizes[0]["cpu_seconds"] * clips / clips[0], "k:", label="slope 1")
    axes.set(xlabel="clips", ylabel="seconds", title="From stored measurements to pairs")
    axes.grid(which="both", alpha=0.25)
    axes.legend()
    figure.savefig(HERE / "pairing.png", dpi=120, metadata={"Software": None})


def _watch(process: subprocess.Popen, peak: dict[str, float]) -> None:
    while process.poll() is None:
        try:
            launcher = psutil.Process(process.pid)
            own = _own(launcher)
            others = sum(_own(child) for child in launcher.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
        peak["launcher_mb"] = max(peak["launcher_mb"], own)
        peak["all_mb"] = max(peak["all_mb"], own + others)
        time.sleep(0.1)


def _own(process: psutil.Process) -> float:
    found = process.memory_info()
    return (found.rss - found.shared) / 2**20


if __name__ == "__main__":
    main()
