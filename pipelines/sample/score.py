"""Songs: what is played in a sample clip. A style, a tempo, a key, and from them notes and drum strokes.

The key is established: every progression starts from its tonic and has a dominant or a cadence, basses play roots.
"""
from dataclasses import dataclass

import numpy as np

from pipelines.sample.styles import STYLES, Style
from pipelines.sample.synth import Hit, Note

KEYS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MODES = ("major", "minor")
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_CHORDS = {  # semitones above the tonic, and the chord's own intervals
    "I": (0, (0, 4, 7)), "ii": (2, (0, 3, 7)), "iii": (4, (0, 3, 7)), "IV": (5, (0, 4, 7)),
    "V": (7, (0, 4, 7)), "V7": (7, (0, 4, 7, 10)), "vi": (9, (0, 3, 7)),
    "i": (0, (0, 3, 7)), "iio": (2, (0, 3, 6)), "iv": (5, (0, 3, 7)), "v": (7, (0, 3, 7)), "VI": (8, (0, 4, 7)),
    "VII": (10, (0, 4, 7)), "i7": (0, (0, 3, 7, 10)),
}
# Loops that a relative key could claim as well (vi IV I V) are left out: the truth must be one.
_LOOPS = {
    "major": ("I V vi IV", "I IV V I", "I vi IV V", "I vi ii V7", "I IV I V", "I I IV V7", "I ii V7 I", "I iii IV V",
              "I V I IV", "I V7 I I", "I IV V7 I"),
    "minor": ("i iv V7 i", "i VI iv V", "i VII VI V", "i iv i V", "i iio V7 i", "i i iv V7", "i VI V7 i", "i V i iv",
              "i7 iv V7 i", "i VII i V", "i iv v i"),
}
# Tempi that many pieces share, so that clips can be matched by tempo.
_COMMON = (66, 72, 80, 90, 96, 100, 104, 110, 120, 125, 128, 140, 150, 160, 174)


_DRUM_GAIN = {"kick": 0.9, "snare": 0.7, "rim": 0.5, "clap": 0.6, "hat": 0.3, "open hat": 0.3, "ride": 0.3,
              "crash": 0.35, "tom": 0.6, "low tom": 0.7, "shaker": 0.25, "cowbell": 0.25}
_ROLE_GAIN = {"bass": 0.3, "comp": 0.24, "lead": 0.23, "pad": 0.12}


@dataclass(frozen=True)
class Song:
    """A piece of music before it is played. Key and mode are None where nothing is pitched (percussion)."""
    seed: int
    style: str
    tempo: float        # BPM
    key: str | None
    mode: str | None
    parts: tuple[tuple[str, str], ...]  # (role, instrument); drums apart
    kit: dict[str, str]                 # drum → pattern
    chords: tuple[str, ...]
    chord_beats: int
    origin: float       # s: where beat 0 lies; before 0 = the clip begins in mid-song
    level: float        # RMS, dBFS

    @property
    def instruments(self) -> tuple[str, ...]:
        named = dict.fromkeys(instrument for _, instrument in self.parts)
        return (*(("drums",) if self.kit else ()), *named)


def song(name: str, rng: np.random.Generator) -> Song:
    """Draws a song in the style of this name; everything in it follows from `rng`."""
    style = STYLES[name]
    tempo = _tempo(style.tempo, rng)
    pitched = any(style.sounds)
    mode = MODES[int(rng.random() < 0.42)] if pitched else None
    key = KEYS[rng.integers(12)]
    parts = []
    for role, sounds, chance in zip(_ROLE_GAIN, style.sounds, (0.93, 1.0, 0.75, 0.45), strict=True):
        if sounds and rng.random() < chance:
            parts.append((role, sounds[rng.integers(len(sounds))]))
    if pitched and "bass" not in dict(parts) and "lead" not in dict(parts):  # someone must say where home is
        parts.insert(0, ("bass", style.sounds[0][0]))
    beat = 60 / tempo
    chord_beats = style.beats
    if style.beats == 4 and tempo < 100:  # four chords, and so the whole loop, fit in ten seconds
        chord_beats = 2
    where = rng.random()
    if where < 0.25:
        origin = rng.uniform(0.05, 0.5)   # the song begins here
    elif where < 0.6:
        origin = -beat * style.beats * int(rng.integers(0, 8))
    else:
        origin = -beat * rng.uniform(0, style.beats * 8)
    return Song(
        seed=int(rng.integers(2**62)), style=name, tempo=tempo, key=key if pitched else None, mode=mode,
        parts=tuple(parts), kit=style.kits[rng.integers(len(style.kits))],
        chords=tuple(_LOOPS[mode][rng.integers(len(_LOOPS[mode]))].split()) if pitched else (),
        chord_beats=chord_beats, origin=float(origin), level=float(rng.uniform(*style.level)))


