"""A line of a dataset: a row and where its parts lie, or why there is none. Ledger and shards both follow it."""
from collections.abc import Mapping
from dataclasses import dataclass, field

from manifests.outcomes import DONE


@dataclass(frozen=True)
class Line:
    id: str                  # of the row; of the clip, where no row could be tried
    clip: str                # whose source, split and place it has
    target: str | None = None  # another clip that the row holds
    outcome: str = DONE
    detail: str = ""
    parts: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # {name: (stage, key)}, where it is done
    given: Mapping = field(default_factory=dict)                        # fields of the row that no stage stores
