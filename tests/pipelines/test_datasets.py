"""What holds for the rows of each dataset; whole builds are in test_build.py."""
import hashlib
import json

import pyarrow as pa
import pytest
from datasets import Audio, Image, Video

from manifests import records, splits
from pipelines.write import DATASETS

VALUES = {"string": "text", "double": 1.5, "int32": 1, "int64": 7, "large_binary": b"media"}
TURNS = [{"from": "human", "value": "Do.", "input_modality": "audio", "output_modality": None, "caption": "A piece."},
         {"from": "gpt", "value": "Done.", "input_modality": None, "output_modality": "audio", "caption": "Another."}]
STORED = {"clip": records.CLIP, "target": records.CLIP, "measurement": records.MEASUREMENT,
          "target_measurement": records.MEASUREMENT, "frame": records.FRAME, "video": records.VIDEO,
          "check": records.AGREEMENT, "target_check": records.AGREEMENT, "instruction": records.INSTRUCTION,
          **dict.fromkeys(("caption", "target_caption", "image_caption", "video_caption"), records.CAPTION)}
GIVEN = {"muedit": {"edit": "tempo", "amount": 0.5, "distance": None},
         "musicqa": {"description": None, "tags": ["rock", "loud"]}}


def joined(dataset: str, **changed) -> dict:
    """A row as pipelines.join gives it, with a value in every column."""
    def value(part: str, name: str):
        kind = STORED[part].field(name).type
        return TURNS if name == "conversation" else VALUES.get(str(kind), [1.0] if pa.types.is_list(kind) else None)
    maker = DATASETS[dataset]
    return {"id": "a__b.mp3", "source_id": "a", "target_source_id": "b", **GIVEN.get(dataset, {}),
            **{part: {name: value(part, name) for name in names} for part, names in maker.PARTS.items()}, **changed}


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_row_fits_its_columns(dataset):
    maker = DATASETS[dataset]
    row = maker.row(joined(dataset))
    stored = pa.RecordBatch.from_pylist([row], schema=maker.features().arrow_schema).to_pylist()
    assert stored == [row]
    assert set(row) == set(maker.features())
    media = {name: kind for name, kind in maker.features().items() if isinstance(kind, (Audio, Image, Video))}
    assert {row[name]["bytes"] for name in media} == {b"media"}
    assert row["audio"]["path"] == "a__b.mp3.text"
    # Takedown looks for source videos by the end of a column's name.
    assert {row[name] for name in row if name.endswith("source_id")} == ({"a", "b"} if dataset == "muedit" else {"a"})


def test_a_name_keeps_its_ending_where_that_is_right():
    clip = {"audio": b"sound", "audio_format": "mp3"}
    assert DATASETS["mucaps"].row(joined("mucaps", clip=clip))["audio"]["path"] == "a__b.mp3"


def test_a_video_that_fits_as_it_came_is_the_clips_own():
    kept = joined("muvideo")["video"] | {"video": None, "video_format": None}
    clip = {"audio": b"sound", "audio_format": "opus", "video": b"as it came", "video_format": "mkv"}
    row = DATASETS["muvideo"].row(joined("muvideo", video=kept, clip=clip))
    assert row["video"] == {"bytes": b"as it came", "path": "a__b.mp3.mkv"}


def test_every_dataset_has_its_share_and_every_share_its_dataset():
    assert set(DATASETS) == set(splits.SIZES)


@pytest.mark.parametrize(("dataset", "version", "digest"), [
    ("mucaps", 2, "708921503eba"), ("muedit", 1, "5200637cde83"), ("muimage", 1, "7aa68e3e7e3e"),
    ("muvideo", 1, "3811a6a10b60"), ("musicqa", 1, "0983b646961a")])
def test_a_change_of_rows_is_a_new_version(dataset, version, digest):
    """Shards are named by their inputs and `VERSION`: rows that change without it would not be written again."""
    row = json.dumps([DATASETS[dataset].row(joined(dataset)), str(DATASETS[dataset].features())], default=repr)
    assert (DATASETS[dataset].VERSION, hashlib.sha256(row.encode()).hexdigest()[:12]) == (version, digest)
