import errno
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import psutil
import pytest

from manifests import media, records
from manifests.outcomes import Loss
from pipelines import download
from pipelines.download import Settings
from tests.pipelines import timecode
from tests.pipelines.server import TYPES, Reply, Server, serving
from tests.pipelines.timecode import read_clip, read_picture

ROOT = Path(__file__).resolve().parents[2]
FORMATS = [name for name in timecode.FORMATS if name != "ts"]
SECONDS = 40
PAGE = b"<!DOCTYPE html><html><head><title>x</title></head><body>%s</body></html>"


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    """A recording with a time code, in each format."""
    return {name: timecode.make(name, SECONDS) for name in FORMATS}


@pytest.fixture(scope="module")
def server(files) -> Iterator[Server]:
    routes = {name.replace(".", "_"): Reply(data, TYPES[name.rpartition(".")[2]]) for name, data in files.items()}
    with serving(routes) as running:
        yield running


def fetch(server: Server, path: str, folder: Path, start=None, end=None, video=False, **settings) -> dict:
    """What `download` gives for a path of the server, with clean counts."""
    for counter in (server.sent, server.asked, server.heads, server.proxied):
        counter.clear()
    folder.mkdir(parents=True, exist_ok=True)
    segment = {"id": f"{path}-1", "source_id": path, "uri": server.url(path), "start": start, "end": end,
               "video": video, "revision": ""}
    return download.download((segment, str(folder)), Settings(**{"url": server.template} | settings))


def loss(*arguments, **settings) -> tuple[str, str]:
    with pytest.raises(Loss) as caught:
        fetch(*arguments, **settings)
    return caught.value.reason, caught.value.detail


# What comes


@pytest.mark.parametrize(("name", "start"), [
    *((name, start) for name in FORMATS for start in (0.0, 23.217)), ("mp4", 0.3), ("mp4", 29.95), ("webm", 0.3)])
def test_a_segment_is_cut_to_the_sample(server, tmp_path, name, start):
    clip = fetch(server, name.replace(".", "_"), tmp_path, start, start + 10, video=True)
    assert set(clip) == set(records.CLIP.names) - {"id", "outcome", "detail", "revision"}
    first, last, samples, rate = read_clip(clip["audio"])
    assert (samples, rate, clip["audio_format"]) == (480000, 48000, "opus")
    assert first == pytest.approx(start, abs=0.002)
    assert last == pytest.approx(start + 10, abs=0.002)
    assert clip["sha256"] == sha256(clip["audio"]).hexdigest()
    if timecode.FORMATS[name][2] is None:
        assert clip["video"] is None
        return
    assert clip["video_format"] == "mkv"
    assert media.probe(clip["video"]).audio is None
    frames = read_picture(clip["video"])
    assert frames[0] == (0.0, pytest.approx(start - start % 0.04, abs=1e-6)), "not the frame on display at the start"
    assert len(frames) in (250, 251)
    for shown, source in frames[1:]:
        assert source - start == pytest.approx(shown, abs=0.0011)


def test_sound_alone_where_the_picture_is_not_wanted_and_bytes_never_vary(server, tmp_path):
    clips = [fetch(server, "mp4", tmp_path / f"{number}", 23.217, 33.217, video=True) for number in range(2)]
    assert clips[0] == clips[1]
    assert fetch(server, "mp4", tmp_path / "s", 23.217, 33.217) == clips[0] | {"video": None, "video_format": None}


def test_up_to_a_tenth_of_a_second_may_be_missing(server, tmp_path):
    clip = fetch(server, "webm", tmp_path, 30.05, 40.05)
    first, last, samples, rate = read_clip(clip["audio"])
    assert samples / rate == pytest.approx(9.95, abs=0.002)
    assert (first, last) == (pytest.approx(30.05, abs=0.002), pytest.approx(40, abs=0.002))


