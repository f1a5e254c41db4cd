"""What a caption of any origin says about tempo, key, mode and percussion, in free English.

Only what speaks of the music as a whole is taken: "a fast guitar solo", "minor chords", "major label", "slow motion"
and "key moments" state nothing here. What may be meant in two ways is left out: a statement that is missed costs less
than one that was not made.
"""
import re
from collections.abc import Iterator
from dataclasses import dataclass

NOTES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
SIGNS = {"#": 1, "♯": 1, "sharp": 1, "b": -1, "♭": -1, "flat": -1}


@dataclass(frozen=True)
class Statement:
    """One statement of a caption. `value`, by `kind`:

    "bpm": (low, high), BPM, the same where one number is given; "pace": a value of `SPEEDS`; "key": (pitch class from
    C, mode or None); "mode": "major" | "minor"; "percussion": "none" | "light" | "some" | "strong". "no beat",
    "no key", "tempo changes" and "key changes" have none.
    """
    kind: str
    text: str              # as the caption has it
    value: object = None
    hedged: bool = False   # "around", "probably", "fairly"
    negated: bool = False  # only of a pace: "not fast"


# What says which pace. Terms count as their plain words do where people use them: an Andante is neither slow nor fast.
SPEEDS = {
    "slow": "slow", "low": "slow", "leisurely": "slow", "unhurried": "slow", "languid": "slow",
    "sluggish": "slow", "relaxed": "slow", "largo": "very slow", "lento": "very slow", "grave": "very slow",
    "adagio": "slow", "moderate": "moderate", "medium": "moderate", "mid": "moderate", "andante": "moderate",
    "moderato": "moderate", "fast": "fast", "quick": "fast", "brisk": "fast", "rapid": "fast", "speedy": "fast",
    "high": "fast", "lively": "fast", "upbeat": "fast", "allegro": "fast", "vivace": "fast",
    "presto": "very fast", "frantic": "very fast", "breakneck": "very fast",
}
_VAGUE = {"low", "high", "lively", "upbeat", "relaxed", "leisurely"}  # as much a mood as a tempo
_STRONG = "very|extremely|incredibly|super|really|insanely"
_WEAK = "quite|fairly|rather|somewhat|slightly|moderately|relatively|pretty|a bit|a little|mostly|generally|mainly"

_NEGATION = re.compile(r"(?:\b(?:not|never|neither|nor|without|no|hardly|far from)|n't)"
                       r"(?: (?:a|an|the|in|at|too|so|that|all that|particularly|especially|exactly|overly)){0,4},? ?$",
                       re.I)
_ADVERBS = rf"(?:(?P<adverb>{_STRONG}|{_WEAK}|too|so) ){{0,3}}"
_SPEED = (rf"{_ADVERBS}\b(?P<speed>{'|'.join(sorted(SPEEDS, key=len, reverse=True))})"
          r"(?:(?:[ -]to[ -]|[ -]|/)(?P<second>slow|fast|up|medium|moderate)(?=[ -](?:tempo|pace|paced)|\b))?")
# These speak of tempo only where it is named.
_ONLY = r"(?:low|high|mid|medium|moderate|relaxed|lively|upbeat|quick|rapid)\b"
_QUICK = _SPEED.replace("(?P<speed>", f"(?!{_ONLY})(?P<speed>")
# Between a word and the noun that it describes: nothing that turns to another thing.
_OTHER = (r"(?!(?:in|of|with|to|over|on|at|by|from|for|the|an?|is|are|that|this|as|but|while|then|motion|cars?|food|"
          r"build\w*|burn\w*|mov\w+|develop\w*|solos?|riffs?|runs?|strum\w*|pick\w*|pluck\w*|play\w*|sing\w*|rapp\w*|"
          r"rolls?|fills?|lines?|vocals?|arpeggi\w*|melod\w+|chords?|notes?|attack|release|decay|fade\w*|hi-?hats?)\b)")
