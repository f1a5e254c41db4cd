import io
import struct
import time

import av
import numpy as np
import pytest
import soundfile

from manifests import media
from tests.conftest import encode, tone


def pitch(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


@pytest.mark.parametrize(("container", "codec", "rate"), [
    ("wav", "pcm_s16le", 22050), ("flac", "flac", 44100), ("mp3", "libmp3lame", 44100), ("ogg", "libopus", 48000),
    ("mp4", "aac", 48000), ("matroska", "aac", 44100)])
def test_decodes_pitch_level_and_duration(container, codec, rate):
    wave = media.decode_audio(encode(tone(3.0, rate), rate, container, codec))
    assert wave.rate == rate
    assert wave.samples.dtype == np.float32
    assert wave.duration == pytest.approx(3.0, abs=0.08)  # lossy codecs pad to whole frames
    mono = wave.mono(16000)
    assert len(mono) == pytest.approx(wave.duration * 16000, abs=2)
    assert pitch(mono, 16000) == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(mono[8000:32000] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_keeps_only_the_seconds_asked_for_but_counts_all():
    wave = media.decode_audio(encode(tone(5.0), 22050, "flac", "flac"), seconds=1.5)
    assert wave.samples.shape == (1, round(1.5 * 22050))
    assert wave.duration == 5.0


def test_takes_bytes_paths_and_open_files(tmp_path):
    data = encode(tone(1.0), 22050, "flac", "flac")
    (tmp_path / "a").write_bytes(data)
    assert media.decode_audio(data).duration == media.decode_audio(str(tmp_path / "a")).duration == 1.0
    file = io.BytesIO(data)
    file.seek(100)
    assert media.decode_audio(file).duration == 1.0


def test_an_audio_file_is_kept_to_the_byte():
    for container, codec, ending in (("mp3", "libmp3lame", "mp3"), ("wav", "pcm_s16le", "wav"),
                                     ("ogg", "libopus", "opus")):
        data = encode(tone(1.0, 48000), 48000, container, codec)
        parts = media.part(data)
        assert (parts["audio"], parts["audio_format"], parts["video"]) == (data, ending, None)


@pytest.mark.parametrize(("container", "codec", "sound", "picture"), [
    ("mp4", "aac", "m4a", "mkv"), ("matroska", "libopus", "opus", "mkv"), ("matroska", "ac3", "mka", "mkv"),
    ("webm", "libopus", "opus", "mkv")])
def test_sound_and_picture_are_parted_without_encoding(container, codec, sound, picture):
    data = encode(tone(2.0, 48000), 48000, container, codec, pictures=20)
    parts = media.part(data)
    assert (parts["audio_format"], parts["video_format"]) == (sound, picture)
    assert parts == media.part(data), "copied bytes vary from run to run"
    assert media.probe(parts["audio"]).video is None
    assert media.probe(parts["video"]).audio is None
    np.testing.assert_array_equal(media.decode_audio(parts["audio"]).samples[:, 4096:80000],
                                  media.decode_audio(data).samples[:, 4096:80000])
    np.testing.assert_array_equal(media.frames(parts["video"], 5), media.frames(data, 5))


def test_frames_are_spread_evenly_and_repeated_where_there_are_fewer():
    data = encode(tone(2.0, 48000), 48000, "mp4", "aac", pictures=7)  # grey levels 0, 40, ... 240
    levels = media.frames(data, 4).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, [0, 80, 160, 240], atol=4)
    assert media.frames(data, 32).shape == (32, 48, 64, 3)
    assert media.frames(data, 2, short_side=24).shape == (2, 24, 32, 3)


def test_what_is_missing_or_broken_is_told():
    with pytest.raises(media.MediaError) as error:
        media.decode_audio(b"not media at all")
    assert error.value.missing is None
    silent = encode(tone(1.0, 48000), 48000, "mp4", "aac", pictures=5)
    picture = media.part(silent)["video"]
    with pytest.raises(media.MediaError, match="no audio") as error:
        media.part(picture)
    assert error.value.missing == "audio"
    with pytest.raises(media.MediaError, match="no video") as error:
        media.frames(encode(tone(1.0), 22050, "flac", "flac"), 2)
    assert error.value.missing == "video"
    with pytest.raises(media.MediaError):
        media.decode_audio(silent[: len(silent) // 2])  # its index is at the end
    with pytest.raises(media.MediaError):
        media.decode_audio(b"")


def test_damage_in_the_middle_is_survived_and_a_wreck_is_not():
    data = bytearray(encode(tone(4.0, 44100), 44100, "mp3", "libmp3lame"))
    data[len(data) // 2: len(data) // 2 + 300] = bytes(300)
    assert media.decode_audio(bytes(data)).duration == pytest.approx(4.0, abs=0.3)
    wreck = bytearray(encode(tone(4.0, 48000), 48000, "mp4", "aac"))
    start = wreck.index(b"mdat") + 4
    rng = np.random.default_rng(0)
    wreck[start: start + 20000] = rng.integers(0, 256, 20000, np.uint8).tobytes()
    with pytest.raises(media.MediaError, match="packets"):
        media.decode_audio(bytes(wreck))


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_any_number_of_channels(channels):
    tones = np.concatenate([tone(0.5, hertz=200 + 100 * index) for index in range(channels)])
    target = io.BytesIO()
    soundfile.write(target, tones.T, 22050, format="WAV", subtype="FLOAT")
    wave = media.decode_audio(target.getvalue())
    np.testing.assert_allclose(wave.samples, tones, atol=1e-6)


@pytest.mark.parametrize(("suffix", "subtype"), [("AIFF", "PCM_S8"), ("AU", "ULAW"), ("CAF", "FLOAT"),
                                                 ("W64", "PCM_24")])
def test_unusual_files_are_kept_and_decode(suffix, subtype):
    target = io.BytesIO()
    soundfile.write(target, tone(1.0)[0], 22050, format=suffix, subtype=subtype)
    parts = media.part(target.getvalue())
    assert parts["audio"] == target.getvalue()
    assert pitch(media.decode_audio(parts["audio"]).samples[0], 22050) == pytest.approx(440, abs=1)


def test_sound_that_no_container_takes_is_transcoded_without_loss():
    data = encode(tone(1.0, 22050), 22050, "mov", "pcm_alaw", pictures=5)
    parts = media.part(data)
    assert parts["audio_format"] == "wav"
    np.testing.assert_array_equal(media.decode_audio(parts["audio"]).samples, media.decode_audio(data).samples)


def test_absurd_rates_are_refused():
    target = io.BytesIO()
    soundfile.write(target, tone(1.0)[0], 10, format="WAV")
    with pytest.raises(media.MediaError, match="10 Hz"):
        media.decode_audio(target.getvalue())
    data = bytearray(encode(tone(1.0), 22050, "wav", "pcm_s16le"))
    data[24:28] = struct.pack("<I", 10**9)
    with pytest.raises(media.MediaError, match="1000000000 Hz"):
        media.decode_audio(bytes(data))
    target = io.BytesIO()
    soundfile.write(target, np.zeros((1000, 65)), 22050, format="WAV")
    with pytest.raises(media.MediaError, match="65 channels"):
        media.decode_audio(target.getvalue())


def test_a_file_that_may_not_be_read_is_not_broken(tmp_path):
    with pytest.raises(FileNotFoundError):
        media.part(str(tmp_path / "nosuch.wav"))
    with pytest.raises(IsADirectoryError):
        media.part(str(tmp_path))

    class Failing(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            if self.tell() > 50_000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(OSError, match="Input/output error"):
        media.decode_audio(Failing(encode(tone(10.0), 22050, "wav", "pcm_s16le")))


@pytest.mark.parametrize(("name", "playlist"), [
    ("list.mp3", "ffconcat version 1.0\nfile real.ts\n"),
    ("list.ffconcat", "ffconcat version 1.0\nfile {folder}/real.ts\n"),
    ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nreal.ts\n#EXT-X-ENDLIST\n"),
    ("list.mp3", "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nfile://{folder}/real.ts\n#EXT-X-ENDLIST\n"),
    ("list.mp3", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 40404 RTP/AVP 0\n")])
def test_no_file_makes_another_be_opened(tmp_path, monkeypatch, name, playlist):
    monkeypatch.chdir(tmp_path)  # where relative names of a playlist without a place of its own lead
    (tmp_path / "real.ts").write_bytes(encode(tone(1.0, 48000), 48000, "mpegts", "aac"))
    path = tmp_path / name
    path.write_text(playlist.format(folder=tmp_path))
    for file in (str(path), path.read_bytes()):
        started = time.monotonic()
        with pytest.raises(media.MediaError, match="cannot be opened"):
            media.part(file)
        assert time.monotonic() - started < 1, "something was waited for"


@pytest.mark.parametrize("name", ["list.ffconcat", "list.m3u8"])
def test_and_the_playlists_are_such_as_would(tmp_path, name):
    (tmp_path / "real.ts").write_bytes(encode(tone(1.0, 48000), 48000, "mpegts", "aac"))
    head = "ffconcat version 1.0\nfile" if "concat" in name else "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n"
    (tmp_path / name).write_text(f"{head} real.ts\n" if "concat" in name else f"{head}real.ts\n#EXT-X-ENDLIST\n")
    with av.open(str(tmp_path / name)) as container:
        assert sum(packet.size for packet in container.demux()) > 5000


def test_the_name_of_a_file_decides_nothing(tmp_path):
    data = encode(tone(1.0), 22050, "flac", "flac")
    for name in ("a.mp3", "frame%03d.png", "http:x.m3u8", "a.sdp"):
        (tmp_path / name).write_bytes(data)
        assert media.part(str(tmp_path / name))["audio_format"] == "flac"


def test_sizes_in_headers_are_not_believed(monkeypatch):
    film = encode(tone(1.0, 48000), 48000, "webm", "libopus", pictures=5)
    size = b"\x9d\x01\x2a" + struct.pack("<HH", 64, 48)
    assert size in film
    with pytest.raises(media.MediaError, match="packets"):
        media.frames(film.replace(size, size[:3] + struct.pack("<HH", 16383, 16383)), 2)
    assert media.decode_audio(film.replace(size, size[:3] + bytes(4))).duration == pytest.approx(1.0, abs=0.03)
    monkeypatch.setitem(media._OPTIONS, "max_pixels", str(64 * 48 - 1))
    with pytest.raises(media.MediaError, match="packets"):
        media.frames(film, 2)


def test_lengths_in_headers_are_not_believed():
    data = bytearray(encode(tone(1.0), 22050, "wav", "pcm_s16le"))
    for length in (0, 2**31 - 1, 2**32 - 1):
        data[data.index(b"data") + 4: data.index(b"data") + 8] = struct.pack("<I", length)
        assert media.decode_audio(bytes(data)).duration == 1.0
    song = bytearray(encode(tone(1.0, 48000), 48000, "ipod", "aac"))
    place = song.index(b"mdhd") + 20
    song[place: place + 4] = b"\xff" * 4
    assert media.decode_audio(bytes(song)).duration == pytest.approx(1.0, abs=0.05)


def test_a_lack_of_memory_is_not_the_medias():
    data = bytearray(encode(tone(1.0, 48000), 48000, "ipod", "aac"))
    place = data.index(b"stts") + 8
    data[place: place + 4] = b"\xff" * 4  # entries of a table: FFmpeg sees that it cannot have so much
    with pytest.raises(MemoryError):
        media.part(bytes(data))


def test_sound_that_nothing_decodes_is_told():
    data = encode(tone(1.0, 48000), 48000, "matroska", "aac", pictures=5)
    with pytest.raises(media.MediaError, match="nothing here can decode") as error:
        media.part(data.replace(b"A_AAC", b"A_XYZ"))
    assert error.value.missing is None
    assert media.part(data.replace(b"V_MPEG4/ISO/AVC", b"V_XYZXY/ISO/AVC"))["video"] is None


def test_not_a_number_is_silenced():
    samples = tone(1.0)
    samples[0, 100:200] = np.nan
    wave = media.decode_audio(encode(samples, 22050, "wav", "pcm_f32le"))
    assert np.isfinite(wave.samples).all()


def test_real_files(shared_media):
    expected = {"music/bach.mp3": (10.03, False), "bad/no_duration.webm": (4.86, True),
                "video/chaplin.mp4": (9.61, True), "video/big_buck_bunny_0_30.webm": (30.02, True),
                "bad/with-attached-pic.mp3": (1.01, False)}
    for name, (seconds, video) in expected.items():
        parts = media.part(str(shared_media / name))
        assert media.decode_audio(parts["audio"]).duration == pytest.approx(seconds, abs=0.02), name
        assert (parts["video"] is not None) == video, name


@pytest.mark.parametrize(("container", "codec"), [("flac", "flac"), ("wav", "pcm_s16le")])
def test_windows_are_cuts_of_the_whole(container, codec):
    """Sample by sample, wherever frames of the codec begin, overlapping or not."""
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 4 * 8000)).astype(np.float32)
    source = encode(samples, 8000, container, codec)
    whole = media.decode_audio(source)
    starts = (0.0, 0.25, 1.0, 2.37, 3.99)
    for seconds in (0.5, 2.0, 100.0):
        found = media.mono_windows(source, seconds, starts)
        for start, window in zip(starts, found, strict=True):
            begin = round(start * 8000)
            cut = whole.samples[:, begin:begin + round(seconds * 8000)].mean(axis=0)
            assert window.samples.shape == (1, len(cut)) and np.allclose(window.samples[0], cut, atol=1e-7)
            assert (window.rate, window.duration) == (8000, whole.duration)


def test_a_window_beyond_the_end_is_an_error():
    source = encode(tone(2), 22050, "wav", "pcm_s16le")
    for start in (2.0, 5.0):
        with pytest.raises(media.MediaError, match=f"it ends before {start:g} s"):
            media.mono_windows(source, 1.0, [0.0, start])
