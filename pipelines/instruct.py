"""instruct: what a person asks and what the model answers, from captions. Done once per row and its captions."""
from collections.abc import Mapping
from functools import partial

from captioners import instructions, template
from manifests import prompts, records
from pipelines.caption import key_seed
from pipelines.stage import Stage, tag

VERSION = 1
# By how little two clips may differ in what is nobody's wish to change, about what a listener tells apart:
# {facet: (field, by so much, or by such a share)}.
_ALIKE = {"tempo": ("tempo", 0, 0.02), "brightness": ("centroid", 0, 0.1), "loudness": ("loudness", 2, 0),
          "dynamics": ("dynamics", 2, 0), "percussiveness": ("percussiveness", 0.05, 0),
          "density": ("onset_rate", 0, 0.15), "register": ("pitch_median", 2, 0)}
_FIELDS = ("key", "mode", *(field for field, _, _ in _ALIKE.values()))


def stage(dataset: str, seed: int, captions: tuple[str, ...], measured: tuple[str, ...] = ()) -> Stage:
    """`captions`: parts of its rows, by the names that `captioners.instructions` gives them. `measured`: of MUEdit, the
    parts that hold the source's and the target's measurements.
    """
    parameters = {"dataset": dataset, "writer": template.NAME, "writer_revision": template.VERSION, "seed": seed,
                  "prompts": prompts.VERSION}
    return Stage(f"instruct-{dataset}", tag(VERSION, parameters), records.INSTRUCTION,
                 partial(instruct, dataset=dataset, captions=captions, measured=measured, seed=seed),
                 parts=dict.fromkeys(captions, ("caption",)) | dict.fromkeys(measured, _FIELDS), cost=0.003)


def instruct(row: dict, dataset: str, captions: tuple[str, ...], measured: tuple[str, ...], seed: int) -> dict:
    """Fields of records.INSTRUCTION. Raises Loss("instruction_failed") where no answer passes its checks."""
    given = {name: row[name]["caption"] for name in captions if row[name] is not None} | row.get("given", {})
    if measured:
        given["same"] = same(*(row[name] for name in measured))
    own = key_seed(f"{dataset} {row['id']}", seed)  # or a clip's image and video would be spoken of in the same words
    found = instructions.converse(dataset, given, template.Template(), own)
    return {"conversation": found.turns, "instructor": found.writer, "instructor_revision": found.revision,
            "prompt_version": found.prompt_version, "instruction_seed": own}


def same(one: Mapping, other: Mapping) -> list[str]:
    """Facets of captioners.vocabulary, "tempo" and "key" among them, in which two measured clips do not differ.

    A caption names a few things of many: that the target's tells of a warm tone and the source's does not is no wish.
    """
    found = [facet for facet, (field, much, share) in _ALIKE.items() if one[field] is not None
             and other[field] is not None and abs(other[field] - one[field]) <= max(much, share * abs(one[field]))]
    if one["key"] and (one["key"], one["mode"]) == (other["key"], other["mode"]):
        found.append("key")
    return found