_FILM = (r"(?! ?(?:[\w-]+ )?(?:action|movies?|films?|scenes?|series|videos?|games?|life|lifestyle|montage|chase|"
         r"show|commercial|advert\w*|sports?|cars?|world|environment))")
_PART = r"(?! (?:[\w-]+ ){0,2}(?:guitars?|pianos?|violins?|strings|synth\w*|melod\w+|vocals?|rapp\w*|sing\w*|playing))"
_WORK = (r"(?:songs?|ballads?|tracks?|pieces?|music|tunes?|waltz(?:es)?|jams?|compositions?|instrumentals?|recordings?|"
         r"passage|clip|excerpt|march|anthem|lullaby|hymn)\b")
_PACE = [re.compile(pattern, re.I) for pattern in (
    # "slow tempo", "at a moderate, steady pace", "fast-paced", "a slow beat", "medium-to-fast tempo"
    rf"{_SPEED}(?:(?:,| and)? {_OTHER}[a-z][\w/-]*){{0,2}}?[ -](?:tempo(?:ed)?|pace|pacing|speed)\b{_FILM}",
    rf"{_SPEED}[ -]paced\b{_FILM}{_PART}",
    rf"{_QUICK} (?:beat|groove)\b",
    # "the tempo of the song is slow", "tempo: fast"
    r"\b(?:tempo|pace)(?: of (?:this|the) [\w -]{1,30}?)?(?: ?:| (?:is|feels|seems|remains|stays|appears|was|being)"
    rf"(?: to be)?)(?P<negation>n't| (?:not|neither|never))?(?: set)?(?: at)?(?: an?)? {_SPEED}\b(?! ?changing)",
    # "a slow, sad piano ballad", "Fast and loud, this track"
    rf"{_QUICK}(?![-\w])(?:(?:,| and|,? but)? {_OTHER}[a-z][\w'-]*){{0,3}}?(?:, (?:this|the))? {_OTHER}"
    rf"{_WORK}",
    # "the song is slow and sad"
    rf"\b(?:this|the) (?:[\w-]+ )?{_WORK} (?:is|feels|sounds)(?P<negation>n't| not| never| neither)? "
    rf"{_QUICK}(?=[,.;]|$| and | but | in (?:tempo|pace))",
    r"\b(?P<speed>up|mid|down)[ -]?tempo\b",
)]
_CHANGE = re.compile(
    r"\b(?:accelerat\w+|accelerando|ritardando|slow(?:s|ing)? down|speed(?:s|ing)? up|pick(?:s|ing)? up (?:the )?"
    r"(?:pace|speed|tempo)|(?:gets?|getting|becom\w+|turns?) (?:faster|slower)|(?:chang\w+|shifting|increasing|"
    r"decreasing|varying|variable|fluctuating|different) (?:in )?(?:the )?tempos?|"
    r"tempo (?:change|shift|increase|decrease|var)\w*|"
    r"(?:half|double)[ -]?(?:time|speed|tempo)|rubato)\b", re.I)
_NO_BEAT = re.compile(
    r"\b(?:no|without an?|lacks an?|lacking an?|or an?) (?:real |single )?(?:steady|regular|clear|fixed|discernible|"
    r"definite|consistent|constant) (?:beat|pulse|tempo|metre|meter)\b|\b(?:arrhythmic|free[- ]tempo|free of tempo)\b",
    re.I)

_HEDGE = r"around|about|roughly|approximately|approx\.?|circa|c\.|~|nearly|almost|close to|some"
_NUMBER = r"(?<![\w.,/])\d{2,3}(?:\.\d{1,3})?"
_BPM = [re.compile(pattern, re.I) for pattern in (
    rf"(?:(?P<hedge>{_HEDGE}) ?)?(?P<between>between )?(?P<low>{_NUMBER})"
    rf"(?:(?: ?- ?| to |(?(between) and | or ))(?P<high>\d{{2,3}}(?:\.\d{{1,3}})?))?"
    r" ?-?(?:bpms?|beats (?:per|a) minute)\b",
    rf"\b(?:bpms?|tempo)(?: ?[:=]| (?:is|of|at))*(?: (?P<hedge>{_HEDGE}))? (?P<low>{_NUMBER})"
    r"(?:(?: ?- ?| to )(?P<high>\d{2,3}))?(?![\d/:%]|[.,]\d|-\w|"
    r" ?(?:seconds?|s|bars?|dB|k?Hz|minutes?|bpm|beats?|percent)\b)",
)]
_TEMPI = (20, 400)  # BPM: other numbers are something else

