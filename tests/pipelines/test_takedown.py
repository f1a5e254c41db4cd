"""Takedowns of a folder's files, which stay there: a build of all five datasets, before and after, byte by byte."""
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from datasets import load_dataset

from manifests import shards, splits, storage
from pipelines import __main__ as cli
from pipelines import forget, report, sample, takedown
from tests.pipelines import hubserver
from tests.pipelines.test_build import build, promised
from training.sources import SPLITS, Sources

UNKNOWN = "dQw4w9WgXcQ"
EDITS = ("--pitch-edits", "0")


def _songs() -> dict[str, str]:
    """Names of files that fall into the splits that are wanted, and what to play in them."""
    wanted = [(1, "train"), (2, "train"), (8, "train"), (28, "train"), (0, "eval"), (3, "train"), (3, "train"),
              (4, "train"), (5, "eval"), (6, "train")]
    names = [f"song-{number:03d}.mp4" for number in range(300)]
    by_split = {split: iter([name for name in names if splits.assign(name, "mucaps", "shared") == split])
                for split in SPLITS}
    return {next(by_split[split]): f"sample-0-{number:05d}" for number, split in wanted}


SONGS = _songs()
NAMES = list(SONGS)
COPY = NAMES[6]  # of NAMES[5]


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("media")
    for name, song in SONGS.items():
        (folder / name).write_bytes(sample.render(song))
    return ("--source", "folder", "--media", str(folder), "--datasets", ",".join(splits.SIZES), *EDITS)


