"""Edits against truth: where clicks, tones and levels must be afterwards; and what is confirmed, and what is not."""
from collections import Counter

import numpy as np
import pytest
import soxr

from manifests import media
from manifests.outcomes import Loss
from pairing import edits
from tests.pairing.songs import RATE, drum_loop, song

CLAIMS = [(edit, amount) for edit, amounts in edits.AMOUNTS.items() for amount in amounts]


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    """[2, n]: a song to the left, and to the right at another level."""
    y = song(3, 8.0, tempo=104)
    return np.stack([y, 0.6 * y])


@pytest.fixture(scope="module")
def made(source) -> dict[tuple[str, float], np.ndarray]:
    return {claim: edits.apply(source, RATE, *claim) for claim in CLAIMS}


def fitted(samples: np.ndarray, like: np.ndarray) -> np.ndarray:
    """As long as `like`, by repetition, lest its length alone give a wrong one away."""
    return np.tile(samples, (1, -(-like.shape[1] // samples.shape[1])))[:, :like.shape[1]]


def refused(source: np.ndarray, target: np.ndarray, edit: str, amount: float) -> str:
    with pytest.raises(Loss) as loss:
        edits.confirm(source, target, RATE, edit, amount)
    assert loss.value.reason == "unconfirmed"
    return loss.value.detail


@pytest.mark.parametrize("count", [1, 7, 500, 33333])
@pytest.mark.parametrize("channels", [1, 2])
def test_lengths_are_exact(count, channels):
    samples = 0.1 * np.random.default_rng(count).standard_normal((channels, count), dtype=np.float32)
    for edit, amount in CLAIMS:
        edited = edits.apply(samples, RATE, edit, amount)
        assert edited.shape == (channels, round(count / amount) if edit == "tempo" else count)
        assert edited.dtype == np.float32 and np.isfinite(edited).all()


@pytest.mark.parametrize(("edit", "amount"), CLAIMS)
def test_clicks_are_where_they_should_be(edit, amount):
    samples = np.zeros((1, 6 * 44100), np.float32)
    places = np.array([0.5, 1.21, 2.04, 3.5, 4.77])
    tick = np.hanning(200) * np.sin(2 * np.pi * 2500 * np.arange(200) / 44100)
    for place in places:
        samples[0, round(place * 44100):][:200] += tick
    energy = np.convolve(edits.apply(samples, 44100, edit, amount)[0] ** 2, np.hanning(441), "same")
    for place in places / (amount if edit == "tempo" else 1):
        start = round((place - 0.1) * 44100)
        heard = start + energy[start:start + 8820].argmax()
        assert heard / 44100 == pytest.approx(place + 100 / 44100, abs=0.006)


@pytest.mark.parametrize(("edit", "amount"), CLAIMS)
def test_tones_are_as_high_and_as_loud_as_they_should_be(edit, amount):
    t = np.arange(4 * 44100) / 44100
    tone = (0.4 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    edited = edits.apply(np.stack([tone, -0.5 * tone]), 44100, edit, amount)
    middle = edited[:, 22050:-22050]
    spectrum = np.abs(np.fft.rfft(middle[0] * np.hanning(middle.shape[1]), 2**20))
    expected = 440 * 2 ** ((amount if edit == "pitch" else 0) / 12)
    assert spectrum.argmax() * 44100 / 2**20 == pytest.approx(expected, rel=0.0003)  # half a cent
    assert 20 * np.log10(middle[0].std() / tone.std()) == pytest.approx(0, abs=0.5)
    np.testing.assert_allclose(middle[1], -0.5 * middle[0], atol=0.004)


def test_bytes_never_vary(source, made):
    for claim in (("tempo", 0.7), ("pitch", 5)):
        np.random.default_rng().standard_normal(100000)
        np.testing.assert_array_equal(edits.apply(source.copy(), RATE, *claim), made[claim])


@pytest.mark.parametrize(("edit", "amount"), CLAIMS)
def test_true_edits_are_confirmed_and_wrong_ones_are_not(source, made, edit, amount):
    target = made[edit, amount]
    assert 0.6 < edits.confirm(source, target, RATE, edit, amount) <= 1
    factor = amount if edit == "tempo" else 2 ** (amount / 12)
    wrong = {
        "a copy": fitted(source, target),
        "as a record that is played too fast": fitted(soxr.resample(source.T, RATE * factor, RATE).T, target),
        "another song": edits.apply(song(4, 8.0, tempo=104)[None], RATE, edit, amount),
        "late": np.roll(target, RATE // 4, axis=1),
        "by another amount": fitted(made[edit, {0.5: 0.7, 0.7: 0.5, 1.3: 1.5, 1.5: 1.3, -5: -2, 5: 2}.get(
            amount, 3 * abs(amount) // amount - amount)], target),
        "an octave off": edits.apply(target, RATE, "pitch", -12),
        "backwards": target[:, ::-1],
    }
    for words, other in wrong.items():
        assert "fit" in refused(source, other, edit, amount), words


def test_of_another_length(source, made):
    assert refused(source, made["tempo", 1.5], "tempo", 1.3) == "5.33 s long, not 6.15"
    assert "8.00 s" in refused(source, source, "tempo", 0.5)


def test_level_and_channels_do_not_matter(source, made):
    both = edits.confirm(source, made["pitch", 2], RATE, "pitch", 2)
    assert edits.confirm(source[:1], 0.05 * made["pitch", 2], RATE, "pitch", 2) == pytest.approx(both, abs=0.01)


def test_drums_have_a_tempo_and_no_pitch():
    for seed in (1, 2, 3):
        drums = 0.1 * drum_loop(seed, 110, 6.0)[None].astype(np.float32)
        assert edits.confirm(drums, edits.apply(drums, RATE, "tempo", 1.3), RATE, "tempo", 1.3) > 0.5
        assert "no pitch" in refused(drums, edits.apply(drums, RATE, "pitch", 2), "pitch", 2)
        record = soxr.resample(drums[0], RATE * 1.3, RATE)[None]
        assert "spectra" in refused(drums, record, "tempo", 1.3)


def test_what_the_sound_cannot_tell():
    t = np.arange(6 * RATE) / RATE
    held = sum(0.1 * np.sin(2 * np.pi * hertz * t) for hertz in (220, 277.18, 329.63))[None].astype(np.float32)
    for amount in edits.TEMPI:
        assert "onsets" in refused(held, edits.apply(held, RATE, "tempo", amount), "tempo", amount)
    silence = np.zeros((2, 6 * RATE), np.float32)
    assert refused(silence, edits.apply(silence, RATE, "tempo", 0.5), "tempo", 0.5) == "silent"
    short = song(1, 1.9)[None]
    assert refused(short, edits.apply(short, RATE, "pitch", 1), "pitch", 1) == "less than 2 s"
    with pytest.raises(ValueError, match="tempo or the pitch, not of 'key'"):
        edits.apply(silence, RATE, "key", 1)


def test_real_music(shared_media):
    for name in ("bach.mp3", "electro_1.mp3"):
        wave = media.decode_audio((shared_media / "music" / name).read_bytes(), 8)
        for edit, amount in (("tempo", 0.7), ("tempo", 1.5), ("pitch", -5), ("pitch", 1)):
            target = edits.apply(wave.samples, wave.rate, edit, amount)
            assert edits.confirm(wave.samples, target, wave.rate, edit, amount) > 0.6
            with pytest.raises(Loss):
                edits.confirm(wave.samples, fitted(wave.samples, target), wave.rate, edit, amount)


def test_amounts_are_drawn_about_equally_often():
    ids = [f"clip-{index}" for index in range(6000)]
    drawn = Counter(pair for clip in ids for pair in edits.chosen(clip))
    assert drawn.total() == 12000 and set(drawn) == set(CLAIMS)
    for edit, amounts in edits.AMOUNTS.items():
        for amount in amounts:
            assert drawn[edit, amount] == pytest.approx(6000 / len(amounts), rel=0.1)
    assert edits.chosen("clip-0") == edits.chosen("clip-0") != edits.chosen("clip-1")


def test_asking_for_more_keeps_what_there_was():
    for clip in ("a", "b", "c"):
        every = edits.chosen(clip, 4, 6)
        assert sorted(every) == sorted(CLAIMS)
        for tempi in range(5):
            for shifts in range(7):
                assert edits.chosen(clip, tempi, shifts) == every[:tempi] + every[4:4 + shifts]
    for counts in ((5, 0), (0, 7), (-1, 0)):
        with pytest.raises(ValueError, match="a clip has 0 to"):
            edits.chosen("a", *counts)
