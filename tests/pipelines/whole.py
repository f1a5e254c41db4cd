"""What a build of all datasets leaves, made by hand in a second: media that decode, shards, cards, ledger, numbers.

The files are written by what writes them in a build; only the rows are not what they were measured to be.
"""
import functools
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from manifests import media, records, shards, splits, storage
from pipelines import card, write
from pipelines.columns import media as medium
from tests.conftest import encode, tone
from tests.pipelines.test_datasets import joined

CLIPS = 12  # the third and every fifth after it in eval; one more is lost
EVAL = tuple(f"clip-{number}" for number in range(2, CLIPS, 5))
_SPREAD = {"min": 1.0, "p5": 1.0, "median": 1.0, "p95": 1.0, "max": 1.0}


@functools.cache
def _media() -> dict[str, dict[str, tuple[bytes, str]]]:
    """By clip: audio, target_audio, image and video, with the endings that fit."""
    made = {}
    for number in range(CLIPS):
        sound = encode(tone(0.3, 48000, 220.0 + 20 * number), 48000, "ogg", "libopus")
        target = encode(tone(0.2, 48000, 230.0 + 20 * number), 48000, "ogg", "libopus")
        film = media.part(encode(tone(0.5), 22050, "mp4", "aac", pictures=3 + number))
        picture = io.BytesIO()
        Image.new("RGB", (16, 12), (20 * number, 90, 60)).save(picture, "JPEG")
        made[f"clip-{number}"] = {"audio": (sound, "opus"), "target_audio": (target, "opus"),
                                  "image": (picture.getvalue(), "jpg"), "video": (film["video"], film["video_format"])}
    return made


def rows(dataset: str) -> list[dict]:
    """A row a clip; of MUEdit each with the clip's own edit, but one pair in each split."""
    found = []
    for place, (key, made) in enumerate(_media().items()):
        name, target = key, key
        if dataset == "muedit":
            mates = [other for other in _media() if (other in EVAL) == (key in EVAL)]
            target = mates[(mates.index(key) + 1) % len(mates)] if place in (0, 2) else key
            name = f"{key}@tempo-0.5" if target == key else f"{key}~{target}"
        row = write.DATASETS[dataset].row(joined(dataset)) | {"id": name, "source_id": key}
        if dataset == "muedit":
            row |= {"target_source_id": target, "edit": "tempo" if target == key else "pair"}
        row |= {column: medium(name, *made[column]) for column in made if column in row}
        found.append(row | {"caption": f"A piece of music, called {key}."})
    return found


def build(out: Path, change: Callable[[str, list[dict]], list[dict]] = lambda dataset, found: found,
          shards_a_split: int = 1) -> Path:
    """OUT of such a build; `change` may alter a dataset's rows before they are written, with the numbers following."""
    stats = {"datasets": {}, "made": {
        "assignment": "shared", "audioset": None, "captioners": {"image": "measured", "instruct": "template",
                                                                 "music": "measured", "video": "measured"},
        "descriptions": None, "edits": {"pitch": 0, "tempo": 1}, "pairing": {"threshold": 1.0}, "seed": 0,
        "source": "sample", "stages": {"fetch": "sample", "measure": "1"}, "tagger": None,
        "thresholds": {"min_duration": 2.0}}}
    planned = {}
    for dataset, maker in write.DATASETS.items():
        found = change(dataset, rows(dataset))
        by_split = {splits.TRAIN: [row for row in found if row["source_id"] not in EVAL],
                    splits.EVAL: [row for row in found if row["source_id"] in EVAL]}
        planned[dataset] = []
        for split, held in by_split.items():
            size = max(1, -(-len(held) // shards_a_split))
            for start in range(0, len(held), size):
                part = held[start:start + size]
                shard = write.Shard(dataset, split, f"data-{start // size:05d}-of-{shards_a_split:05d}-abc.arrow",
                                    tuple(part), 0)
                shards.write(shard.url(str(out)), maker.features().arrow_schema, part)
                planned[dataset].append(shard)
        ledger = [{"dataset": dataset, "id": row["id"], "source_id": row["source_id"],
                   "target_source_id": row.get("target_source_id"), "uri": "x", "detail": "", "outcome": "done",
                   "split": splits.EVAL if row["source_id"] in EVAL else splits.TRAIN} for row in found]
        ledger.append(ledger[0] | {"id": "lost", "source_id": "lost", "outcome": "silent", "split": splits.TRAIN})
        shards.write(str(out / "ledger" / f"{dataset}.arrow"), records.LEDGER, ledger)
        stats["datasets"][dataset] = {
            "requested": len(found) + 1, "done": len(found), "lost": {"silent": 1}, "clips": len(found), "hours": 0.01,
            "splits": {split: len(held) for split, held in by_split.items()}, "source_videos": len(found),
            **dict.fromkeys(("duration", "tempo", "loudness"), _SPREAD), "tempo_histogram": {"from 108 BPM": 1},
            "keys": {"C major": 1}, "captions": {"distinct": len(found), "words": _SPREAD},
            "agreement": {key: {"agrees": 1} for key in ("tempo", "key", "mode", "percussion")},
            **({"instructions": {key: {"distinct": 1, "words": _SPREAD} for key in ("human", "gpt")}}
               if dataset != "mucaps" else {}),
            **({"edits": dict(Counter(row["edit"] for row in found))} if dataset == "muedit" else {})}
    storage.write_json(str(out / "stats.json"), stats)
    storage.write_json(str(out / "run.json"), {"state": "done"})
    for dataset, plan in planned.items():
        write.finish(str(out), dataset, plan, card.card(str(out), dataset, plan, stats))
    return out


def shard(out: Path, dataset: str, split: str = splits.TRAIN) -> Path:
    """The first one of a split."""
    return sorted((out / "datasets" / dataset / split).glob("*.arrow"))[0]


def rewrite(path: Path, change: Callable[[list[dict]], list[dict]]) -> None:
    """Change a shard's rows behind the build's back."""
    schema = next(shards.batches(str(path))).schema
    found = change(list(shards.read(str(path))))
    shards.write(str(path), schema, found)


def edit_json(path: Path, change: Callable[[dict], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
