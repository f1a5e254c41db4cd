"""Tempo without octave errors, beats where they are, and no beat where there is none."""
import numpy as np
import pytest

from pairing.rhythm import FPS, PULSE, RATE, pulse, rhythm, slope, track

SECONDS = 10
CHORDS = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))  # C Am F G, a bar each
# One bar, a character a step: drums, then bass notes. `steps` is how many make a beat.
STYLES = {
    "backbeat": {"beats": 4, "steps": 2, "kick": "x...x...", "snare": "..x...x.", "hat": "x" * 8, "bass": "x...x..."},
    "four on the floor": {"beats": 4, "steps": 2, "kick": "x.x.x.x.", "hat": ".x.x.x.x", "bass": ".x.x.x.x"},
    "waltz": {"beats": 3, "steps": 2, "kick": "x.....", "hat": "..x.x.", "bass": "x....."},
    "sixteenths": {"beats": 4, "steps": 4, "kick": "x.......x.......", "snare": "....x.......x...",
                   "hat": "x" * 16, "bass": "x.......x......."},
    "no drums": {"beats": 4, "steps": 2, "bass": "x.x.x.x.", "stabs": "x.x.x.x."},
}


def strokes(rng: np.random.Generator) -> dict[str, np.ndarray]:
    t = np.arange(RATE // 4) / RATE
    noise = rng.standard_normal(len(t))
    return {
        "kick": np.sin(2 * np.pi * (50 * t - 3 * np.exp(-30 * t))) * np.exp(-12 * t),
        "snare": 0.4 * (noise + np.sin(2 * np.pi * 190 * t)) * np.exp(-20 * t),
        "hat": 0.25 * np.diff(noise, prepend=0.0) * np.exp(-50 * t),
    }


def note(pitch: float, seconds: float) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * k * 440 * 2 ** ((pitch - 69) / 12) * t) / k for k in range(1, 7))
    return wave * np.exp(-2 * t) * np.minimum(1, t / 0.005) * np.minimum(1, (seconds - t) / 0.02)


def perform(style: str, tempo: float, start: float = 0.0, seconds: float = SECONDS, seed: int = 0) -> np.ndarray:
    """A song in which the first bar begins at `start`, which may lie before 0."""
    rng = np.random.default_rng(seed)
    part, sounds = STYLES[style], strokes(rng)
    bar = part["beats"] * 60 / tempo
    lead = 8.0  # s of room before the clip, for what begins there
    out = np.zeros(round((seconds + 2 * lead) * RATE))

    def add(sound, when, level):
        first = round((lead + when) * RATE)
        out[first:first + len(sound)] += level * sound

    for index in range(int((seconds - start) / bar) + 1):
        chord = CHORDS[index % 4]
        for step in range(part["beats"] * part["steps"]):
            when = start + index * bar + step * 60 / tempo / part["steps"]
            if -lead < when < seconds:
                for name in ("kick", "snare", "hat"):
                    if part.get(name, ".")[step % len(part.get(name, "."))] == "x":
                        add(sounds[name], when, 0.8)
                if part["bass"][step] == "x":
                    add(note(36 + chord[0] % 12, 60 / tempo), when, 0.3)
                if part.get("stabs", "x" + "." * 99)[step] == "x":
                    length = 60 / tempo if "stabs" in part else bar
                    for tone in chord:
                        add(note(60 + tone, length), when, 0.1)
    clip = out[round(lead * RATE):round((lead + seconds) * RATE)]
    return (0.5 * clip / np.abs(clip).max() + 1e-4 * rng.standard_normal(len(clip))).astype(np.float32)


@pytest.mark.parametrize("style, tempi", [
    ("backbeat", (60, 71.3, 84, 97.5, 110, 123.4, 138, 152.6, 166, 180)),
    ("four on the floor", (72, 90.7, 108, 126.3, 144, 165)),
    ("waltz", (90, 108.4, 132, 156)),
    ("sixteenths", (70, 78.4, 92, 105)),
    ("no drums", (70, 88.8, 104, 126, 140)),
])
def test_the_tempo_is_found_at_its_octave(style, tempi):
    found = [rhythm(perform(style, tempo, start=-0.37 * index))["tempo"] for index, tempo in enumerate(tempi)]
    np.testing.assert_allclose(found, tempi, rtol=0.003)


@pytest.mark.parametrize("style, tempo, start", [
    ("backbeat", 117.3, 0.31), ("no drums", 96, -0.2), ("waltz", 104.5, 0.0), ("sixteenths", 74, -3.3)])
def test_beats_lie_where_they_were_played(style, tempo, start):
    beats = np.array(rhythm(perform(style, tempo, start))["beats"])
    played = start + np.arange(-20, 40) * 60 / tempo
    assert np.abs(beats[:, None] - played).min(axis=1).max() < 0.04
    inside = played[(played > 0.05) & (played < SECONDS - 0.2)]
    assert np.abs(inside[:, None] - beats).min(axis=1).max() < 0.04


def test_the_pulse_does_not_depend_on_where_the_clip_begins():
    draw = np.random.default_rng(4)
    songs = [("backbeat", 103), ("four on the floor", 126), ("waltz", 108), ("sixteenths", 84), ("no drums", 96)]
    pulses = np.array([[rhythm(perform(style, tempo, start))["pulse"] for start in draw.uniform(-4, 0, 4)]
                       for style, tempo in songs])
    assert pulses.shape == (5, 4, len(PULSE))
    within, between = pulses.std(axis=1).mean(), pulses.mean(axis=1).std(axis=0).mean()
    assert between > 0.1 and within < 0.15 * between
    # And all of a song's lie nearer to each other than to any other song's.
    far = np.linalg.norm(pulses[:, :, None, None] - pulses, axis=-1)
    same = np.eye(5, dtype=bool)[:, None, :, None] & np.ones_like(far, bool)
    assert far[same].max() < far[~same].min()


