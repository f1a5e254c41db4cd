"""A build as one HTML page that opens from disk: what came out, what was lost, what it is like, and rows of it to hear.

Everything is in the page; its own policy lets it fetch nothing and run only the script it came with. What a build says
of itself and its rows lies in it as JSON, which the script shows as text: no caption is ever read as HTML.
"""
import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from manifests import outcomes, storage
from manifests.outcomes import Loss
from pipelines import sandbox
from pipelines.page import plots, rows
from pipelines.sandbox import Limits
from pipelines.shrink import SECONDS, shrink
from pipelines.write import DATASETS

ROWS = 24  # of each dataset: five then take 6 MB
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Page:
    url: str
    bytes: int
    rows: dict[str, int]  # shown, by dataset
    unplayable: list[str]  # row, column and why


def report(out: str, size: int = ROWS, to: str | None = None) -> Page:
    """Write the page of a build, with at most `size` rows of each dataset; to OUT/report.html unless told otherwise.

    FileNotFoundError where there is no build; ValueError for a shard that cannot be read.
    """
    if not storage.exists(storage.join(out, "stats.json")):
        raise FileNotFoundError(f"{out}: no build here, or none that came to its end (there is no stats.json); "
                                f"`make datasets OUT={out}` makes one")
    stats = storage.read_json(storage.join(out, "stats.json"))
    datasets = [dataset for dataset in DATASETS if dataset in stats["datasets"]]
    store, shown, drawn, unplayable = Store(), [], {}, []
    for dataset in datasets:
        sample, counts = _scan(out, dataset, size)
        drawn[dataset] = counts.plots(stats["datasets"][dataset])
        chosen = sample.chosen()
        bare = "tempo" not in DATASETS[dataset].features()
        order = {key: place for place, (key, *_) in enumerate(chosen)}
        facts = rows.measured(out, stats, set(order)) if bare else {}
        found = []
        for split, row in rows.read(chosen):
            told = rows.told(dataset, split, row, facts.get(row["id"]))
            told["media"] = {column: store.add(kind, data) for column, kind, data in rows.media(row)}
            unplayable += [f"{dataset}, {row['id']}, {column}: {why}" for column, place in told["media"].items()
                           if (why := store.told[place].get("lost"))]
            found.append(told)
        shown += sorted(found, key=lambda told: order[told["id"]])
    url = to or storage.join(out, "report.html")
    with storage.create(url) as file:
        for part in _html(out, stats, drawn, shown, store):
            file.write(part)
    return Page(url, storage.size(url), {dataset: sum(row["dataset"] == dataset for row in shown)
                                         for dataset in datasets}, unplayable)


class Store:
    """The media of a page, each once, however many rows show it."""

    def __init__(self):
        self.told: list[dict] = []   # what is known of each, by its number
        self.data: list[bytes] = []
        self._places: dict[tuple[str, str], int] = {}

    def add(self, kind: str, data: bytes) -> int:
        """Its number. What cannot be decoded any more is told as `lost`."""
        same = kind, hashlib.sha256(data).hexdigest()
        if same not in self._places:
            try:
                small = sandbox.call(shrink, {"kind": kind, "data": data}, Limits())
            except Loss as loss:
                small = {"data": b"", "lost": f"{loss.reason}: {loss.detail}"}
            self._places[same] = len(self.data)
            self.data.append(small.pop("data"))
            self.told.append(small)
        return self._places[same]


def _scan(out: str, dataset: str, size: int) -> tuple[rows.Sample, plots.Counts]:
    """The rows that will be shown, and the plots' counts, in one look at everything but the media."""
    sample, counts = rows.Sample(size), plots.Counts()
    columns = [name for name in DATASETS[dataset].features() if name in ("id", "source_id", *counts.COLUMNS)]
    for split, url in rows.shards_of(out, dataset):
        for row in rows.shards.read(url, columns):
            sample.add(split, url, row)
            counts.add(row)
    return sample, counts


def _html(out: str, stats: Mapping, drawn: Mapping, shown: list[dict], store: Store) -> Iterator[bytes]:
    """The page, piece by piece. The policy names style and script by their hashes."""
    style, script = ((_HERE / name).read_text("utf-8") for name in ("page.css", "page.js"))
    page = (_HERE / "page.html").read_text("utf-8")
    told = {"name": storage.absolute(out).rstrip("/").rpartition("/")[2], "made": stats["made"],
            "seconds": SECONDS, "rows": shown, "media": store.told,
            "reasons": {reason: [meaning, reason in outcomes.TRANSIENT]
                        for reason, meaning in outcomes.REASONS.items()},
            "datasets": {dataset: {"title": DATASETS[dataset].TITLE, "about": DATASETS[dataset].ABOUT,
                                   "plots": drawn[dataset], "agreement": plots.agreement(numbers),
                                   **{name: numbers[name] for name in ("requested", "done", "lost", "splits", "clips",
                                                                       "source_videos", "hours")}}
                         for dataset in drawn if (numbers := stats["datasets"][dataset])}}
    media = (f'<script type="text/plain" id="media-{place}">{base64.b64encode(data).decode()}</script>\n'
             for place, data in enumerate(store.data))
    parts = {"style-hash": [_hash(style)], "script-hash": [_hash(script)], "style": [style], "script": [script],
             "data": [_json(told)], "media": media}
    for number, piece in enumerate(page.split("%%")):
        yield from (part.encode() for part in (parts[piece] if number % 2 else [piece]))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value) -> str:
    """JSON that an HTML parser leaves alone: no `<` that could end or open anything."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")
