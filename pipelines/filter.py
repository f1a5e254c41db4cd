"""filter: keep what is music, whole and loud enough; from measurements alone, so that a threshold costs no decoding."""
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

from manifests import records
from manifests.outcomes import Loss
from pairing import fingerprint, music
from pipelines.stage import Stage, tag

VERSION = 1
_COLUMNS = ("id", "duration", "silence", "loudness", "clipping", "speech", "music", "flatness", "pitch_salience",
            "tempo_confidence")


def _threshold(default: float, help: str, low: float = 0.0, high: float = 1.0):
    return field(default=default, metadata={"help": help, "range": (low, high)})


@dataclass(frozen=True)
class Thresholds:
    min_duration: float = _threshold(2.0, "seconds; shorter clips are lost as too_short", 0, 1e6)
    max_silence: float = _threshold(0.5, "share of time below -60 dBFS; more is silent")
    min_loudness: float = _threshold(-50.0, "LUFS (ITU-R BS.1770); less is too_quiet", -70, 0)
    max_clipping: float = _threshold(0.01, "share of samples in flat runs at the rails; more is clipped")
    max_speech: float = _threshold(0.5, "share of time with speech (silero-vad); more is speech")
    min_music: float = _threshold(0.5, "P(music) by --tagger; less is not_music")
    min_flatness: float = _threshold(music.MIN_FLATNESS, "spectral flatness from which a clip may be not_music, if "
                                                         "the next two hold as well")
    max_salience: float = _threshold(music.MAX_SALIENCE, "pitch salience up to which it may")
    max_beat: float = _threshold(music.MAX_BEAT, "confidence of the tempo up to which it may")
    max_duplicate_error: float = _threshold(fingerprint.MAX_ERROR, "bit error rate of fingerprints; up to it, a clip "
                                                                   "is a duplicate")


def stage(measure: Stage, thresholds: Thresholds) -> Stage:
    # Duplicates are decided over all clips (pipelines.duplicates): their threshold changes nothing here.
    parameters = {name: value for name, value in asdict(thresholds).items() if name != "max_duplicate_error"}
    return Stage("filter", tag(VERSION, parameters, measure), records.VERDICT,
                 partial(judge, thresholds=thresholds), reads=measure, columns=_COLUMNS, cost=0.0005)


def judge(clip: Mapping, thresholds: Thresholds) -> dict:
    """Nothing, or Loss with the first reason that holds: length, signal, damage, content."""
    if clip["duration"] < thresholds.min_duration:
        raise Loss("too_short", f"{clip['duration']:.2f} s")
    if clip["silence"] > thresholds.max_silence or clip["loudness"] is None:
        raise Loss("silent", f"{clip['silence']:.0%} of the time below -60 dBFS")
    if clip["loudness"] < thresholds.min_loudness:
        raise Loss("too_quiet", f"{clip['loudness']:.1f} LUFS")
    if clip["clipping"] > thresholds.max_clipping:
        raise Loss("clipped", f"{clip['clipping']:.1%} of the samples at the rails")
    if clip["speech"] > thresholds.max_speech:
        raise Loss("speech", f"{clip['speech']:.0%} of the time")
    if clip["music"] is not None:
        # A trained tagger knows better than our conservative test.
        if clip["music"] < thresholds.min_music:
            raise Loss("not_music", f"P(music) = {clip['music']:.2f}")
    elif why := music.noise_like(clip, thresholds.min_flatness, thresholds.max_salience, thresholds.max_beat):
        raise Loss("not_music", why)
    return {}