def test_about_the_needed_bytes_are_fetched(server, tmp_path, files):
    for name, most in (("mp4", 4_000_000), ("m4a", 1_200_000)):
        minute = timecode.make(name, 60, fps=10, kbps=192, grain=name == "mp4")
        server.routes["long"] = Reply(timecode.repeat(name, minute, 60, 10), TYPES[name])
        clip = fetch(server, "long", tmp_path / name, 433.333, 443.333, video=True)
        assert read_clip(clip["audio"])[:2] == (pytest.approx(13.333, abs=0.002), pytest.approx(23.333, abs=0.002))
        assert server.sent["long"] < most, name
        assert server.sent["long"] < len(server.routes["long"].body) / 8
        assert server.asked["long"] < 10


def test_a_whole_track_is_kept_as_it_comes(server, tmp_path, files):
    assert fetch(server, "mp3", tmp_path / "1")["audio"] == files["mp3"]
    assert fetch(server, "opus", tmp_path / "2", video=True) == {
        "audio": files["opus"], "audio_format": "opus", "video": None, "video_format": None, "source_id": "opus",
        "sha256": sha256(files["opus"]).hexdigest()}
    parts = media.part(files["mp4"])
    assert fetch(server, "mp4", tmp_path / "3", video=True) == parts | {
        "source_id": "mp4", "sha256": sha256(parts["audio"]).hexdigest()}
    sound = fetch(server, "mp4", tmp_path / "4")
    assert (sound["audio"], sound["video"], sound["video_format"]) == (parts["audio"], None, None)


@pytest.mark.parametrize(("name", "kind"), [
    ("mp4", "no ranges"), ("webm", "chunked"), ("mp3", "until the connection ends"), ("opus", "no ranges")])
def test_a_server_that_gives_no_parts_is_asked_for_the_whole(server, tmp_path, name, kind):
    server.routes["poor"] = replace(server.routes[name], ranges=False, length=kind == "no ranges",
                                    framed=kind != "until the connection ends")
    clip = fetch(server, "poor", tmp_path, 23.217, 33.217, video=True)
    assert read_clip(clip["audio"]) == (pytest.approx(23.217, abs=0.002), pytest.approx(33.217, abs=0.002), 480000,
                                        48000)
    if clip["video"]:
        assert read_picture(clip["video"])[0] == (0.0, pytest.approx(23.2))
    assert server.asked["poor"] == 3  # what is it; do you give parts; all of it, then
    assert fetch(server, "poor", tmp_path / "whole")["audio"]


# Addresses


@pytest.mark.parametrize(("name", "wrong"), [
    ("mp4", "text/plain"), ("mp3", "text/html"), ("webm", "application/octet-stream"), ("mp3", "image/png"),
    ("mp4", None)])
def test_media_is_known_by_its_bytes(server, tmp_path, files, name, wrong):
    server.routes["odd"] = replace(server.routes[name], type=wrong)
    assert read_clip(fetch(server, "odd", tmp_path / "1", 23.217, 33.217)["audio"])[0] == pytest.approx(23.217,
                                                                                                      abs=0.002)
    assert fetch(server, "odd", tmp_path / "2")["audio"] == fetch(server, name, tmp_path / "3")["audio"]


def test_of_a_page_the_first_media_is_taken(server, tmp_path, files):
    server.routes["page"] = Reply(PAGE % b'<video src="/mp3"></video><video src="/opus"></video>', "text/html")
    assert fetch(server, "page", tmp_path / "1")["audio"] == files["mp3"]
    assert server.asked["opus"] == 0
    assert read_clip(fetch(server, "page", tmp_path / "2", 5.0, 8.0)["audio"])[:3] == (5.0, 8.0, 144000)


