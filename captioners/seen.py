"""The embedded captioner for pictures and films: what their measured looks allow to be said, and nothing else.

Objects, scenes and moods are not measured, so they are not named. As in `captioners.vocabulary`, `facts` says what the
numbers allow and `claims` reads back what a caption says; a caption is honest where they agree.
"""
import random
import re
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

from captioners.looks import COLOURS
from manifests.outcomes import Loss

NAME = "measured"
VERSION = 1

# facet: (field of captioners.looks, bands from low to high: lower edge, name). Between bands that meet in the eye, and
# where a word would need luck to be right, None: nothing is said. Edges were set by looking at the sample corpus.
BANDS = {
    "brightness": ("brightness", ((0, "very dark"), (0.12, "dark"), (0.28, None), (0.38, "medium"), (0.62, None),
                                  (0.69, "bright"), (0.87, "very bright"))),
    "contrast": ("contrast", ((0, "very low"), (0.025, "low"), (0.07, None), (0.1, "moderate"), (0.17, None),
                              (0.2, "high"))),
    "saturation": ("saturation", ((0, "none"), (2.5, None), (4, "weak"), (20, None), (25, "moderate"), (40, None),
                                  (47, "strong"), (70, "vivid"))),
    "sharpness": ("sharpness", ((0, "soft"), (0.35, None), (0.55, "fairly sharp"), (0.8, "sharp"))),
    "motion": ("motion", ((0, "still"), (0.012, None), (0.018, "slow"), (0.065, None), (0.09, "moderate"),
                          (0.18, None), (0.22, "quick"))),
    "light": ("brightness_spread", ((0, "steady"), (0.025, None), (0.06, "varying"), (0.16, None),
                                    (0.2, "strongly varying"))),
    "change": ("colour_change", ((0, "same"), (0.03, None), (0.35, "changing"))),
}
_CUTS = ((0, "none"), (1, "one"), (2, "few"), (5, "several"), (10, "many"))
_TREND, _STRAIGHT = 0.15, 0.6  # rise of brightness that is told, where its line explains so much of the variance
_SOLE, _MAIN, _SOME = 0.9, 0.55, 0.1  # shares of a colour


class Words(NamedTuple):
    """Ways to say one band: before the noun, as a clause, and after "with"."""

    epithets: tuple[str, ...]
    clauses: tuple[str, ...]
    things: tuple[str, ...]


