import base64
from pathlib import Path

import numpy as np
import pytest

from manifests import heldout, splits

RECORDED = [12, 19, 24, 28, 34, 39]
IDS = [f"video-{index}" for index in range(40000)]


def test_shared_has_the_papers_pooled_fraction_in_every_dataset():
    for dataset in splits.SIZES:
        held_out = [splits.assign(key, dataset, "shared") == "eval" for key in IDS]
        assert np.mean(held_out) == pytest.approx(11000 / 66950, abs=0.006)


def test_shared_gives_a_video_one_split_in_all_datasets():
    for key in IDS[:2000]:
        assert len({splits.assign(key, dataset, "shared") for dataset in splits.SIZES}) == 1


def test_disjoint_gives_a_video_to_one_dataset_in_proportion_with_its_own_fraction():
    given = {dataset: [splits.assign(key, dataset, "disjoint") for key in IDS] for dataset in splits.SIZES}
    owners = np.array([[split is not None for split in column] for column in given.values()])
    assert (owners.sum(axis=0) == 1).all()
    for (dataset, (held_out, total)), owned in zip(splits.SIZES.items(), owners, strict=True):
        assert owned.mean() == pytest.approx(total / (66950 + 12466), abs=0.01)
        evaluation = [split == "eval" for split in given[dataset] if split]
        assert np.mean(evaluation) == pytest.approx(held_out / total, abs=0.016)


def test_assignment_is_the_same_forever():
    # Recorded values: a change would move videos between splits of datasets that people have published.
    held_out = [index for index, key in enumerate(IDS[:40]) if splits.assign(key, "mucaps", "shared") == "eval"]
    assert held_out == RECORDED
    owners = {key: splits.owner(key) for key in ("dQw4w9WgXcQ", "9bZkp7q19f0", "AAAAAAAAAAA")}
    assert owners == {"dQw4w9WgXcQ": "musicqa", "9bZkp7q19f0": "mucaps", "AAAAAAAAAAA": "muvideo"}


def test_a_held_out_video_never_trains():
    packed = Path(heldout.__file__).with_name("heldout.bin").read_bytes()
    ids = [base64.urlsafe_b64encode(packed[start:start + 8])[:11].decode() for start in range(0, len(packed), 8)]
    assert len(ids) == 23034
    for dataset in splits.SIZES:
        assert {splits.assign(key, dataset, "shared") for key in ids} == {"eval"}
        assert {splits.assign(key, dataset, "disjoint") for key in ids} == {"eval", None}
    for key in ids[::50]:
        given = {dataset: splits.assign(key, dataset, "disjoint") for dataset in splits.SIZES}
        assert given == dict.fromkeys(splits.SIZES) | {splits.owner(key): "eval"}


def test_other_videos_are_where_they_were_before_any_were_held_out():
    assert splits.assign("dQw4w9WgXcQ", "musicqa", "disjoint") == "train"
    assert splits.assign("AAAAAAAAAAA", "mucaps", "shared") == "train"


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="unknown assignment"):
        splits.assign("a", "mucaps", "random")
    with pytest.raises(KeyError):
        splits.assign("a", "nosuch", "disjoint")
