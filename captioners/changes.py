"""What an instruction says about tempo and pitch, read back: "half as fast" is 0.5, "a whole step down" -2.

For MUEdit's derived edits, whose true change is known: an instruction must state it, and may not contradict it.
"""
import math
import re
from typing import NamedTuple

_UNITS = "zero one two three four five six seven eight nine ten eleven twelve"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred"
NUMBERS = {word: value for value, word in enumerate(_UNITS.split())}
NUMBERS |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
INTERVALS = {
    "minor second": 1, "major second": 2, "minor third": 3, "major third": 4, "perfect fourth": 5, "fourth": 5,
    "tritone": 6, "perfect fifth": 7, "fifth": 7, "octave": 12,
}
TOLERANCE = 0.03  # of the ratio: BPM are told in whole numbers

_FASTER = r"faster|quicker|speed(?:ing|s)?\b(?: \w+){0,3}? up|accelerat\w*|quicken\w*|hasten\w*|doubl\w+"
_SLOWER = r"slower|slow(?:ing|s)?|decelerat\w*|halv\w+"
_MORE = r"increas\w*|rais\w*|rise\w*|boost\w*|higher|up(?:wards?)?|above|sharper|push\w*|lift\w*"
_LESS = r"decreas\w*|reduc\w*|lower\w*|drop\w*|down(?:wards?)?|below|flatter|cut\w*|fall\w*"
_UP = re.compile(rf"\b(?:{_FASTER}|{_MORE})\b")
_DOWN = re.compile(rf"\b(?:{_SLOWER}|{_LESS})\b")

_TEMPO = re.compile(r"\b(?:tempo|speed\w*|pace|fast\w*|slow\w*|quick\w*|bpm|beats per minute|accelerat\w*|decelerat\w*|"
                    r"half-time|half time|double-time|double time|halve\w*)\b")
_PITCH = re.compile(r"\b(?:pitch\w*|semitones?|half[- ](?:steps?|tones?)|whole[- ](?:steps?|tones?)|tones? (?:up|down|"
                    r"higher|lower)|steps?|octaves?|transpos\w*|key|thirds? (?:up|down|higher|lower)|[a-g](?:#|♯|♭|b| "
                    r"sharp| flat)? (?:major|minor))\b|\b(?:perfect|major|minor) (?:second|third|fourth|fifth)\b|"
                    r"\b(?:fourth|fifth) (?:up|down|higher|lower|above|below)\b|\b(?:up|down) a (?:fourth|fifth)\b")
_STAYS = re.compile(r"\b(?:keep\w*|kept|leav\w*|left|without|unchanged|same|don't|do not|does not|not|stays?|remains?|"
                    r"retain\w*|maintain\w*|preserv\w*|untouched|intact|as it is|as is|original (?:pitch|key|tempo|"
                    r"speed)(?! (?:of|to)\b))\b")
_PROPORTION = re.compile(r"(?:of|as fast|as quick|times|%) (?:\w+ ){0,3}?original")
_OTHER = re.compile(r"\b(?:add|remove|replace|introduce|substitute|louder|quieter|softer|brighter|darker|drop the|"
                    r"take out|bring in|mute|instead of)\b")
_CUT = re.compile(r"[,;:!?]|\.(?!\d)|\b(?:while|whilst|but|and|with(?= (?:the|its|no|everything)\b)|"
                  r"at(?= the (?:same|original)\b)|without(?= )|keeping|leaving|yet|though|so that)\b")
_NUMBER = r"(\d+(?:\.\d+)?)"
_PERCENT = re.compile(rf"{_NUMBER} ?%")
_TIMES = re.compile(rf"{_NUMBER} ?(?:x|×|times|fold)\b|(?:\bx|×) ?{_NUMBER}|\bfactor of {_NUMBER}|"
                    rf"\bmultipl\w+ (?:[\w-]+ ){{0,8}}?by {_NUMBER}")
_HALF = re.compile(r"\bhalf(?! (?:a )?(?:steps?|tones?))(?! again)|\bhalv\w+")
# "the slow song", "low-pitched drums": what the music is, not what is to be done to it.
_EPITHET = re.compile(r"\b(?:low|high)-pitched\b|(?<=\bthe )(?:slow|fast|quick)(?=,? (?:[\w-]+ )?(?:song|piece|music|"
                      r"track|recording|clip|tune|melody|beat)\b)")
_FRACTIONS = {"two thirds": 2 / 3, "two-thirds": 2 / 3, "three quarters": 0.75, "three-quarters": 0.75}
_BPM = re.compile(rf"{_NUMBER}(?: ?(?:bpm|beats per minute))?,? (?:\w+ )?to (?:\w+ )?{_NUMBER} "
                  r"?(?:bpm|beats per minute)")
