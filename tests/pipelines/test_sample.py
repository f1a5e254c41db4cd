"""The sample corpus: what it promises about ids, bytes, tempo, key, level, pictures and each deliberate defect."""
import hashlib
import io
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from scipy import signal

from manifests import outcomes, splits
from pipelines import sample
from pipelines.sample import score, styles, synth

CLIPS = sample.ids(0, None)
GOOD = [clip for clip in CLIPS if not sample.spec(clip).bad]
render = cache(sample.render)


def bad(defect: str, seed: int = 0) -> str:
    return next(clip for clip in sample.ids(seed, 400) if sample.spec(clip).defect == defect)


def hear(media: bytes) -> tuple[np.ndarray, int]:
    """Decoded sound, (channels, samples) float, and its rate."""
    with av.open(io.BytesIO(media)) as file:
        resampler = av.AudioResampler("fltp", "stereo", file.streams.audio[0].rate)
        parts = [part.to_ndarray() for frame in file.decode(audio=0) for part in resampler.resample(frame)]
        return np.concatenate(parts, axis=1), file.streams.audio[0].rate


def see(media: bytes) -> np.ndarray:
    """Decoded pictures, (frames, height, width, 3) uint8."""
    with av.open(io.BytesIO(media)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def decibels(wave: np.ndarray) -> float:
    return 10 * np.log10(max(1e-30, np.mean(np.square(wave, dtype=np.float64))))


def flat_share(wave: np.ndarray) -> float:
    """Share of samples that stay at a rail (0.99 or more) for four samples or longer."""
    stuck = (np.abs(wave) >= 0.99).astype(int)
    runs = np.stack([np.convolve(channel, np.ones(4, int), "valid") == 4 for channel in stuck])
    return float(runs.mean())


def onsets(wave: np.ndarray, rate: int) -> np.ndarray:
    """Rises of log energy in eight bands, summed: 100 values a second."""
    _, _, spectrum = signal.stft(wave, rate, nperseg=1024, noverlap=1024 - rate // 100)
    edges = np.geomspace(2, spectrum.shape[0], 9).astype(int)
    energy = np.add.reduceat(np.abs(spectrum) ** 2, edges[:-1], axis=0)
    return np.maximum(0, np.diff(np.log(energy + 1e-3 * energy.mean()), axis=1)).sum(axis=0)


def chroma(wave: np.ndarray, rate: int) -> np.ndarray:
    """Energy by pitch class from C, of peaks between 65 and 1000 Hz."""
    size = 16384
    _, _, spectrum = signal.stft(wave, rate, nperseg=size)
    frequency = np.arange(size // 2 + 1) * rate / size
    inside = (frequency > 65) & (frequency < 1000)
    pitch = np.round(69 + 12 * np.log2(frequency[inside] / 440)).astype(int) % 12
    return np.bincount(pitch, weights=np.abs(spectrum[inside]).sum(axis=1), minlength=12)


def test_ids_are_stable_when_the_corpus_grows():
    assert len(CLIPS) == 80
    assert sample.ids(0, 1) == ["sample-0-00000"]
    assert sample.ids(7, 3000)[2999] == "sample-7-02999"
    few, many = sample.ids(3, 20), sample.ids(3, 500)
    assert many[:20] == few
    assert {clip: sample.truth(many)[clip] for clip in few} == sample.truth(few)


@pytest.mark.parametrize("wrong", ["sample-0-42", "sample-x-00001", "song", "sample-0-00001.mp4", "sample-007-00001"])
def test_foreign_ids_are_refused(wrong):
    with pytest.raises(ValueError, match="not an id of the sample corpus"):
        sample.spec(wrong)


@pytest.mark.parametrize(("seed", "limit"), [(0, 0), (-1, 5), (0, 100_001)])
def test_impossible_corpora_are_refused(seed, limit):
    with pytest.raises(ValueError, match="sample corpus"):
        sample.ids(seed, limit)


def test_bytes_are_the_same_in_every_process():
    chosen = [bad("short"), bad("clipping"), bad("re-encoding")]
    code = ("import sys, hashlib; from pipelines import sample\n"
            "for clip in sys.argv[1:]: print(hashlib.sha256(sample.render(clip)).hexdigest())")
    here = [hashlib.sha256(render(clip)).hexdigest() for clip in chosen]
    for hash_seed, order in (("1", chosen), ("2", chosen[::-1])):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", code, *order], env=environment, capture_output=True, text=True,
                              check=True)
        there = dict(zip(order, done.stdout.split(), strict=True))
        assert [there[clip] for clip in chosen] == here


def test_truth_is_complete():
    truth = sample.truth(CLIPS)
    assert list(truth) == CLIPS
    for clip, facts in truth.items():
        assert set(facts) == {"tempo", "key", "mode", "instruments", "bad"}
        assert facts["bad"] is None or facts["bad"] in outcomes.REASONS
        if facts["bad"] in (None, "clipped", "duplicate"):
            assert 60 <= facts["tempo"] <= 180
            assert facts["instruments"]
            assert (facts["key"] is None) == (facts["mode"] is None) == (facts["instruments"] == ["drums"]), clip
            assert facts["key"] in (*score.KEYS, None)
            assert facts["mode"] in (*score.MODES, None)
        else:
            assert (facts["tempo"], facts["key"], facts["mode"], facts["instruments"]) == (None, None, None, [])


def test_tempi_keys_and_sounds_vary_and_some_tempi_are_shared():
    specs = [sample.spec(clip) for clip in GOOD]
    tempi = np.array([it.tempo for it in specs])
    assert tempi.min() < 70 and tempi.max() > 165
    assert (np.histogram(tempi, [60, 80, 100, 120, 140, 180])[0] >= 5).all()
    assert sum(tempo % 1 != 0 for tempo in tempi) >= 15
    assert sum(count for count in Counter(tempi).values() if count > 1) >= 15
    near = np.abs(tempi[:, None] / tempi[None, :] - 1) < 0.01
    assert (near.sum(axis=1) > 1).sum() >= 35
    assert len({it.key for it in specs}) == 13  # with None
    assert min(Counter(it.mode for it in specs if it.mode).values()) >= 20
    assert len({it.song.style for it in specs}) == len(styles.STYLES)
    assert len({name for it in specs for name in it.instruments}) >= 15
    assert sum("drums" not in it.instruments for it in specs) >= 5
    assert sum(it.song.origin * it.tempo / 60 % 1 > 0.02 for it in specs) >= 20  # no beat at 0


@pytest.mark.parametrize("name", styles.STYLES)
def test_patterns_fill_their_bars(name):
    style = styles.STYLES[name]
    patterns = [*style.bass, *style.comp, *style.lead]
    patterns += [pattern for kit in style.kits for pattern in kit.values()]
    assert {len(pattern) for pattern in patterns} <= {style.beats * style.division}
    assert set("".join(style.bass)) <= set("rfotw.") and set("".join(style.comp)) <= set("Xx1234.")
    assert {drum for kit in style.kits for drum in kit} <= set(synth.DRUMS)
    assert {sound for sounds in style.sounds for sound in sounds} <= set(synth.INSTRUMENTS)
    assert 60 <= style.tempo[0] < style.tempo[1] <= 180


def test_good_clips_last_ten_seconds_and_have_both_streams():
    for clip in GOOD[:4]:
        media = render(clip)
        sound, rate = hear(media)
        pictures = see(media)
        assert sample.suffix(clip) == ".mp4"
        assert (rate, len(sound)) == (synth.RATE, 2)
        assert sound.shape[1] / rate == pytest.approx(10.0, abs=0.04)
        assert pictures.shape == (120, 180, 320, 3)


def test_good_clips_are_loud_enough_differ_in_level_and_do_not_clip():
    levels = []
    for clip in GOOD[:10]:
        sound, _ = hear(render(clip))
        levels.append(decibels(sound))
        assert np.abs(sound).max() < 1.1, clip
        assert flat_share(sound) == 0
    assert -31 < min(levels) < -20 and -17 < max(levels) < -11


def test_every_instrument_and_drum_sounds_at_its_pitch():
    for name in synth.INSTRUMENTS:
        wave = synth.tone(name, 57, 0.8, np.random.default_rng(0))
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 4 * synth.RATE))
        near = spectrum[860:900].argmax() + 860  # quarter hertz; A3 = 220 Hz
        assert near / 4 == pytest.approx(220, rel=0.01), name
        assert spectrum[near] > 0.05 * spectrum.max(), name
        assert 0.2 < np.abs(wave).max() < 1.6, name
    for name in synth.DRUMS:
        assert 0.2 < np.abs(synth.drum(name, 1.0, np.random.default_rng(0))).max() < 4, name