_KEY = re.compile(r"(?<![\w#♯♭'.])(?P<note>[A-Ga-g])(?P<sign>[#♯♭]|b\b|(?<=[A-G])b(?=m)|[ -](?:sharp|flat)\b)?"
                  r"(?:[ -]?(?P<mode>major|minor|maj|min|m)\b)?(?![\w#♯♭'])", re.I)
_KEY_OF = re.compile(r"\bkey(?: signature)?(?: of|:| is| is set| seems to be| appears to be)+"
                     r"(?: (?:probably|apparently|likely|most likely|possibly))?(?: in)? $", re.I)
_IN = re.compile(r"\b(?:in|into|to|from|towards?|is)(?: the)? $", re.I)
_DOUBT = re.compile(r"\b(?:probably|apparently|(?:most )?likely|possibly|perhaps|maybe|seems to be|appears to be|"
                    r"(?:might|could|may) be|leans towards|sounds like)(?: set)?(?: in)?(?: the key of)? $", re.I)
_TRANSPOSED = re.compile(r"\b(?:clarinet|trumpet|horn|sax\w*|cornet|whistle|flute|harmonica|harp|tuba|instrument|"
                         r"tuned|mass|symphony|sonata|concerto)s?(?: \w+)? (?:in|to) (?:the )?$", re.I)
# Chords, intervals and scales are not keys; nor is the first of "C major and G major chords".
_CHORD = re.compile(r"(?:(?:,? and|,? or| to|,|/| ?-) ?[A-Ga-g][#♯♭b]?(?:[ -](?:sharp|flat))?(?: ?(?:major|minor|m))?)*"
                    r"[ -]?(?:\d|maj7|sus|add|chords?\b|triads?\b|arpeggi|seventh|third|sixth|second|ninth|"
                    r"pentatonic|blues scale|strings?\b)", re.I)
_SCALE = re.compile(r" scale", re.I)
# What may follow "A minor" or "in A major" where the first word is a key and not an article.
_ENDED = re.compile(r"\s*(?:$|[.,;:!?)\]/-]|(?:with|and|at|but|the|that|this|on|or|to|as|by|for|from|has|having|"
                    r"while|which|throughout|key|scale|tonality|moving|set|played|over|featuring|accompanied)\b)")
_MODE = re.compile(r"\b(?P<hedge>mostly |mainly |probably )?(?P<mode>major|minor)[ -](?:keys?\b(?! changes?)|"
                   r"mode\b|tonality\b)|"
                   r"\bin (?:the |a )?(?:natural |harmonic |melodic )?(?P<scale>major|minor) scale\b|"
                   r"\bin (?P<bare>major|minor)(?=[.,;]|$)", re.I)
_NO_KEY = re.compile(r"\b(?:no|without an?|lacks an?|or an?) (?:clear|definite|discernible|obvious|fixed|specific) "
                     r"(?:key|tonal cent(?:re|er)|tonality)\b|\batonal\b", re.I)
_KEY_CHANGE = re.compile(r"\bkey changes?|\bmodulat(?:es?|ing|ion) (?:to|from|between|into)\b|\bchang\w+ (?:the )?key",
                         re.I)