def test_redirects_are_followed_but_never_to_a_file(server, tmp_path, files):
    server.routes["away"] = Reply(status=302, headers={"Location": "/mp3"})
    assert fetch(server, "away", tmp_path / "1")["audio"] == files["mp3"]
    assert read_clip(fetch(server, "away", tmp_path / "2", 5.0, 8.0)["audio"])[:2] == (5.0, 8.0)
    (tmp_path / "secret.mp3").write_bytes(files["mp3"])
    secret = (tmp_path / "secret.mp3").as_uri()
    server.routes["file"] = Reply(status=302, headers={"Location": secret})
    server.routes["page"] = Reply(PAGE % f'<video src="{secret}"></video>'.encode(), "text/html")
    listed = f"#EXTM3U\n#EXT-X-TARGETDURATION:60\n#EXTINF:60,\n{secret}\n#EXT-X-ENDLIST\n"
    server.routes["list"] = Reply(listed.encode(), TYPES["m3u8"])
    server.routes["round"] = Reply(status=302, headers={"Location": "/round"})
    for number, (path, span) in enumerate((path, span) for path in ("file", "page", "list", "round")
                                          for span in ((), (5.0, 8.0))):
        reason, detail = loss(server, path, tmp_path / f"f{number}", *span)
        assert reason in ("unsupported", "decode_error", "forbidden"), path
        assert "secret" not in detail


def test_sound_and_picture_of_two_files(server, tmp_path, files):
    """As YouTube has them: here by a DASH manifest."""
    silent = timecode.make("mp4", SECONDS, sound=False)

    def manifest(*kinds: str, type: str = "static") -> Reply:
        sets = "".join(f'<AdaptationSet mimeType="{kind}/mp4" contentType="{kind}"><Representation id="{kind}" '
                       f'codecs="{codec}" bandwidth="100000"><BaseURL>{kind}</BaseURL></Representation></AdaptationSet>'
                       for kind, codec in (("video", "avc1.64000d"), ("audio", "mp4a.40.2")) if kind in kinds)
        return Reply((f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="{type}" '
                      f'mediaPresentationDuration="PT{SECONDS}S"><Period>{sets}</Period></MPD>').encode(),
                     "application/dash+xml")

    server.routes |= {"two": manifest("video", "audio"), "live": manifest("video", "audio", type="dynamic"),
                      "video": Reply(silent, "video/mp4"), "audio": server.routes["m4a"]}
    clip = fetch(server, "two", tmp_path / "1", 23.217, 33.217, video=True)
    assert read_clip(clip["audio"])[:3] == (pytest.approx(23.217, abs=0.002), pytest.approx(33.217, abs=0.002), 480000)
    assert read_picture(clip["video"])[0] == (0.0, pytest.approx(23.2))
    assert fetch(server, "two", tmp_path / "2", 23.217, 33.217)["audio"] == clip["audio"]
    assert server.asked["video"] == 0
    whole = fetch(server, "two", tmp_path / "3", video=True)
    assert len(read_picture(whole["video"])) == SECONDS * 25
    assert read_clip(whole["audio"])[:2] == (pytest.approx(0, abs=0.002), pytest.approx(SECONDS, abs=0.03))
    assert loss(server, "live", tmp_path / "4", 23.0, 33.0) == ("live", "live, or not shown yet")
    # The picture without the sound: seen before anything is downloaded.
    server.routes["two"] = manifest("video")
    assert loss(server, "two", tmp_path / "5", 23.0, 33.0, True) == ("no_audio", "only a picture is offered")
    assert server.asked["video"] == 0
    # And one of the two refused.
    server.routes |= {"two": manifest("video", "audio"), "video": Reply(status=403)}
    assert loss(server, "two", tmp_path / "6", 23.0, 33.0, True) == ("forbidden", "HTTP 403 Forbidden")