_TO_BPM = re.compile(rf"\b(?:to|at) (?:\w+ )?{_NUMBER} ?(?:bpm|beats per minute)")
_STEPS = re.compile(r"([-+–]?)\b(\d+(?:\.\d+)?|an?) (semitones?|half steps?|half tones?|whole steps?|whole tones?|"
                    r"tones?|steps?)\b")
_NOTE = r"([a-g])(#|♯| sharp|♭|b| flat)?"
_KEYS = re.compile(rf"\b{_NOTE} (?:major |minor )?(?:down |up )?to {_NOTE} (?:major|minor)")
_NOTES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}


class Stated(NamedTuple):
    """What a text says: ratios of tempo, shifts in semitones, and what is said to stay."""

    tempi: list[float]
    shifts: list[float]
    stays: set[str]       # of "tempo", "pitch"
    moved: set[str]       # of "tempo", "pitch": said to change, by whatever amount
    faults: list[str]


def contradiction(text: str, edit: str, amount: float, source_tempo: float | None = None) -> str:
    """Why `text` does not ask for the change by `amount` (tempo's ratio, or semitones) and that alone; "" if it does.

    `source_tempo` in BPM lets "to 60 BPM" be read.
    """
    stated = read(text, source_tempo)
    if stated.faults:
        return stated.faults[0]
    other = "pitch" if edit == "tempo" else "tempo"
    if edit in stated.stays:
        return f"says that the {edit} stays, which changes"
    if other in stated.moved:
        return f"changes the {other}, which stays"
    if _OTHER.search(text.lower()):
        return "asks for another change than the one that was made"
    said = stated.tempi if edit == "tempo" else stated.shifts
    if not said:
        return f"does not say by how much the {edit} changes"
    for value in said:
        wrong = abs(math.log(value / amount)) > TOLERANCE if edit == "tempo" else abs(value - amount) > 1e-6
        if wrong:
            return f"says {value:g} where the {edit} changes by {amount:g}"
    if edit == "pitch" and any((shift - amount) % 12 for shift in _key_shifts(_plain(text))):
        return f"names keys that are not {amount:g} semitones apart"
    return ""


def read(text: str, source_tempo: float | None = None) -> Stated:
    """What an English instruction says about tempo and pitch."""
    stated = Stated([], [], set(), set(), [])
    topic, waiting = "", ""
    for clause, stays in _clauses(_plain(text)):
        topics = {name for name, pattern in (("tempo", _TEMPO), ("pitch", _PITCH)) if pattern.search(clause)}
        if stays:
            stated.stays.update(topics)
            continue
        if len(topics) == 2:  # "lower its pitch and speed": which amount is whose cannot be told
            stated.moved.update(topics)
            stated.faults.append("changes tempo and pitch at once")
            continue
        if waiting and topics <= {topic} and not _direction(clause):
            clause = f"{waiting} {clause}"  # "lower the pitch of the calm, sad piece by a semitone" is one clause
        topic, known = next(iter(topics), topic), len(stated.tempi) + len(stated.shifts)
        if topic == "pitch":
            _pitch(clause, stated)
        elif topic == "tempo":
            _tempo(clause, source_tempo, stated)
        waiting = clause if len(stated.tempi) + len(stated.shifts) == known else ""
    return stated


def _plain(text) -> str:
    """Lower case, numbers in digits: "two and a half" is 2.5, "thirty per cent" 30%, "twenty-five" 25."""
    text = _EPITHET.sub("", text.lower()).replace("’", "'").replace("−", "-")
    text = re.sub(r"\b(\w+)-(?=(?:semitones?|percent|half|step|tones?|fold|times)\b)", r"\1 ", text)
    text = re.sub(rf"\b({'|'.join(_TENS.split())})[- ]({'|'.join(_UNITS.split()[1:10])})\b",
                  lambda found: str(NUMBERS[found[1]] + NUMBERS[found[2]]), text)
    text = re.sub(rf"\b(?:{'|'.join(NUMBERS)})\b", lambda found: _numeral(found[0], text[found.end():]), text)
    text = re.sub(r"\b(\d+|a|an) and a half\b", lambda found: f"{(int(found[1]) if found[1].isdigit() else 1)}.5", text)
    text = re.sub(r"\b(\d+|a|an) (half |whole )?(step|tone)s? and a half\b",
                  lambda found: f"{int(found[1]) if found[1].isdigit() else 1}.5 {found[3]}s", text)
    text = re.sub(r" ?per ?cent\b", "%", text)
    return text.replace("half-step", "half step").replace("half-tone", "half tone").replace("whole-", "whole ")


def _numeral(word, rest) -> str:
    # "two thirds" and "three quarters" are fractions, and are read as words.
    return word if re.match(r"[- ](?:thirds|quarters)", rest) else str(NUMBERS[word])