_DRUM = re.compile(
    r"\b(?:non-?percussive|"
    r"(?P<degree>almost entirely |(?:high|strong|heavi|clear|light|slight|moderate|part)ly |very )?percussive"
    r"(?: [\w-]+)?|"
    r"(?:electronic |acoustic |digital )?drum(?:s|ming|beats?| kits?| sets?| beats?| machines?| loops?)?(?! roll)|"
    r"percussions?(?: instruments?)?|snares?|hi-?hats?|cymbals?|tablas?|congas?|bongos?|djembes?|tambourines?|timpani|"
    r"maracas)\b(?![- ]?(?:free|less))", re.I)
_DRUMLESS = re.compile(
    r"\b(?:drumless|beatless|unpercussive|(?:drum|percussion)[- ](?:free|less)|"
    r"(?:drums|percussion) (?:is|are) (?:absent|missing|not (?:present|used|there|heard))|"
    r"(?:texture|character|articulation) (?:is )?sustained|sustained (?:texture|character|articulation))\b", re.I)
# The last of them: "no bass and no drums".
_LACK = re.compile(r".*(?P<lack>\b(?:no|without|lack(?:s|ing)?(?: of)?|absence of|devoid of|free of|instead of|"
                   r"rather than|not|never|neither)\b|n't\b)(?P<rest>[^.;:!?]{0,60})$", re.I)
_BUT = re.compile(r"\b(?:but|just|only|with|instead|while|except|until|other than)\b")
_LOUD = re.compile(r"\b(?:heavy|hard|hard-?hitting|loud|pounding|driving|powerful|punchy|strong|aggressive|thunderous|"
                   r"intense|booming|massive|relentless|vigorous|energetic|fast)(?:,? (?:and )?[\w-]+){0,2} $", re.I)
_SOFT = re.compile(r"\b(?:light|soft|gentle|subtle|minimal|sparse|faint|brushed|quiet|distant|delicate|occasional)"
                   r"(?:,? (?:and )?[\w-]+){0,2} $", re.I)
_NEAR = 120  # characters around a word that may change what it means
_PUNCTUATION = str.maketrans({"’": "'", "‘": "'", "–": "-", "—": "-", "‑": "-", "\u00a0": " "})


def statements(caption: str) -> list[Statement]:
    """All that a caption states, each kind in the order of the text."""
    text = " ".join(caption.translate(_PUNCTUATION).split())
    return [*_tempi(text), *_paces(text), *_keys(text), *_percussion(text)]


def _tempi(text: str) -> Iterator[Statement]:
    for pattern in _BPM:
        for match in pattern.finditer(text):
            low, high = float(match["low"]), float(match["high"] or match["low"])
            if _TEMPI[0] <= low <= high <= _TEMPI[1] and not _NEGATION.search(_before(text, match)):
                yield Statement("bpm", match[0].strip(), (low, high), hedged=bool(match["hedge"]))


def _paces(text: str) -> Iterator[Statement]:
    seen = set()
    for pattern in _PACE:
        for match in pattern.finditer(text):
            word, groups = match["speed"].lower(), match.groupdict()
            if match.start("speed") in seen:
                continue
            seen.add(match.start("speed"))
            adverb = (groups.get("adverb") or "").lower()
            name = {"up": "fast", "down": "slow"}.get(word) or SPEEDS[word]
            if name in ("slow", "fast") and re.fullmatch(_STRONG, adverb):
                name = f"very {name}"
            vague = word in _VAGUE or word == "down" or bool(re.fullmatch(_WEAK, adverb))
            negated = bool(groups.get("negation") or _NEGATION.search(_before(text, match)))
            found = text[match.start("speed"):match.end()]
            said = match[0].strip() if len(match[0]) < 40 else found
            yield Statement("pace", said, name, vague, negated)
            second = (groups.get("second") or "").lower()
            if second and not negated:
                yield Statement("pace", said, SPEEDS.get(second, "fast"), vague)
    for match in _NO_BEAT.finditer(text):
        yield Statement("no beat", match[0])
    for match in _CHANGE.finditer(text):
        yield Statement("tempo changes", match[0])


