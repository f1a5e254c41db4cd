"""MusicQA from a grammar: four answers to the stored questions and five questions with theirs, as numbered text.

The text has the form that language models are asked for, and goes through the same parser (`captioners.numbered`).
"""
import re
from collections.abc import Mapping

from captioners import lexicon
from captioners.measured import FRAMES
from captioners.wording import (
    bare,
    chance,
    finished,
    key,
    listed,
    lowered,
    measured,
    phrase,
    pick,
    predicate,
    quoted,
    sentences,
    shuffled,
    tempo,
)

_ABOUT = {
    "tempo": ("What is the tempo of the music?", "How fast does the music move?", "What can be said about the tempo?",
              "How would you describe the tempo and the beat of the music?"),
    "key": ("What key is the music in?", "In which key is the music set?",
            "What can be said about the key of the music?", "How would you describe the tonality of the music?"),
    "brightness": ("What is the tone of the music like?", "How would you describe the timbre of the audio?",
                   "What tone colour does the audio have?"),
    "loudness": ("How loud is the music?", "What can be said about the level of the sound?",
                 "How would you describe the loudness of the audio?"),
    "dynamics": ("What are the dynamics of the music like?", "How much does the volume of the audio change?",
                 "How would you describe the dynamics of the audio?"),
    "percussiveness": ("How percussive is the music?", "What is the texture of the music like?",
                       "How would you describe the character of the sound?"),
    "density": ("How busy is the rhythm of the music?", "What can be said about the rhythm?",
                "How closely do the notes follow each other?"),
    "register": ("In which register does the music lie?", "How high or low are the pitches of the music?",
                 "What can be said about the pitches?"),
    "instruments": ("Which instruments are used in the music?", "What instruments can be heard in the audio?",
                    "What is the instrumentation of the audio?"),
    "voices": ("What can be said about the voices in the audio?", "What kind of vocals does the audio have?",
               "What is there to say about the singing?"),
    "genre": ("What genre does the music belong to?", "What style of music is this?",
              "How would you classify the music?"),
    "mood": ("What is the mood of the music?", "What feeling does the music convey?", "How does the music feel?"),
    "pace": ("What is the tempo of the music?", "How fast is the music?", "What can be said about the tempo?"),
    "sound": ("What can be said about the sound of the recording?", "How does the recording sound?",
              "What is the sound of the audio like?"),
    "absent": ("What is missing from the audio?", "What will a listener not find in the audio?"),
    "other": ("What else is the audio known for?", "Which other words describe the audio?"),
}
# Said of the names of a kind, which come after a colon or as they are.
_TOLD = {
    "instruments": ("The following can be heard: {}", "The instrumentation is this: {}",
                    "The music is made with these: {}"),
    "voices": ("As for the voices, the audio has the following: {}", "Of voices there is the following: {}"),
    "genre": ("The style is {}", "The genre is {}", "Its style can be given as {}"),
    "mood": ("The mood is {}", "The music feels {}", "The music comes across as {}"),
    "pace": ("The tempo is described like this: {}", "As for its pace, the music has the following: {}"),
    "sound": ("The sound is described like this: {}", "Of the recording the following is said: {}"),
    "absent": ("There is none of the following: {}", "The audio is without the following: {}"),
    "other": ("These words describe it as well: {}", "The following is also said of it: {}"),
}
_WHOLE = ("How would you sum up the audio for someone who has not heard it?",
          "What should a listener expect from the audio?", "What would a short note about this audio say?",
          "What is the audio like as a whole?", "How can the audio be characterised?", "What makes up this audio?",
          "What is there to know about the audio?")
_LEADS = ("In short, this is what it is like: {}", "A listener can expect the following: {}",
          "It would say this: {}", "As a whole it is like this: {}", "It can be described like this: {}",
          "What makes it up is this: {}", "The following is known about it: {}")
_SUPPOSING = re.compile(r"\b(?:could|might|may|can be|would|sounds?|mood|feel\w*)\b")
_NOUN = ("audio", "music", "piece", "recording")


def closed(rng, given: Mapping) -> str:
    """Answers to the four stored questions: "1. ...". `given` as for `manifests.prompts.user`."""
    caption, tags = _given(given)
    if said := measured(caption):
        answers = _measured(rng, said, caption)
    elif caption:
        answers = _free(rng, caption, lexicon.tagged(tags) if tags else lexicon.named(sentences(caption)))
    else:
        answers = _tags(rng, lexicon.tagged(tags))
    return "\n".join(f"{number}. {answer}" for number, answer in enumerate(answers, start=1))


def opened(rng, given: Mapping) -> str:
    """Five questions with their answers: "1. Question: ... Answer: ..."."""
    caption, tags = _given(given)
    if said := measured(caption):
        known = _claimed(rng, said)
        whole = caption
    else:
        facts = lexicon.tagged(tags) if tags else lexicon.named(sentences(caption))
        known = {kind: _told(rng, kind, names) for kind, names in facts.items()}
        words = [name for kind, names in facts.items() if kind != "absent" for name in names]
        whole = caption or (listed(words) if words else known["absent"])
    asked = []
    main = [topic for topic in ("tempo", "key", "instruments", "genre", "mood", "pace", "voices") if topic in known]
    topics = (main + shuffled(rng, [topic for topic in known if topic not in main]))[:5]
    for topic in shuffled(rng, topics):
        others = [known[other] for other in known if other != topic]
        more = f" {pick(rng, ('Besides,', 'Apart from that,', 'Along with that,'))} {lowered(pick(rng, others))}" \
            if others and not re.search(r":.*$", known[topic]) and chance(rng, 0.5) else ""
        asked.append((pick(rng, _ABOUT[topic]), f"{known[topic]}{more}"))
    for place in shuffled(rng, range(len(_WHOLE)))[:5 - len(asked)]:
        first, *rest = quoted(rng, whole) if caption else [whole]
        asked.append((_WHOLE[place], " ".join([finished(_LEADS[place].format(bare(first))), *rest])))
    return "\n".join(f"{number}. Question: {question}\nAnswer: {answer}"
                     for number, (question, answer) in enumerate(asked, start=1))


