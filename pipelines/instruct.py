"""instruct: what a person asks and what the model answers, from captions. Done once per row and its captions."""
from functools import partial

from captioners import instructions, template
from manifests import prompts, records
from pipelines.caption import key_seed
from pipelines.stage import Stage, tag


def stage(dataset: str, seed: int, parts: tuple[str, ...]) -> Stage:
    """`parts`: the captions, by the names that `captioners.instructions` gives them."""
    parameters = {"dataset": dataset, "writer": template.NAME, "writer_revision": template.VERSION, "seed": seed}
    return Stage(f"instruct-{dataset}", tag(prompts.VERSION, parameters), records.INSTRUCTION,
                 partial(instruct, dataset=dataset, seed=seed), parts=dict.fromkeys(parts, ("caption",)),
                 cost=0.003)


def instruct(row: dict, dataset: str, seed: int) -> dict:
    """Fields of records.INSTRUCTION. Raises Loss("instruction_failed") where no answer passes its checks."""
    captions = {name: part["caption"] for name, part in row.items() if isinstance(part, dict) and name != "given"}
    own = key_seed(f"{dataset} {row['id']}", seed)  # or a clip's image and video would be spoken of in the same words
    found = instructions.converse(dataset, captions | row.get("given", {}), template.Template(), own)
    return {"conversation": found.turns, "instructor": found.writer, "instructor_revision": found.revision,
            "prompt_version": found.prompt_version, "instruction_seed": own}
