"""The embedded captioner: a caption of a music clip from its stored measurements, claiming nothing else.

`captioners.vocabulary` decides what may be said and in which words; this file only makes sentences of it. Instruments,
genre, mood, voices and production are not measured, so they are not named.
"""
import random
import re
from collections.abc import Mapping
from typing import NamedTuple

from captioners.vocabulary import KEY_HEDGES, KEY_VERBS, NO_BEAT, NO_KEY, TEMPO_HEDGES, facts, words
from manifests.outcomes import Loss

NAME = "measured"
VERSION = 1

NOUNS = ("piece", "piece", "music", "track", "recording", "clip", "excerpt", "passage")

# How a word of a facet is said: (clause, noun phrase). A word that does not fit its facet's frames has its own.
FRAMES = {
    "brightness": (("the tone is {}", "a {} tone"), ("the timbre is {}", "a {} timbre"),
                   ("the tone colour is {}", "a {} tone colour")),
    "loudness": (("the sound is {}", "a {} sound"), ("the sound is {} overall", "a {} overall sound"),
                 ("the overall level is {}", "a {} overall level")),
    "neither loud nor quiet": (("the sound is {}", "a sound {}"), ("the overall level is {}", "an overall level {}")),
    "dynamics": (("the dynamics are {}", "{} dynamics"), ("the volume is {}", "a {} volume")),
    **dict.fromkeys(("narrow", "fairly narrow", "fairly wide", "wide"),
                    (("the dynamic range is {}", "a {} dynamic range"),)),
    "percussiveness": (("the texture is {}", "a {} texture"), ("the character is {}", "a {} character"),
                       ("the articulation is {}", "{} articulation")),
    "density": (("the rhythm is {}", "a {} rhythm"), ("the flow of notes is {}", "a {} flow of notes"),
                ("the rhythmic surface is {}", "a {} rhythmic surface")),
    "few and far between": (("the notes are {}", "notes {}"),),
    "register": (("the register is {}", "a {} register"), ("the pitches are mostly {}", "mostly {} pitches")),
    "middle": (("the pitches lie in the {} register", "a {} register"),),
}

# How a word describes the piece itself, where it can: "dark" alone would be a mood.
EPITHETS = {
    **{word: word for word in (
        "very slow", "slow", "mid-tempo", "fast", "brisk", "up-tempo", "very fast",
        "very quiet", "very soft", "faint", "quiet", "soft", "loud", "very loud",
        "sustained", "lightly percussive", "percussive", "highly percussive", "sparse", "busy", "very busy", "dense")},
    **{word: f"{word}-toned" for word in ("dark", "warm", "bright")},
    **{word: f"{word}-pitched" for word in ("low", "high")},
}

# What most clips are, and so less worth a listener's words.
COMMONPLACE = {"moderately loud", "fairly even", "balanced", "moderately percussive", "moderately busy", "middle"}


class Anchor(NamedTuple):
    """Tempo or key, as each place of a sentence wants it."""

    verb: str     # the piece ...    "moves at 96 BPM"
    front: str    # ..., the piece   "moving at 96 BPM"
    adverb: str   # a piece ...      "at 96 BPM"
    clause: str   # on its own       "the tempo is 96 BPM"
    absent: bool  # tells that there is none


class Opening(NamedTuple):
    """The part of a caption that tells tempo and key."""

    text: str
    resumed: str   # how the next sentence calls the piece
    finite: bool   # a sentence of its own, that may also come second


def caption(measurement: Mapping, seed: int) -> str:
    """Describe a clip in one to three English sentences.

    `measurement` has the fields of `manifests.records.MEASUREMENT`; nullable ones may be None. The same arguments give
    the same text. Raises Loss("caption_failed") where nothing can honestly be said.
    """
    said = facts(measurement)
    if not said.keys() - {"beat", "tonality", "seconds"}:
        raise Loss("caption_failed", "no measurement is sure enough to be put into words")
    rng = random.Random(seed)
    noun = _pick(rng, NOUNS)
    if "seconds" in said and noun in ("clip", "excerpt", "recording") and _chance(rng, 0.4):
        noun = f"{said['seconds']}-second {noun}"
    article = "the" if noun == "music" else _pick(rng, ("this", "the"))
    subject = f"{article} {noun}"

    details = _details(rng, said)
    epithets = _epithets(rng, said, details) if _chance(rng, 0.6) else {}
    phrases = [_phrase(rng, facet, said[facet]) for facet in details if facet not in epithets]
    anchors = _anchors(rng, said, paced="pace" in epithets)

    if not anchors and not epithets:
        return _prose(_body(rng, phrases, subject))
    if anchors and not epithets and 0 < len(phrases) < 4 and _chance(rng, 0.35):
        return _prose(_details_first(rng, phrases, anchors, subject, noun))
    openings = _openings(subject, noun, anchors, list(epithets.values()))
    if not phrases:
        return _prose([_pick(rng, [opening.text for opening in openings if opening.finite])])
    opening = _pick(rng, openings)
    # "With no steady beat, with a dark tone" stumbles, and "the key is C major, with a dark tone" has lost its piece.
    if " with" in opening.text or opening.resumed != "it" or (len(phrases) > 1 and _chance(rng, 0.45)):
        return _prose([opening.text, *_body(rng, phrases, opening.resumed)])
    near = {3: _pick(rng, (1, 3)), 4: 2, 5: 2}.get(len(phrases), len(phrases))  # one detail left over would be a stub
    tail = _tail(rng, phrases[:near])
    comma = "," if anchors or not tail.startswith("with ") else ""
    return _prose([f"{opening.text}{comma} {tail}", *_body(rng, phrases[near:], opening.resumed)])


