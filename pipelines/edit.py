"""edit: a clip with its tempo or its pitch changed: a target whose difference from its source is known exactly."""
import hashlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import soxr

from manifests import cut, media, records
from manifests.outcomes import Loss
from pairing import edits, features, tonality
from pipelines import measure, sandbox

if TYPE_CHECKING:
    from pipelines.stage import Stage

VERSION = 1

LONGEST = 60.5  # s of a clip, codecs' padding included: bounds the time and the memory
# What is known of the target from its source, once the edit is confirmed: surer than to measure it anew, which may
# count half or twice as many beats, or find another word for a texture that only went through a stretcher.
_LEFT = ("tempo_confidence", "pulse", "mode", "key_confidence", "pitch_salience", "dynamics", "percussiveness")
_FASTER = ("tempo", "onset_rate")
_HIGHER = ("pitch_median", "pitch_low", "pitch_high")
_CARRIED = (*_LEFT, *_FASTER, *_HIGHER, "beats", "key", "centroid")


def stage(limits: sandbox.Limits) -> "Stage":
    """Rows come with the task: an edit of a clip each (see `edit`). `limits` change no edit."""
    from pipelines.stage import Stage, tag  # Beam, which the sandboxed process does without
    parameters = {"edits": edits.VERSION, "features": features.VERSION, "longest": LONGEST}
    return Stage("edit", tag(VERSION, parameters), records.EDIT,
                 partial(sandbox.call, edit, limits=limits, prepare=_prepare),
                 parts={"clip": ("audio",), "measurement": _CARRIED}, most=64)


def _prepare() -> None:
    """What is loaded on first use is no clip's: neither its time nor its memory."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, 3 * cut.RATE), dtype=np.float32)
    target = edits.apply(noise, cut.RATE, "tempo", 1.3)
    edits.aligned(noise[0], target[0], 1.3)
    edits.transposed(noise[0], target[0], 1.3, 0.0)
    measure.measure({"audio": cut.opus(target)})


def edit(row: dict) -> dict:
    """Fields of records.EDIT of {"id", "edit", "amount", "clip": {"audio"}, "measurement": the clip's}.

    The sound is Opus at 48 kHz, mono or stereo, as long as `pairing.edits.apply` makes it, to the sample. What is
    confirmed and measured is what was encoded, decoded again.

    Loss for `too_long`, for `unconfirmed` and as `measure` does.
    """
    source = _source(row["clip"]["audio"])
    target = edits.apply(source, cut.RATE, row["edit"], row["amount"])
    factor = 1 / max(1.0, float(np.abs(target).max(initial=0.0)))
    audio = cut.opus(target * np.float32(factor))
    confidence = edits.confirm(source, media.decode_audio(audio).samples, cut.RATE, row["edit"], row["amount"])
    found = measure.measure({"audio": audio}) | _carried(row["measurement"], row["edit"], row["amount"])
    return found | {"audio": audio, "audio_format": "opus", "sha256": hashlib.sha256(audio).hexdigest(),
                    "gain": round(20 * float(np.log10(factor)), 4), "confidence": confidence}


def _carried(source: Mapping, edit: str, amount: float) -> dict:
    """What the edit leaves, or changes by what it is known to change; of `centroid` a pitch edit tells nothing."""
    known = {name: source[name] for name in _CARRIED}
    if edit == "tempo":
        known |= {name: known[name] and round(known[name] * amount, 2) for name in _FASTER}
        known["beats"] = [round(beat / amount, 3) for beat in known["beats"] or ()]
    else:
        del known["centroid"]
        known |= {name: known[name] and round(known[name] + amount, 4) for name in _HIGHER}
        known["key"] = known["key"] and tonality.KEYS[(tonality.KEYS.index(known["key"]) + round(amount)) % 12]
    return known


def _source(audio: bytes) -> np.ndarray:
    """The whole clip at 48 kHz, float32 [1 or 2, n]."""
    try:
        waveform = media.decode_audio(audio, LONGEST)
    except media.MediaError as error:
        raise Loss("decode_error", str(error)) from error
    if waveform.duration > LONGEST:
        raise Loss("too_long", f"{waveform.duration:.1f} s; edits are of at most {LONGEST:g}")
    if waveform.samples.shape[1] < round(waveform.duration * waveform.rate):
        raise Loss("too_long", f"{len(waveform.samples)} channels at {waveform.rate} Hz are too much to hold")
    samples = waveform.samples
    if len(samples) > 2:  # left and right come first; the others are heard in both
        samples = (samples[:2] + samples[2:].mean(axis=0)) / 2
    return np.stack([soxr.resample(channel, waveform.rate, cut.RATE) for channel in samples])