@pytest.mark.parametrize("a_beat", [1, 2, 3, 4])
def test_the_pulse_tells_how_the_beat_is_divided(a_beat):
    steps = np.arange(2, 28) * FPS * 0.5  # frames of the beats, at 120 BPM
    hits = np.concatenate([steps + step * FPS * 0.5 / a_beat for step in range(a_beat)])
    levels = np.r_[np.ones(len(steps)), np.full(len(hits) - len(steps), 0.7)]
    strength = (levels[:, None] * np.exp(-0.5 * np.square((np.arange(1250) - hits[:, None]) / 1.5))).sum(axis=0)
    envelopes = np.tile((strength - strength.mean()) / strength.std(), (4, 1))
    found = dict(zip(PULSE, pulse(envelopes, FPS * 0.5), strict=True))
    returns = {part for part, share in found.items() if share > 0.3}
    assert returns == {1: {1}, 2: {1 / 2, 1}, 3: {1 / 3, 2 / 3, 1}, 4: {1 / 4, 1 / 2, 3 / 4, 1}}[a_beat]


@pytest.mark.parametrize("gain", [0.1, 0.01, 20])
def test_level_does_not_matter(gain):
    y = perform("backbeat", 103)
    here, there = rhythm(y), rhythm(gain * y)
    assert there.pop("beats") == pytest.approx(here.pop("beats"), abs=2e-3)
    assert there.pop("pulse") == pytest.approx(here.pop("pulse"), abs=2e-3)
    assert there == pytest.approx(here, abs=1e-3)


def test_a_steady_beat_is_certain_and_free_rhythm_is_not():
    assert rhythm(perform("backbeat", 117))["tempo_confidence"] > 0.9
    rng = np.random.default_rng(5)
    free = np.zeros(SECONDS * RATE)
    for when in np.cumsum(rng.uniform(0.2, 1.2, 12)):
        tone = note(rng.integers(55, 75), 0.6)[:max(0, len(free) - round(when * RATE))]
        free[round(when * RATE):][:len(tone)] += tone
    assert rhythm((0.3 * free).astype(np.float32))["tempo_confidence"] < 0.3


@pytest.mark.parametrize("seconds", [2, 10, 60])
def test_noise_has_no_beat(seconds):
    noise = np.random.default_rng(seconds).standard_normal(seconds * RATE).astype(np.float32)
    brown = np.cumsum(noise)
    for y in (0.1 * noise, brown / np.abs(brown).max()):
        found = rhythm(y)
        assert (found["tempo"], found["beats"], found["pulse"]) == (None, [], [])
        assert found["tempo_confidence"] == 0.0
        assert found["onset_rate"] < 1.5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("y", [
    np.zeros(0), np.zeros(500), np.zeros(SECONDS * RATE), np.full(SECONDS * RATE, 0.7), np.eye(1, 3 * RATE, RATE)[0],
    np.sin(2 * np.pi * 440 * np.arange(5 * RATE) / RATE), np.r_[np.zeros(2 * RATE), np.ones(2 * RATE)],
], ids=["empty", "tiny", "silence", "constant", "impulse", "tone", "step"])
def test_what_has_no_beat_has_no_tempo(y):
    found = rhythm(y.astype(np.float32))
    assert (found["tempo"], found["tempo_confidence"], found["beats"]) == (None, 0.0, [])


@pytest.mark.parametrize("a_beat", [1, 2, 4])
def test_onsets_are_counted(a_beat):
    y = np.zeros(SECONDS * RATE)
    click = strokes(np.random.default_rng(0))["snare"]
    for when in np.arange(0.1, SECONDS - 0.3, 0.5 / a_beat):
        y[round(when * RATE):][:len(click)] += click
    assert rhythm(y.astype(np.float32))["onset_rate"] == pytest.approx(2 * a_beat, rel=0.06)


def test_short_and_long_clips():
    assert rhythm(perform("backbeat", 124, seconds=4))["tempo"] == pytest.approx(124, rel=0.01)
    long = rhythm(perform("backbeat", 93.7, seconds=100))
    assert long["tempo"] == pytest.approx(93.7, rel=0.001)
    assert len(long["beats"]) == pytest.approx(100 * 93.7 / 60, abs=2)


def test_the_tracker_follows_a_tempo_that_changes():
    times = np.cumsum(np.r_[10.0, np.linspace(0.95, 1.05, 60) * 40])  # frames
    envelopes = np.exp(-0.5 * np.square((np.arange(2600) - times[:, None]) / 1.5)).sum(axis=0) * np.ones((4, 1))
    beats = track(envelopes, 40.0)
    assert np.abs(times[:, None] - beats).min(axis=1).max() < 2


def test_the_slope_is_not_bent_by_stray_beats():
    beats = 7 + 0.5 * FPS * np.arange(20)
    beats[[3, 9, 15]] += 6
    assert slope(beats, 0.49 * FPS) == pytest.approx(0.5 * FPS, rel=1e-6)
    assert slope(beats[:2], 43.0) == 43.0