def test_a_list_of_parts(server, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.span.WAIT", 0)
    listed = "#EXTM3U\n#EXT-X-TARGETDURATION:30\n#EXTINF:30,\nhere.ts\n"
    server.routes |= {name: Reply(text.encode(), TYPES["m3u8"]) for name, text in {
        "hls": listed + "#EXT-X-ENDLIST\n", "live": listed,
        "torn": f"{listed}#EXTINF:30,\ngone.ts\n#EXT-X-ENDLIST\n"}.items()}
    server.routes["here.ts"] = Reply(timecode.make("ts", 30), TYPES["ts"])
    clip = fetch(server, "hls", tmp_path / "1", 13.0, 23.0, video=True)
    first, last, samples, _ = read_clip(clip["audio"])
    assert samples == 480000  # MPEG-TS does not tell what the encoder put before the sound
    assert (first, last) == (pytest.approx(13, abs=0.05), pytest.approx(23, abs=0.05))
    assert read_picture(clip["video"])[0] == (0.0, pytest.approx(13, abs=0.05))
    for number, span in enumerate(((), (25.0, 35.0))):
        assert loss(server, "live", tmp_path / f"live{number}", *span) == ("live", "live, or not shown yet")
        assert loss(server, "torn", tmp_path / f"torn{number}", *span) == ("removed", "HTTP 404 Not Found")


# What does not


@pytest.mark.parametrize(("status", "expected"), [
    (400, "forbidden"), (401, "forbidden"), (403, "forbidden"), (404, "removed"), (410, "removed"),
    (429, "rate_limited"), (451, "geo_blocked"), (503, "server_error")])
def test_refusals(server, tmp_path, monkeypatch, status, expected):
    """At once, by the media that a page names, and only when ffmpeg asks."""
    monkeypatch.setattr("pipelines.span.WAIT", 0)
    server.routes |= {"no": Reply(status=status), "page": Reply(PAGE % b'<video src="/no"></video>', "text/html"),
                      "late": lambda number: Reply(status=status) if number > 1 else server.routes["mp4"]}
    found = set()
    for number, (path, span) in enumerate((path, span) for path in ("no", "page", "late")
                                          for span in ((), (5.0, 8.0))):
        if (path, span) != ("late", ()):  # the whole is there at the second request
            found.add(loss(server, path, tmp_path / f"{number}", *span))
            assert sum(server.asked.values()) <= (3 if status < 500 else 6), "asked again, and again"
    ((reason, detail),) = found
    assert (reason, detail.split()[:2]) == (expected, ["HTTP", f"{status}"])


def test_asked_to_slow_down_nobody_insists_and_a_server_that_stumbles_is_asked_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.span.WAIT", 0)
    mp4 = server.routes["mp4"]
    answers = iter([Reply(status=429, headers={"Retry-After": "9"})] * 3)  # then it has calmed down
    server.routes["storm"] = lambda _: next(answers, mp4)
    for number, span in enumerate(((), (5.0, 8.0), ())):
        assert loss(server, "storm", tmp_path / f"storm{number}", *span)[0] == "rate_limited"
        assert server.asked["storm"] == 1
    assert read_clip(fetch(server, "storm", tmp_path / "calm", 5.0, 8.0)["audio"])[0] == 5.0
    for span in ((), (5.0, 8.0)):
        server.routes["shaky"] = lambda number: Reply(status=503) if number == 1 else mp4
        assert read_clip(fetch(server, "shaky", tmp_path / f"shaky{len(span)}", *span)["audio"])[0] in (0.0, 5.0)


@pytest.mark.parametrize(("reply", "expected"), [
    (Reply(PAGE % b"nothing here", "text/html"), "unsupported: a page without media"),
    (Reply(b"words and words\n" * 100, "text/plain"), "unsupported: text"),
    (Reply(b"words and words\n" * 100, "audio/mpeg"), "unsupported: text"),
    (Reply(b'{"a": 1}', "application/json"), "unsupported: text"),
    (Reply(b"\x89PNG\r\n\x1a\n" + bytes(3000), "image/png"), "unsupported: a picture"),
    (Reply(b"\xff\xd8\xff\xe0" + bytes(3000), "video/mp4"), "unsupported: a picture"),
    (Reply(bytes(range(256)) * 200, "video/mp4"), "decode_error"),
    (Reply(timecode.make("mp4", 12)[:-2000], "video/mp4"), "decode_error"),  # its index was at the end
    (Reply(timecode.make("mp4", 12, sound=False), "video/mp4"), "no_audio: there is no audio stream"),
    (Reply(b"", "video/mp4"), "network"),
    (Reply(reset=True), f"network: {os.strerror(errno.ECONNRESET)}"),
], ids=["page", "text", "text as audio", "json", "picture", "picture as video", "noise", "no index", "mute", "empty",
        "reset"])
def test_what_is_no_media(server, tmp_path, monkeypatch, reply, expected):
    monkeypatch.setattr("pipelines.span.WAIT", 0)
    server.routes["it"] = reply
    for number, span in enumerate(((), (2.0, 8.0))):
        found = loss(server, "it", tmp_path / f"{number}", *span, video=True)
        assert ": ".join(found).startswith(expected)
        assert found == loss(server, "it", tmp_path / f"again{number}", *span, video=True), "the detail varies"


def test_nobody_listens(tmp_path):
    with serving({}) as gone:
        pass
    assert loss(gone, "x", tmp_path) == ("network", os.strerror(errno.ECONNREFUSED))


@pytest.mark.parametrize("name", ["mp4", "webm", "mp3", "opus"])
def test_the_source_ends_or_the_transfer_broke_off(server, tmp_path, monkeypatch, name):
    """The same seconds are missing, for different reasons."""
    monkeypatch.setattr("pipelines.span.WAIT", 0)
    whole = server.routes[name]
    for number, span in enumerate(((35.0, 45.0), (39.5, 49.5), (40.5, 50.5), (60.0, 70.0))):
        reason, detail = loss(server, name, tmp_path / f"past{number}", *span)
        assert reason == "too_short"
        assert re.fullmatch(r"the source ends (at 40\.0 s|before (40\.5|60\.0) s)", detail)
        assert server.asked[name] < 30
    half = len(whole.body) // 2
    server.routes |= {
        "broken": replace(whole, broken_at=half), "chunks": replace(whole, broken_at=half, ranges=False, length=False),
        "short": replace(whole, broken_at=half, ranges=False)}
    for path in ("broken", "chunks", "short") if name == "mp4" else ("broken",):
        assert loss(server, path, tmp_path / f"{path}1", 28.0, 38.0) == ("network", "broke off")
        assert loss(server, path, tmp_path / f"{path}2") == ("network", "broke off")
    if name == "mp3":  # the others look at their end first
        assert read_clip(fetch(server, "broken", tmp_path / "before", 5.0, 15.0)["audio"])[:2] == (5.0, 15.0)
    if name != "mp4":  # a file that is whole as it is, and cut: whatever its header says
        server.routes["cut"] = replace(whole, body=whole.body[:half])
        reason, detail = loss(server, "cut", tmp_path / "cut", 28.0, 38.0)
        assert reason == "too_short"
        assert re.fullmatch(r"the source ends (at [12]\d\.\d|before 28\.0) s", detail)


def test_a_connection_that_broke_once_is_mended(server, tmp_path, files):
    """By asking for the rest; the sound has no seam."""
    whole = server.routes["mp3"]
    broken = replace(whole, broken_at=len(whole.body) // 2)
    server.routes["once"] = lambda number: broken if number == 1 else whole  # after the look at what it is
    assert fetch(server, "once", tmp_path / "1")["audio"] == files["mp3"]
    server.routes["once"] = lambda number: broken if number == 2 else whole  # and after the question for parts
    clip = fetch(server, "once", tmp_path / "2", 18.0, 28.0)
    assert clip["audio"] == fetch(server, "mp3", tmp_path / "3", 18.0, 28.0)["audio"]


@pytest.mark.parametrize("name", ["mp4", "opus"])
def test_a_server_that_falls_silent(server, tmp_path, monkeypatch, name):
    monkeypatch.setattr("pipelines.span.TIMEOUT", 1)
    monkeypatch.setattr("pipelines.span.RETRIES", 0)
    whole = server.routes[name]
    server.routes["silent"] = replace(whole, stalled_at=len(whole.body) // 2)
    assert loss(server, "silent", tmp_path / "1", 28.0, 38.0) == ("network", "timed out")
    assert server.asked["silent"] < 12
    if name == "mp4":
        assert loss(server, "silent", tmp_path / "2") == ("network", "timed out")


def test_slow_is_not_broken(server, tmp_path, files, monkeypatch):
    monkeypatch.setattr("pipelines.span.TIMEOUT", 1)
    server.routes["slow"] = replace(server.routes["mp3"], pause=0.02)
    assert fetch(server, "slow", tmp_path / "1")["audio"] == files["mp3"]
    assert read_clip(fetch(server, "slow", tmp_path / "2", 5.0, 8.0)["audio"])[:2] == (5.0, 8.0)


def told(url: str, seconds: int) -> Reply:
    """A page that says how long its media is."""
    facts = {"@context": "https://schema.org", "@type": "VideoObject", "name": "x", "contentUrl": url,
             "duration": f"PT{seconds}S"}
    return Reply(PAGE % b'<script type="application/ld+json">%b</script>' % json.dumps(facts).encode(), "text/html")


def test_a_told_duration_is_checked_and_may_be_rounded(server, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.span.WAIT", 0)
    server.routes |= {f"told{seconds}": told(server.url("mp3"), seconds) for seconds in (39, 40, 41, 80)}
    for seconds in (39, 41):
        assert read_clip(fetch(server, f"told{seconds}", tmp_path / f"a{seconds}", 30.0, 40.0)["audio"])[1] == 40.0
        assert fetch(server, f"told{seconds}", tmp_path / f"b{seconds}")["audio"] == server.routes["mp3"].body
    # Known to be short before anything is fetched (what the address is has to be asked).
    assert loss(server, "told40", tmp_path / "c", 35.0, 45.0) == ("too_short", "the source ends at 40.0 s")
    assert server.asked == {"told40": 1, "mp3": 1}
    # A source that says it is longer than what came: nothing is given up for good.
    assert loss(server, "told80", tmp_path / "d", 35.0, 45.0) == (
        "network", "5.0 of 10.0 s came of a source that is 80.0 s long")
    assert loss(server, "told80", tmp_path / "e") == ("network", "broke off: 40.0 of 80.0 s came")


def test_limits(server, tmp_path):
    size = len(server.routes["mp4"].body)
    server.routes |= {"poor": replace(server.routes["mp4"], ranges=False, length=False),
                      "told": told(server.url("mp4"), SECONDS)}
    assert loss(server, "mp4", tmp_path / "1", max_bytes=size - 1) == ("too_large", f"{size} bytes")
    assert server.sent["mp4"] < size / 2
    for number, span in enumerate(((), (5.0, 8.0))):
        assert loss(server, "poor", tmp_path / f"2{number}", *span, max_bytes=300_000) == (
            "too_large", "more than 300000 bytes")
    assert fetch(server, "poor", tmp_path / "3", max_bytes=size)["audio_format"] == "m4a"
    assert loss(server, "mp4", tmp_path / "4", max_duration=39) == ("too_long", "40.0 s")
    assert loss(server, "told", tmp_path / "5", max_duration=39) == ("too_long", "40.0 s")
    assert server.asked["mp4"] == 1
    assert loss(server, "mp4", tmp_path / "6", 5.0, 15.0, max_duration=9) == ("too_long", "the segment is 10.0 s long")
    assert server.asked["mp4"] == 0
    assert fetch(server, "mp4", tmp_path / "7", 5.0, 15.0, max_duration=10)["audio_format"] == "opus"


def test_a_killed_ffmpeg_is_no_fault_of_the_clip(server, tmp_path):
    server.routes["slow"] = replace(server.routes["mp4"], pause=0.2)

    def kill() -> None:
        while not stop.wait(0.02):
            for child in psutil.Process().children():
                if "-ss" in child.cmdline():
                    child.kill()

    stop = threading.Event()
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        assert loss(server, "slow", tmp_path, 28.0, 38.0) == ("interrupted", "ffmpeg was killed")
    finally:
        stop.set()
        thread.join()


# The machine


@pytest.mark.parametrize("span", [(None, None), (5.0, 15.0)])
def test_a_full_disk_is_no_fault_of_the_clip(server, tmp_path, span):
    (tmp_path / "small").mkdir()
    (tmp_path / "script.py").write_text(f"""
from pipelines.download import Settings, download
segment = {{"source_id": "mp4", "start": {span[0]}, "end": {span[1]}, "video": False}}
try:
    download((segment, "small"), Settings(url={server.template!r}))
except OSError as error:
    print(type(error).__name__, error.errno)
""")
    command = f"mount -t tmpfs -o size=500k none small && exec {sys.executable} script.py"
    run = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command], cwd=tmp_path,
                         env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    if "mount" in run.stderr or "unshare" in run.stderr:
        pytest.skip(f"no file system can be mounted here: {run.stderr}")
    assert (run.stdout, run.stderr) == (f"OSError {errno.ENOSPC}\n", "")


def test_nothing_is_printed_and_nothing_is_written_elsewhere(server, tmp_path, monkeypatch, capfd):
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    before = dict(os.environ)
    folder = tmp_path / "a b:c'd%e$f"
    fetch(server, "mp4", folder / "1", 5.0, 15.0, video=True)
    fetch(server, "mp4", folder / "2")
    loss(server, "mp4", folder / "3", 35.0, 45.0)
    loss(server, "nosuch", folder / "4")
    assert (folder / "3" / "ffmpeg.log").exists()
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b:c'd%e$f", "here", "home"]
    assert not [*(tmp_path / "here").iterdir(), *(tmp_path / "home").iterdir()]
    assert dict(os.environ) == before


def test_importing_is_light():
    code = "import sys, pipelines.download; print([name for name in sys.modules if name in ('yt_dlp', 'deno')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "[]\n"


# How it asks


def test_ids_are_checked_and_templates_are_no_formats(server, tmp_path):
    for bad in ("../etc", "a/b", "", "a" * 65, "a b", "é", "a\n", "{x}"):
        with pytest.raises(ValueError, match="not an id"):
            fetch(server, bad, tmp_path)
    assert loss(server, "x", tmp_path / "1", url=server.url("no{where}") + "{id}{0}") == (
        "removed", "HTTP 404 Not Found")
    assert list(server.asked) == ["no{where}x{0}"]


def test_settings_travel_to_other_processes_and_to_the_server(server, tmp_path):
    settings = Settings(url="http://x/{id}", user_agent="factory/1", format="worst")
    assert pickle.loads(pickle.dumps(settings)) == settings
    for number, span in enumerate(((), (5.0, 8.0))):
        fetch(server, "mp3", tmp_path / f"{number}", *span, user_agent="factory/1")
        assert server.headers["mp3"]["user-agent"] == "factory/1"
    assert loss(server, "mp3", tmp_path / "2", format="137")[0] == "forbidden"  # no such format: it may be held back


def test_cookies_are_sent_and_the_file_stays_as_it_is(server, tmp_path):
    server.routes["jar"] = replace(server.routes["mp3"], headers={"Set-Cookie": "seen=1; Path=/"})
    jar = tmp_path / "cookies.txt"
    jar.write_text("# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tabc\n")
    jar.chmod(0o444)
    before = jar.read_bytes()
    fetch(server, "jar", tmp_path / "1", cookies=str(jar))
    assert server.headers["jar"]["cookie"] == "session=abc; seen=1"
    assert jar.read_bytes() == before
    copy = tmp_path / "1" / "cookies.txt"
    assert "seen" in copy.read_text()
    assert copy.stat().st_mode & 0o777 == 0o600


def test_proxies(server, tmp_path, files):
    """Of ours; of none; of a kind that ffmpeg would go past. Their passwords are told to nobody."""
    host = server.url("")[len("http://"):].rstrip("/")
    for number, span in enumerate(((), (5.0, 15.0))):
        clip = fetch(server, "mp3", tmp_path / f"{number}", *span, url="http://somewhere.invalid/{id}", proxy=f"http://{host}")
        assert clip["audio"] == files["mp3"] if not span else read_clip(clip["audio"])[:2] == (5.0, 15.0)
        assert server.proxied["somewhere.invalid"] == server.asked["mp3"]
        for proxy in ("http://me:secret@127.0.0.1:9", "socks5://me:secret@127.0.0.1:9", "me:secret@127.0.0.1:9",
                      "odd://me:secret@127.0.0.1:9"):
            reason, detail = loss(server, "mp3", tmp_path / f"{number}{proxy[:4]}", *span, proxy=proxy)
            assert reason in ("network", "forbidden")
            assert "secret" not in detail
            assert not server.asked, "it went past the proxy"


@pytest.mark.parametrize(("settings", "words"), [
    ({"proxy": "http://user:secret@127.0.0.1:808080"}, "proxy"), ({"proxy": "127.0.0.1:80"}, "proxy"),
    ({"proxy": "ftp://127.0.0.1"}, "proxy"), ({"user_agent": "a\nb"}, "user agent"), ({"format": "[[x"}, "format")])
def test_settings_that_could_not_work_are_told_at_once(settings, words):
    told = download.preflight(Settings(url="http://127.0.0.1:1/{id}", **settings))
    assert told.startswith(words) and "secret" not in told


def test_what_is_missing_for_youtube_is_told(tmp_path, monkeypatch):
    ours, theirs = Settings(), Settings(url="http://127.0.0.1:1/{id}")
    assert download.preflight(ours) is None  # this environment has it all
    assert download.preflight(theirs) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert download.preflight(ours) is None, "deno has to be on PATH"
    monkeypatch.setattr(download, "_deno", lambda: str(tmp_path / "deno"))
    for settings in (ours, Settings(url="https://youtu.be/{id}")):
        assert re.match("YouTube needs a JavaScript runtime: pip install -U deno", download.preflight(settings))
    assert download.preflight(theirs) is None
    (tmp_path / "deno").write_text("#!/bin/sh\necho deno 1.40.0\n")
    (tmp_path / "deno").chmod(0o755)
    assert download.preflight(ours).endswith("; deno 1.40.0 is too old")
    (tmp_path / "node").write_text("#!/bin/sh\necho v22.1.0\n")
    (tmp_path / "node").chmod(0o755)
    assert download.preflight(ours) is None  # another will do


def test_what_is_missing_everywhere_is_told(tmp_path, monkeypatch):
    settings = Settings(url="http://127.0.0.1:1/{id}", cookies=str(tmp_path / "nosuch.txt"))
    assert re.match(r"cookies: .*nosuch\.txt cannot be used \(.*No such file", download.preflight(settings))
    (tmp_path / "c.txt").write_text("{}")
    assert "Netscape" in download.preflight(Settings(url="http://127.0.0.1:1/{id}", cookies=str(tmp_path / "c.txt")))
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nosuch"))
    code = ("from pipelines.download import *; print(preflight(Settings(url='http://127.0.0.1:1/{id}')))")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout
    assert re.match("ffmpeg does not run .*; reinstall imageio-ffmpeg", found)
    without = "import sys; sys.modules['yt_dlp_ejs'] = None; " + code.replace("url='http://127.0.0.1:1/{id}'", "")
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE")
    found = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, cwd=ROOT).stdout
    assert found == "YouTube needs yt-dlp's challenge scripts: pip install yt-dlp-ejs\n"


# As a program


def test_the_server_serves_a_folder(tmp_path, files):
    """What the trial and the benchmark use: ids without endings."""
    media_folder = tmp_path / "media"
    media_folder.mkdir()
    for name in ("mp4", "mp3"):
        (media_folder / f"id-{name}.{name}").write_bytes(files[name])
    (media_folder / "gone.410").touch()
    (media_folder / "page.html").write_bytes(PAGE % b"nothing")
    process = subprocess.Popen([sys.executable, "-m", "tests.pipelines.server", str(media_folder)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE)
    try:
        settings = Settings(url=process.stdout.readline().strip())
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\{id\}", settings.url)
        found = {}
        for name in ("id-mp3", "gone", "page", "nosuch"):
            (tmp_path / name).mkdir()
            segment = {"source_id": name, "start": None, "end": None, "video": False}
            try:
                found[name] = download.download((segment, str(tmp_path / name)), settings)["audio"]
            except Loss as error:
                found[name] = error.reason
        assert found == {"id-mp3": files["mp3"], "gone": "removed", "page": "unsupported", "nosuch": "removed"}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
