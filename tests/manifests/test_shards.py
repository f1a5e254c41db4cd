import os

import fsspec
import pyarrow as pa
import pytest
from datasets import load_dataset

from manifests import shards, storage

SCHEMA = pa.schema([("id", pa.string()), ("media", pa.large_binary()), ("value", pa.float64())])


def rows(count: int, size: int = 10) -> list[dict]:
    return [{"id": f"clip-{index}", "media": bytes([index % 256]) * size, "value": index / 3} for index in range(count)]


def test_reads_back_what_was_written(tmp_path):
    url = str(tmp_path / "a" / "b.arrow")
    assert shards.write(url, SCHEMA, iter(rows(120))) == 120
    assert list(shards.read(url)) == rows(120)
    assert list(shards.read(url, ["value", "id"])) == [{"id": row["id"], "value": row["value"]} for row in rows(120)]


def test_batches_are_bounded_by_rows_and_by_bytes(tmp_path):
    url = str(tmp_path / "a.arrow")
    shards.write(url, SCHEMA, rows(120))
    assert [batch.num_rows for batch in shards.batches(url)] == [50, 50, 20]
    shards.write(url, SCHEMA, rows(5, size=3 * 2**20))
    assert [batch.num_rows for batch in shards.batches(url)] == [2, 2, 1]


def test_rows_are_taken_one_batch_at_a_time(tmp_path):
    taken = []

    def source():
        for row in rows(200, size=2**20):
            taken.append(row["id"])
            yield row
            written = sum(path.stat().st_size for path in tmp_path.iterdir())
            assert len(taken) * 2**20 - written < 3 * shards.BATCH_BYTES

    shards.write(str(tmp_path / "a.arrow"), SCHEMA, source())
    assert len(taken) == 200


def test_equal_rows_give_equal_bytes(tmp_path):
    for name in "ab":
        shards.write(str(tmp_path / name), SCHEMA, rows(77))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_the_old_shard_and_no_litter(tmp_path):
    url = str(tmp_path / "a.arrow")
    shards.write(url, SCHEMA, rows(3))

    def broken():
        yield rows(1)[0]
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError):
        shards.write(url, SCHEMA, broken())
    assert list(shards.read(url)) == rows(3)
    assert os.listdir(tmp_path) == ["a.arrow"]


def test_bad_rows_and_bad_shards_are_named(tmp_path):
    url = str(tmp_path / "a.arrow")
    with pytest.raises(ValueError, match=r"a\.arrow: rows 50 to 50 "):
        shards.write(url, SCHEMA, [*rows(50), {"id": "x", "media": b"", "value": "loud"}])
    shards.write(url, SCHEMA, rows(60, size=1000))
    data = (tmp_path / "a.arrow").read_bytes()
    for broken in (b"", b"no arrow", data[: len(data) // 2]):
        (tmp_path / "a.arrow").write_bytes(broken)
        with pytest.raises(ValueError, match=r"a\.arrow: not a readable Arrow shard"):
            list(shards.read(url))
    shards.write(url, SCHEMA, rows(1))
    with pytest.raises(KeyError, match="no column colour"):
        list(shards.read(url, ["id", "colour"]))


def test_another_file_system_than_the_local_one():
    url = "memory://bucket/x/a.arrow"
    shards.write(url, SCHEMA, rows(60))
    assert list(shards.read(url, ["id"])) == [{"id": row["id"]} for row in rows(60)]
    storage.write_json("memory://bucket/x/a.json", {"é": [1]})
    assert storage.read_json("memory://bucket/x/a.json") == {"é": [1]}
    assert storage.names("memory://bucket/x") == ["a.arrow", "a.json"]
    assert storage.size(url) == len(fsspec.filesystem("memory").cat("/bucket/x/a.arrow"))
    storage.remove("memory://bucket/x")
    assert storage.names("memory://bucket/x") == []


def test_datasets_opens_a_shard_directly(tmp_path):
    shards.write(str(tmp_path / "train" / "data-0.arrow"), SCHEMA, rows(60))
    found = load_dataset("arrow", data_files=str(tmp_path / "train" / "*.arrow"), split="train",
                         cache_dir=str(tmp_path / "cache"))
    assert found["value"][:] == [row["value"] for row in rows(60)]
