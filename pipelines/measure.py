"""measure: what each clip sounds like, in numbers, decoded once."""
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from manifests import media, records
from manifests.outcomes import Loss
from pairing import features
from pipelines import sandbox

if TYPE_CHECKING:
    from pipelines.stage import Stage

ANALYSED = 120.0  # s: the beginning of a longer track stands for it, and bounds the memory
_SHORTEST = 0.25  # s: below, there is nothing to measure


def stage(fetch: "Stage", tagger: tuple[str, str] | None, limits: sandbox.Limits) -> "Stage":
    """`tagger`: name and revision of the audio tagger, where one is used. `limits` change no measurement."""
    from pipelines.stage import Stage, tag  # Beam, which the sandboxed process does without
    name = tagger and tagger[0]
    return Stage("measure", tag(features.VERSION, {"analysed": ANALYSED, "tagger": tagger}, fetch), records.MEASUREMENT,
                 partial(sandbox.call, partial(measure, tagger=name), limits=limits, prepare=partial(_prepare, name)),
                 reads=fetch, columns=("id", "audio"))


def _prepare(tagger: str | None) -> None:
    """What is loaded on first use, models above all, is no clip's: neither its time nor its memory."""
    noise = np.random.default_rng(0).standard_normal((1, features.RATE), dtype=np.float32)
    features.measure(noise, features.RATE)
    if tagger:
        from pairing import tagging
        tagging.music(noise[0], tagger)


def measure(clip: dict, tagger: str | None = None) -> dict:
    """Fields of records.MEASUREMENT of an encoded clip."""
    try:
        waveform = media.decode_audio(clip["audio"], ANALYSED)
    except media.MediaError as error:
        raise Loss("decode_error", str(error)) from error
    if waveform.duration < _SHORTEST:
        raise Loss("too_short", f"{waveform.duration:.2f} s")
    found = features.measure(waveform.samples, waveform.rate) | {"duration": round(waveform.duration, 6), "music": None}
    if tagger:
        from pairing import tagging
        found["music"] = tagging.music(waveform.mono(tagging.RATE), tagger)
    return found
