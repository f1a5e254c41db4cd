"""The words that measured captions are made of, and the measurements that earn them.

Two ways through one table: `facts` says what a measurement allows to be said, `claims` reads back what a caption says.
Every word belongs to one band of one facet, so a caption about a clip is honest where `claims` agrees with `facts`.
"""
import re
from bisect import bisect_right
from collections.abc import Mapping

# facet: (field of manifests.records.MEASUREMENT, bands from low to high). A band is (its lower edge, its words); the
# first word is the band's name, the others say the same. A value on an edge is in the upper band.
BANDS = {
    # BPM. The scale printed on mechanical metronomes (Largo 40-60, Larghetto 60-66, Adagio 66-76, Andante 76-108,
    # Moderato 108-120, Allegro 120-168, Presto 168-200), with Larghetto in Adagio and Allegro's quick end as Vivace.
    "term": ("tempo", (
        (0, ("Largo",)),
        (60, ("Adagio",)),
        (76, ("Andante",)),
        (108, ("Moderato",)),
        (120, ("Allegro",)),
        (156, ("Vivace",)),
        (168, ("Presto",)))),
    # The same in plain words; the edges are edges of the scale above, so that a term implies its pace.
    "pace": ("tempo", (
        (0, ("very slow",)),
        (60, ("slow",)),
        (76, ("moderate", "medium", "mid-tempo")),
        (120, ("fast", "brisk", "up-tempo")),
        (168, ("very fast",)))),
    # LUFS. Streaming services play at -14 and broadcasters at -23; masters above -10 are the "loudness war" ones.
    "loudness": ("loudness", (
        (float("-inf"), ("very quiet", "very soft", "faint")),
        (-36, ("quiet", "soft")),
        (-23, ("moderately loud", "neither loud nor quiet")),
        (-16, ("loud",)),
        (-10, ("very loud",)))),
    # dB between the loud and the soft of the short-time level. Recordings gave 7 for a dense electronic mix, 14 for a
    # sparser one, 24 for Bach, 40 for drums alone.
    "dynamics": ("dynamics", (
        (0, ("even", "almost constant", "narrow")),
        (8, ("fairly even", "fairly narrow")),
        (15, ("varied", "clearly varied", "fairly wide")),
        (25, ("wide", "widely varied")))),
    # Hz, mean spectral centroid at a 22.05 kHz analysis, where white noise lies at 5500. The same recordings gave 1900,
    # 1000, 1400 and 3700.
    "brightness": ("centroid", (
        (0, ("dark",)),
        (1000, ("warm", "rounded")),
        (1600, ("balanced", "neutral")),
        (2500, ("bright",)),
        (3500, ("brilliant", "very bright")))),
    # Share of energy that is percussive (HPSS): 0.2, 0.2, 0.0 and 0.7.
    "percussiveness": ("percussiveness", (
        (0, ("sustained", "non-percussive")),
        (0.08, ("lightly percussive",)),
        (0.25, ("moderately percussive", "partly percussive")),
        (0.5, ("percussive", "clearly percussive")),
        (0.7, ("highly percussive", "almost entirely percussive")))),
    # Onsets per second: at 120 BPM quarter notes make 2, eighths 4, sixteenths 8.
    "density": ("onset_rate", (
        (0, ("sparse", "few and far between")),
        (1, ("moderately busy", "moderately active")),
        (3.5, ("busy", "active")),
        (6.5, ("very busy", "dense")))),
    # MIDI note number of the median pitch: below C3, C3 to B4, from C5.
    "register": ("pitch_median", (
        (0, ("low",)),
        (48, ("middle", "mid-range")),
        (72, ("high",)))),
}

# How sure a measurement must be, 0..1. Between ABSENT and HEDGED nothing is said: neither a beat nor none was found.
SURE, HEDGED, ABSENT = 0.6, 0.3, 0.1
VOICED = 0.5  # pitch_salience below which pitch statistics describe noise or chords rather than a line

TEMPO_HEDGES = ("around", "about", "roughly", "close to")  # before the number
KEY_HEDGES = ("probably", "apparently", "most likely")      # before the key or "in" it
KEY_VERBS = ("seems to be in", "appears to be in", "leans towards")
NO_BEAT = ("steady beat", "regular beat", "clear pulse")
NO_KEY = ("clear key", "clear tonal centre", "definite key")