def test_the_true_beat_is_in_the_sound():
    """Onsets at the true beats are stronger than between them, and repeat after a bar."""
    stronger, repeats = [], []
    for clip in GOOD[:20]:
        it = sample.spec(clip)
        rise = onsets(sample.waveform(it).mean(axis=0), synth.RATE)
        period = 60 / it.tempo
        beats = np.arange(it.song.origin % period, 9.8, period)

        def at(times, rise=rise):
            return np.mean([rise[max(0, int(100 * time) - 3):int(100 * time) + 5].max() for time in times])
        between = [at(beats[:-1] + share * period) for share in (0.3, 0.42, 0.58, 0.7)]
        stronger.append(at(beats) > 1.15 * np.mean(between))
        rise = rise - rise.mean()
        repeat = np.correlate(rise, rise, "full")[len(rise) - 1:]
        bar = styles.STYLES[it.song.style].beats * period
        lags = np.arange(int(0.3 * 100), int(100 * min(5, 1.3 * bar)))
        near = repeat[int(98.5 * bar):int(101.5 * bar) + 2].max()
        repeats.append(near > np.quantile(repeat[lags], 0.9))
    assert np.mean(stronger) >= 0.9
    assert np.mean(repeats) >= 0.9


def test_the_true_key_is_in_the_sound():
    """The true scale holds more energy than any scale that is not its neighbour; the bass's home is its tonic."""
    scales = {"major": [0, 2, 4, 5, 7, 9, 11], "minor": [0, 2, 3, 5, 7, 8, 10, 11]}
    found, home = [], []
    for clip in [clip for clip in GOOD if sample.spec(clip).key][:20]:
        it = sample.spec(clip)
        classes = chroma(sample.waveform(it).mean(axis=0), synth.RATE)
        tonic = score.KEYS.index(it.key)
        inside = [np.roll(classes, -shift)[scales[it.mode]].sum() for shift in range(12)]
        found.append((np.argmax(inside) - tonic) % 12 in (0, 5, 7))
        home.append(tonic in np.argsort(classes)[-3:])
    assert np.mean(found) >= 0.9
    assert np.mean(home) >= 0.9


