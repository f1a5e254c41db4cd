"""Sentences from captions: what a measured caption claims, or a free caption's own words, fitted into other sentences.

The template writer's and the question writer's shared ground. Nothing here adds a fact.
"""
import re
from collections.abc import Sequence
from functools import cache, lru_cache

from captioners.measured import EPITHETS, FRAMES, NOUNS
from captioners.vocabulary import BANDS, KEY_HEDGES, KEY_VERBS, NO_BEAT, NO_KEY, TEMPO_HEDGES, claims, words

# The measured captioner's words beside those of its tables: a caption made of these alone is one of its own.
_GLUE = """this the a an it is are has have with without and but at in of no or to be we hear combines what
  here there can made out piece music track recording clip excerpt passage second set moves move runs
  run proceeds sits sit seems appears moving taken tempo pace beat beats per minute bpm fall falls key
  tonality leans towards mostly overall toned pitched major minor"""

# Verbs that tell what a piece or a picture is or holds, after its noun.
_HEADS = {
    "music": "song|track|music|piece|recording|clip|audio|composition|instrumental|excerpt|passage|tune|performance|"
             "cover|jingle|loop|sample|soundtrack|number",
    "image": "image|picture|photo|photograph|frame|scene",
    "video": "video|clip|footage|scene|film",
}
_VERBS = ("is|has|features|contains|consists|includes|comprises|showcases|presents|starts|begins|opens|sounds|gives|"
          "uses|combines|shows|depicts|displays|moves|runs|proceeds|involves|incorporates|exhibits|portrays|captures")
_FUNCTION = """the this that these those it its a an there in on at with here some one two three of as from by someone
  several many people and we you under over while when another both all his her their he she they"""
_SMALL = frozenset(_FUNCTION.split())
_ENOUGH = 60  # words of a free caption that a side quotes


def pick(rng, options):
    # random.Random.random() is the one method whose values Python promises to keep.
    return options[int(rng.random() * len(options))]


def chance(rng, share) -> bool:
    return rng.random() < share


def shuffled(rng, items) -> list:
    return sorted(items, key=lambda _: rng.random())


def listed(items: Sequence[str]) -> str:
    """"a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def finished(text: str) -> str:
    """A text with its capital, its full stop and its articles; "a" is written for both "a" and "an" until here."""
    text = re.sub(r"(\ba|^A|(?<=[.:] )A) (?=(?!(?i:uni|use|usu|one\b|euro|u[- ]))[aeiouAEIOU]|8|1[18]\b|hour)",
                  r"\1n ", " ".join(text.split()))
    text = text if text.endswith((".", "!", "?", '."', '?"')) else f"{text}."
    return text[0].upper() + text[1:]


def sentences(caption: str) -> list[str]:
    """A caption's sentences, each with its full stop, without gaps and broken quotes."""
    text = re.sub(r"\s*(?:\.{2,}|…)\s*", ". ", " ".join(caption.split())).strip(" .,;\"'“”") + "."
    text = re.sub(r"([!?])\.$", r"\1", text)
    return [finished(sentence.strip()) for sentence in re.split(r"(?<=[.!?])\s+(?=[\"'“(]?[A-Za-z])", text) if
            re.search(r"\w", sentence)]


@lru_cache(1024)
def measured(caption: str) -> dict:
    """The claims of a caption by the measured captioner, {} where the caption is anybody else's."""
    said = claims(caption)
    own = set(re.findall(r"[a-z]+", caption.lower())) <= _vocabulary()
    return said if own and len(said.keys() - {"beat", "tonality", "seconds"}) else {}


@cache
def _vocabulary() -> frozenset:
    told = [_GLUE, *NOUNS, *TEMPO_HEDGES, *KEY_HEDGES, *KEY_VERBS, *NO_BEAT, *NO_KEY, *EPITHETS.values(), *"abcdefg"]
    told += [word for _, bands in BANDS.values() for _, several in bands for word in several]
    told += [part for frames in FRAMES.values() for frame in frames for part in frame]
    return frozenset(re.findall(r"[a-z]+", " ".join(told).lower()))


def phrase(rng, facet: str, name: str) -> tuple[str, str]:
    """A claim as a clause and as a noun phrase: "the tone is dark", "a dark tone"."""
    word = pick(rng, words(facet, name))
    clause, thing = pick(rng, FRAMES.get(word, FRAMES[facet]))
    return clause.format(word), thing.format(word)


def tempo(rng, said: dict) -> str:
    """Where the beat lies, as an adverb: "at 96 BPM", "at a slow tempo", "without a steady beat"; "" where unsaid."""
    if said.get("beat") == "none":
        return f"{pick(rng, ('without a', 'with no'))} {pick(rng, NO_BEAT)}"
    if "tempo" in said:
        bpm = f"{said['tempo']} {'beats per minute' if chance(rng, 0.15) else 'BPM'}"
        if said["beat"] == "hedged":
            return f"at {pick(rng, TEMPO_HEDGES)} {bpm}"
        kind = said.get("term") or said.get("pace")
        if kind and chance(rng, 0.5):
            return f"at a {kind} tempo of {bpm}"
        return pick(rng, (f"at {bpm}", f"at {bpm}", f"at a tempo of {bpm}"))
    kind = said.get("term") or said.get("pace")
    return f"at a {kind} tempo" if kind else ""