SAID = {
    "brightness": {
        "very dark": Words(("very dark",), ("the brightness is very low", "the tones are very dark"),
                           ("very dark tones", "very low brightness")),
        "dark": Words(("dark",), ("the brightness is low", "the tones are dark"), ("dark tones", "low brightness")),
        "medium": Words(("mid-toned",), ("the brightness is medium", "the tones are neither dark nor bright"),
                        ("medium brightness", "mid-range tones")),
        "bright": Words(("bright",), ("the brightness is high", "the tones are bright"),
                        ("bright tones", "high brightness")),
        "very bright": Words(("very bright",), ("the brightness is very high", "the tones are very bright"),
                             ("very bright tones", "very high brightness"))},
    "contrast": {
        "very low": Words(("nearly contrastless",), ("the contrast is very low", "there is hardly any contrast"),
                          ("very low contrast", "hardly any contrast")),
        "low": Words(("low-contrast",), ("the contrast is low", "there is little contrast"),
                     ("low contrast", "little contrast")),
        "moderate": Words((), ("the contrast is moderate",), ("moderate contrast", "a medium contrast")),
        "high": Words(("high-contrast",), ("the contrast is high", "the contrast is strong"),
                      ("high contrast", "strong contrast"))},
    "saturation": {
        "none": Words(("colourless",), ("there is no colour in it", "all of it is without colour"),
                      ("no colour", "no colour at all")),
        "weak": Words(("weakly coloured", "muted"), ("the colours are weak", "the colours are muted"),
                      ("weak colours", "muted colours")),
        "moderate": Words((), ("the colours are moderately saturated",), ("moderately saturated colours",)),
        "strong": Words(("strongly coloured",), ("the colours are strong", "the colours are saturated"),
                        ("strong colours", "saturated colours")),
        "vivid": Words(("vividly coloured",), ("the colours are vivid", "the colours are highly saturated"),
                       ("vivid colours", "highly saturated colours"))},
    "sharpness": {
        "soft": Words(("soft-edged",), ("the edges are soft", "the transitions are gradual"),
                      ("soft edges", "gradual transitions")),
        "fairly sharp": Words((), ("the edges are fairly sharp",), ("fairly sharp edges", "fairly clear edges")),
        "sharp": Words(("sharp-edged",), ("the edges are sharp", "the edges are crisp"),
                       ("sharp edges", "crisp edges"))},
    "motion": {
        "still": Words(("nearly motionless",), ("hardly anything moves", "almost nothing moves"),
                       ("hardly any movement", "almost no movement")),
        "slow": Words(("slow-moving",), ("the movement is slow", "what moves does so slowly"),
                      ("slow movement", "unhurried movement")),
        "moderate": Words((), ("the movement is of moderate speed", "what moves does so at a moderate speed"),
                          ("movement of moderate speed", "moderately quick movement")),
        "quick": Words(("fast-moving",), ("the movement is quick", "what moves does so quickly"),
                       ("quick movement", "fast movement"))},
    "cuts": {
        "none": Words(("uncut",), ("there are no cuts", "no cut interrupts it"), ("no cuts", "not a single cut")),
        "one": Words((), ("there is one cut", "a cut divides it in two"), ("one cut", "a single cut")),
        "few": Words((), ("there are a few cuts", "it cuts a few times"), ("a few cuts", "a few changes of shot")),
        "several": Words((), ("there are several cuts", "it cuts several times"),
                         ("several cuts", "several changes of shot")),
        "many": Words(("often-cut",), ("there are many cuts", "it cuts many times"),
                      ("many cuts", "many changes of shot"))},
    "light": {
        "steady": Words((), ("the brightness is steady", "the brightness hardly changes"), ("steady brightness",)),
        "varying": Words((), ("the brightness varies", "the brightness changes over time"), ("varying brightness",)),
        "strongly varying": Words((), ("the brightness varies strongly", "the brightness changes strongly"),
                                  ("strongly varying brightness",))},
    "trend": {
        "brighter": Words((), ("it grows brighter towards the end", "it turns brighter over time"),
                          ("a rise in brightness", "growing brightness")),
        "darker": Words((), ("it grows darker towards the end", "it turns darker over time"),
                        ("a fall in brightness", "falling brightness"))},
    "change": {
        "same": Words((), ("the colours stay the same", "the colours hardly change"), ("unchanging colours",)),
        "changing": Words((), ("the colours change", "the colours do not stay the same"), ("changing colours",))},
}
_STILL = ("brightness", "contrast", "saturation", "sharpness")
_MOVING = ("motion", "cuts", "light", "trend", "change")
_NOUNS = {"image": ("picture", "image", "frame", "still image"), "video": ("video", "clip", "film", "video clip")}


def caption(row: Mapping, seed: int, kind: str) -> dict:
    """Fields of records.CAPTION of a row of records.FRAME (`kind` "image") or records.VIDEO ("video"); `seed` is the
    row's own.

    Raises Loss("caption_failed") where nothing can be said.
    """
    return {"caption": {"image": image_caption, "video": video_caption}[kind](row, seed), "captioner": NAME,
            "captioner_revision": str(VERSION), "caption_prompt": "", "caption_seed": seed}


