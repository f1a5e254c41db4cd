"""Whether what a caption says about tempo, key, mode and percussion is what was measured.

A caption may come from any model, or from a person. Only what is clearly off contradicts: in between, and wherever the
measurement is not sure enough (`captioners.vocabulary` says how sure is sure), nothing is judged. A number in BPM is
taken at its word, within 4 % as in MIREX's tempo tasks; at half or double it is left open, for people do count so.
"""
from collections.abc import Mapping

from captioners.statements import Statement, statements
from captioners.vocabulary import ABSENT, HEDGED, SURE
from manifests.outcomes import Loss

VERSION = 1  # raised by hand when any judgement changes

FACETS = {"tempo": ("bpm", "pace", "no beat", "tempo changes"), "key": ("key", "no key", "key changes"),
          "mode": ("mode", "key", "key changes"), "percussion": ("percussion",)}
# What is read of a row of manifests.records.MEASUREMENT.
COLUMNS = ("tempo", "tempo_confidence", "key", "mode", "key_confidence", "percussiveness")

AGREES, CONTRADICTS = "agrees", "contradicts"

# BPM, by word: contradicts below, agrees from, agrees to, contradicts above. What people call slow or fast overlaps, so
# the bands of captioners.vocabulary lie well inside; "clearly off" is about an octave from their middle.
PACES = {
    "very slow": (0, 0, 80, 112),
    "slow": (0, 0, 100, 132),
    "moderate": (54, 74, 134, 170),
    "fast": (80, 110, 400, 400),
    "very fast": (108, 150, 400, 400),
}
# `percussiveness`, the same way. Drums alone measure 0.4 to 0.7, a mix with drums often no more than 0.1 to 0.3, and so
# does a plucked guitar: between them little can be told.
PERCUSSION = {
    "none": (0, 0, 0.1, 0.5),
    "light": (0.005, 0.03, 0.45, 0.8),
    "some": (0.02, 0.12, 1, 1),
    "strong": (0.06, 0.2, 1, 1),
}
_TOLERANCE, _OFF = 0.04, 0.08  # of a stated BPM: within the first it agrees, beyond the second it contradicts
_LENIENT = 2                   # times wider, where the caption or the measurement is not sure
_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def agreement(caption: str, measurement: Mapping) -> dict[str, str | None]:
    """{facet: "agrees", "contradicts" or None} for tempo, key, mode and percussion.

    `measurement` has `COLUMNS`; each may be None. None: nothing stated, or not measured surely enough to judge.
    Of several statements about a facet numbers outweigh words, and it contradicts only where all that are left do.
    """
    return {facet: verdict for facet, (verdict, _) in _judged(caption, measurement).items()}


def contradictions(caption: str, measurement: Mapping) -> list[str]:
    """What contradicts, in words: "says 140 BPM, measured 92 BPM"."""
    return list(dict.fromkeys(said for verdict, said in _judged(caption, measurement).values()
                              if verdict == CONTRADICTS))


def check(row: Mapping, drop: bool) -> dict:
    """Fields of manifests.records.AGREEMENT for a row with a `caption` and a `measurement`; `detail` tells what is off.

    With `drop`, Loss("contradicted") where anything contradicts.
    """
    caption = (row["caption"] or {}).get("caption") or ""
    judged = _judged(caption, row["measurement"] or {})
    detail = "; ".join(dict.fromkeys(said for verdict, said in judged.values() if verdict == CONTRADICTS))
    if drop and detail:
        raise Loss("contradicted", detail)
    return {facet: verdict for facet, (verdict, _) in judged.items()} | {"detail": detail}


def _judged(caption: str, measurement: Mapping) -> dict[str, tuple[str | None, str]]:
    """By facet: the verdict, and what contradicts."""
    made = statements(caption)
    judge = {"tempo": _tempo, "key": _key, "mode": _mode, "percussion": _percussion}
    found = {}
    for facet, kinds in FACETS.items():
        about = [one for one in made if one.kind in kinds]
        steady = not any(one.kind.endswith("changes") for one in about)
        about = [one for one in about if not one.kind.endswith("changes")]
        about = [one for one in about if one.kind == "bpm"] or about
        verdicts = [judge[facet](one, measurement) for one in about]
        if AGREES in verdicts:
            found[facet] = AGREES, ""
        elif verdicts and steady and all(verdict == CONTRADICTS for verdict in verdicts):
            found[facet] = CONTRADICTS, f"says {about[0].text}, {_measured(about[0], measurement)}"
        else:
            found[facet] = None, ""
    return found


