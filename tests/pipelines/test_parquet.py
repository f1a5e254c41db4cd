"""Parquet of shards: the same rows in small groups, columns that `datasets` and the viewer know, the same bytes."""
import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Audio, Features, Image, Value, Video, load_dataset

from manifests import shards
from pipelines import parquet
from pipelines.verify import Shard
from tests.pipelines import whole

FEATURES = Features({"id": Value("string"), "audio": Audio(), "caption": Value("string")})


def written(folder: Path, count: int, size: int, name: str = "data.arrow", first: int = 0) -> str:
    """A shard of rows with `size` bytes of sound each."""
    rows = ({"id": f"{number}", "audio": {"bytes": hashlib.shake_128(b"%d" % number).digest(size), "path": "x.opus"},
             "caption": f"Piece {number}."} for number in range(first, first + count))
    shards.write(str(folder / name), FEATURES.arrow_schema, rows)
    return str(folder / name)


def groups(path: Path) -> list[int]:
    about = pq.read_metadata(path)
    return [about.row_group(number).num_rows for number in range(about.num_row_groups)]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return whole.build(tmp_path_factory.mktemp("whole") / "out", shards_a_split=2)


@pytest.mark.parametrize("dataset", ["mucaps", "muedit", "muimage", "muvideo", "musicqa"])
def test_rows_and_columns_are_those_of_the_shards(made, tmp_path, dataset):
    urls = [str(path) for path in sorted((made / "datasets" / dataset / "train").glob("*.arrow"))]
    assert len(urls) == 2
    wanted = [row for url in urls for row in shards.read(url)]
    media = {"mucaps": {"audio": Audio}, "muedit": {"audio": Audio, "target_audio": Audio},
             "muimage": {"image": Image, "audio": Audio}, "muvideo": {"video": Video, "audio": Audio},
             "musicqa": {"audio": Audio}}[dataset]
    for embed in ("media", "none"):
        path = tmp_path / f"{embed}.parquet"
        assert parquet.write(path, urls, embed) == len(wanted) == 10
        kept = [{name: value for name, value in row.items() if embed == "media" or name not in media}
                for row in wanted]
        assert pq.read_table(path).to_pylist() == kept
        # What `datasets` makes of the file alone, without a card.
        found = load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "cache"), split="train").features
        assert {name: kind for name, kind in media.items() if name in found} == (media if embed == "media" else {})
        assert all(isinstance(found[name], kind) for name, kind in media.items() if embed == "media")
        assert found == parquet.features(next(shards.batches(urls[0])).schema, embed)
    sound = b"".join(row["audio"]["bytes"] for row in wanted)
    data = (tmp_path / "none.parquet").read_bytes()
    assert len(data) < len(sound) and not any(row["audio"]["bytes"][64:128] in data for row in wanted)


def test_groups_are_small_in_rows_and_in_bytes(tmp_path):
    few = written(tmp_path, 430, 100)
    parquet.write(tmp_path / "few.parquet", [few], "media")
    assert groups(tmp_path / "few.parquet") == [100, 100, 100, 100, 30]
    parquet.write(tmp_path / "text.parquet", [few], "none")
    assert groups(tmp_path / "text.parquet") == [430]
    large = written(tmp_path, 100, 2 * 2**20, "large.arrow")  # 3 rows a batch of 8 MiB
    parquet.write(tmp_path / "large.parquet", [large], "media")
    assert set(groups(tmp_path / "large.parquet")[:-1]) == {30} and sum(groups(tmp_path / "large.parquet")) == 100


def test_memory_holds_a_group_and_not_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_BYTES", 8 * 2**20)
    pool, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    peaks = []
    for count in (24, 96):
        url = written(tmp_path, count, 2**20, f"{count}.arrow")
        pool = pa.proxy_memory_pool(usual)
        pa.set_memory_pool(pool)
        try:
            parquet.write(tmp_path / "x.parquet", [url], "media")
        finally:
            pa.set_memory_pool(usual)
        peaks.append(pool.max_memory())
    assert 0 < peaks[1] < 1.2 * peaks[0] and peaks[1] < 48 * 2**20


def test_the_same_rows_give_the_same_bytes(tmp_path):
    urls = [written(tmp_path, 60, 1000, f"{number}.arrow", 60 * number) for number in range(3)]
    for name in ("one", "other"):
        parquet.write(tmp_path / name, urls, "media")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    parquet.write(tmp_path / "fewer", urls[:2], "media")
    assert (tmp_path / "fewer").read_bytes() != (tmp_path / "one").read_bytes()


def test_files_are_few_and_of_whole_shards():
    def shard(number: int, media: int) -> Shard:
        return Shard(f"{number}", 10, media * 2**20, 2**20)
    found = [shard(number, 127) for number in range(9)]
    assert [[one.url for one in group] for group in parquet.plan(found, "media")] == [list("0123"), list("4567"), ["8"]]
    assert parquet.plan(found, "none") == [found]
    assert [len(group) for group in parquet.plan([shard(0, 2000), shard(1, 1)], "media")] == [1, 1]
    assert parquet.plan([], "none") == []