def image_caption(looks: Mapping, seed: int) -> str:
    """Describe a picture in one or two English sentences; `looks` has the fields of `captioners.looks.picture`."""
    rng, said = random.Random(seed), facts(looks)
    wanted = 3 + (rng.random() < 0.6)
    details = [facet for facet in _shuffled(rng, _STILL) if facet in said][:wanted]
    return _prose(_picture(rng, said, details, _pick(rng, _NOUNS["image"])))


def video_caption(looks: Mapping, seed: int) -> str:
    """Describe a film in two English sentences or so; `looks` has the fields of `captioners.looks.film`."""
    rng, said = random.Random(seed), facts(looks)
    noun = _pick(rng, _NOUNS["video"])
    details = [facet for facet in _shuffled(rng, _STILL) if facet in said][:1 + (rng.random() < 0.5)]
    moving = [facet for facet in ("motion", "cuts") if facet in said]
    moving += [facet for facet in _shuffled(rng, ("light", "trend", "change")) if facet in said][:1 + (
        "motion" not in said or rng.random() < 0.3)]
    first = _picture(rng, said, details, noun) if details or "colours" in said or not moving else []
    moving = _shuffled(rng, moving)
    if not moving:
        return _prose(first)
    if rng.random() < 0.5:
        return _prose([*first, _list(_say(rng, said, facet, "clauses") for facet in moving)])
    things = _list(_say(rng, said, facet, "things") for facet in moving)
    subject = _pick(rng, (f"the {noun.split()[-1]}", "it" if first else f"this {noun}"))
    return _prose([*first, f"{subject} has {things}"])


def _picture(rng, said, details, noun) -> list[str]:
    """The colours and the details."""
    if "colours" not in said and not details:
        raise Loss("caption_failed", "no look is sure enough to be put into words")
    fitting = [facet for facet in details if SAID[facet][said[facet]].epithets]
    epithets = fitting[:min(len(fitting), _pick(rng, (0, 1, 1, 2)))]
    rest = [facet for facet in details if facet not in epithets]
    adjectives = [_say(rng, said, facet, "epithets") for facet in epithets]
    described = " ".join([", ".join(adjectives), noun]).strip()
    colours = _colours(rng, said) if "colours" in said else None
    things = _list(_say(rng, said, facet, "things") for facet in rest)
    clauses = _list(_say(rng, said, facet, "clauses") for facet in rest)
    if colours is None:
        return [f"a {described}{' with ' + things if things else ''}"]
    tail, clause = colours
    this, here = _pick(rng, ("this", "the")), _pick(rng, ("", "", "this is ", "here is "))
    found = [[f"{here}a {described} {tail}", clauses],
             [f"in this {described}, {clause}", clauses],
             [f"{this} {described} is {tail}", clauses]]
    if things:
        found += [[f"{here}a {described} with {things}, {tail}"],
                  [f"with {things}, {this} {described} is {tail}"],
                  [f"{this} {described} has {things}; {clause}"]]
    if len(adjectives) > 1:
        found.append([f"{this} {noun} is {' and '.join(adjectives)}, {tail}", clauses])
    return [sentence for sentence in _pick(rng, found) if sentence]


def _colours(rng, said) -> tuple[str, str]:
    """The colours behind a noun, and as a clause."""
    first, *others = said["colours"]
    if said["dominance"] == "many":
        return f"in many colours, most of all {first}", f"there are many colours, most of all {first}"
    if said["dominance"] == "sole":
        return f"almost entirely in {first}", f"almost everything is {first}"
    if said["dominance"] == "mixed":
        together = _list(said["colours"])
        return (_pick(rng, (f"in a mix of {together}", f"coloured mainly {together}")),
                f"{together} are the main colours")
    some = f" with some {_list(others)}" if others else ""
    return f"mostly in {first}{some}", _pick(rng, (f"most of it is {first}{some}", f"{first} prevails{some}"))


