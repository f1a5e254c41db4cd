import os

import pytest

from manifests import storage


def test_unchanged_bytes_are_not_written_again(tmp_path):
    url = str(tmp_path / "a")
    storage.write_bytes(url, b"one")
    os.utime(url, (1, 1))
    storage.write_bytes(url, b"one")
    assert os.stat(url).st_mtime == 1
    storage.write_bytes(url, b"two")
    assert os.stat(url).st_mtime > 1
    assert storage.read_bytes(url) == b"two"


def test_nothing_appears_before_the_end(tmp_path):
    with storage.create(str(tmp_path / "a")) as file:
        file.write(b"half")
        assert not storage.exists(str(tmp_path / "a"))
        assert all(name.startswith(storage.TEMPORARY) for name in storage.names(str(tmp_path)))
    assert storage.names(str(tmp_path)) == ["a"]


def test_sweep_removes_what_a_killed_process_left_and_nothing_else(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in (f"{storage.TEMPORARY}123-a.arrow", f"deep/{storage.TEMPORARY}9-b", "a.arrow", "deep/b"):
        (tmp_path / name).write_bytes(b"x")
    storage.sweep(str(tmp_path))
    assert storage.names(str(tmp_path)) == ["a.arrow", "deep"]
    assert storage.names(str(tmp_path / "deep")) == ["b"]
    storage.sweep(str(tmp_path / "nosuch"))


def test_a_broken_json_file_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON"):
        storage.read_json(str(tmp_path / "a.json"))