def key(rng, said: dict) -> str:
    """The key as an adverb: "in A minor", "probably in A minor", "without a clear key"; "" where unsaid."""
    if said.get("tonality") == "none":
        return f"{pick(rng, ('without a', 'with no'))} {pick(rng, NO_KEY)}"
    if "key" not in said:
        return ""
    if said["tonality"] == "hedged":
        return f"{pick(rng, KEY_HEDGES)} in {said['key']}"
    return f"in {pick(rng, ('', '', 'the key of '))}{said['key']}"


def predicate(rng, said: dict) -> str:
    """What a measured piece is, to follow "that is" or "should be": "slow and dark-toned, at 60 BPM, with ..."."""
    facets = shuffled(rng, [facet for facet in FRAMES if facet in said])
    epithets = {}
    for facet in [facet for facet in ("pace", *facets) if facet in said]:
        fitting = [EPITHETS[word] for word in words(facet, said[facet]) if word in EPITHETS]
        if fitting and len(epithets) < 2 and chance(rng, 0.65):
            epithets[facet] = pick(rng, fitting)
    things = [phrase(rng, facet, said[facet])[1] for facet in facets if facet not in epithets]
    unsaid = {facet: name for facet, name in said.items() if facet not in epithets}
    anchors = shuffled(rng, filter(None, (tempo(rng, unsaid), key(rng, said))))
    anchors.sort(key=lambda anchor: anchor.startswith("with"))
    if len(anchors) == 2 and anchors[1].startswith(KEY_HEDGES):
        anchors = [f"{anchors[0]} and", anchors[1]]
    adverbs = " and ".join(anchors) if len(anchors) == 2 and anchors[0].startswith("with") else " ".join(anchors)
    adjectives = list(epithets.values())
    if adjectives and chance(rng, 0.4):
        noun = pick(rng, NOUNS[:-3]).replace("music", "piece of music")
        start = f"a {', '.join(adjectives)} {noun}{',' if adverbs.startswith(KEY_HEDGES) else ''} {adverbs}"
    elif adjectives:
        start = f"{listed(adjectives)}{',' if adverbs else ''} {adverbs}"
    elif adverbs:
        start = pick(rng, ("set {}", "played {}", "{}")).format(adverbs) if not adverbs.startswith("with") else \
            f"a {pick(rng, NOUNS[:1])} {adverbs}"
    else:
        return f"{pick(rng, ('marked by', 'characterised by', 'shaped by'))} {listed(things)}"
    if not things:
        return start.strip()
    link = "marked by" if "with" in adverbs else pick(rng, ("with", "with", "marked by"))
    return f"{start.strip()}, {link} {listed(things)}"


def bare(sentence: str) -> str:
    """A sentence to follow a colon: "Here is a still image in blue." is "a still image in blue." there."""
    return lowered(re.sub(r"^(?:here|this) is (?=an? )", "", sentence, flags=re.IGNORECASE))


def lowered(sentence: str) -> str:
    """A sentence as it goes on after a colon or a comma: names keep their capitals."""
    first = re.match(r"\w*", sentence)[0]
    return sentence[0].lower() + sentence[1:] if first.lower() in _SMALL else sentence


def relative(sentence: str, kind: str) -> str:
    """What is said of a piece (`kind` "music"), image or video, to follow "that"; "" where a sentence has no such form.

    "The song features a flute." becomes "features a flute", "A man is singing." of an image "shows a man singing".
    """
    text = sentence.rstrip(".")
    head = rf"(?:(?:low|high|poor|bad|good|\w+ing|[\w-]+),? ){{0,4}}?(?:{_HEADS[kind]})"
    plain = re.match(rf"(?:the|this|it)(?: ({head}))? ((?:{_VERBS})\b.*)$", text, re.IGNORECASE)
    if plain and (plain[1] or text.lower().startswith(("it ", "this is "))):
        qualified = plain[1] and len(plain[1].split()) > 1
        rest = plain[2]
        if rest.lower().startswith("is ") and qualified:
            return f"is a {plain[1]} that {rest}"
        return f"is a {plain[1]} that {rest}" if qualified else rest
    after = "with|that|which|in|at|from|for|by|of|featuring|played|performed|sung"
    if kind == "music" and re.match(rf"(?:an?|one) {head}(?=$|,? (?:{after})\b)", text, re.IGNORECASE):
        return f"is {lowered(text)}"
    if kind != "music":
        bare = re.sub(rf"^(?:this|the) (?:{_HEADS[kind]}) (?=of\b)", "", text, flags=re.IGNORECASE)
        doing, changed = re.subn(r"\b(?:is|are) (?=\w+ing\b)", "", lowered(bare), count=1)
        first = doing.split()[0].lower()
        if first in _SMALL - {"it", "this", "that", "in", "on", "at", "there"} and (changed or not re.search(
                r"\b(?:is|are|has|have|was|were|can|plays?|sings?|moves?|stands?|sits?|walks?|runs?)\b", doing)):
            return f"shows {doing}"
    return ""


def quoted(rng, caption: str) -> list[str]:
    """The sentences of a free caption that a side quotes: the first, and of the others what fits, in their order."""
    first, *others = sentences(caption)
    kept, room = [first], _ENOUGH - len(first.split())
    chosen = set(shuffled(rng, range(len(others)))[:pick(rng, (0, 1, 2, 3))])
    for index, sentence in enumerate(others):
        if index in chosen and len(sentence.split()) <= room:
            kept.append(sentence)
            room -= len(sentence.split())
    return kept