def _tempo(limits: tuple[float, float], rng: np.random.Generator) -> float:
    draw = rng.random()
    common = [tempo for tempo in _COMMON if limits[0] <= tempo <= limits[1]]
    if draw < 0.4:
        return float(common[rng.integers(len(common))])
    if draw < 0.6:  # nearly: what a metronome would call the same
        return round(float(np.clip(common[rng.integers(len(common))] * rng.uniform(0.992, 1.008), *limits)), 2)
    return round(float(rng.uniform(*limits)), 1)


def perform(piece: Song, seconds: float) -> tuple[list[Note], list[Hit]]:
    """Notes and drum strokes that sound within the first `seconds`; a note's `part` indexes `piece.parts`."""
    rng = np.random.default_rng(piece.seed)
    style = STYLES[piece.style]
    beat = 60 / piece.tempo
    first = 0 if piece.origin >= 0 else int(-piece.origin / beat // style.beats) - 1
    last = int((seconds - piece.origin) / beat // style.beats) + 1
    patterns = {"bass": _pick(style.bass, rng), "comp": _pick(style.comp, rng)}
    # Two bars of lead rhythm that come back, as a tune's do.
    motif = [_pick(style.lead, rng), _pick(style.lead, rng)]
    fills, crashes = rng.random() < 0.5, rng.random() < 0.4
    entry = int(rng.integers(2, 5)) if rng.random() < 0.25 else 0  # the lead comes in later
    swell = rng.uniform(0, 0.2)
    notes: list[Note] = []
    hits: list[Hit] = []
    degree = int(rng.integers(7, 12))
    for bar in range(max(0, first), last + 1):
        loud = 1 + swell * np.sin(2 * np.pi * bar / 8)
        for index, (role, _) in enumerate(piece.parts):
            if role == "lead" and bar - max(0, first) < entry:
                continue
            if role == "lead":
                played, degree = _lead(piece, style, motif[bar % 2], bar, degree, rng)
            elif role == "pad":
                played = _pad(piece, style, bar)
            else:
                played = _bass_or_comp(piece, style, role, patterns[role], bar, rng)
            for step, steps, pitch, velocity in played:
                time = _when(piece, style, bar, step) + style.loose * rng.standard_normal()
                length = max(0.05, steps * beat / style.division)
                if time + length > 0 and time < seconds:
                    notes.append(Note(index, float(time), length, pitch, float(
                        velocity * loud * _ROLE_GAIN[role] * rng.uniform(0.88, 1.0))))
        strokes = dict(piece.kit)
        if fills and bar % 4 == 3 and "snare" in strokes:
            strokes["snare"] = strokes["snare"][:-style.division] + ("Xoxx", "xxxo", "XoXo")[rng.integers(3)][
                :style.division]
        if crashes and bar % 4 == 0 and "snare" in strokes and "crash" not in strokes:
            strokes["crash"] = "x"
        for drum, pattern in strokes.items():
            for step, mark in enumerate(pattern):
                time = _when(piece, style, bar, step) + 0.6 * style.loose * rng.standard_normal()
                if mark != "." and -1 < time < seconds:
                    velocity = {"X": 1.0, "x": 0.72, "o": 0.38}[mark] * rng.uniform(0.9, 1.0)
                    hits.append(Hit(drum, float(time), float(velocity * loud * _DRUM_GAIN[drum])))
    return notes, hits


def _when(piece: Song, style: Style, bar: int, step: float) -> float:
    late = style.swing if step % 2 == 1 else 0.0
    return piece.origin + (bar * style.beats + (step + late) / style.division) * 60 / piece.tempo


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))] if options else ""