def facts(looks: Mapping) -> dict:
    """What looks allow to be said: {facet: name of its band}; `trend`: "brighter" or "darker"; `colours`: one to three,
    the largest share first, and `dominance`: "sole", "main", "mixed" or "many". What is not sure enough is left out.
    """
    known = {field: value for field, value in looks.items() if value is not None}
    said = {facet: _band(bands, known[field]) for facet, (field, bands) in BANDS.items() if field in known}
    if "cuts" in known:
        said["cuts"] = _band(_CUTS, len(known["cuts"]))
    rise, spread = known.get("brightness_trend", 0.0), known.get("brightness_spread", 0.0)
    # A straight line of that rise has a variance of rise² / 12.
    if abs(rise) > _TREND and rise**2 / 12 > _STRAIGHT * spread**2:
        said["trend"] = "brighter" if rise > 0 else "darker"
        said.pop("light", None)
    said = {facet: name for facet, name in said.items() if name is not None}
    return said | (_palette(known["colours"]) if "colours" in known else {})


def _palette(shares) -> dict:
    ranked = sorted(zip(shares, COLOURS, strict=True), key=lambda pair: -pair[0])
    large = [name for share, name in ranked if share >= _SOME] or [ranked[0][1]]
    if ranked[0][0] >= _SOLE:
        return {"colours": (ranked[0][1],), "dominance": "sole"}
    if ranked[0][0] >= _MAIN:
        return {"colours": tuple(large[:3]), "dominance": "main"}
    return {"colours": tuple(large[:3]), "dominance": "mixed" if len(large) > 1 else "many"}


def claims(caption: str) -> dict:
    """What a caption of this captioner says, in the terms of `facts`."""
    said = {_MEANING[found.lower()][0]: _MEANING[found.lower()][1] for found in _PHRASES.findall(caption)}
    for dominance, pattern in _PALETTES.items():
        if found := pattern.search(caption):
            said["dominance"] = dominance
            said["colours"] = tuple(name.lower() for name in _COLOUR.findall(found[0]))
    return said


def _band(bands, value: float) -> str | None:
    return bands[max(bisect_right([edge for edge, _ in bands], value) - 1, 0)][1]


def _any(phrases) -> str:
    # Longest first, or "very bright" would be read as "bright".
    return "|".join(sorted(map(re.escape, phrases), key=len, reverse=True))


_MEANING = {phrase: (facet, name) for facet, names in SAID.items() for name, ways in names.items()
            for phrases in ways for phrase in phrases}
_PHRASES = re.compile(rf"(?<![\w-])(?:{_any(_MEANING)})(?![\w-])", re.IGNORECASE)
_COLOUR = re.compile(rf"\b(?:{_any(COLOURS)})\b", re.IGNORECASE)
_ONE = rf"(?:{_any(COLOURS)})"
_LIST = rf"{_ONE}(?:, {_ONE})*(?: and {_ONE})?"
_PALETTES = {
    "sole": re.compile(rf"\b(?:almost entirely in|almost everything is) {_ONE}\b", re.IGNORECASE),
    "main": re.compile(rf"\b(?:(?:mostly in|most of it is) {_ONE}|{_ONE} prevails)(?: with some {_LIST})?\b",
                       re.IGNORECASE),
    "many": re.compile(rf"\b(?:in|there are) many colours, most of all {_ONE}\b", re.IGNORECASE),
    "mixed": re.compile(rf"\b(?:(?:in a mix of|coloured mainly) {_LIST}|{_LIST} are the main colours)\b",
                        re.IGNORECASE),
}


def _say(rng, said, facet, way) -> str:
    return _pick(rng, getattr(SAID[facet][said[facet]], way))


def _list(phrases) -> str:
    *others, last = [*phrases] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _prose(sentences) -> str:
    """With capitals, periods and articles: "a" is written for "an", too, until here."""
    text = " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def _pick(rng, choices):
    return choices[int(rng.random() * len(choices))]


def _shuffled(rng, things) -> list:
    return sorted(things, key=lambda _: rng.random())