def _details(rng, said) -> list[str]:
    """The facets to name beside tempo and key: three attributes or more in all where they are known."""
    known = [facet for facet in FRAMES if facet in said]
    chances = {facet: rng.random() ** (3 if said[facet] in COMMONPLACE else 1) for facet in known}
    anchors = ("beat" in said) + ("tonality" in said)
    wanted = (3 if anchors == 2 else 4) + _chance(rng, 0.3)
    return sorted(known, key=chances.get, reverse=True)[:wanted]


def _epithets(rng, said, details) -> dict[str, str]:
    """Up to two adjectives for the piece itself: {facet: adjective}."""
    found = {}
    for facet in _shuffled(rng, [facet for facet in ("pace", *details) if facet in said]):
        fitting = [EPITHETS[word] for word in words(facet, said[facet]) if word in EPITHETS]
        if fitting and len(found) < 2 and _chance(rng, 0.7):
            found[facet] = _pick(rng, fitting)
    return found


def _phrase(rng, facet, name) -> tuple[str, str]:
    """A detail as a clause and as a noun phrase: "the tone is dark", "a dark tone"."""
    word = _pick(rng, words(facet, name))
    clause, thing = _pick(rng, FRAMES.get(word, FRAMES[facet]))
    return clause.format(word), thing.format(word)


def _anchors(rng, said, paced) -> list[Anchor]:
    """Tempo and key, in either order. `paced`: an epithet tells slow from fast already."""
    beat, key = _pick(rng, NO_BEAT), _pick(rng, NO_KEY)
    if said.get("beat") == said.get("tonality") == "none":
        return [_absence(rng, f"no {beat} and no {key}", f"without a {beat} or a {key}")]
    found = []
    if "beat" in said:
        found.append(_absence(rng, f"no {beat}", f"without a {beat}") if said["beat"] == "none" else
                     _tempo(rng, said, paced))
    if "tonality" in said:
        found.append(_absence(rng, f"no {key}", f"without a {key}") if said["tonality"] == "none" else
                     _key(rng, said))
    return _shuffled(rng, found)


def _absence(rng, nothing, without) -> Anchor:
    clause = _pick(rng, (f"there is {nothing}", f"{nothing} can be made out"))
    return Anchor(f"has {nothing}", without, _pick(rng, (f"with {nothing}", without)), clause, True)


def _tempo(rng, said, paced) -> Anchor:
    bpm = f"{said['tempo']} {'beats per minute' if _chance(rng, 0.15) else 'BPM'}"
    if said["beat"] == "hedged":
        speed = f"{_pick(rng, TEMPO_HEDGES)} {bpm}"
        verb = _pick(rng, ("seems to move at", "appears to run at", "seems to sit at", "moves at what seems to be"))
        clause = _pick(rng, ("the tempo seems to be", "the beat seems to fall at", "the tempo appears to be"))
        return Anchor(f"{verb} {speed}", f"at {speed}", f"at {speed}", f"{clause} {speed}", False)
    pace, term = _pick(rng, [word for word in words("pace", said["pace"]) if "-" not in word]), said["term"]
    speed, tempo = _pick(rng, [  # after "at", and after "the tempo is"
        (bpm, bpm),
        (f"a tempo of {bpm}", bpm),
    ] if paced else [
        (bpm, bpm),
        (f"a {said['pace']} {bpm}", f"a {said['pace']} {bpm}"),
        (f"a {pace} tempo", pace),
        (f"a {pace} tempo of {bpm}", f"{pace}, at {bpm}"),
        (f"a {pace} pace of {bpm}", f"{pace}, at {bpm}"),
        (f"a {term} tempo", term),
        (f"a {term} tempo of {bpm}", f"{term}, at {bpm}"),
    ])
    verb, front = _pick(rng, ("moves", "runs", "proceeds", "sits")), _pick(rng, ("moving at", "taken at", "at"))
    clause = _pick(rng, (f"the tempo is {tempo}", f"the beat runs at {speed}"))
    return Anchor(f"{verb} at {speed}", f"{front} {speed}", f"at {speed}", clause, False)


