"""What captions by people and tags of music collections name: instruments, voices, genres, moods, pace, sound.

A small lexicon, for MusicQA's questions about captions whose language is not the measured captioner's. What it does not
know is left out of an answer, never guessed; what a caption denies or only supposes is not taken as said.
"""
import re
from collections.abc import Iterable

_INSTRUMENTS = """guitar guitars e-guitar piano keyboard keyboards keys organ synth synths synthesizer synthesizers
  synthesiser drum drums percussion percussions percussive bass e-bass bassline violin violins viola
  cello cellos fiddle strings harp flute flutes clarinet oboe bassoon saxophone sax trumpet trumpets
  trombone tuba horn horns brass woodwinds woodwind accordion harmonica banjo mandolin ukulele sitar
  tabla oud lute harpsichord marimba xylophone vibraphone glockenspiel bells bell chimes tambourine
  shaker shakers congas bongos bongo djembe timpani cymbal cymbals snare kick hi-hat hi-hats hats
  claps clapping cowbell didgeridoo theremin bagpipe bagpipes koto shamisen erhu dulcimer zither
  kalimba orchestra bandurria beatbox turntable turntables pad pads celesta recorder electricguitar
  acousticguitar doublebass drummachine bassguitar"""
_VOICES = """vocal vocals voice voices singer singers singing sings vocalist vocalists choir chorus choral rapper
  rapping chanting chant humming vocalisation vocalization opera soprano tenor baritone a-cappella
  yodeling screaming woman man female male"""
_GENRES = """rock pop jazz blues classical folk country metal punk funk soul disco techno house trance ambient
  reggae hip-hop hiphop rap trap edm electro electronic electronica dance r&b gospel latin salsa samba
  bossa flamenco bluegrass indie alternative grunge ska dub dubstep swing ballad lullaby opera
  soundtrack baroque celtic indian arabic experimental industrial newage lounge march waltz polka
  tango classic easylistening world instrumentalpop popfolk chillout"""
_MOODS = """happy sad mellow calm calming relaxing relaxed peaceful soothing energetic upbeat cheerful joyful
  fun playful romantic emotional passionate melancholic melancholy nostalgic sentimental dreamy dark
  eerie scary spooky suspenseful mysterious haunting dramatic epic intense aggressive angry powerful
  exciting lively groovy soulful hypnotic meditative ethereal uplifting inspiring hopeful tense
  ominous sinister gentle tender festive funny quirky spirited youthful easygoing enthusiastic vibrant
  engaging addictive pleasant animated positive trippy psychedelic chill heartfelt devotional
  spiritual pensive buoyant bouncy vigorous chaotic cinematic atmospheric weird sensual warm melodic
  deep love inspirational motivational summer slow-burning"""
_PACE = """tempo slow fast uptempo up-tempo mid-tempo midtempo quick moderate"""
_SOUND = """quality noisy mono stereo reverb reverberant recording lo-fi distorted muffled loud quiet soft echo
  echoing static hiss tinny boomy live amateur crackling acoustic"""

_KINDS = (("pace", _PACE), ("voices", _VOICES), ("instruments", _INSTRUMENTS), ("genre", _GENRES), ("mood", _MOODS),
          ("sound", _SOUND))
_WORDS = {kind: frozenset(text.split()) for kind, text in _KINDS}
_PREFIXES = {"instrument": "instruments", "genre": "genre", "mood/theme": "mood", "mood": "mood", "theme": "mood"}

# What may stand between the words of one name: "acoustic rhythm guitar", "soft female vocal", "electronic dance music".
_ADJECTIVES = """acoustic electric distorted soft mellow groovy punchy simple lead bass rhythm synth electronic
  digital programmed amplified upright double steel french male female deep loud sustained shimmering
  plucked bowed arpeggiated breathy energetic passionate melodic hard heavy progressive slow fast
  medium moderate classical slide muted clean backing high low wooden string brass wind fiddle
  french-horn jazz latin pop rock indian hand"""
_JOINING = frozenset(_ADJECTIVES.split())
# In running text as often something else: "deep voice", "country feel", "bass drum".
_OTHERWISE = """percussive bass male female man woman sings opera chant love deep recorder pad horn keys melodic
  screaming house country dance warm classic march trap industrial positive world"""
