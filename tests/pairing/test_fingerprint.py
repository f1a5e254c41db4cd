"""Near-duplicates: what re-encoding, gain, shifts and cuts leave is found, and nothing else."""
import numpy as np
import pytest
import soxr

from pairing.fingerprint import HOP, MAX_ERROR, bit_error_rate, candidates, duplicates, fingerprint
from tests.pairing.codecs import recode
from tests.pairing.songs import RATE, drum_loop, song

VERSIONS = {
    "mp3 64 kbit/s": lambda y: recode(y[None], RATE, "mp3", 64)[0],
    "aac 64 kbit/s": lambda y: recode(y[None], RATE, "aac", 64)[0],
    "opus 64 kbit/s": lambda y: recode(y[None], RATE, "opus", 64)[0],
    "opus 24 kbit/s": lambda y: recode(y[None], RATE, "opus", 24)[0],
    "16 kHz": lambda y: soxr.resample(soxr.resample(y, RATE, 16000), 16000, RATE),
    "-20 dB, 16 bits": lambda y: np.round(y * 0.1 * 32768) / 32768,
    "+20 dB": lambda y: y * 10,
    "half a hop later": lambda y: y[HOP // 2:],
    "4 s cut off": lambda y: y[round(4.013 * RATE):],
    "4 s of silence before": lambda y: np.concatenate([np.zeros(round(4.013 * RATE), np.float32), y]),
    "mp3, -20 dB, 3 s": lambda y: 0.1 * recode(y[None], RATE, "mp3", 64)[0, round(3.021 * RATE):],
}


@pytest.fixture(scope="module")
def songs() -> list[np.ndarray]:
    """With and without drums, ten seconds each."""
    return [song(seed, drums=0.5 * (seed % 3)) for seed in range(6)]


@pytest.fixture(scope="module")
def many() -> list[np.ndarray]:
    """Prints of 220 different songs of four seconds."""
    return [fingerprint(song(seed, 4.0, drums=0.5 * (seed % 3))) for seed in range(100, 320)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_same_recording_is_found(songs, version):
    prints = [fingerprint(y) for y in songs] + [fingerprint(VERSIONS[version](y)) for y in songs]
    found = duplicates(prints)
    assert [(i, j) for i, j, _ in found] == [(k, k + len(songs)) for k in range(len(songs))]
    assert max(error for *_, error in found) <= 0.05


def test_an_excerpt_is_found_in_its_track():
    track = song(7, 60.0)
    excerpt = recode(track[None, 31 * RATE + 333:41 * RATE + 333], RATE, "mp3", 64)[0]
    found = duplicates([fingerprint(excerpt), fingerprint(track)])
    assert [pair[:2] for pair in found] == [(0, 1)]


def test_short_clips_are_found():
    y = song(8, 2.0)
    assert len(fingerprint(y)) == 2 * 32
    assert duplicates([fingerprint(y), fingerprint(recode(y[None], RATE, "aac", 96)[0])])


def test_different_songs_are_not(many):
    assert duplicates(many) == []


def test_drum_loop_alone_is_not_enough():
    """The same loop at the same tempo, as loud as the notes, under other chords and another melody."""
    loops = [(seed, {"drum_seed": seed // 2, "tempo": 90 + 10 * (seed // 2)}) for seed in range(12)]
    prints = [fingerprint(song(seed, drums=1.0, **loop)) for seed, loop in loops]
    assert duplicates(prints) == []


def test_other_segments_of_a_song_do_not_match():
    for seed in range(4):
        y = song(seed + 40, 22.0)
        assert duplicates([fingerprint(y[:10 * RATE]), fingerprint(y[12 * RATE:])]) == []


def test_what_does_not_change_matches_nothing():
    t = np.arange(10 * RATE) / RATE
    rng = np.random.default_rng(0)
    still = [np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 466 * t), np.zeros(len(t)), np.full(len(t), 0.3),
             1e-5 * rng.standard_normal(len(t)), 1e-5 * rng.standard_normal(len(t))]
    prints = [fingerprint(y) for y in still]
    assert duplicates(prints) == []
    assert duplicates(prints + prints) == []


def test_noise_is_told_from_noise():
    rng = np.random.default_rng(1)
    noises = [0.1 * rng.standard_normal(10 * RATE).astype(np.float32) for _ in range(3)]
    again = recode(noises[1][None], RATE, "mp3", 64)[0]
    assert [pair[:2] for pair in duplicates([fingerprint(y) for y in [*noises, again]])] == [(1, 3)]


def test_index_finds_what_comparing_everything_finds(songs):
    recoded = [recode(y[None, 20000:], RATE, "opus", 32)[0] for y in songs[:3]]
    prints = [fingerprint(y) for y in [*songs, *recoded, drum_loop(0, 120.0), *songs[4:]]]
    slow = {}
    for i, a in enumerate(prints):
        for j in range(i + 1, len(prints)):
            offsets = range(-len(prints[j]) // 2, len(a) // 2)
            error = min(bit_error_rate(a, prints[j], offset) for offset in offsets)
            if error <= MAX_ERROR:
                slow[i, j] = error
    found = {(i, j): error for i, j, error in duplicates(prints)}
    assert found == pytest.approx(slow, abs=1e-4)
    assert set(found) == {(0, 6), (1, 7), (2, 8), (4, 10), (5, 11)}


def test_order_does_not_matter(songs, many):
    prints = [fingerprint(y) for y in songs] + [fingerprint(VERSIONS["half a hop later"](y)) for y in songs] + many[:20]
    prints += prints[3:9]
    order = np.random.default_rng(2).permutation(len(prints))
    found = duplicates([prints[k] for k in order])
    back = sorted((*sorted((int(order[i]), int(order[j]))), error) for i, j, error in found)
    assert back == duplicates(prints)
    assert len(back) == 6 * 3  # each song, its shift, and a copy of either


def test_many_copies_are_all_joined(songs):
    """More versions of one recording than a key's neighbours: still one chain."""
    rng = np.random.default_rng(3)
    prints = [fingerprint(songs[0][k:] + 0.003 * rng.standard_normal(len(songs[0]) - k)) for k in range(0, 4000, 100)]
    joined = {0}
    pairs = duplicates(prints)
    for _ in prints:
        joined |= {k for pair in pairs for k in pair[:2] if joined & set(pair[:2])}
    assert joined == set(range(len(prints)))


def test_passes_give_what_one_pass_gives(songs, monkeypatch):
    prints = [fingerprint(y) for y in songs] + [fingerprint(VERSIONS["16 kHz"](y)) for y in songs]
    whole = list(candidates(prints))
    monkeypatch.setattr("pairing.fingerprint.PASS_WORDS", 300)
    assert list(candidates(prints)) == whole


def test_bit_error_rate_of_known_words():
    words, known = np.arange(100, dtype=np.uint32), np.full(100, 2**32 - 1, np.uint32)
    a = np.stack([words, known], axis=1).ravel()
    b = np.stack([words ^ 1, known], axis=1).ravel()
    assert bit_error_rate(a, a, 0) == 0
    assert bit_error_rate(a, b, 0) == 1 / 32
    assert bit_error_rate(a, b[20:], 10, min_overlap=50) == 1 / 32  # word 0 of what is left is word 10 of `a`
    assert bit_error_rate(a, a[60:], -40) == 1.0  # 30 words overlap, fewer than three quarters of the shorter's 70
    assert bit_error_rate(a, np.zeros(200, np.uint32), 0) == 1.0  # nothing known


def test_too_short_is_empty():
    assert fingerprint(np.zeros(1102, np.float32)).shape == (0,)
    assert duplicates([np.zeros(0, np.uint32)] * 3) == duplicates([]) == []
