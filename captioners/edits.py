"""MUEdit's human side from a grammar: what to change in the source so that it becomes the target.

Two measured captions give the differences of their claims and what they share; free captions give their own words; a
derived edit gives its amount, worded so that `captioners.changes` reads the same amount back.
"""
import re
from collections.abc import Mapping

from captioners.measured import EPITHETS
from captioners.vocabulary import BANDS, NO_BEAT, NO_KEY, TEMPO_HEDGES, words
from captioners.wording import (
    chance,
    finished,
    listed,
    lowered,
    measured,
    phrase,
    pick,
    predicate,
    quoted,
    relative,
    shuffled,
)

_MUSIC = ("the music", "this music", "the piece", "this piece", "the input music", "this track", "the recording")
_TURN = ("Change {} into", "Turn {} into", "Transform {} into", "Convert {} into", "Rework {} into", "Make {} into",
         "Rewrite {} as", "Reshape {} into", "Recast {} as")

# facet: (how more of it is brought about, how less); without the words of the bands, which would be claims.
_MOVES = {
    "brightness": (("brighten the tone", "lift the tone colour"), ("darken the tone", "take the edge off the tone")),
    "loudness": (("turn the level up", "raise the level"), ("turn the level down", "bring the level down")),
    "dynamics": (("widen the dynamics", "let the volume vary more"),
                 ("level out the dynamics", "rein in the dynamics")),
    "percussiveness": (("bring the percussion forward", "give the attacks more weight"),
                       ("let the percussion step back", "give the attacks less weight")),
    "density": (("put more notes into the rhythm", "let the notes follow more closely"),
                ("thin out the rhythm", "leave more room between the notes")),
    "register": (("move the pitches up", "lift the register"), ("move the pitches down", "bring the register down")),
}
_NAMES = {"brightness": ("tone", "timbre"), "loudness": ("level", "loudness"),
          "dynamics": ("dynamics", "volume changes"), "percussiveness": ("weight of the attacks", "texture"),
          "density": ("rhythm", "flow of notes"),
          "register": ("register", "range of pitches")}
_TONICS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_SAME_TEMPO = 0.02  # nobody asks for 79 BPM in place of 80
_COUNT = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 12: "twelve"}


def instruction(rng, given: Mapping) -> str:
    """One line that asks for the target. `given` as for `manifests.prompts.user`."""
    if given["edit"] != "pair":
        return _derived(rng, given)
    source, target = measured(given["source"]), measured(given["target"])
    if source and target:
        return _differences(rng, source, target, given.get("same", ()))
    return _free(rng, given["source"], given["target"])


def _differences(rng, source, target, alike) -> str:
    changes, kept, used = [], [], set()
    for facet in ("tempo", "key", *_MOVES):
        wanted, same = _step(rng, facet, source, target, used)
        if same:
            kept.append(same)
        elif wanted and facet not in alike:
            changes.append((facet in ("tempo", "key"), wanted))
            used.add(wanted.split()[0])
    # Tempo and key are what a listener notices; of the others up to three.
    chosen = [wanted for main, wanted in changes if main]
    chosen += shuffled(rng, [wanted for main, wanted in changes if not main])[:pick(rng, (2, 3, 3))]
    chosen, kept = shuffled(rng, chosen), shuffled(rng, kept)[:2]
    music = pick(rng, _MUSIC)
    if not chosen:
        return finished(f"{pick(rng, ('Write', 'Create', 'Play', 'Make'))} another version of {music} that is "
                        f"{predicate(rng, target)}")
    holding = f"{pick(rng, ('keep', 'do not touch', 'hold on to'))} {listed(kept)}" if kept else ""
    form = pick(rng, ("list", "list", "list", "into", "frame", "two"))
    if form == "into":
        into = f"{pick(rng, _TURN).format(music)} one that is {predicate(rng, target)}"
        if kept and chance(rng, 0.5):
            return f"{finished(into)} {finished(holding)}"
        return finished(into)
    if form == "frame":
        text = f"{pick(rng, ('Change', 'Edit', 'Alter', 'Adjust', 'Modify', 'Rework'))} {music}: {listed(chosen)}"
        return finished(f"{text}; {holding}" if kept else text)
    if form == "two" and len(chosen) > 1:
        rest = f"{pick(rng, ('Also', 'Then', 'Besides,', 'In addition,'))} {listed(chosen[1:])}"
        tail = f"; {holding}" if kept else ""
        return f"{finished(_of(rng, chosen[0], music))} {finished(rest + tail)}"
    text = _of(rng, listed(chosen), music)
    return finished(f"{text}{pick(rng, (', but ', '; ', ', and '))}{holding}" if kept else text)


