"""instruct: what a person asks and what the model answers, from captions. Done once per row and its captions."""
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

from captioners import device, instructions, model, template
from captioners.model import Spec
from manifests import prompts, records
from pipelines.caption import key_seed, load
from pipelines.options import Options
from pipelines.stage import Batch, Stage, tag

VERSION = 1
# By how little two clips may differ in what is nobody's wish to change, about what a listener tells apart:
# {facet: (field, by so much, or by such a share)}.
_ALIKE = {"tempo": ("tempo", 0, 0.02), "brightness": ("centroid", 0, 0.1), "loudness": ("loudness", 2, 0),
          "dynamics": ("dynamics", 2, 0), "percussiveness": ("percussiveness", 0.05, 0),
          "density": ("onset_rate", 0, 0.15), "register": ("pitch_median", 2, 0)}
_FIELDS = ("key", "mode", *(field for field, _, _ in _ALIKE.values()))


def stage(dataset: str, options: Options, captions: tuple[str, ...], measured: tuple[str, ...] = ()) -> Stage:
    """`captions`: parts of its rows, by the names that `captioners.instructions` gives them. `measured`: of MUEdit, the
    parts that hold the source's and the target's measurements.
    """
    spec = options.models.get("instruct")
    writer = {"writer": template.NAME, "writer_revision": template.VERSION} if spec is None else spec.version()
    told = dict.fromkeys(captions, ("caption",))
    # All of a shard's prompts go to the writer at once, which knows best what to put together.
    most = 512
    least, processes = (4, 0) if spec is None else (64, device.there())
    return Stage(f"instruct-{dataset}", tag(VERSION, writer | {"dataset": dataset, "seed": options.seed,
                                                               "prompts": prompts.VERSION}), records.INSTRUCTION,
                 partial(item, dataset=dataset, captions=captions, measured=measured, seed=options.seed),
                 parts=told | dict.fromkeys(measured, _FIELDS),
                 batch=Batch(partial(ask, spec=spec), most, _length, told, spec and partial(load, spec)),
                 cost=0.003 if spec is None else 5.0,
                 least=least, most=most, processes=processes)


def item(row: dict, dataset: str, captions: tuple[str, ...], measured: tuple[str, ...], seed: int) -> dict:
    """Fields of captioners.instructions.Item."""
    given = {name: row[name]["caption"] for name in captions if row[name] is not None} | row.get("given", {})
    if measured:
        given["same"] = same(*(row[name] for name in measured))
    # Or a clip's image and video would be spoken of in the same words.
    return {"dataset": dataset, "given": given, "seed": key_seed(f"{dataset} {row['id']}", seed)}


def ask(items: list[dict], spec: Spec | None) -> list[dict | Exception]:
    """Fields of records.INSTRUCTION for each; Loss("instruction_failed") where no answer passes its checks."""
    with nullcontext(template.Template()) if spec is None else model.asking(spec) as writer:
        return instructions.rows([instructions.Item(**one) for one in items], writer)


def _length(row: Mapping) -> int:
    return sum(len(part["caption"]) for part in row.values() if isinstance(part, dict) and "caption" in part)


def same(one: Mapping, other: Mapping) -> list[str]:
    """Facets of captioners.vocabulary, "tempo" and "key" among them, in which two measured clips do not differ.

    A caption names a few things of many: that the target's tells of a warm tone and the source's does not is no wish.
    """
    found = [facet for facet, (field, much, share) in _ALIKE.items() if one[field] is not None
             and other[field] is not None and abs(other[field] - one[field]) <= max(much, share * abs(one[field]))]
    if one["key"] and (one["key"], one["mode"]) == (other["key"], other["mode"]):
        found.append("key")
    return found