def word(facet: str, value: float) -> str:
    """The name of the band of `facet` that `value` lies in; tempo is banded as it is spoken, in whole BPM."""
    field, bands = BANDS[facet]
    if field == "tempo":
        value = round(value)
    return bands[max(bisect_right([edge for edge, _ in bands], value) - 1, 0)][1][0]


def words(facet: str, name: str) -> tuple[str, ...]:
    """Every word that says the band `name` of `facet`, the name first."""
    return next(band for _, band in BANDS[facet][1] if band[0] == name)


def facts(measurement: Mapping) -> dict:
    """What a measurement allows to be said: {facet: name of its band}, and

    `beat` and `tonality`: "sure", "hedged" or "none"; with the first two `tempo` (int, BPM) and `key` ("F# minor");
    `seconds` (int) for clips under a minute. What was not measured, or not surely enough, is left out.
    """
    known = {field: value for field, value in measurement.items() if value is not None}
    said = {facet: word(facet, known[field]) for facet, (field, _) in BANDS.items() if field in known}
    if known.get("pitch_salience", 0) < VOICED:
        said.pop("register", None)

    # A tempo of None means that no beat was found; a key of None means only that no key was measured.
    beat = _certainty(known.get("tempo_confidence")) if "tempo" in known else "none"
    if beat != "sure":  # "fast, or so" beside a hedged number says nothing more
        said.pop("term", None)
        said.pop("pace", None)
    if beat:
        said["beat"] = beat
    if beat in ("sure", "hedged"):
        said["tempo"] = round(known["tempo"])

    tonality = _certainty(known.get("key_confidence"))
    if tonality == "none":
        said["tonality"] = tonality
    elif tonality and "key" in known and "mode" in known:
        said["tonality"] = tonality
        said["key"] = f"{known['key']} {known['mode']}"

    if 1 <= round(known.get("duration", 0)) < 60:
        said["seconds"] = round(known["duration"])
    return said


def claims(caption: str) -> dict:
    """What a caption says, in the terms of `facts`. For the measured captioner's own language: elsewhere "even" or
    "low" need not speak of dynamics or register.
    """
    said = {_MEANING[found.lower()][0]: _MEANING[found.lower()][1] for found in _WORDS.findall(caption)}
    if tempo := _TEMPO.search(caption):
        said["tempo"] = int(tempo["bpm"])
        said["beat"] = "hedged" if tempo["hedge"] else "sure"
    elif "term" in said or "pace" in said:
        said["beat"] = "sure"
    if key := _KEY.search(caption):
        said["key"] = key["key"]
        said["tonality"] = "hedged" if key["hedge"] else "sure"
    if _NO_BEAT.search(caption):
        said["beat"] = "none"
    if _NO_KEY.search(caption):
        said["tonality"] = "none"
    if seconds := _SECONDS.search(caption):
        said["seconds"] = int(seconds[1])
    return said


def _certainty(confidence: float | None) -> str | None:
    if confidence is None or ABSENT <= confidence < HEDGED:
        return None
    return "none" if confidence < ABSENT else "hedged" if confidence < SURE else "sure"


def _any(phrases) -> str:
    # Longest first, or "very bright" would be read as "bright".
    return "|".join(sorted(map(re.escape, phrases), key=len, reverse=True))


_MEANING = {said.lower(): (facet, band[0]) for facet, (_, bands) in BANDS.items() for _, band in bands for said in band}
_WORDS = re.compile(rf"\b(?:{_any(_MEANING)})\b", re.IGNORECASE)
_TEMPO = re.compile(rf"(?:\b(?P<hedge>(?i:{_any(TEMPO_HEDGES)})) )?\b(?P<bpm>\d+) (?:BPM|beats per minute)\b")
_KEY = re.compile(
    rf"(?:\b(?P<hedge>(?i:{_any(KEY_HEDGES)})(?: in)?|{_any(KEY_VERBS)}) )?\b(?P<key>[A-G]#? (?:major|minor))\b")
_NO_BEAT = re.compile(rf"\b(?:no|without a) (?:{_any(NO_BEAT)})\b", re.IGNORECASE)
_NO_KEY = re.compile(rf"\b(?:no|without a|or a) (?:{_any(NO_KEY)})\b", re.IGNORECASE)
_SECONDS = re.compile(r"\b(\d+)-second\b")