@pytest.fixture(scope="module")
def built(options, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "out"
    build(out, *options, workers=2)
    return out


def chosen(out: Path) -> list[str]:
    """Five: a pair's source and a target of another, one in eval, one that was kept before its copy, and one more."""
    pairs = [row for row in report.ledger(str(out)) if "~" in row["id"] and row["outcome"] == "done"]
    first, second = (next(row for row in pairs if NAMES[place] in row["id"]) for place in (0, 2))
    assert len(pairs) >= 2 and first["id"] != second["id"]
    return [first["source_id"], second["target_source_id"], NAMES[4], NAMES[5], NAMES[7]]


@pytest.fixture(scope="module")
def after(built, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("after") / "out"
    shutil.copytree(built, out)
    ids = out.parent / "ids.txt"
    ids.write_text("# asked for by mail\n" + "\n".join([*chosen(built), f"{UNKNOWN}   # never seen", ""]))
    assert cli.main(["takedown", "--out", str(out), "--ids", str(ids)]) == 0
    return out


def rows(out: Path) -> dict[tuple[str, str, str], dict]:
    return {(dataset, split, row["id"]): row for dataset in splits.SIZES for split in SPLITS
            for url in Sources(str(out)).shards(dataset, split) for row in shards.read(url)}


def of(row: dict, ids) -> bool:
    return row["source_id"] in ids or row.get("target_source_id") in ids


def tree(out: Path) -> dict[str, bytes]:
    """Every byte but times."""
    found = {}
    for path in out.rglob("*"):
        name = str(path.relative_to(out))
        if path.is_file() and name not in ("run.json", "lock"):
            data = path.read_bytes()
            if name.startswith("stages/write"):
                data = json.dumps(json.loads(data) | {"started": 0, "seconds": 0, "cpu_seconds": 0}).encode()
            found[name] = data
    return found


def test_rows_of_five_sources_leave_every_dataset_and_all_others_stay_as_they_were(built, after):
    ids = chosen(built)
    old, new = rows(built), rows(after)
    assert new == {key: row for key, row in old.items() if not of(row, ids)}
    gone = Counter(dataset for dataset, _, _ in old.keys() - new.keys())
    assert gone.keys() == splits.SIZES.keys() and all(gone[name] >= 5 for name in splits.SIZES)
    assert any(row["source_id"] not in ids and row["target_source_id"] in ids for (dataset, _, _), row in old.items()
               if dataset == "muedit"), "a pair went for its target's sake"
    assert any(split == "eval" for _, split, _ in old.keys() - new.keys())
    [entry] = forget.log(str(after))
    assert entry["rows"] == gone.total() and entry["datasets"] == gone
    assert (entry["done"], entry["squashed"], len(entry["ids"])) == (True, [], 7)  # the copy's, and the unknown


def test_the_books_agree(built, after):
    stats, found = json.loads((after / "stats.json").read_text())["datasets"], list(report.ledger(str(after)))
    before = Counter(row["dataset"] for row in report.ledger(str(built)))
    for dataset, numbers in stats.items():
        lines = [row for row in found if row["dataset"] == dataset]
        assert numbers["requested"] == len(lines) == numbers["done"] + sum(numbers["lost"].values())
        assert numbers["lost"]["taken_down"] == 6
        assert numbers["requested"] == before[dataset] or dataset == "muedit"
        assert sum(numbers["splits"].values()) == numbers["done"] == sum(name == dataset for name, _, _ in rows(after))
        card = (after / "datasets" / dataset / "README.md").read_text()
        assert "taken down" in card and f"| taken_down | {6} |".replace(" ", "") in card.replace(" ", "")


def test_no_file_holds_the_ids_or_the_media(built, after):
    ids = {*chosen(built), COPY, UNKNOWN}
    media = {value["bytes"][len(value["bytes"]) // 2:][:64] for row in rows(built).values() if of(row, ids)
             for value in row.values() if isinstance(value, dict) and value.get("bytes")
             if row["source_id"] in ids or value is row.get("target_audio")}
    kept = {value["bytes"][len(value["bytes"]) // 2:][:64] for row in rows(after).values() for value in row.values()
            if isinstance(value, dict) and value.get("bytes")}
    assert len(media - kept) == 20, "sound, picture, film and edit of five"
    for path in after.rglob("*"):
        assert not any(one in str(path.relative_to(after)) for one in ids)
        data = path.read_bytes() if path.is_file() else b""
        assert not any(one.encode() in data for one in ids), path
        assert not any(one in data for one in media - kept), path


def test_only_shards_that_held_them_are_others(built, tmp_path):
    """One clip of eval, that is in no pair of train: what train has keeps its bytes, names and times."""
    out = tmp_path / "out"
    shutil.copytree(built, out)
    takedown.takedown(str(out), [NAMES[4]])
    for path in built.rglob("*.arrow"):
        if {"datasets", "train"} <= set(path.parts):
            mine = out / path.relative_to(built)
            assert mine.read_bytes() == path.read_bytes() and mine.stat().st_mtime_ns == path.stat().st_mtime_ns
        if {"datasets", "eval"} <= set(path.parts):
            assert not (out / path.relative_to(built)).exists()


def test_a_build_finds_it_all_as_it_is(after, options, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(after, out)
    assert set(build(out, *options).values()) == {0}
    assert promised(out) == promised(after)


@pytest.mark.slow
def test_nor_does_one_that_begins_anew_bring_them_back(built, after, options, tmp_path):
    """With the same memory it is the same to the byte: as if they had never been asked for."""
    out = tmp_path / "out"
    shutil.copytree(after / "takedown", out / "takedown")
    assert build(out, *options, workers=2)["fetch"] == len(SONGS) - 6
    assert promised(out) == promised(after)


def test_a_clip_that_lost_its_partner_may_find_another(built, options, tmp_path):
    """The one thing that a build adds: a row for each pair that is one now."""
    out = tmp_path / "out"
    shutil.copytree(built, out)
    wide = (*options, "--pair-threshold", "100", "--max-pairs-per-clip", "2", "--min-tempo-confidence", "0")
    build(out, *wide)
    pairs = {row["id"] for row in report.ledger(str(out)) if "~" in row["id"]}
    gone = {max(NAMES, key=lambda name: sum(name in one for one in pairs))}
    takedown.takedown(str(out), gone)
    left = {one for one in pairs if not gone & set(one.split("~"))}
    told = {row["id"]: row for row in report.ledger(str(out)) if row["dataset"] == "muedit"}
    assert {key for key in told if "~" in key} == left
    build(out, *wide)
    found = {row["id"] for row in report.ledger(str(out)) if "~" in row["id"]}
    assert found > left and not any(name in one for one in found for name in gone)
    free = {clip for one in pairs - left for clip in one.split("~")} - gone
    assert all(told[clip]["outcome"] == "no_pair" for clip in free)


def test_what_a_copy_of_it_was_lost_for_is_not_made_from_the_copy(built, after):
    assert [row["outcome"] for row in report.ledger(str(built)) if row["id"] == COPY] == ["duplicate"] * 5
    assert forget.hashed(COPY) in forget.remembered(str(after))


class Killed(BaseException):
    pass


def killed(out: Path, monkeypatch, moment: int, ids) -> bool:
    """A takedown that dies before it renames or removes the n-th file; whether it came so far. What it was in the
    middle of writing stays, as after a real kill."""
    left = moment

    def dying(call, *given, **named):
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return call(*given, **named)

    with monkeypatch.context() as patch:
        for name in ("replace", "remove"):
            patch.setattr(os, name, partial(dying, getattr(os, name)))
        patch.setattr(shutil, "rmtree", partial(dying, shutil.rmtree))
        try:
            takedown.takedown(str(out), ids)
        except Killed:
            return True
    return False


def _killed_and_mended(built: Path, after: Path, tmp_path: Path, monkeypatch, moments) -> int:
    ids, whole, count = [*chosen(built), UNKNOWN], tree(after), 0
    for moment in moments:
        out = tmp_path / "out"
        shutil.copytree(built, out)
        if not killed(out, monkeypatch, moment, ids):
            shutil.rmtree(out)
            break
        count += 1
        if moment >= 2:  # after the memory was written, whoever comes next goes on
            with storage.lock(str(out)):
                forget.finish(str(out))
        else:
            takedown.takedown(str(out), ids)
        found = tree(out)
        assert found.keys() == whole.keys(), moment
        assert [name for name in whole if found[name] != whole[name]] == [], moment
        shutil.rmtree(out)
    return count


def test_killed_anywhere_it_is_finished_by_whoever_comes_next(built, after, tmp_path, monkeypatch):
    draw = random.Random(9)
    moments = [0, 1, 2, 3, *sorted(draw.sample(range(4, 60), 5))]
    assert _killed_and_mended(built, after, tmp_path, monkeypatch, moments) >= 7


def test_a_build_finishes_what_a_killed_takedown_began(built, after, options, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(built, out)
    assert killed(out, monkeypatch, 9, [*chosen(built), UNKNOWN])
    build(out, *options)
    assert promised(out) == promised(after)


def test_datasets_of_an_earlier_build_lose_them_too(built, options, tmp_path):
    out, ids = tmp_path / "out", chosen(built)
    shutil.copytree(built, out)
    build(out, *options[:4], "--datasets", "mucaps")
    takedown.takedown(str(out), ids)
    assert rows(out) == {key: row for key, row in rows(built).items() if not of(row, ids)}
    loaded = load_dataset(str(out / "datasets" / "musicqa"), cache_dir=str(tmp_path / "cache"))
    assert {one for split in loaded.values() for one in split["id"]} == {
        key for dataset, _, key in rows(out) if dataset == "musicqa"}


@pytest.mark.slow
def test_killed_before_each_file_of_all(built, after, tmp_path, monkeypatch):
    assert _killed_and_mended(built, after, tmp_path, monkeypatch, range(10_000)) > 60


def test_a_second_time_nothing_happens(after, built, capsys, tmp_path):
    before = tree(after)
    (tmp_path / "ids").write_text("\n".join(chosen(built)))
    assert cli.main(["takedown", "--out", str(after), "--ids", str(tmp_path / "ids")]) == 0
    assert tree(after) == before
    assert "0 are new" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "words"), [
    ("../../etc/passwd", "line 1"), ("ok\nhttps://youtu.be/dQw4w9WgXcQ", "line 2"), ("a b", "line 1"),
    ("\x1b[31mred", "line 1"), ("# nothing", "no rows"), ("x" * 300, "line 1")])
def test_bad_lists_are_refused_whole(built, tmp_path, capsys, text, words):
    before = tree(built)
    (tmp_path / "ids").write_text(text)
    assert cli.main(["takedown", "--out", str(built), "--ids", str(tmp_path / "ids")]) == 1
    said = capsys.readouterr().err
    assert words in said and "\x1b" not in said and tree(built) == before


def test_a_list_from_another_system_is_read(tmp_path):
    (tmp_path / "ids").write_bytes(b"\xef\xbb\xbfa-1\r\n\r\n  -B_2  # by mail\r\na-1\r\n-b_2")
    assert takedown.read(str(tmp_path / "ids")) == ["a-1", "-B_2", "-b_2"]


@pytest.mark.parametrize(("out", "ids", "code", "words"), [
    ("built", "", 2, "IDS="), ("built", "missing", 1, "nothing was taken down: "), ("built", ".", 1, "Is a directory"),
    ("dtaa", "ids", 1, "nothing was taken down: dtaa: no build here")])
def test_a_slip_of_the_pen_is_told_and_writes_nothing(built, tmp_path, monkeypatch, capsys, out, ids, code, words):
    before = tree(built)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids").write_text(NAMES[0])
    try:
        assert cli.main(["takedown", "--out", str(built) if out == "built" else out, "--ids", ids]) == code
    except SystemExit as left:
        assert left.code == code
    said = capsys.readouterr().err
    assert words in said and "What was done" not in said
    assert tree(built) == before and os.listdir(tmp_path) == ["ids"]


def test_while_a_build_is_at_work_nothing_is_promised(built, tmp_path, capsys):
    before = tree(built)
    (tmp_path / "ids").write_text(NAMES[0])
    with storage.lock(str(built)):
        assert cli.main(["takedown", "--out", str(built), "--ids", str(tmp_path / "ids")]) == 1
    assert tree(built) == before and "another build is at work here" in capsys.readouterr().err


def test_what_the_build_never_saw_is_named(built, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(built, out)
    odd = NAMES[0].upper()
    (tmp_path / "ids").write_text(f"{NAMES[0]}\n{odd}\n{UNKNOWN}")
    (out / "other.html").write_text("<!doctype html><title>Build report</title>" + NAMES[0])
    (out / "mine.html").write_text("<title>Mine</title>")
    assert cli.main(["takedown", "--out", str(out), "--ids", str(tmp_path / "ids")]) == 0
    said = capsys.readouterr().out
    assert "3 are new, and 1 of these were in the build" in said
    assert f"not in the build: {', '.join(sorted([odd, UNKNOWN]))}. " in said
    assert sorted(path.name for path in out.glob("*.html")) == ["mine.html"], "a report by another name goes too"


def test_when_all_is_gone_there_is_nothing_to_publish(built, options, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(built, out)
    (tmp_path / "ids").write_text("\n".join(NAMES))
    command = ["takedown", "--out", str(out), "--ids", str(tmp_path / "ids")]
    assert cli.main([*command, "--repo", "maker/music"]) == 1
    assert "no row left to publish" in capsys.readouterr().err
    assert rows(out) == {} and os.listdir(out / "datasets") == []
    stats = json.loads((out / "stats.json").read_text())["datasets"]
    assert {name: one["done"] for name, one in stats.items()} == dict.fromkeys(stats, 0)
    assert len(stats) == len(splits.SIZES) and cli.main(command) == 0


def test_ids_of_a_source_that_is_another_ones_beginning(tmp_path):
    """A folder's `song_2` is no segment of the video `song`, but of an id that no record knows it may be one."""
    from pipelines.traces import Gone
    gone = Gone(frozenset({forget.hashed("song")}), forget.hashed, {"song_2": "song_2"})
    assert gone("song") and gone("song~other") and gone("other~song") and gone("song@tempo-0.8")
    assert gone("song_30000") and gone("a~song_30000")
    assert not gone("song_2") and not gone("song_2@pitch-up-1") and not gone("songs")


def test_the_memory_lies_in_a_bucket_too(bucket):
    forget.note(bucket, [])
    takedown.takedown(bucket, [UNKNOWN])
    assert forget.remembered(bucket) == {forget.hashed(UNKNOWN)}


@pytest.mark.slow
def test_features_go_as_well_and_what_others_have_is_not_encoded_again(built, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(built, out)
    features = ["features", "--out", str(out), "--workers", "1"]
    assert cli.main(features) == 0
    ids = chosen(built)
    old = rows(built)

    def digests(found) -> set[str]:
        return {hashlib.sha256(value["bytes"]).hexdigest() for row in found for name, value in row.items()
                if name in ("audio", "image", "video") and value}

    stay = digests(row for row in old.values() if not of(row, ids))
    gone = digests(row for row in old.values() if of(row, ids)) - stay
    assert gone and sum(digest in path.read_text() for path in out.rglob("features-*/**/*.json") for digest in gone)
    takedown.takedown(str(out), ids)
    for path in out.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not any(one.encode() in data for one in [*ids, *gone]), path
    kept = {key for path in out.rglob("features-*/**/*.json") for key in json.loads(path.read_text())["rows"]}
    assert cli.main(features) == 0
    now = {key for path in out.rglob("features-*/**/*.json") for key in json.loads(path.read_text())["rows"]
           if "/" not in key}
    assert now <= kept, "nothing was encoded again"


PUBLISHING = """
import sys
from pipelines import __main__ as cli
out, ids = sys.argv[1:]
publish = ["publish", "--out", out, "--repo", "maker/music"]
steps = [publish, ["takedown", "--out", out, "--ids", ids, "--repo", "maker/music"],
         ["takedown", "--out", out, "--ids", ids, "--repo", "maker/music", "--squash"]]
for step in steps:
    if cli.main(step):
        sys.exit(f"failed: {step}")
    print("---", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_what_was_published_follows_and_its_history_on_request(built, tmp_path):
    out, ids = tmp_path / "out", tmp_path / "ids"
    shutil.copytree(built, out)
    ids.write_text("\n".join(chosen(built)))
    with hubserver.serving() as hub:
        env = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": hubserver.TOKEN, "HF_HOME": str(tmp_path / "hf"),
                            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", PUBLISHING, str(out), str(ids)]
        with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            def step() -> None:
                said = []
                for line in process.stdout:
                    if line == "---\n":
                        return
                    said.append(line)
                raise AssertionError("".join(said))

            def go_on() -> None:
                process.stdin.write("\n")
                process.stdin.flush()

            def holds(one: bytes) -> bool:
                return any(one in data for commit in hub.repos["dataset", "maker/music"].commits
                           for data in (blob.data for blob in commit.files.values()))

            step()
            repo = hub.repos["dataset", "maker/music"]
            count = len(repo.commits)
            go_on()
            step()
            card = hub.files("dataset", "maker/music")["README.md"].decode()
            rows_gone = forget.log(str(out))[0]["rows"]
            assert [one.title for one in repo.commits[count:]] == [f"takedown: {rows_gone} rows"]
            assert "may still hold them" in card
            assert not any(name.encode() in data for data in hub.files("dataset", "maker/music").values()
                           for name in chosen(built))
            old = repo.commits[count - 1].files
            go_on()
            step()
            titles = [one.title for one in repo.commits]
            assert len(titles) == 2 and titles[0].startswith(f"takedown: {rows_gone} rows"), titles
            card = hub.files("dataset", "maker/music")["README.md"].decode()
            assert "the history was squashed" in card and "may still hold them" not in card
            assert not {blob.oid for blob in old.values() if blob.data[:4] == b"PAR1"} & {
                blob.oid for commit in repo.commits for blob in commit.files.values()}
            go_on()
        assert process.returncode == 0
    assert forget.log(str(out))[0]["squashed"] == ["maker/music"]
