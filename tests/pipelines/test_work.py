"""What is asked again when something under a row changes, and what is not."""
import argparse
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from manifests import shards
from manifests.outcomes import Loss
from pipelines import options
from pipelines.progress import Progress
from pipelines.stage import Batch, Stage, tag
from pipelines.work import Work

SCHEMA = pa.schema([("id", pa.string()), ("outcome", pa.string()), ("detail", pa.string()), ("revision", pa.string()),
                    ("text", pa.string())])
LOG: list[str] = []


def listen(row: dict) -> dict:
    LOG.append(f"listen {row['id']}")
    if row["id"] == "mute":
        raise Loss("no_audio", "a picture only")
    return {"text": f"{row['id']} {row['revision']}"}


def shout(row: dict) -> dict:
    LOG.append(f"shout {row['id']}")
    return {"text": row["text"].upper()}


def marry(row: dict) -> dict:
    LOG.append(f"marry {row['id']}")
    return {"text": f"{row['one']['text']} {row['how']} {row['other']['text']}"}


def count(row: dict) -> dict:
    LOG.append(f"count {row['id']}")
    return {"text": str(len(row["text"]))}


def think(rows: list[dict]) -> list[dict]:
    LOG.extend(f"think {row['id']}" for row in rows)
    return [Loss("caption_failed", "nothing") if row["revision"] == "mute" else {"text": f"of {row['revision']}"}
            for row in rows]


def length(row: dict) -> int:
    return len(row["id"])


LISTEN = Stage("listen", "v1", SCHEMA, listen)
SHOUT = Stage("shout", tag(1, {}, LISTEN), SCHEMA, shout, reads=LISTEN)
MARRY = Stage("marry", "v1", SCHEMA, marry, parts={"one": ("text",), "other": ("text",)})
COUNT = Stage("count", tag(1, {}, MARRY), SCHEMA, count, reads=MARRY)

THINK = Stage("think", "v1", SCHEMA, dict, batch=Batch(think, 4, length, {}), shared=True)


def work(out: Path) -> Work:
    """As a build begins: what is known comes from the markers."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    asked = options.parse(parser, parser.parse_args(["--out", str(out), "--workers", "1"]), [])
    stages = {one.name: one for one in (LISTEN, SHOUT, MARRY, COUNT, THINK)}
    folders = {name: [one.folder(str(out))] for name, one in stages.items()}
    return Work(asked, stages, {}, {}, Progress(str(out), folders, 1, "FnApiRunner"), "")


def all_of_it(out: Path, revisions: dict[str, str], pairs=(("a", "b", "and"),)) -> tuple[Work, list[str]]:
    LOG.clear()
    it = work(out)
    it.ask([LISTEN, SHOUT], {key: {"id": key, "revision": revision} for key, revision in revisions.items()})
    it.ask([MARRY, COUNT], {f"{a}~{b}": it.row(f"{a}~{b}", {"one": ("shout", a), "other": ("listen", b)}, how=how)
                            for a, b, how in pairs})
    return it, sorted(LOG)


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_rows_are_made_of_parts_once(out):
    it, did = all_of_it(out, {"a": "1", "b": "1", "mute": "1"})
    assert did == ["count a~b", "listen a", "listen b", "listen mute", "marry a~b", "shout a", "shout b"]
    assert it.fate("a~b", ("marry", "count")) == ("done", "")
    assert it.fate("mute", ("listen", "shout")) == ("no_audio", "a picture only")
    assert it.fate("never", ("listen",)) == ("not_asked", "")
    assert it.done(["mute", "b", "a"], ("listen", "shout")) == ["b", "a"]
    assert all_of_it(out, {"a": "1", "b": "1", "mute": "1"})[1] == []


def test_a_part_that_changed_is_a_row_that_is_done_anew(out):
    all_of_it(out, {"a": "1", "b": "1", "c": "1"}, (("a", "b", "and"), ("b", "c", "and")))
    it, did = all_of_it(out, {"a": "2", "b": "1", "c": "1"}, (("a", "b", "and"), ("b", "c", "and")))
    assert did == ["count a~b", "listen a", "marry a~b", "shout a"]
    assert it.index["marry"]["a~b"].revision != it.index["marry"]["b~c"].revision


def test_what_is_given_counts_as_well(out):
    all_of_it(out, {"a": "1", "b": "1"})
    assert all_of_it(out, {"a": "1", "b": "1"}, (("a", "b", "or"),))[1] == ["count a~b", "marry a~b"]


def thought(out: Path, stage: Stage = THINK, **revisions: str) -> list[str]:
    LOG.clear()
    it = work(out)
    it.ask([stage], {key: {"id": key, "revision": revision} for key, revision in revisions.items()})
    assert it.done(revisions, ("think",)) == list(revisions)
    rows = {row["id"]: row for key in revisions for row in shards.read(it.index["think"][key].url)}
    assert {key: rows[key]["text"] for key in revisions} == {key: f"of {one}" for key, one in revisions.items()}
    return sorted(LOG)


def test_what_is_shared_is_made_once_for_whoever_has_the_same(out, tmp_path):
    assert thought(out, a="1") == ["think a"]
    assert thought(out, b="1", c="2") == ["think c"]
    assert thought(out, a="2", d="1") == []
    assert thought(out, e="3", f="4", g="3", h="1", i="3") == ["think e", "think f"]
    other = tmp_path / "other"
    other.mkdir()
    own = replace(THINK, shared=False)
    assert (thought(other, own, a="1"), thought(other, own, b="1")) == (["think a"], ["think b"])


def test_what_is_lost_is_lost_for_whoever_has_the_same(out):
    for again in (False, True):
        LOG.clear()
        it = work(out)
        it.ask([THINK], {key: {"id": key, "revision": revision} for key, revision in (
            ("a", "mute"), ("b", "1"), ("c", "mute"))})
        assert [it.fate(key, ("think",))[0] for key in "abc"] == ["caption_failed", "done", "caption_failed"]
        assert sorted(LOG) == ([] if again else ["think a", "think b"])


def test_what_is_no_longer_asked_for_is_not_known_and_not_forgotten(out):
    all_of_it(out, {"a": "1", "b": "1", "c": "1"}, (("a", "b", "and"), ("b", "c", "and")))
    it, did = all_of_it(out, {"a": "1", "b": "1"})
    assert (did, set(it.index["listen"]), set(it.index["marry"])) == ([], {"a", "b"}, {"a~b"})
    assert all_of_it(out, {"a": "1", "b": "1", "c": "1"}, (("a", "b", "and"), ("b", "c", "and")))[1] == []


def test_a_description_is_of_one_excerpt_of_a_video(out, tmp_path):
    told = tmp_path / "caps.csv"
    told.write_text("ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,"
                    "is_audioset_eval\n" "-0Gj8-vB1q4,30,40,/m/04rlf,['slow tempo'],A slow song.,4,False,True\n")
    it = work(out)
    it.options = replace(it.options, descriptions=str(told))
    it.segments = {key: {"source_id": "-0Gj8-vB1q4", "uri": "x", "start": start}
                   for key, start in (("meant", 30.0), ("other", 100.0), ("track", None))}
    given = {"tags": ["slow tempo"], "categories": None, "corpus": "MusicCaps", "caption": "A slow song."}
    assert it.described(it.segments) == {"meant": given, "track": given}
