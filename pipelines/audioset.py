"""Source `audioset`: AudioSet's lists, or anybody's in that form, fetched with yt-dlp.

MUCaps takes the whole sound track of a video (the paper's 1,273 hours over 21,966 rows), or the labelled segment; the
other datasets take the segment, sound and picture. A track's clip has the video's id, a segment's `ID_START` with the
start in milliseconds.
"""
import shutil
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from manifests import audioset, splits, storage
from manifests.outcomes import Loss
from pipelines import download, sandbox
from pipelines.breaker import Breaker
from pipelines.download import Settings
from pipelines.sandbox import Limits
from pipelines.stage import Stop

SPANS = ("track", "segment")
_LOOK = 5.0  # s
MOST = 32  # clips in a shard of the clip store: what a kill may cost, at some minutes a dozen


@dataclass(frozen=True)
class Source:
    """What is asked for, and how."""
    lists: tuple[str, ...]
    ontology: str
    exclude: tuple[str, ...]
    mucaps_span: str
    settings: Settings
    fetchers: int           # how many may ask at a time
    rate: float             # videos an hour, over all fetchers; 0 = as fast as it goes

    def span(self, dataset: str) -> str:
        return self.mucaps_span if dataset == "mucaps" else "segment"

    def serves(self, row: dict, dataset: str) -> bool:
        return (row["start"] is None) == (self.span(dataset) == "track")


def segments(source: Source, datasets: tuple[str, ...], assignment: str, limit: int | None) -> Iterator[dict]:
    """Rows of records.SEGMENT, in the order of the lists, for those datasets that may use the video."""
    seen: set[tuple[str, float | None]] = set()
    for segment in audioset.segments(source.lists, source.ontology, source.exclude):
        spans = {source.span(dataset) for dataset in datasets if splits.assign(segment.id, dataset, assignment)}
        for row in (_row(segment, span, source, assignment) for span in SPANS if span in spans):
            if (row["source_id"], row["start"]) in seen:  # one track, two labelled segments
                continue
            if len(seen) == limit:
                return
            seen.add((row["source_id"], row["start"]))
            yield row


def _row(segment: audioset.Segment, span: str, source: Source, assignment: str) -> dict:
    row = {"id": segment.id, "source_id": segment.id, "uri": _shown(source.settings.url).replace("{id}", segment.id),
           "start": None, "end": None, "video": False, "revision": "track"}
    if span == "segment":
        # Which datasets a build makes must not matter here: a picture that another one wants would be fetched anew.
        video = assignment == "shared" or splits.owner(segment.id) in ("muimage", "muvideo")
        row |= {"id": f"{segment.id}_{round(segment.start * 1000)}", "start": segment.start, "end": segment.end,
                "video": video, "revision": f"{segment.start:.3f}-{segment.end:.3f}" + " video" * video}
    return row


def _shown(url: str) -> str:
    """The template without what may be secret in it: the ledger is published."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path,
                                    parts.query if "{id}" in parts.query else "", ""))


@dataclass
class Fetcher:
    """A stage's `each`: asks for one clip at a time, at its share of the rate, while the breaker is closed."""
    source: Source
    limits: Limits
    out: str
    asked: float = field(default=0.0, init=False)  # when, on the monotonic clock
    breaker: Breaker = field(init=False)

    def __post_init__(self) -> None:
        self.breaker = Breaker(self.out)

    def __call__(self, segment: dict) -> dict:
        self._wait(segment["id"])
        if self.breaker.open():
            raise Stop
        folder = _scratch(self.out)
        try:
            # The same function each time, or the process would prepare itself anew.
            row = sandbox.call(partial(download.download, settings=self.source.settings), (segment, str(folder)),
                               replace(self.limits, late="network"), prepare=download.prepare)
        except sandbox.Failed:
            self.breaker.failed(Loss("failed"))
            raise
        except Loss as loss:
            self.breaker.failed(loss)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.breaker.succeeded()
        return row

    def _wait(self, key: str) -> None:
        """Until this fetcher's next turn, half to one and a half of the mean time after the last one."""
        if self.asked and self.source.rate:
            pause = 3600 * self.source.fetchers / self.source.rate * (0.5 + splits.fraction(key, "pace"))
            while (left := self.asked + pause - time.monotonic()) > 0 and not self.breaker.open():
                time.sleep(min(left, _LOOK))
        self.asked = time.monotonic()


def _scratch(out: str) -> Path:
    """An empty folder: beside the clip store, where there is room for media, or the system's for temporary files."""
    if not (path := storage.local_path(out)):
        return Path(tempfile.mkdtemp())
    folder = Path(path, "stages", "fetch", f"{storage.TEMPORARY}{uuid.uuid4().hex}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)  # cookies come to lie there
    return folder