def _of(rng, asked, music) -> str:
    """What is asked, with a word on what it is asked of."""
    return pick(rng, (asked, f"please {asked}", f"in {music}, {asked}", f"take {music} and {asked}",
                      f"with {music}, do this: {asked}"))


def _step(rng, facet, source, target, used) -> tuple[str, str]:
    """(what to do about a facet, "") or ("", what to keep of it), ("", "") where the target does not speak of it."""
    if facet == "tempo":
        return _tempo(rng, source, target)
    if facet == "key":
        return _key(rng, source, target)
    if facet not in target:
        return "", ""
    clause, thing = phrase(rng, facet, target[facet])
    if source.get(facet) == target[facet]:
        return "", f"the {pick(rng, _NAMES[facet])}"
    wanted = [f"give it {thing}", f"let it have {thing}", f"aim for {thing}"]
    if gapped := re.sub(r" (?:is|are) ", " ", clause, count=1):
        wanted += [f"make {gapped}"] * 2 if gapped != clause else []
    if facet in source:
        names = [band[0] for _, band in BANDS[facet][1]]
        more = names.index(target[facet]) > names.index(source[facet])
        had = phrase(rng, facet, source[facet])[1]
        move = pick(rng, _MOVES[facet][not more])
        wanted += [f"{move} to get {thing}", f"exchange {had} for {thing}", f"go from {had} to {thing}", move]
    fresh = [option for option in wanted if option.split()[0] not in used]  # "give it ... and give it" tires
    return pick(rng, fresh or wanted), ""


def _tempo(rng, source, target) -> tuple[str, str]:
    def bpm(said, unit=True):
        hedge = f"{pick(rng, TEMPO_HEDGES)} " if said["beat"] == "hedged" else ""
        return f"{hedge}{said['tempo']}{' BPM' if unit else ''}"
    if target.get("beat") == "none":
        beat = pick(rng, NO_BEAT)
        if source.get("beat") == "none":
            return "", f"the free flow without a {beat}"
        return pick(rng, (f"play it without a {beat}", f"let go of the tempo so that there is no {beat}")), ""
    if "tempo" in target:
        if "tempo" in source:
            if source["tempo"] == target["tempo"]:
                return "", f"the tempo of {bpm(target)}"
            if abs(target["tempo"] / source["tempo"] - 1) <= _SAME_TEMPO:
                return "", "the tempo"
            up = target["tempo"] > source["tempo"]
            verb = pick(rng, ("raise the tempo", "speed it up", "bring the tempo up", "take it faster,") if up else
                        ("lower the tempo", "bring the tempo down", "take the tempo down", "bring the speed down"))
            near = abs(target["tempo"] / source["tempo"] - 1) < 0.06
            verb = f"{verb.rstrip(',')} slightly{',' * verb.endswith(',')}" if near and chance(rng, 0.6) else verb
            span = pick(rng, (f"from {bpm(source, chance(rng, 0.3))} to {bpm(target)}", f"to {bpm(target)}"))
            return pick(rng, (f"{verb} {span}", f"change the tempo from {bpm(source, False)} to {bpm(target)}")), ""
        if source.get("beat") == "none":
            return f"give it a {pick(rng, NO_BEAT)} at {bpm(target)}", ""
        return pick(rng, (f"set the tempo to {bpm(target)}", f"have it move at {bpm(target)}",
                          f"take it at {bpm(target)}")), ""
    kind = target.get("term") or target.get("pace")
    if not kind:
        return "", ""
    facet = "term" if "term" in target else "pace"
    if source.get(facet) == target[facet]:
        return "", f"the {kind} tempo"
    return pick(rng, (f"give it a {kind} tempo", f"take it at a {kind} tempo", f"set a {kind} tempo")), ""