_DOUBTFUL = frozenset(_OTHERWISE.split())
_DENIED = re.compile(r"\b(?:no|not|without|lacks?|nor|neither|never|isn't|aren't|absence|instead|n't)\b[^,;.]*$")
_SUPPOSED = re.compile(r"\b(?:could|might|may|would|should|probably|perhaps|seems?|maybe|suitable|as if|like an?|"
                       r"reminds?|can be (?!heard)\w+)\b")
_TOKEN = re.compile(r"[a-z&][a-z&'-]*")


def tag(text: str) -> tuple[str, str]:
    """(kind, name) of a tag: kind is instruments, voices, genre, mood, pace, sound, absent or other.

    MTG-Jamendo's "genre---rock" and "mood/theme---happy" tell their kind.
    """
    category, _, name = text.strip().rpartition("---")
    name = " ".join(name.replace("_", " ").split()).strip(" .,;\"'").lower()
    if re.fullmatch(r"(?:no|without|non|none|nothing)|\W*", name):
        return "other", ""
    if re.match(r"(?:no|without|non)\b", name):
        return "absent", re.sub(r"^(?:no|without|non)[ -]", "", name)
    if category in _PREFIXES:
        return _PREFIXES[category], name
    tokens = _TOKEN.findall(name)
    if tokens[-1:] == ["mood"]:
        return "mood", name.removesuffix(" mood")
    if tokens[-1:] in (["music"], ["song"]):
        return ("genre" if _WORDS["genre"].intersection(tokens[-2:-1]) else "other"), name
    # The last word is the head of an English name: "jazz guitar" is a guitar; "relaxing melody" is no mood.
    for known in (tokens[-1:], tokens):
        for kind, _ in _KINDS:
            if _WORDS[kind].intersection(known) and (known is not tokens or kind not in ("genre", "mood")):
                return kind, name
    return "other", name


def tagged(tags: Iterable[str]) -> dict[str, list[str]]:
    """Tags by their kind, in their order, without repetitions."""
    found: dict[str, list[str]] = {}
    for text in tags:
        kind, name = tag(text)
        if name and name not in found.setdefault(kind, []):
            found[kind].append(name)
    return {kind: names for kind, names in found.items() if names}


def named(sentences: Iterable[str]) -> dict[str, list[str]]:
    """What the sentences of a caption name: {kind: names}, for instruments, voices, genre, mood and pace."""
    found: dict[str, list[str]] = {}
    for sentence in sentences:
        low = sentence.lower().replace("hip hop", "hip-hop").replace("hi hat", "hi-hat").replace("’", "'")
        if _SUPPOSED.search(low):
            continue
        for kind, name in _names(low):
            several = found.setdefault(kind, [])
            if not any(re.search(rf"\b{re.escape(name)}\b", known) for known in several):
                several[:] = [known for known in several if not re.search(rf"\b{re.escape(known)}\b", name)] + [name]
    return found


def _names(low):
    tokens = [*_TOKEN.finditer(low)]
    for place, token in enumerate(tokens):
        kind = next((kind for kind in ("instruments", "voices", "genre", "mood") if token[0] in _WORDS[kind]), None)
        if token[0] == "tempo":
            kind = "pace"
        if not kind or _DENIED.search(low[:token.start()]):
            continue
        if token[0] in _DOUBTFUL or re.search(r"\b(?:open|nylon|steel|fretted) $", low[:token.start()]):
            continue
        start = token.start()
        if kind in ("instruments", "voices", "pace"):
            for before in reversed(tokens[max(place - 2, 0):place]):
                if before[0] not in _JOINING or low[before.end():start] != " ":
                    break
                start = before.start()
        name = low[start:token.end()]
        after = tokens[place + 1][0] if place + 1 < len(tokens) else ""
        if kind == "pace" and name == "tempo":
            continue
        if kind in ("genre", "mood") and after in _WORDS["instruments"] | _WORDS["voices"]:
            continue  # "rock guitar", "mellow piano": said of the instrument
        yield kind, name
