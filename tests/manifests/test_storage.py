import gc
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

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
    (tmp_path / f"{storage.TEMPORARY}folder" / f"{storage.TEMPORARY}deeper").mkdir(parents=True)
    (tmp_path / f"{storage.TEMPORARY}folder" / "video.mp4").write_bytes(b"x")
    storage.sweep(str(tmp_path))
    assert storage.names(str(tmp_path)) == ["a.arrow", "deep"]


def test_a_broken_json_file_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: not valid JSON"):
        storage.read_json(str(tmp_path / "a.json"))


SMALL, LARGE = b"hello", bytes(range(256)) * 2**17  # 32 MiB: several parts of an upload


def test_a_bucket_is_as_good_as_a_folder(bucket):
    for name, data in (("small", SMALL), ("deep/er/large", LARGE)):
        storage.write_bytes(f"{bucket}/{name}", data)
        assert storage.read_bytes(f"{bucket}/{name}") == data
        assert storage.size(f"{bucket}/{name}") == len(data)
        with storage.create(f"{bucket}/{name}") as file:
            file.write(data[::-1])
            assert storage.read_bytes(f"{bucket}/{name}") == data, "nothing appears before the end"
        assert storage.read_bytes(f"{bucket}/{name}") == data[::-1]
    assert storage.names(bucket) == ["deep", "small"]
    storage.remove(f"{bucket}/deep")
    assert storage.names(bucket) == ["small"] and not storage.exists(f"{bucket}/deep/er/large")


@pytest.mark.parametrize("size", [10, 2**25])
def test_what_fails_half_way_never_appears_in_a_bucket(bucket, size):
    with pytest.raises(KeyError), storage.create(f"{bucket}/broken") as file:
        file.write(bytes(size))
        raise KeyError
    gc.collect()
    assert not storage.exists(f"{bucket}/broken")
    assert not storage.names(bucket)


def test_another_process_sees_at_once_what_is_written(bucket):
    assert storage.names(bucket) == [] and not storage.exists(f"{bucket}/new")
    code = f"from manifests import storage; storage.write_bytes({bucket + '/new'!r}, b'x')"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert storage.exists(f"{bucket}/new") and storage.names(bucket) == ["new"]


def test_threads_that_write_at_the_same_time_do_not_mix(bucket):
    def write(number: int) -> None:
        with storage.create(f"{bucket}/{number}") as file:
            for _ in range(20):
                file.write(bytes([number]) * 1000)
                time.sleep(0.001)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(32)))
    assert all(storage.read_bytes(f"{bucket}/{number}") == bytes([number]) * 20000 for number in range(32))
