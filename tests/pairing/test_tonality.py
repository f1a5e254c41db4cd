"""Keys in every transposition, pitches that were played, and no tone in what has none."""
import numpy as np
import pytest

from pairing.tonality import KEYS, RATE, tonality

PROGRESSIONS = {  # chords above the tonic, one a second
    "major": ((0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7), (9, 12, 16), (2, 5, 9), (7, 11, 14), (0, 4, 7)),
    "minor": ((0, 3, 7), (5, 8, 12), (7, 11, 14), (0, 3, 7), (8, 12, 15), (5, 8, 12), (7, 11, 14), (0, 3, 7)),
}
NOTHING = ("key", "mode", "pitch_median", "pitch_low", "pitch_high")


def note(pitch: float, seconds: float, harmonics: int = 8, decay: float = 1.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * k * 440 * 2 ** ((pitch - 69) / 12) * t) / k for k in range(1, harmonics + 1))
    return wave * np.exp(-decay * t) * np.minimum(1, t / 0.01) * np.minimum(1, (seconds - t) / 0.02)


def piece(tonic: float, mode: str) -> np.ndarray:
    """Chords with their roots as a bass, the tonic a MIDI note number from 48 up."""
    bars = [sum(note(tonic + tone, 1.0) for tone in chord) + 2 * note(tonic + chord[0] % 12 - 12, 1.0)
            for chord in PROGRESSIONS[mode]]
    return (0.05 * np.concatenate(bars)).astype(np.float32)


def melody(pitches: list[float], seconds: float = 0.5) -> np.ndarray:
    return (0.3 * np.concatenate([note(pitch, seconds) for pitch in pitches])).astype(np.float32)


@pytest.mark.parametrize("mode", PROGRESSIONS)
def test_the_key_moves_with_the_music(mode):
    for shift in range(12):
        found = tonality(piece(48 + shift, mode))
        assert (found["key"], found["mode"]) == (KEYS[shift], mode)
        assert found["key_confidence"] > 0.6


@pytest.mark.parametrize("cents", [-40, 25, 40])
def test_instruments_may_be_out_of_tune(cents):
    found = tonality(piece(50 + cents / 100, "minor"))
    assert (found["key"], found["mode"]) == ("D", "minor")


def test_drums_do_not_hide_the_key():
    rng = np.random.default_rng(0)
    y = piece(53, "major")
    hit = rng.standard_normal(RATE // 5) * np.exp(-np.arange(RATE // 5) / (0.04 * RATE))
    for start in range(0, len(y) - len(hit), RATE // 4):
        y[start:start + len(hit)] += 0.2 * hit
    found = tonality(y)
    assert (found["key"], found["mode"]) == ("F", "major")


def test_chroma_are_shares_from_c():
    chroma = tonality(piece(57, "major"))["chroma"]
    assert sum(chroma) == pytest.approx(1, abs=1e-3)
    assert {KEYS[place] for place in np.argsort(chroma)[-3:]} == {"A", "C#", "E"}
    one = tonality(melody([64], 3.0))["chroma"]
    assert KEYS[int(np.argmax(one))] == "E" and max(one) > 0.5


@pytest.mark.parametrize("pitch", [40, 52.0, 60, 69, 76.3, 84])
def test_the_pitch_of_a_tone(pitch):
    found = tonality(melody([pitch], 3.0))
    assert [found["pitch_low"], found["pitch_median"], found["pitch_high"]] == pytest.approx([pitch] * 3, abs=0.1)
    assert found["pitch_salience"] > 0.8


def test_the_range_of_a_melody():
    found = tonality(melody([60] + [64, 65, 67] * 5 + [72, 72], 0.6))
    assert found["pitch_median"] == pytest.approx(65, abs=0.1)
    assert found["pitch_low"] == pytest.approx(60, abs=4.1)
    assert found["pitch_high"] == pytest.approx(72, abs=0.1)


def test_salience_orders_sounds_by_how_pitched_they_are():
    noise = 0.05 * np.random.default_rng(1).standard_normal(8 * RATE).astype(np.float32)
    chords = piece(50, "major")
    values = [tonality(y)["pitch_salience"] for y in (melody([62] * 16), chords, chords + noise, noise)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.8 and values[1] > 0.5 and values[3] < 0.01


@pytest.mark.parametrize("colour", [0, 0.5, 1])
def test_noise_of_any_colour_has_no_tone(colour):
    spectrum = np.fft.rfft(np.random.default_rng(2).standard_normal(10 * RATE))
    y = np.fft.irfft(spectrum / np.maximum(1, np.arange(len(spectrum))) ** colour)
    found = tonality((0.2 * y / np.abs(y).max()).astype(np.float32))
    assert [found[name] for name in NOTHING] == [None] * 5
    assert found["key_confidence"] == 0.0 and found["pitch_salience"] < 0.02
    assert found["chroma"] == [pytest.approx(1 / 12, abs=1e-3)] * 12


def test_what_glides_has_a_pitch_but_no_key():
    t = np.arange(10 * RATE) / RATE
    siren = 0.3 * np.sin(2 * np.pi * (700 * t + 60 * np.sin(2 * np.pi * 0.4 * t) / 0.4)).astype(np.float32)
    found = tonality(siren)
    assert found["pitch_salience"] > 0.5
    assert found["pitch_median"] == pytest.approx(77, abs=2)
    assert found["key_confidence"] < 0.3


@pytest.mark.parametrize("gain", [0.1, 0.01, 20])
def test_level_does_not_matter(gain):
    y = piece(55, "minor")
    here, there = tonality(y), tonality(gain * y)
    assert there.pop("chroma") == pytest.approx(here.pop("chroma"), abs=2e-4)
    assert there == pytest.approx(here, abs=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("y", [
    np.zeros(0), np.zeros(300), np.zeros(5 * RATE), np.full(5 * RATE, -0.4), np.full(900, 0.4),
    np.eye(1, 3 * RATE, RATE)[0],
], ids=["empty", "tiny", "silence", "constant", "tiny constant", "impulse"])
def test_where_there_is_no_tone_there_is_no_key(y):
    found = tonality(y.astype(np.float32))
    assert [found[name] for name in NOTHING] == [None] * 5
    assert (found["key_confidence"], found["pitch_salience"]) == (0.0, 0.0)