def _chord(piece: Song, style: Style, bar: int, step: float) -> tuple[int, tuple[int, ...], str]:
    """The chord at a step: its root's pitch class, intervals and name."""
    position = bar * style.beats + step / style.division
    name = piece.chords[int(position // piece.chord_beats) % len(piece.chords)]
    root, intervals = _CHORDS[name]
    return (KEYS.index(piece.key) + root) % 12, intervals, name


def _within(pitch_class: int, low: int) -> int:
    """The pitch of this class in the octave from `low` up."""
    return low + (pitch_class - low) % 12


def _next(pattern: str, step: int) -> int:
    """Steps until the pattern's next event, or to the bar's end."""
    after = next((later for later in range(step + 1, len(pattern)) if pattern[later] not in ".-"), len(pattern))
    return after - step


def _bass_or_comp(piece: Song, style: Style, role: str, pattern: str, bar: int, rng: np.random.Generator
                  ) -> list[tuple]:
    """(step, steps, pitch, velocity) of one bar."""
    played = []
    for step, mark in enumerate(pattern):
        if mark == ".":
            continue
        root, intervals, _ = _chord(piece, style, bar, step)
        strong = 1.0 if step % style.division == 0 else 0.8
        steps = _next(pattern, step)
        chord_steps = piece.chord_beats * style.division
        steps = min(steps, chord_steps - step % chord_steps)  # nobody holds a chord into the next one
        if role == "bass":
            low = _within(root, 31)
            if mark == "w":  # roots where the chord changes, chord tones and neighbours between
                changes = step % chord_steps == 0
                pitch = low + (0 if changes else int(rng.choice([*intervals[1:3], 12, intervals[1]])))
            else:
                pitch = low + {"r": 0, "f": 7 if 7 in intervals else 6, "o": 12, "t": intervals[1]}[mark]
            played.append((step, steps * 0.9, pitch, strong))
            continue
        tones = sorted(_within((root + interval) % 12, 53) for interval in intervals)
        if mark in "Xx":
            length = min(steps * 0.9, style.division * 2)
            played += [(step, length, tone, (1.0 if mark == "X" else 0.75) * strong) for tone in tones]
        else:
            ladder = [*tones, *(tone + 12 for tone in tones)]
            played.append((step, steps + 0.5 * style.division, ladder[int(mark) - 1], 1.5 * strong))
    return played


def _pad(piece: Song, style: Style, bar: int) -> list[tuple]:
    steps = piece.chord_beats * style.division
    played = []
    for step in range(0, style.beats * style.division, steps):
        root, intervals, _ = _chord(piece, style, bar, step)
        played += [(step, steps, _within((root + interval) % 12, 57), 1.0) for interval in intervals[:3]]
    return played


def _lead(piece: Song, style: Style, pattern: str, bar: int, degree: int, rng: np.random.Generator) -> tuple[list, int]:
    """One bar of a tune, mostly stepwise, on chord tones at the beats; `degree` counts scale steps from a low tonic."""
    played = []
    tonic = _within(KEYS.index(piece.key), 54)
    for step, mark in enumerate(pattern):
        if mark in ".-":
            continue
        root, intervals, name = _chord(piece, style, bar, step)
        scale = list(_SCALES[piece.mode])
        if piece.mode == "minor" and name in ("V", "V7"):
            scale[6] = 11  # the leading tone
        degree = int(np.clip(degree + rng.choice([-2, -1, -1, 0, 1, 1, 2]), 5, 14))
        if step % style.division == 0:
            # The nearest tone of the chord; where the tonic chord comes in, its root and third have the advantage.
            arrival = name in ("I", "i", "i7") and step == 0
            fits = [other for other in range(5, 15)
                    if (KEYS.index(piece.key) + scale[other % 7] - root) % 12 in intervals[:3]]
            degree = min(fits, key=lambda other: abs(other - degree) - 3 * (arrival and other % 7 in (0, 2)))
        pitch = tonic + 12 * (degree // 7) + scale[degree % 7]
        held = next((later for later in range(step + 1, len(pattern)) if pattern[later] != "-"), len(pattern)) - step
        played.append((step, held * 0.95, pitch, 1.0 if mark == "X" else 0.8))
    return played, degree
