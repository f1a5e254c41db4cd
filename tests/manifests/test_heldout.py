import csv
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from manifests import heldout
from tests.conftest import SHARED

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lists() -> list[Path]:
    """AudioSet's evaluation list and MusicCaps' ids, where a checkout has them beside it."""
    found = [SHARED.parent / "audioset" / name for name in ("eval_segments.csv", "musiccaps_ids.txt")]
    if not all(path.is_file() for path in found):
        pytest.skip("no shared lists beside this checkout")
    return found


def test_the_file_is_what_the_lists_give(lists, tmp_path):
    assert heldout.write(map(str, lists), str(tmp_path / "heldout.bin")) == 23034
    assert (tmp_path / "heldout.bin").read_bytes() == (ROOT / "manifests" / "heldout.bin").read_bytes()


def test_each_id_of_the_lists_is_held_out_and_no_other_of_the_training_list(lists):
    with open(lists[0], newline="") as file:
        evaluation = {row["YTID"] for row in csv.DictReader(file)}
    captions = set(lists[1].read_text().split())
    assert (len(evaluation), len(captions), len(evaluation | captions)) == (20371, 5521, 23034)
    assert all(map(heldout.holds, evaluation | captions))
    with open(lists[0].with_name("balanced_train_segments.csv"), newline="") as file:
        training = {row["YTID"] for row in csv.DictReader(file)}
    assert {key for key in training if heldout.holds(key)} == training & captions


def test_a_few_ids_that_are_held_out():
    for key in ("--4gqARaEJE", "-0Gj8-vB1q4", "zzbTaK7CXJY", "-0SdAVK79lg"):
        assert heldout.holds(key)


@pytest.mark.parametrize("key", [
    "dQw4w9WgXcQ", "AAAAAAAAAAA", "__________8",       # YouTube's form, and in no list
    "zzbTaK7CXJZ",                                     # the same 64 bits as one that is held, but not canonical
    "zzbTaK7CXJY=", "zzbTaK7CXJ", "zzbTaK7CXJY\n", " zzbTaK7CXJY", "+0Gj8+vB1q4", "", "-", "music/a.mp3",
    "ééééééééééA", "٣٣٣٣٣٣٣٣٣٣A", "a" * 100000, "\x00" * 11])
def test_what_is_not_held_out(key):
    assert not heldout.holds(key)


def test_write_takes_lists_with_the_id_first_and_sorts_them(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbf# Segments csv\r\n\r\n__________8, 0.000, 10.000, "/m/04rlf"\r\n')
    (tmp_path / "b.txt").write_text('ytid,start_s\n"AAAAAAAAAAE",3\nAAAAAAAAAAA\n__________8\n')
    out = tmp_path / "out.bin"
    assert heldout.write([str(tmp_path / "a.csv"), str(tmp_path / "b.txt")], str(out)) == 3
    assert out.read_bytes() == bytes(8) + bytes(7) + b"\x01" + b"\xff" * 8


@pytest.mark.parametrize(("text", "message"), [
    ("AAAAAAAAAAA\nAAAAAAAAAAB\n", "a.txt: row 2: 'AAAAAAAAAAB' is not a YouTube id"),
    ("AAAAAAAAAAA\nytid\n", "a.txt: row 2: 'ytid' is not a YouTube id"),
    ("\x1b[2J\n", r"a.txt: row 1: '\\x1b\[2J' is not"),
    ("ytid\n", "a.txt: no ids in it"),
])
def test_write_refuses_a_list_with_anything_else(tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        heldout.write([str(tmp_path / "a.txt")], str(tmp_path / "out.bin"))
    assert not (tmp_path / "out.bin").exists()


def test_a_wheel_brings_the_file(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "manifests", source / "manifests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    for package in ("captioners", "pairing", "pipelines", "pipelines/page", "pipelines/sample", "training"):
        (source / package).mkdir()
        (source / package / "__init__.py").touch()
    subprocess.run([sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(tmp_path)], cwd=source,
                   check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as file:
        assert file.read("manifests/heldout.bin") == (ROOT / "manifests" / "heldout.bin").read_bytes()
    # Python imports from the wheel as it is: what it reads, it reads as a resource of the package.
    code = "from manifests import heldout; print(heldout.__file__, heldout.holds('-0Gj8-vB1q4'))"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(wheel)}, cwd=tmp_path, check=True,
                          capture_output=True, text=True)
    assert done.stdout.startswith(str(wheel)) and done.stdout.endswith(" True\n")
