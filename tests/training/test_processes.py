"""Two processes are one with the same steps; and what either could not read is told."""
import json

import pytest

from tests.training import corpus, forked


@pytest.mark.slow
def test_two_processes_are_one(tmp_path) -> None:
    """All three stages, whose last steps are too small for both."""
    corpus.datasets(tmp_path, 6, 2)
    corpus.features_of(tmp_path, 8)
    forked.run(tmp_path, "shared")


def test_they_agree_share_all_work_and_go_on_from_what_the_first_finds(tmp_path) -> None:
    """Sixteen rows, in steps of eight, by two processes that might take eight at a time; or of unlike settings."""
    corpus.datasets(tmp_path, 8, 1, names=["mucaps", "muimage"])
    corpus.features_of(tmp_path, 9, names=["mucaps", "muimage"])
    forked.run(tmp_path, "unlike", "first")


def test_what_any_process_could_not_read_is_told(tmp_path) -> None:
    """Three broken pictures of six, a row at a time: both processes meet some."""
    corpus.datasets(tmp_path, 6, 2, names=["muimage"], medium=lambda modality, number: (
        b"broken" if number % 2 else corpus.media(modality, number)))
    told = json.loads(forked.run(tmp_path, "unreadable").splitlines()[-1])
    assert sorted(told) == [f"coco muimage-{number}" for number in (1, 3, 5, 7)]


def test_no_process_waits_for_ever_at_the_end(tmp_path) -> None:
    forked.run(tmp_path, "ends")