def _key(rng, source, target) -> tuple[str, str]:
    if target.get("tonality") == "none":
        centre = pick(rng, NO_KEY)
        if source.get("tonality") == "none":
            return "", f"the harmony without a {centre}"
        return pick(rng, (f"let the harmony wander without a {centre}", f"leave it with no {centre}")), ""
    if "key" not in target:
        return "", ""
    if source.get("key") == target["key"]:
        return "", pick(rng, ("the key", f"the key of {target['key']}" if target["tonality"] == "sure" else "the key"))
    if target["tonality"] == "hedged":  # the captioner was not sure, so the instruction only points the way
        return pick(rng, (f"lean towards {target['key']}", f"move it towards {target['key']}",
                          f"steer the harmony towards {target['key']}")), ""
    before = f"from {source['key']} " if source.get("tonality") == "sure" else ""
    return pick(rng, (f"move it {before}to {target['key']}", f"change the key {before}to {target['key']}",
                      f"set it in {target['key']}" + (f" instead of {source['key']}" if before else ""))), ""


def _free(rng, source, target) -> str:
    music = pick(rng, _MUSIC)
    (was, *_), (wanted, *rest) = quoted(rng, source), quoted(rng, target)
    said = (measured(source) and f"is {predicate(rng, measured(source))}") or relative(was, "music")
    aim = (measured(target) and f"is {predicate(rng, measured(target))}") or relative(wanted, "music")
    rest = [] if measured(target) else rest
    if aim and said and chance(rng, 0.35):
        return " ".join([finished(f"{pick(rng, _TURN).format(f'the music that {said}')} one that {aim}"), *rest])
    if aim and chance(rng, 0.5):
        text = f"{pick(rng, _TURN).format(music)} {pick(rng, ('one that', 'music that', 'a version that'))} {aim}"
    else:
        if not aim or not measured(target):
            aim = lowered(wanted)
        else:
            aim = f"it {aim}"
        text = pick(rng, ("Change {} so that it fits this description: {}", "Rework {} to match this description: {}",
                          "Edit {} until it is like this: {}", "Make {} fit the following: {}",
                          "Turn {} into this: {}", "Transform {} into the following: {}")).format(music, aim)
    parts = [finished(text), *rest]
    if chance(rng, 0.3):
        now = pick(rng, ("At the moment it is like this: {}", "Now it is this: {}", "This is what there is now: {}"))
        parts.append(finished(now.format(lowered(was))))
    return " ".join(parts)


def _derived(rng, given) -> str:
    edit, amount, source = given["edit"], given["amount"], measured(given["source"])
    music = _named(rng, source) if source and chance(rng, 0.8) else pick(rng, _MUSIC)
    if edit == "tempo":
        asked = _stretched(rng, amount, music, source, measured(given["target"]) or {})
        keeping = pick(rng, ("keep the pitch", "without changing the pitch", "leave the pitch as it is",
                             "at the same pitch", "keep the pitch as it is", "while keeping the pitch",
                             "keep the key and the pitch", "with the pitch unchanged"))
    else:
        asked = _shifted(rng, amount, music, source)
        keeping = pick(rng, ("keep the tempo", "without changing the speed", "leave the tempo as it is",
                             "at the same tempo", "keep the tempo as it is", "while keeping the tempo",
                             "keep the speed", "with the tempo unchanged"))
    joined = " " if keeping.startswith(("without", "while", "at ")) and "from" not in asked else ", "
    if keeping.startswith(("keep", "leave")):
        joined = pick(rng, (", but ", " and ", "; ", ", and "))
    return finished(f"{pick(rng, ('', '', '', 'Please ', 'Now '))}{asked}{joined}{keeping}")


