"""Which dataset and split a source video belongs to: a hash of its id, decided before anything is fetched.

`shared`: every video serves every dataset, with the paper's pooled evaluation fraction. `disjoint`: each video serves
one dataset, drawn in proportion to the published sizes, with that dataset's own fraction. Either way a video is in one
split only, and one that others measure their models on (`manifests.heldout`) is never in "train".
"""
import hashlib

from manifests import heldout

# M²UGen's published sizes: (evaluation rows, all rows) (arXiv 2311.11255, section 4).
PUBLISHED = {"mucaps": (4000, 25966), "muimage": (2500, 12466), "muvideo": (2500, 15703), "muedit": (2000, 12815)}
# MusicQA was made from other people's collections; of videos that are ours it gets as many as the smallest of those.
SIZES = {**PUBLISHED, "musicqa": PUBLISHED["muimage"]}
ASSIGNMENTS = ("shared", "disjoint")
TRAIN, EVAL = "train", "eval"


def fraction(text: str, salt: str) -> float:
    """A number in [0, 1) that depends on `text` and `salt` alone: the same on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(f"{salt}\0{text}".encode()).digest()[:7], "big") / 2**56


def assign(source_id: str, dataset: str, assignment: str) -> str | None:
    """"train" or "eval", or None where this dataset may not use the video. KeyError, ValueError for unknown names.

    A held-out video is "eval" wherever it may be used.
    """
    if dataset not in SIZES:
        raise KeyError(f"unknown dataset {dataset!r}; known: {', '.join(SIZES)}")
    if assignment == "shared":
        evaluation, total = (sum(column) for column in zip(*PUBLISHED.values(), strict=True))
    elif assignment == "disjoint":
        evaluation, total = SIZES[dataset]
        if owner(source_id) != dataset:
            return None
    else:
        raise ValueError(f"unknown assignment {assignment!r}; known: {', '.join(ASSIGNMENTS)}")
    if heldout.holds(source_id):
        return EVAL
    return EVAL if fraction(source_id, "split") < evaluation / total else TRAIN


def owner(source_id: str) -> str:
    """The one dataset that may use this video under `disjoint`."""
    position = fraction(source_id, "dataset") * sum(total for _, total in SIZES.values())
    for dataset, (_, total) in SIZES.items():
        position -= total
        if position < 0:
            return dataset
    return dataset
