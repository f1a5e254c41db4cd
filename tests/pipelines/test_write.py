import pytest

from pipelines import write
from pipelines.stage import Entry

KEYS = [f"clip-{index}" for index in range(400)]


def entries(suffix: str = "", size: int = 0) -> dict[str, Entry]:
    return {key: Entry("url", "shard", "done", f"{key}{suffix}", "", None, None, size) for key in KEYS}


def plan(keys=KEYS, captions="", size=2**20, split="train") -> list[write.Shard]:
    return write.plan("mucaps", dict.fromkeys(keys, split), entries(size=size), entries(), entries(captions))


def test_shards_are_bounded_and_hold_every_row_once_in_the_order_of_the_hash():
    planned = plan()
    assert len(planned) == 4  # 400 MB in shards of up to 128 MB: a power of two
    rows = [row.id for shard in planned for row in shard.rows]
    assert sorted(rows) == sorted(KEYS)
    assert rows == sorted(KEYS, key=write.order)
    assert plan(KEYS[::-1]) == planned


def test_names_follow_content_and_nothing_else():
    names = [shard.name for shard in plan()]
    assert [shard.name for shard in plan()] == names
    assert not set(names) & {shard.name for shard in plan(captions=" changed")}


def test_a_row_more_or_less_touches_its_shard_only():
    before, after = ({shard.name for shard in plan(keys)} for keys in (KEYS, KEYS[:-1]))
    assert len(before - after) == len(after - before) == 1


def test_splits_are_apart():
    split = {key: "eval" if index % 4 == 0 else "train" for index, key in enumerate(KEYS)}
    planned = write.plan("mucaps", split, entries(), entries(), entries())
    assert {shard.split for shard in planned} == {"train", "eval"}
    for shard in planned:
        assert {split[row.id] for row in shard.rows} == {shard.split}


def test_no_rows_no_shards():
    assert plan([]) == []
    with pytest.raises(KeyError):
        plan(["unknown"])