def test_good_clips_are_not_duplicates_of_each_other():
    waves = [sample.waveform(sample.spec(clip)).mean(axis=0)[::4] for clip in GOOD[:16]]
    spectra = [np.fft.rfft(wave / np.linalg.norm(wave), 2 * len(wave)) for wave in waves]
    likest = max(np.abs(np.fft.irfft(one * other.conj())).max()
                 for index, one in enumerate(spectra) for other in spectra[:index])
    assert likest < 0.5


def test_pictures_vary():
    brightness, motion, colour = [], [], []
    for clip in GOOD[:10]:
        pictures = see(render(clip))[:, ::2, ::2].astype(np.float32)
        brightness.append(pictures.mean())
        motion.append(np.abs(np.diff(pictures, axis=0)).mean())
        colour.append(pictures.mean(axis=(0, 1, 2)) / pictures.mean())
    assert min(brightness) < 80 and max(brightness) > 130
    assert min(motion) < 8 and max(motion) > 15
    assert np.std(colour, axis=0).max() > 0.15


def test_every_defect_has_a_witness_in_the_default_corpus():
    for seed in range(4):
        defects = Counter(sample.spec(clip).defect for clip in sample.ids(seed, None))
        assert set(defects) == {None, *sample.DEFECTS}
        assert defects[None] == 72
    assert {sample.spec(clip).bad for clip in CLIPS} == {
        None, "silent", "clipped", "too_short", "duplicate", "decode_error", "not_music", "no_audio"}


