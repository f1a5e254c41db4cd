"""Samples come back from the file as they were written, whoever asks, and a file that is not whole is told."""
import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from manifests import shards
from training import examples
from training.examples import Samples
from training.loss import IGNORED
from training.samples import Medium, Sample

COUNT = 120  # of three batches, the last one shorter


def _sample(number: int) -> Sample:
    tokens = tuple(range(number, 2 * number + 3))
    hears = {"audio": Medium("musicqa-published", f"{number}.mp3")} if number % 2 else {}
    return Sample(f"né {number}", "any", tokens, (*[IGNORED] * (number % 3), *tokens[number % 3:]), hears,
                  f"music {number}" if number % 5 == 0 else None, 0)


def _places(number: int) -> dict[str, int]:
    return ({"audio": number} if number % 4 == 1 else {}) | ({"text": 0} if number % 10 == 0 else {})


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "train.arrow"
    assert examples.write(path, (examples.row(_sample(number), number % 3, _places(number))
                                 for number in range(COUNT))) == COUNT
    return path


def _check(found: Samples) -> None:
    for number in np.random.default_rng(0).permutation(COUNT):
        one, wanted = found[number], _sample(number)
        assert (one.id, one.dataset, one.hears, one.music) == (wanted.id, "abc"[number % 3], wanted.hears, wanted.music)
        assert one.tokens.dtype == one.labels.dtype == np.int32 and one.places == _places(number)
        assert one.tokens.tolist() == list(wanted.tokens) and one.labels.tolist() == list(wanted.labels)


def test_as_written(written) -> None:
    found = Samples(written, ["a", "b", "c"])
    assert len(found) == COUNT and found.datasets == ("a", "b", "c")
    assert found.lengths.dtype == np.int32 and found.lengths.tolist() == [number + 3 for number in range(COUNT)]
    assert found.dataset_of.dtype == np.int8 and found.dataset_of.tolist() == [number % 3 for number in range(COUNT)]
    _check(found)


def test_several_threads_read(written) -> None:
    found = Samples(written, "abc")
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(_check, [found] * 8))) == 8


def test_what_was_read_is_nobody_elses_to_change(written) -> None:
    found = Samples(written, "abc")
    with pytest.raises(ValueError, match="read-only"):
        found[4].tokens[0] = 9
    found[4].labels[:] = 9
    _check(found)


@pytest.mark.parametrize("number", [-1, COUNT, COUNT + 1000])
def test_no_such_sample(written, number: int) -> None:
    with pytest.raises(IndexError, match=rf"train\.arrow: no sample {number}; it has {COUNT}"):
        Samples(written, "abc")[number]


def test_none_at_all(tmp_path) -> None:
    assert examples.write(tmp_path / "eval.arrow", []) == 0
    found = Samples(tmp_path / "eval.arrow", [])
    assert len(found) == 0 and found.lengths.dtype == np.int32 and found.dataset_of.dtype == np.int8


def test_a_file_that_is_not_whole(written, tmp_path) -> None:
    whole, path = written.read_bytes(), tmp_path / "cut.arrow"
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.arrow: not the samples that were prepared .*remove it"):
            Samples(path, "abc")
    shards.write(str(path), pa.schema([("id", pa.string())]), [{"id": "a"}])
    with pytest.raises(ValueError, match=r"cut\.arrow: .*columns are other ones"):
        Samples(path, "abc")
    with pytest.raises(ValueError, match=r"none\.arrow: not the samples that were prepared"):
        Samples(tmp_path / "none.arrow", "abc")


def test_no_room_for_it(tmp_path) -> None:
    path = tmp_path / "train.arrow"
    examples.write(path, [examples.row(_sample(3), 0, {})])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        with pytest.raises(OSError, match=r"train\.arrow: cannot be written \(.*File too large"):
            examples.write(path, (examples.row(_sample(number), 0, {}) for number in range(COUNT)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["train.arrow"] and Samples(path, "a")[0].id == "né 3"

    def gone() -> Iterator[dict]:
        yield examples.row(_sample(1), 0, {})
        raise FileNotFoundError("c.json: no such file")

    with pytest.raises(FileNotFoundError, match=r"^c\.json: no such file$"):
        examples.write(path, gone())
