import os

import pytest

from pipelines import folder
from tests.conftest import encode, tone


def listed(path, **options) -> dict[str, dict]:
    return {row["id"]: row for row in folder.segments(str(path), **options)}


@pytest.mark.parametrize(("path", "key"), [
    ("song.mp3", "song.mp3"), ("a/b/song.mp3", "a__b__song.mp3"), ("01 - song.mp3", r"01_-_song\.mp3-[0-9a-f]{10}"),
    ("../../etc/passwd", r"etc__passwd-[0-9a-f]{10}"), ("-rf.wav", r"rf\.wav-[0-9a-f]{10}"),
    ("Björk/Jóga.flac", r"Bj_rk__J_ga\.flac-[0-9a-f]{10}"), ("a\nb.wav", r"a_b\.wav-[0-9a-f]{10}"),
    ("…", r"[0-9a-f]{10}"), ("$(reboot).mp3", r"reboot_\.mp3-[0-9a-f]{10}"),
    ("x" * 300 + ".mp3", r"x{120}-[0-9a-f]{10}")])
def test_ids_are_safe_and_plain_paths_stay_readable(path, key):
    import re
    assert re.fullmatch(key, folder.safe_id(path))
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", folder.safe_id(path))


def test_no_two_paths_share_an_id():
    paths = ["a/b.mp3", "a__b.mp3", "a_/b.mp3", "a/_b.mp3", "a b.mp3", "a_b.mp3", "a\tb.mp3", ".a_b.mp3", "_a_b.mp3",
             "a//b.mp3", os.fsdecode(b"a\xffb.mp3"), os.fsdecode(b"a\xfeb.mp3")]
    assert len({folder.safe_id(path) for path in paths}) == len(paths)


def test_lists_media_and_passes_over_the_rest(tmp_path, capsys):
    for name in ("a.mp3", "sub/b.weird", "c.txt", "cover.jpg", ".hidden.mp3", ".git/x.mp3", "d.OGV", "archive.zip"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    rows = listed(tmp_path)
    assert list(rows) == ["a.mp3", "d.OGV", "sub__b.weird"]
    assert rows["a.mp3"]["uri"] == str(tmp_path / "a.mp3")
    assert "3 files passed over" in capsys.readouterr().err
    assert list(listed(tmp_path, limit=2)) == ["a.mp3", "d.OGV"]


def test_a_replaced_file_and_one_of_another_folder_are_other_revisions(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.mp3").write_bytes(b"x")
    os.utime(tmp_path / "one" / "a.mp3", (1, 1))
    first = listed(tmp_path / "one")["a.mp3"]["revision"]
    assert listed(tmp_path / "one")["a.mp3"]["revision"] == first
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.mp3").write_bytes(b"y")
    os.utime(tmp_path / "two" / "a.mp3", (1, 1))  # as unpacked archives have it: equal sizes, equal times
    assert listed(tmp_path / "two")["a.mp3"]["revision"] != first
    (tmp_path / "one" / "a.mp3").write_bytes(b"z")
    assert listed(tmp_path / "one")["a.mp3"]["revision"] != first


def test_links_are_followed_to_files_and_the_build_itself_is_left_out(tmp_path, capsys):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.mp3").write_bytes(b"x")
    (tmp_path / "link.mp3").symlink_to("real/a.mp3")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "broken.mp3").symlink_to("nosuch")
    (tmp_path / "data" / "stages").mkdir(parents=True)
    (tmp_path / "data" / "stages" / "x.arrow").write_bytes(b"x")
    assert list(listed(tmp_path, out=str(tmp_path / "data"))) == ["link.mp3", "real__a.mp3"]
    assert "2 files passed over" in capsys.readouterr().err
    # The other way round: media inside the build's folder, or beside its files.
    assert list(listed(tmp_path / "real", out=str(tmp_path))) == ["a.mp3"]
    (tmp_path / "lock").write_bytes(b"")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "x.arrow").write_bytes(b"x")
    (tmp_path / "data" / "stages" / "x.arrow").unlink()
    assert list(listed(tmp_path, out=str(tmp_path))) == ["link.mp3", "real__a.mp3"]


def outcome(path, max_bytes: int = 10**9) -> dict | str:
    from manifests.outcomes import Loss
    segment = {"id": "a", "source_id": "a", "uri": str(path)}
    try:
        return folder.fetch(segment, max_bytes)
    except Loss as loss:
        return loss.reason


def test_fetch_gives_media_or_a_reason(tmp_path):
    sound, film = encode(tone(1.0), 22050, "flac", "flac"), encode(tone(1.0, 48000), 48000, "mp4", "aac", pictures=5)
    for name, data in (("sound.flac", sound), ("film.mp4", film), ("text.mp3", b"not audio"), ("empty.mp3", b"")):
        (tmp_path / name).write_bytes(data)
    assert outcome(tmp_path / "sound.flac")["audio"] == sound
    clip = outcome(tmp_path / "film.mp4")
    assert (clip["audio_format"], clip["video_format"]) == ("m4a", "mkv")
    (tmp_path / "mute.mkv").write_bytes(clip["video"])
    assert outcome(tmp_path / "mute.mkv") == "no_audio"
    assert outcome(tmp_path / "text.mp3") == "decode_error"
    assert outcome(tmp_path / "empty.mp3") == "decode_error"
    assert outcome(tmp_path / "nosuch.mp3") == "unreadable"
    (tmp_path / "a::b.flac").write_bytes(sound)
    assert outcome(tmp_path / "a::b.flac")["audio"] == sound
    assert outcome(tmp_path / "film.mp4", max_bytes=len(film) - 1) == "too_large"
