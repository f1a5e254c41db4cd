"""Progress of a build, read from the commit markers: the same for any runner, and for a second process that looks on.

`OUT/run.json` holds the timings and the state; it is the one file outside the promise of identical bytes.
"""
import io
import os
import platform
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from tqdm import tqdm

from manifests import storage

_EVERY = 1.0  # s between looks
_TELL = 10.0  # s between lines where standard error is no terminal


class Progress:
    """Bars on standard error while the block runs, and run.json at every look.

    A thread looks, because the local runner keeps the main thread until a pipeline ends.
    """

    def __init__(self, place: str, folders: Mapping[str, list[str]], workers: int, runner: str):
        """`place`: the folder of run.json; `folders`: where each stage's markers appear, in the order of the work."""
        self.place, self.folders = place, folders
        self.known: dict[str, set[str]] = {name: set() for name in self.folders}
        self.done = {name: dict.fromkeys(("clips", "seconds", "cpu_seconds"), 0) for name in self.folders}
        self.bars: dict[str, tqdm] = {}
        self.run = {"state": "running", "started": time.time(), "workers": workers, "runner": runner,
                    "stages": {}, "order": list(self.folders),
                    "machine": {"name": platform.node(), "pid": os.getpid(), "cores": os.cpu_count(),
                                "system": platform.platform(), "python": platform.python_version()}}
        self.terminal, self.told = sys.stderr.isatty(), time.time()
        self.stop, self.lock = threading.Event(), threading.RLock()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Progress":
        for name in self.folders:
            self.known[name].update(self._markers(name))
        self._look()
        self.thread.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.stop.set()
        self.thread.join()
        self.run["state"] = "done" if kind is None else "failed"
        if error is not None:
            self.run["error"] = str(error)
        self._finish()

    def expect(self, clips: Mapping[str, int]) -> None:
        """How many clips, or rows, the stages of the next pipeline are about to work on, at most."""
        self._finish()
        with self.lock:
            for name, count in clips.items():
                if count:
                    self.run["stages"][name]["expected"] = count
                    self.bars[name] = tqdm(total=count, desc=name, unit=" clips", position=len(self.bars),
                                           file=sys.stderr if self.terminal else io.StringIO())

    def _finish(self) -> None:
        """The pipeline ended: what was lost on the way never reaches the later stages' totals."""
        self._look()
        with self.lock:
            for name, bar in self.bars.items():
                self.run["stages"][name]["expected"] = bar.total = bar.n
                bar.close()
            self.bars.clear()

    def failed(self, why: str) -> None:
        """Note the end in run.json; from a signal handler, too, so it waits for the watching thread only so long."""
        held = self.lock.acquire(timeout=_EVERY)  # a look under way would write "running" over it
        self.run |= {"state": "failed", "error": why, "updated": time.time()}
        storage.write_json(storage.join(self.place, "run.json"), self.run)
        if held:
            self.lock.release()

    def _markers(self, name: str) -> set[str]:
        return {storage.join(folder, found) for folder in self.folders[name] for found in storage.names(folder)
                if found.endswith(".json") and not found.startswith(storage.TEMPORARY)}

    def _watch(self) -> None:
        while not self.stop.wait(_EVERY):
            self._look()

    def _look(self) -> None:
        with self.lock:
            for name in self.folders:
                for url in self._markers(name) - self.known[name]:
                    self.known[name].add(url)
                    mark = storage.read_json(url)
                    self.done[name]["clips"] += mark["rows"] if name == "write" else len(mark["rows"])
                    self.done[name]["seconds"] += mark["seconds"]
                    self.done[name]["cpu_seconds"] += mark["cpu_seconds"]
                self.run["stages"].setdefault(name, {}).update(self.done[name])
            # A log wants lines, and few of them, in place of bars.
            tell = not self.terminal and time.time() - self.told > _TELL
            for name, bar in self.bars.items():
                bar.n = self.run["stages"][name]["clips"]
                bar.refresh()
                if tell:
                    self.told = time.time()
                    print(bar, file=sys.stderr, flush=True)
            self.run["updated"] = time.time()
            self.run["seconds"] = self.run["updated"] - self.run["started"]
            with suppress(OSError):  # a full disk ends the work where results are written, not here
                storage.write_json(storage.join(self.place, "run.json"), self.run)
