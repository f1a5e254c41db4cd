from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from manifests import shards
from pipelines.join import Part, joined

SCHEMA = pa.schema([("id", pa.string()), ("sound", pa.large_binary()), ("text", pa.string())])


@pytest.fixture
def stored(tmp_path) -> list[str]:
    urls = [str(tmp_path / f"{name}.arrow") for name in "xy"]
    for url in urls:
        shards.write(url, SCHEMA, [{"id": f"clip-{number}", "sound": bytes([number]) * 1000,
                                    "text": f"{url[-7]} {number}"} for number in range(120)])
    return urls


def test_parts_of_several_shards_and_clips_come_to_one_row(stored):
    first, second = stored
    rows = [{"id": f"{a}~{b}", "edit": "pair", "parts": {"source": Part(first, f"clip-{a}"),
                                                         "target": Part(second, f"clip-{b}"),
                                                         "words": Part(second, f"clip-{a}")}}
            for a, b in ((5, 119), (119, 5), (5, 5), (0, 60))]
    found = list(joined(rows, {"source": ("sound",), "target": ("sound", "text"), "words": ("text",)}))
    assert found == [{"id": f"{a}~{b}", "edit": "pair", "source": {"sound": bytes([a]) * 1000},
                      "target": {"sound": bytes([b]) * 1000, "text": f"y {b}"}, "words": {"text": f"y {a}"}}
                     for a, b in ((5, 119), (119, 5), (5, 5), (0, 60))]


def test_a_part_may_be_missing_by_name_but_not_by_row(stored):
    row = {"id": "a", "parts": {"source": Part(stored[0], "clip-1")}}
    assert list(joined([row], {"source": ("text",), "other": ("text",)})) == [
        {"id": "a", "source": {"text": "x 1"}, "other": None}]
    gone = {"id": "a", "parts": {"source": Part(stored[0], "clip-120")}}
    with pytest.raises(RuntimeError, match=r"x\.arrow: the row of clip-120 is gone; remove the shard"):
        list(joined([gone], {"source": ("text",)}))


def test_of_a_buckets_shards_only_the_wanted_rows_are_held(stored):
    fsspec.filesystem("memory").pipe("/join/x.arrow", Path(stored[0]).read_bytes())
    found = list(joined([{"id": "a", "parts": {"source": Part("memory://join/x.arrow", "clip-7")}}],
                        {"source": ("sound",)}))
    assert found == [{"id": "a", "source": {"sound": bytes([7]) * 1000}}]
    held = pa.total_allocated_bytes()
    rows = joined([{"id": "a", "parts": {"source": Part("memory://join/x.arrow", f"clip-{number}")}}
                   for number in range(0, 120, 40)], {"source": ("sound",)})
    next(rows)  # all are found by then
    assert pa.total_allocated_bytes() - held < 20_000, "three rows of a thousand bytes, not the shard's 120"