def _key(rng, said) -> Anchor:
    key = said["key"]
    if said["tonality"] == "hedged":
        hedge, verb = _pick(rng, KEY_HEDGES), _pick(rng, KEY_VERBS)
        clause = _pick(rng, (f"the key is {hedge} {key}", f"the tonality leans towards {key}"))
        return Anchor(_pick(rng, (f"{verb} {key}", f"is {hedge} in {key}")), f"{hedge} in {key}",
                      f", {hedge} in {key}", clause, False)
    within = _pick(rng, (f"in {key}", f"in {key}", f"in the key of {key}"))
    verb, front = _pick(rng, ("is", "is set")), _pick(rng, ("set ", ""))
    return Anchor(f"{verb} {within}", f"{front}{within}", within, f"the key is {key}", False)


def _openings(subject, noun, anchors, epithets) -> list[Opening]:
    """The ways to say tempo and key, with the epithets where there are any."""
    article = subject.split()[0]
    # What is missing or doubtful comes last: "in A minor with no steady beat", "at 96 BPM, probably in A minor".
    ordered = sorted(anchors, key=lambda anchor: (anchor.adverb[0] == ",", anchor.absent))
    adverbs = "".join(_attached(anchor.adverb) for anchor in ordered)
    link = "but" if len({anchor.absent for anchor in anchors}) == 2 else "and"
    verbs = f" {link} ".join(anchor.verb for anchor in anchors)
    moving = ordered[0].verb + "".join(_attached(anchor.adverb) for anchor in ordered[1:]) if anchors else ""
    predicates = [verbs] if link == "but" or len(anchors) < 2 else [verbs, moving]
    if not epithets:
        found = [Opening(f"{subject} {predicate}", "it", True) for predicate in predicates]
        found.append(Opening(f", {link} ".join(anchor.clause for anchor in anchors), "the music", True))
        if len(anchors) == 2:
            found.append(Opening(f"{anchors[0].front}, {subject} {anchors[1].verb}", "it", True))
        return found
    described = f"a {', '.join(epithets)} {'piece of music' if noun == 'music' else noun}{adverbs}"
    found = [*[Opening(described, "it", False)] * 2,
             *[Opening(f"{here} {described}", "it", True) for here in ("this is", "here is")]]
    subjects = [f"{article} {', '.join(epithets)} {noun}"]
    if len(epithets) == 2:
        subjects.append(f"{' and '.join(epithets)}, {subject}")
    if anchors:
        found += [Opening(f"{start} {predicate}", "it", True) for start in subjects for predicate in predicates]
    return found


def _body(rng, phrases, subject) -> list[str]:
    """Details as sentences of their own, of three phrases at most; only the first speaks of the piece as `subject`."""
    if len(phrases) > 3:
        return [*_body(rng, phrases[:2], subject), *_body(rng, phrases[2:], "")]
    if not phrases:
        return []
    clauses, things = zip(*phrases, strict=True)
    found = [_list(clauses)]
    if len(phrases) > 1 and all(map(_gapped, clauses)):
        found += [_list([clauses[0], *map(_gapped, clauses[1:])])] * 3
    if len(phrases) == 2:
        found.append("; ".join(clauses))
    if subject:
        found += [f"{subject} {verb} {_list(things)}" for verb in ("has", "has", "combines")[:len(phrases) + 1]]
        found.append(f"we hear {_list(things)}")
    return [_pick(rng, found)]


def _details_first(rng, phrases, anchors, subject, noun) -> list[str]:
    """Details, then tempo and key: "With a dark tone, the piece ..." or "The tone is dark. The piece ..."."""
    if _chance(rng, 0.4):
        texts = [opening.text for opening in _openings(subject, noun, anchors, []) if opening.text.startswith(subject)]
        text = _pick(rng, [text for text in texts if " with" not in text])
        return [f"with {_list([thing for _, thing in phrases])}, {text}"]
    body = _body(rng, phrases, subject)
    resumed = "it" if body[0].startswith(subject) else f"the {noun.split()[-1]}"
    return [*body, _pick(rng, [opening.text for opening in _openings(resumed, noun, anchors, []) if opening.finite])]


def _tail(rng, phrases) -> str:
    """Details hung on a sentence by a comma: "with a dark tone", "the tone dark and the rhythm busy"."""
    clauses, things = zip(*phrases, strict=True)
    found = [f"with {_list(things)}"] * 2
    if all(map(_gapped, clauses)):
        found.append(_list([*map(_gapped, clauses)]))
    return _pick(rng, found)


def _gapped(clause) -> str:
    """"the tone is dark" without its verb, "" where another verb would be missed."""
    gapped, verbs = re.subn(r" (is|are) ", " ", clause, count=1)
    return gapped if verbs else ""


def _attached(adverb) -> str:
    return adverb if adverb.startswith(",") else f" {adverb}"


def _list(items) -> str:
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def _prose(sentences) -> str:
    """Sentences with their capitals, periods and articles; "a" is written for both "a" and "an" until here."""
    text = " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU]|8|1[18]\b)", r"\1n ", text)


def _pick(rng, options):
    # random.Random.random() is the one method whose values Python promises to keep.
    return options[int(rng.random() * len(options))]


def _shuffled(rng, items) -> list:
    return sorted(items, key=lambda _: rng.random())


def _chance(rng, share) -> bool:
    return rng.random() < share