def _given(given) -> tuple[str, list[str]]:
    """Caption, "" where there is no word in it; and tags, with their categories where these are known."""
    caption = (given.get("caption", given.get("music")) or "").strip()
    tags = [*(given.get("tags") or ())]
    categories = given.get("categories") or [""] * len(tags)
    return caption if re.search(r"\w", caption) else "", [
        f"{category}---{tag}" if category else tag for tag, category in zip(tags, categories, strict=True)]


def _claimed(rng, said) -> dict[str, str]:
    """A sentence for each thing that a measured caption claims."""
    noun = pick(rng, _NOUN)
    found = {facet: finished(pick(rng, ("In this audio {}", "Here {}", "{}", "One hears that {}")).format(
        phrase(rng, facet, said[facet])[0])) for facet in FRAMES if facet in said}
    if adverb := tempo(rng, said):
        text = pick(rng, ("The {} moves {}", "The {} is played {}")) if adverb.startswith("at") else "The {} flows {}"
        found["tempo"] = finished(text.format(noun, adverb))
    if adverb := key(rng, said):
        found["key"] = finished(pick(rng, ("The {} is {}", "The {} is set {}")).format(noun, adverb)
                                if "in " in adverb else f"The {noun} is {adverb}".replace("is with no", "has no"))
    return found


def _measured(rng, said, caption) -> list[str]:
    short = {facet: said[facet] for facet in shuffled(rng, [facet for facet in said if facet in FRAMES])[:1]}
    anchors = {facet: said[facet] for facet in ("beat", "tempo", "pace", "term", "tonality", "key") if facet in said}
    facts = _claimed(rng, said)
    facets = shuffled(rng, [facet for facet in FRAMES if facet in said])
    heard = [phrase(rng, facet, said[facet])[1] for facet in facets]
    inferred = shuffled(rng, [*facts.values()])[:4]
    brief = predicate(rng, {**short, **anchors} if short else said)
    leads = ("This is", "It is") if brief.startswith("a ") else ("This is music that is", "It is music that is")
    return [
        finished(f"{pick(rng, ('The audio is', *leads))} {brief}"),
        " ".join(sentences(caption)) if chance(rng, 0.3) else " ".join(shuffled(rng, [*facts.values()])),
        finished(f"{pick(rng, ('I hear', 'One can hear', 'What can be heard is', 'I hear music with'))} {listed(heard)}"
                 if heard else next(iter(facts.values()))),
        finished(f"{pick(rng, ('From the audio one can infer that', 'It can be inferred that', 'One can tell that'))} "
                 f"{' It also appears that '.join(_clause(fact) for fact in inferred[:2])}"),
    ]


def _clause(sentence) -> str:
    return re.sub(r"^(?:in this audio|here|one hears that) ", "", f"{sentence[0].lower()}{sentence[1:]}") \
        if sentence.endswith(".") else sentence


def _free(rng, caption, facts) -> list[str]:
    parts = sentences(caption)
    heard = facts.get("instruments", []) + facts.get("voices", [])
    inferred = [_told(rng, kind, facts[kind]) for kind in ("mood", "genre", "pace") if kind in facts]
    supposed = [part for part in parts[1:] if _SUPPOSING.search(part)]
    start = pick(rng, ("", "In short: ", "Briefly put: "))
    return [
        finished(f"{start}{bare(parts[0]) if start else parts[0]}"),
        " ".join(parts),
        finished(f"{pick(rng, ('I hear the following:', 'The following can be heard:', 'One hears this:'))} "
                 f"{listed(heard)}") if heard else finished(f"I hear this: {bare(parts[0])}"),
        " ".join(inferred[:2] + supposed[:2]) or finished(f"From the audio one can tell this: {bare(parts[-1])}"),
    ]


def _tags(rng, facts) -> list[str]:
    """The four answers from tags alone."""
    told = {kind: _told(rng, kind, names) for kind, names in facts.items()}
    everything = [name for kind, names in facts.items() if kind != "absent" for name in names]
    short = facts.get("genre", [])[:2] + facts.get("mood", [])[:2] or everything[:3]
    heard = facts.get("instruments", []) + facts.get("voices", [])
    inferred = [told[kind] for kind in ("mood", "genre", "pace") if kind in told] or [*told.values()]
    lead = pick(rng, ("The audio is described by these words:", "The audio is tagged like this:", "In a few words:"))
    return [
        finished(f"{lead} {listed(short)}") if short else next(iter(told.values())),
        " ".join(told.values()),
        finished(f"{pick(rng, ('I hear the following:', 'The following can be heard:'))} {listed(heard)}") if heard
        else finished(f"I hear music that is described like this: {listed(everything)}") if everything
        else next(iter(told.values())),
        " ".join(shuffled(rng, inferred)[:2]),
    ]


def _told(rng, kind, names) -> str:
    return finished(pick(rng, _TOLD[kind]).format(listed(names)))
