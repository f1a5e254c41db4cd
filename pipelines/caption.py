"""caption: text for each clip that was kept, by the measured captioner."""
import hashlib
from functools import partial

from captioners import measured
from manifests import records
from pipelines.stage import Stage, tag

_COLUMNS = ("id", *(name for name in records.MEASUREMENT.names
                    if name not in ("id", "outcome", "detail", "beats", "chroma", "fingerprint")))


def stage(measure: Stage, seed: int, name: str = "caption") -> Stage:
    """`measure`: whatever stage has measurements in its rows."""
    parameters = {"captioner": measured.NAME, "seed": seed}
    return Stage(name, tag(measured.VERSION, parameters, measure), records.CAPTION, partial(caption, seed=seed),
                 reads=measure, columns=_COLUMNS, cost=0.0006)


def caption(measurement: dict, seed: int) -> dict:
    """Fields of records.CAPTION. Raises Loss("caption_failed") where nothing can be said."""
    own = key_seed(measurement["id"], seed)
    return {"caption": measured.caption(measurement, own), "captioner": measured.NAME,
            "captioner_revision": str(measured.VERSION), "caption_prompt": "", "caption_seed": own}


def key_seed(key: str, seed: int) -> int:
    """Nothing is random without a seed that follows from the key: 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:4], "big")