def _clauses(text) -> list[tuple[str, bool]]:
    """(clause, whether it tells what stays). What follows "keeping" or "without" stays, up to the next cut."""
    found, start, held = [], 0, False
    for cut in [*_CUT.finditer(text), None]:
        clause = text[start:cut.start() if cut else len(text)]
        if clause.strip():
            stays = held or bool(_STAYS.search(_PROPORTION.sub(" ", clause)))
            # "keep the pitch and the key": an "and" without a verb of its own goes on with what stays.
            if not stays and found and found[-1][1] and len(clause.split()) < 4 and not _moves(clause):
                stays = True
            found.append((clause, stays))
        held = bool(cut) and cut[0] in ("without", "keeping", "leaving")
        start = cut.end() if cut else len(text)
    return found


def _moves(clause) -> bool:
    return bool(_UP.search(clause) or _DOWN.search(clause) or re.search(r"\d", clause))


def _direction(clause) -> int:
    """1 up or faster, -1 down or slower, 0 where the clause says neither, or both."""
    return bool(_UP.search(clause)) - bool(_DOWN.search(clause))


def _tempo(clause, source_tempo, stated):
    way = _direction(clause)
    if re.search(r"\bslow", clause):  # "slow it up", "slow down the speed": slow decides
        way = -1
    elif re.search(r"\bfaster|\bspeed\w* (?:\w+ ){0,3}?up", clause):
        way = 1
    found = []
    if "half as slow" in clause:  # twice as fast, taken by the word; meant is mostly the opposite
        stated.faults.append("'half as slow' may mean faster or slower")
    if pair := _BPM.search(clause):
        found.append(float(pair[2]) / max(float(pair[1]), 1e-9))
    elif (aim := _TO_BPM.search(clause)) and source_tempo:
        found.append(float(aim[1]) / source_tempo)
    bare = _BPM.sub(" ", clause)
    for percent in _PERCENT.finditer(bare):
        value = float(percent[1]) / 100
        before, after = bare[:percent.start()], bare[percent.end():]
        share = re.match(r" (?:of|as fast|(?:speed|tempo|pace)\b(?! (?:increase|reduction|decrease)))", after) \
            or re.search(r"\b(?:to|at) (?:\w+ )?$", before)
        found.append(value if share or not way else 1 + way * value)
    for times in _TIMES.finditer(bare):
        value = float(next(filter(None, times.groups())))
        slows = way < 0 and value > 1 and not re.search(r"as fast|its|original|the tempo", bare[times.end():])
        found.append(1 / value if slows else value)
    for phrase, value in _FRACTIONS.items():
        if phrase in bare:
            found.append(value)
    if not found or not re.search(r"[\d.]", bare):
        if "half again" in bare or (re.search(r"\bby (?:a |one )?half\b|\bhalf faster", bare) and way > 0):
            found.append(1.5)
        elif _HALF.search(bare) and not (way > 0 and not re.search(r"half (?:as|the|its)", bare)):
            found.append(0.5)
        elif re.search(r"\btwice\b|\bdoubl\w+", bare):
            found.append(2.0)
    if any((value - 1) * way < 0 for value in found):
        stated.faults.append("its direction of the tempo contradicts its amount")
    found = [value for value in found if value > 0]
    stated.tempi.extend(found)
    if found or way:
        stated.moved.add("tempo")


def _pitch(clause, stated):
    way, found = _direction(clause), []
    for sign, number, unit in _STEPS.findall(clause):
        if unit in ("step", "steps") and not number.endswith(".5"):  # "2.5 steps" are whole ones
            stated.faults.append("a step that is neither a half nor a whole one")
            continue
        size = 1 if unit.startswith(("semitone", "half")) else 2
        value = size * (1.0 if number in ("a", "an") else float(number))
        found.append((-value if sign and sign != "+" else value, bool(sign)))
    if not found:
        for name in sorted(INTERVALS, key=len, reverse=True):
            if amount := re.search(rf"\b(an?|1|2) {name}s?\b", clause):
                found.append((float(INTERVALS[name] * (2 if amount[1] == "2" else 1)), False))
                break
    for value, signed in found:
        if signed and way and value * way < 0 and not re.search(r"\bby\b", clause):
            stated.faults.append("its direction of the pitch contradicts its sign")
        elif not signed and not way:
            stated.faults.append("does not say whether the pitch goes up or down")
        else:
            stated.shifts.append(value if signed else value * way)
    if found or way or re.search(r"\btranspos|\bshift", clause):
        stated.moved.add("pitch")


def _key_shifts(text) -> list[int]:
    """Semitones between keys that are named as "from C major to D major"."""
    def note(letter, accidental):
        accidental = accidental.strip()
        return _NOTES[letter] + (accidental in ("#", "♯", "sharp")) - (accidental in ("♭", "b", "flat"))
    return [note(*found[2:]) - note(*found[:2]) for found in _KEYS.findall(text)]