def _tempo(said: Statement, measurement: Mapping) -> str | None:
    tempo, confidence = measurement.get("tempo"), measurement.get("tempo_confidence")
    if said.kind == "no beat":
        if tempo is None or (confidence is not None and confidence < ABSENT):
            return AGREES
        return CONTRADICTS if confidence is not None and confidence >= SURE else None
    if tempo is None or confidence is None or confidence < HEDGED:
        return None
    lenient = said.hedged or confidence < SURE
    if said.kind == "pace":
        return _pace(said, tempo, lenient)
    low, high = said.value
    off = max(low / tempo, tempo / high, 1) - 1
    times = _LENIENT if lenient else 1
    if off <= _TOLERANCE * times:
        return AGREES
    # Beats may be counted at half or double: neither right nor wrong.
    if any(low / (1 + _OFF * times) <= tempo * octave <= high * (1 + _OFF * times) for octave in (0.5, 1, 2)):
        return None
    return CONTRADICTS


def _pace(said: Statement, tempo: float, lenient: bool) -> str | None:
    verdict = _within(tempo, PACES[said.value], 1.15 if lenient else 1)
    if not said.negated:
        return verdict
    _, low, high, _ = PACES[said.value]
    if low * 1.2 <= tempo <= high / 1.2:  # well within what it is said not to be
        return None if lenient else CONTRADICTS
    return None if low <= tempo <= high else AGREES


def _key(said: Statement, measurement: Mapping) -> str | None:
    confidence = measurement.get("key_confidence")
    if confidence is None:
        return None
    if said.kind == "no key":
        return AGREES if confidence < ABSENT else CONTRADICTS if confidence >= SURE else None
    if confidence < HEDGED or measurement.get("key") not in _NAMES or measurement.get("mode") not in ("major", "minor"):
        return None
    (tonic, mode), measured = said.value, _NAMES.index(measurement["key"])
    if tonic == measured:
        return AGREES
    if tonic in _relatives(measured, measurement["mode"], mode):
        return None
    unsure = said.hedged + (confidence < SURE)
    if unsure == 2 or (unsure and (tonic - measured) % 12 in (5, 7)):
        return None
    return CONTRADICTS


def _mode(said: Statement, measurement: Mapping) -> str | None:
    confidence, measured = measurement.get("key_confidence"), measurement.get("mode")
    mode = said.value[1] if said.kind == "key" else said.value
    if mode is None or confidence is None or confidence < HEDGED or measured not in ("major", "minor"):
        return None
    if mode == measured:
        return AGREES
    if said.hedged or confidence < SURE:
        return None
    if (said.kind == "key" and measurement.get("key") in _NAMES
            and said.value[0] in _relatives(_NAMES.index(measurement["key"]), measured, mode)):
        return None
    return CONTRADICTS


def _relatives(tonic: int, mode: str, other: str | None) -> set[int]:
    """The tonic of the relative key, where the other mode is meant or may be: both have the same notes."""
    return set() if other == mode else {(tonic + (9 if mode == "major" else 3)) % 12}


def _percussion(said: Statement, measurement: Mapping) -> str | None:
    measured = measurement.get("percussiveness")
    return None if measured is None else _within(measured, PERCUSSION[said.value])


def _within(value: float, zone: tuple[float, float, float, float], wider: float = 1) -> str | None:
    below, low, high, above = zone
    if low <= value <= high:
        return AGREES
    return CONTRADICTS if value < below / wider or value > above * wider else None


def _measured(said: Statement, measurement: Mapping) -> str:
    """What was measured of what was said, for a person."""
    if said.kind in ("bpm", "pace", "no beat"):
        return f"measured {round(measurement['tempo'])} BPM"
    if said.kind == "percussion":
        return f"measured percussiveness {measurement['percussiveness']:.2f}"
    return f"measured {measurement['key']} {measurement['mode']}"
