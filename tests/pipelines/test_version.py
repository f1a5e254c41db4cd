"""A version follows from what the rows say, and from nothing else."""
import hashlib
import json
import os

import pytest
from datasets import Audio, load_from_disk

from pipelines import __main__ as cli
from pipelines import diff, sample, version
from tests.pipelines.handmade import dataset, row
from tests.pipelines.test_build import build

KEYS = [f"clip-{number}" for number in range(7)]
ROWS = {"train": [row(key) for key in KEYS[:5]], "eval": [row(key) for key in KEYS[5:]]}


def test_neither_workers_nor_order_nor_times_of_files_matter(tmp_path):
    """Names of shards, which hold what rows were made from, do follow the files' times."""
    folder, songs = tmp_path / "media", [key for key in sample.ids(0, 12) if sample.spec(key).bad is None][:2]
    folder.mkdir()
    for name, key in zip("ab", songs, strict=True):
        (folder / f"{name}.mp4").write_bytes(sample.render(key))
    options = ("--source", "folder", "--media", str(folder), "--datasets", "mucaps")
    build(tmp_path / "once", *options)
    for number, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, (1_000_000 + number, 1_000_000 + number))
    build(tmp_path / "grown", *options, "--limit", "1")
    part = version.versions(str(tmp_path / "grown"))
    build(tmp_path / "grown", *options, workers=2)
    once, grown = (version.versions(str(tmp_path / name)) for name in ("once", "grown"))
    assert once == grown != part
    shards = [{path.name for path in (tmp_path / name).rglob("data-*.arrow")} for name in ("once", "grown")]
    assert not set.intersection(*shards), "then their names would do"


def test_it_is_the_hash_that_it_says_it_is(tmp_path):
    """By hand, of what `datasets` reads."""
    build(tmp_path / "out", "--limit", "6")
    told = {}
    for split, rows in load_from_disk(str(tmp_path / "out" / "datasets" / "mucaps")).items():
        total = 0
        for one in rows.cast_column("audio", Audio(decode=False)):
            held = one.pop("audio")
            one["audio"] = {"path": held["path"], "sha256": hashlib.sha256(held["bytes"]).hexdigest()}
            total += int(hashlib.sha256(json.dumps(one, sort_keys=True).encode()).hexdigest(), 16)
        told[split] = [len(rows), f"{total % 2**256:064x}"]
    expected = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
    assert version.versions(str(tmp_path / "out")) == {"mucaps": expected}


def test_shards_do_not_matter(tmp_path):
    one = dataset(tmp_path / "one", ROWS)
    three = dataset(tmp_path / "three", {split: rows[::-1] for split, rows in ROWS.items()}, files=3)
    assert version.version(str(one)) == version.version(str(three))


@pytest.mark.parametrize("changed", [
    {"train": [row(KEYS[0], tempo=120.5), *ROWS["train"][1:]], "eval": ROWS["eval"]},
    {"train": [row(KEYS[0], audio={"bytes": b"sound of Clip-0", "path": f"{KEYS[0]}.opus"}), *ROWS["train"][1:]],
     "eval": ROWS["eval"]},
    {"train": [row(KEYS[0], audio=None), *ROWS["train"][1:]], "eval": ROWS["eval"]},
    {"train": [row(KEYS[0], chroma=[0.25, 0.5]), *ROWS["train"][1:]], "eval": ROWS["eval"]},
    {"train": ROWS["train"][1:], "eval": ROWS["eval"]},
    {"train": [*ROWS["train"], ROWS["train"][0]], "eval": ROWS["eval"]},
    {"train": ROWS["train"][1:], "eval": [*ROWS["eval"], ROWS["train"][0]]},
    {"train": ROWS["train"]},
    {"train": ROWS["eval"], "eval": ROWS["train"]},
], ids=["number", "medium", "no medium", "list", "less", "twice", "moved", "no split", "swapped"])
def test_whatever_rows_say_matters(tmp_path, changed):
    before, after = dataset(tmp_path / "a", ROWS), dataset(tmp_path / "b", changed)
    assert version.version(str(before)) != version.version(str(after))


def test_some_datasets_have_a_version_too(tmp_path):
    out = dataset(dataset(tmp_path, ROWS), {"train": ROWS["train"]}, "musicqa")
    found = version.versions(str(out))
    assert version.versions(str(out), ["mucaps"]) == {"mucaps": found["mucaps"]}
    assert version.version(str(out), ["musicqa"]) != version.version(str(out)) == version.together(found)


def test_a_build_in_a_bucket_has_the_same(tmp_path, bucket):
    import s3fs
    out = dataset(tmp_path / "out", ROWS, files=2)
    s3fs.S3FileSystem().put(str(out), f"{bucket}/out", recursive=True)
    assert version.versions(f"{bucket}/out") == version.versions(str(out))
    assert list(diff.changes(f"{bucket}/out", str(out))) == []


def test_the_command_and_its_errors(tmp_path, capsys):
    out = dataset(tmp_path / "out", ROWS)
    assert cli.main(["version", str(out)]) == 0
    assert capsys.readouterr().out == (f"{version.version(str(out))}\n"
                                       f"  mucaps {version.versions(str(out))['mucaps']}\n")
    broken = next((out / "datasets" / "mucaps" / "eval").glob("*.arrow"))
    broken.write_bytes(broken.read_bytes()[:-400])
    for place, said in ((out, str(broken)), (tmp_path / "nothing", "no datasets here; `make datasets OUT=")):
        assert cli.main(["version", str(place)]) == 1
        assert said in capsys.readouterr().err