def _named(rng, source) -> str:
    """The source by what its caption claims: "this dark-toned piece in A minor"."""
    facets = shuffled(rng, [facet for facet in _MOVES if facet in source and facet != "register"])
    fitting = [pick(rng, options) for facet in facets
               if (options := [EPITHETS[word] for word in words(facet, source[facet]) if word in EPITHETS])]
    noun = pick(rng, ("piece", "piece", "track", "recording", "music"))
    return f"{pick(rng, ('this', 'the'))} {' '.join([*fitting[:1], noun])}"


def _stretched(rng, ratio, music, source, target) -> str:
    slower, share = ratio < 1, round(abs(ratio - 1) * 100)
    verb = f"slow {music} down" if slower else f"speed {music} up"
    change = pick(rng, ("reduce", "lower", "bring down") if slower else ("raise", "increase", "bring up"))
    word = "slower" if slower else "faster"
    exact = abs(round(ratio * 100) - ratio * 100) < 1e-6
    options = [f"{verb} to {ratio:g} times its tempo", f"play {music} at {ratio:g} times the tempo",
               f"set the tempo of {music} to {ratio:g} times what it was",
               f"multiply the tempo of {music} by {ratio:g}"]
    if exact:
        options += [f"{verb} by {share}%", f"{verb} by {share} percent", f"{change} the tempo of {music} by {share}%",
                    f"make {music} {share}% {word}", f"play {music} {share} percent {word}",
                    f"{verb} to {round(ratio * 100)}% of its tempo",
                    f"change the tempo of {music} to {round(ratio * 100)} percent of what it was"]
    if ratio == 0.5:
        options += [f"{verb} to half its tempo", f"play {music} half as fast", f"halve the tempo of {music}",
                    f"play {music} at half the speed"]
    if ratio == 1.5:
        options += [f"{verb} to one and a half times its tempo", f"play {music} one and a half times as fast"]
    if ratio == 2:
        options += [f"{verb} to twice its tempo", f"double the tempo of {music}"]
    asked = pick(rng, options)
    if "tempo" in source and chance(rng, 0.7) and source["tempo"] * ratio >= 20:
        about = "about " if source["beat"] == "hedged" else ""
        aim = round(source["tempo"] * ratio)
        if abs(target.get("tempo", aim) - aim) <= 1:  # rounded from what was measured, not from what was rounded
            aim = target.get("tempo", aim)
        asked += f", from {about}{source['tempo']} to {about}{aim} BPM"
    return asked


def _shifted(rng, semitones, music, source) -> str:
    number, up = abs(semitones), semitones > 0
    way, comparative = ("up", "higher") if up else ("down", "lower")
    told = f"{number:g}" if chance(rng, 0.3) or number not in _COUNT else _COUNT[int(number)]
    amounts = [f"{told} semitone{'' if number == 1 else 's'}"] * 2
    amounts += {1: ["a half step", "a semitone"], 2: ["a whole step", "a whole tone"], 5: ["a perfect fourth"],
                7: ["a perfect fifth"], 12: ["an octave"], 3: ["a minor third"], 4: ["a major third"]}.get(number, [])
    by = pick(rng, amounts)
    options = [f"{'raise' if up else 'lower'} the pitch of {music} by {by}", f"transpose {music} {way} by {by}",
               f"shift the pitch of {music} {way} by {by}", f"play {music} {by} {comparative}",
               f"move the pitch of {music} {way} by {by}", f"transpose {music} {by} {way}"]
    asked = pick(rng, options)
    if source.get("tonality") == "sure" and number == int(number) and chance(rng, 0.5):
        tonic, mode = source["key"].split()
        aim = _TONICS[(_TONICS.index(tonic) + int(semitones)) % 12]
        asked += f", from {tonic} {mode} to {aim} {mode}"
    return asked
