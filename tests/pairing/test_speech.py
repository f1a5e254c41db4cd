"""Speech is found in speech, spoken or synthetic, and not in music."""
import numpy as np
import pytest
import soxr
from silero_vad import load_silero_vad

from manifests.media import decode_audio
from pairing import speech
from tests.pairing.songs import RATE, song
from tests.pairing.voices import synthetic_speech


def share(y: np.ndarray, rate: int) -> float:
    return speech.speech(soxr.resample(y, rate, speech.RATE))


def test_synthetic_speech():
    for seed in range(3):
        assert share(synthetic_speech(6.0, 22050, seed), 22050) > 0.5


def test_share_is_of_the_time():
    voice, pause = synthetic_speech(5.0, speech.RATE), np.zeros(5 * speech.RATE, np.float32)
    assert speech.speech(np.concatenate([voice, pause])) == pytest.approx(speech.speech(voice) / 2, abs=0.05)


def test_songs_noise_and_silence_are_none():
    assert share(song(0), RATE) < 0.05
    assert share(0.1 * np.random.default_rng(0).standard_normal(RATE).astype(np.float32), RATE) < 0.05
    assert speech.speech(np.zeros(800, np.float32)) == 0


def test_real_recordings(shared_media):
    for path in sorted(shared_media.glob("*/*")):
        found = speech.speech(decode_audio(path).mono(speech.RATE))
        assert found > 0.8 if path.name == "speech.wav" else found < 0.05, path.name


def test_probabilities_are_the_packages_own(monkeypatch):
    """In one call and over several, and for a last frame that is not full."""
    y = synthetic_speech(3.01, speech.RATE)
    expected = load_silero_vad(onnx=True, sequence=True).audio_forward(y)
    np.testing.assert_allclose(speech.probabilities(y), expected, atol=1e-6)
    monkeypatch.setattr(speech, "BLOCK", 20)
    np.testing.assert_allclose(speech.probabilities(y), expected, atol=1e-6)


def test_missing_package_says_what_to_do(monkeypatch):
    monkeypatch.setattr(speech, "find_spec", lambda name: None)
    speech._session.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="pip install silero-vad"):
        speech.speech(np.zeros(800, np.float32))
