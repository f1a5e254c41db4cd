import hashlib
import json

import pyarrow as pa

from manifests import records
from pipelines import mucaps

CLIP = {"id": "a__b.mp3", "source_id": "a", "audio": b"sound", "audio_format": "mp3"}
MEASUREMENT = {field.name: {"string": "C", "double": 1.0, "int32": 1}.get(str(field.type), [1.0])
               for field in records.MEASUREMENT}
CAPTION = {"caption": "A piece.", "captioner": "measured", "captioner_revision": "1", "caption_prompt": "",
           "caption_seed": 7}


def test_a_row_fits_its_columns():
    row = mucaps.row(CLIP, MEASUREMENT, CAPTION)
    stored = pa.RecordBatch.from_pylist([row], schema=mucaps.features().arrow_schema).to_pylist()
    assert stored == [row]
    assert row["audio"] == {"bytes": b"sound", "path": "a__b.mp3"}
    assert mucaps.row(CLIP | {"id": "film.mp4"}, MEASUREMENT, CAPTION)["audio"]["path"] == "film.mp4.mp3"


def test_a_change_of_rows_is_a_new_version():
    """Shards are named by their inputs and `VERSION`: rows that change without it would not be written again."""
    row = json.dumps([mucaps.row(CLIP, MEASUREMENT, CAPTION), str(mucaps.features())], default=repr)
    assert (mucaps.VERSION, hashlib.sha256(row.encode()).hexdigest()[:12]) == (1, "ffe3dcdd5017")
