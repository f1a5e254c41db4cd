"""trial: every model of a build is loaded once before any work, so that one that cannot be is told of then.

What this machine loaded for an OUT once, at the same revision and in the same way, is not tried there again.
"""
import hashlib
import json
import platform
from collections.abc import Iterable

from captioners.model import Spec
from manifests import storage


def untried(out: str, specs: Iterable[Spec]) -> list[Spec]:
    return [spec for spec in specs if not storage.exists(_marker(out, spec))]


def passed(out: str, specs: Iterable[Spec]) -> None:
    for spec in specs:
        storage.write_json(_marker(out, spec), spec.version())


def _marker(out: str, spec: Spec) -> str:
    told = json.dumps([platform.node(), spec.kind, spec.version()], sort_keys=True)
    return storage.join(out, "stages", "models", f"{spec.kind}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.json")