def test_silence_is_silent():
    clips = [clip for clip in sample.ids(0, 300) if sample.spec(clip).defect == "silence"]
    levels = [decibels(hear(sample.render(clip))[0]) for clip in clips]
    assert max(levels) < -90
    assert len({sample.waveform(sample.spec(clip)).any() for clip in clips}) == 2  # digital silence and a faint floor


def test_clipping_survives_decoding():
    for clip in [clip for clip in sample.ids(0, 200) if sample.spec(clip).defect == "clipping"]:
        sound, rate = hear(render(clip))
        assert sample.suffix(clip) == ".mkv"
        assert sound.shape[1] == 10 * rate
        assert flat_share(sound) > 0.1


def test_short_clips_are_short():
    for clip in [clip for clip in sample.ids(0, 300) if sample.spec(clip).defect == "short"]:
        sound, rate = hear(render(clip))
        assert 0.7 <= sound.shape[1] / rate < 1.55
        assert decibels(sound) > -40


def test_truncated_files_do_not_open():
    for clip in [clip for clip in sample.ids(0, 300) if sample.spec(clip).defect == "truncation"]:
        with pytest.raises(av.error.InvalidDataError):
            av.open(io.BytesIO(sample.render(clip)))


def test_noise_is_flat_and_without_pitch():
    clips = [clip for clip in sample.ids(0, 320) if sample.spec(clip).defect == "noise"]
    for clip in clips:
        sound, rate = hear(render(clip))
        _, density = signal.welch(sound[0], rate, nperseg=4096)
        inside = density[13:1400]  # 100 Hz to 11 kHz
        trend = signal.medfilt(np.log(inside), 101)
        assert np.max(np.log(inside) - trend) < 1.0, clip  # no line stands out
        assert -35 < decibels(sound) < -14
    assert len({hashlib.sha256(render(clip)).hexdigest() for clip in clips}) == len(clips) >= 4


def test_mute_video_has_pictures_only():
    with av.open(io.BytesIO(render(bad("mute")))) as file:
        assert [stream.type for stream in file.streams] == ["video"]
        assert sum(1 for _ in file.decode(video=0)) == 120


def test_a_copy_has_the_bytes_of_its_original():
    clip = bad("copy")
    assert render(clip) == render(sample.spec(clip).original)
    assert sample.truth([clip])[clip]["tempo"] == sample.spec(sample.spec(clip).original).tempo


@pytest.mark.parametrize("seed", [0, 1])
def test_a_reencoding_is_the_same_recording_quieter_and_shifted(seed):
    clip = bad("re-encoding", seed)
    media = render(clip)
    assert sample.suffix(clip) == ".webm"
    assert see(media).shape == (120, 90, 160, 3)
    (copy, rate), (original, _) = hear(media), hear(render(sample.spec(clip).original))
    assert rate == 48000
    copy, original = signal.resample_poly(copy[0], 2, 3), original[0]
    size = 2 * max(len(copy), len(original))
    alike = np.fft.irfft(np.fft.rfft(original, size) * np.fft.rfft(copy, size).conj())
    assert alike.max() / np.linalg.norm(copy) / np.linalg.norm(original) > 0.9
    assert 0.02 < alike.argmax() / synth.RATE < 0.09
    assert -9 < decibels(copy) - decibels(original) < -3


def test_of_two_duplicates_the_copy_is_the_one_that_is_lost():
    for seed in range(3):
        clips = sample.ids(seed, 3000)
        copies = [it for it in map(sample.spec, clips[9::10]) if it.original]
        assert len(copies) >= 70
        for it in copies:
            split = {clip: splits.assign(clip, "mucaps", "shared") for clip in (it.id, it.original)}
            kept = min(split, key=lambda clip: (split[clip] != splits.EVAL, clip))
            assert kept == it.original
            assert it.original in clips[:clips.index(it.id)]
            assert sample.spec(it.original).bad is None
