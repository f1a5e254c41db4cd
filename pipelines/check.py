"""check: whether captions of music say what was measured. Cheap, and apart from captioning, which need not be."""
from functools import partial

from captioners import agreement
from manifests import records
from pipelines.stage import Stage, tag


def stage(drop: bool, name: str = "check") -> Stage:
    """`drop`: what contradicts the measurements is lost."""
    return Stage(name, tag(agreement.VERSION, {"drop": drop}), records.AGREEMENT, partial(agreement.check, drop=drop),
                 parts={"caption": ("caption",), "measurement": agreement.COLUMNS}, cost=0.001)
