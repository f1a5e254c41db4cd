import pytest

from pipelines import write
from pipelines.lines import Line
from pipelines.marks import Entry

KEYS = [f"clip-{index}" for index in range(400)]
SEGMENTS = {key: {"source_id": f"video of {key}"} for key in KEYS}


def index(suffix: str = "", size: int = 0) -> dict[str, dict[str, Entry]]:
    """One stage with media, and one with texts that a change of `suffix` changes."""
    return {"fetch": {key: Entry("fetch.arrow", "shard", "done", key, "", None, None, {"audio": size}) for key in KEYS},
            "caption": {key: Entry("caption.arrow", "shard", "done", f"{key}{suffix}", "", None, None, {})
                        for key in KEYS}}


def lines(keys=KEYS) -> list[Line]:
    return [Line(key, key, parts={"clip": ("fetch", key), "caption": ("caption", key)}) for key in keys]


def plan(keys=KEYS, captions="", size=2**20, split="train") -> list[write.Shard]:
    return write.plan("mucaps", lines(keys), SEGMENTS, dict.fromkeys(KEYS, split), index(captions, size))


def test_shards_are_bounded_and_hold_every_row_once_in_the_order_of_the_hash():
    planned = plan()
    assert len(planned) == 4  # 400 MB in shards of up to 128 MB: a power of two
    rows = [row["id"] for shard in planned for row in shard.rows]
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
    planned = write.plan("mucaps", lines(), SEGMENTS, split, index())
    assert {shard.split for shard in planned} == {"train", "eval"}
    for shard in planned:
        assert {split[row["id"]] for row in shard.rows} == {shard.split}


def test_rows_of_several_clips_lie_with_their_first():
    """A pair stands where its source stands, so that reading the sources goes through the clip store in order."""
    pairs = [Line(f"{a}~{b}", a, b, parts={"clip": ("fetch", a), "target": ("fetch", b)}, given={"edit": "pair"})
             for a, b in zip(KEYS, KEYS[7:], strict=False)]
    planned = write.plan("muedit", pairs, SEGMENTS, dict.fromkeys(KEYS, "train"), index(size=1000))
    rows = [row for shard in planned for row in shard.rows]
    assert [row["parts"]["clip"].id for row in rows] == sorted(KEYS[:-7], key=write.order)
    assert rows[0]["source_id"] == f"video of {rows[0]['parts']['clip'].id}"
    assert rows[0]["target_source_id"] == f"video of {rows[0]['parts']['target'].id}"
    assert planned[0].media == 2000 * len(planned[0].rows)


def test_what_no_stage_stores_is_in_the_name():
    one, other = ([Line("a", KEYS[0], parts={"clip": ("fetch", KEYS[0])}, given={"amount": amount})]
                  for amount in (0.5, 0.7))
    names = {write.plan("muedit", found, SEGMENTS, {KEYS[0]: "train"}, index())[0].name for found in (one, other)}
    assert len(names) == 2


def test_no_rows_no_shards():
    assert plan([]) == []
    with pytest.raises(KeyError):
        plan(["unknown"])