def _keys(text: str) -> Iterator[Statement]:
    found, taken = [], []
    for match in _KEY.finditer(text):
        if statement := _key(text, match):
            found.append(statement)
            taken.append(range(*match.span()))
    if len({statement.value for statement in found}) < 3:  # more of them are chords, or a list of what might be
        yield from found
    for match in _MODE.finditer(text):
        before = _before(text, match)
        mode = (match["mode"] or match["scale"] or match["bare"]).lower()
        if not any(match.start() in one for one in taken) and not re.search(
                r"\b(?:relative|parallel|not|not (?:in )?a|no)[ -]$", before, re.I):
            yield Statement("mode", match[0], mode, bool(match["hedge"]) or bool(_DOUBT.search(before)))
    for match in _NO_KEY.finditer(text):
        yield Statement("no key", match[0])
    for match in _KEY_CHANGE.finditer(text):
        yield Statement("key changes", match[0])


def _key(text: str, match: re.Match) -> Statement | None:
    """The key that a note name is, with or without its mode, or None where it is none."""
    note, sign, mode = match["note"], (match["sign"] or "").strip(" -").lower(), (match["mode"] or "").lower()
    before, after = _before(text, match), text[match.end():match.end() + _NEAR]
    named, within = bool(_KEY_OF.search(before)), bool(_IN.search(before) or _DOUBT.search(before))
    if _CHORD.match(after) or _TRANSPOSED.search(before) or (_SCALE.match(after) and not within):
        return None
    if not mode:  # "in the key of C", "in F sharp"
        if not (named or (sign and sign != "b" and note.isupper() and within)) or (note == "a" and not sign):
            return None
    elif mode == "m":  # "Am" and "Em" are words and names, too
        if not (named or within or sign):
            return None
    elif note.islower() and not (named or sign or (note != "a" and within)):
        return None
    elif note == "A" and not sign and not named:  # or an article: "A major hit"
        placed = within or before[-1:] in ("", ",", ":", "(", "-", "/") or before[-2:-1] in (",", ":", "-", "/")
        if not placed or not (re.match(r"[,;.]", after) if not before else _ENDED.match(after)):
            return None
    mode = {"maj": "major", "min": "minor", "m": "minor"}.get(mode, mode) or None
    value = (NOTES[note.lower()] + SIGNS.get(sign, 0)) % 12, mode
    return Statement("key", match[0].strip(), value, hedged=bool(_DOUBT.search(before)))


def _percussion(text: str) -> Iterator[Statement]:
    gone = list(_DRUMLESS.finditer(text))
    for match in gone:
        if not _NEGATION.search(_before(text, match)):
            yield Statement("percussion", match[0], "none")
    for match in _DRUM.finditer(text):
        if any(one.start() <= match.start() < one.end() for one in gone):
            continue
        before = _before(text, match)
        if match[0].lower().startswith("non"):
            yield Statement("percussion", match[0], "none")
        elif lack := _LACK.match(before):
            rest = lack["rest"].lower()
            if _BUT.search(rest):
                yield _drums(before, match)
            elif "," not in rest and " and " not in f"{rest} " and len(rest.split()) <= 5:
                yield Statement("percussion", f"{(lack['lack'] + lack['rest']).strip()} {match[0]}", "none")
            # Else it cannot be told how far the "no" reaches.
        else:
            yield _drums(before, match)


def _drums(before: str, match: re.Match) -> Statement:
    degree = (match["degree"] or "").strip().lower()
    if degree:
        value = {"lightly": "light", "slightly": "light", "moderately": "some", "partly": "some", "clearly": "some"}
        return Statement("percussion", match[0], value.get(degree, "strong"))
    soft, loud = _SOFT.search(before), _LOUD.search(before)
    said = f"{(soft or loud)[0] if soft or loud else ''}{match[0]}"
    return Statement("percussion", said, "light" if soft else "strong" if loud else "some")


def _before(text: str, match: re.Match) -> str:
    return text[max(0, match.start() - _NEAR):match.start()]
