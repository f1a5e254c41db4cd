"""Builds from lists, fetched with yt-dlp from a real server on loopback that answers in every way that servers do."""
import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from datasets import load_from_disk

from manifests import heldout, media, shards, storage
from manifests.outcomes import Loss
from pipelines import __main__ as cli
from pipelines import audioset, options, report, sample
from pipelines.breaker import Breaker
from pipelines.stage import Stop
from tests.pipelines import timecode
from tests.pipelines.server import Reply, serving
from tests.pipelines.test_build import build, ledger, promised

ONTOLOGY = [{"id": "/m/04rlf", "name": "Music", "child_ids": []},
            {"id": "/m/09x0r", "name": "Speech", "child_ids": []}]
SONGS = [key for key in sample.ids(0, 40) if sample.spec(key).bad is None]
TYPES = {".mp4": "video/mp4", ".mp3": "audio/mpeg", ".webm": "video/webm", ".wav": "audio/x-wav"}


def song(number: int) -> Reply:
    return Reply(sample.render(SONGS[number]), TYPES.get(sample.suffix(SONGS[number]), "audio/ogg"))


def asked(folder: Path, ids: list[str], template: str, *more: str, start: float = 0, end: float = 10) -> tuple:
    """The options of a build from a list with these ids."""
    folder.mkdir(exist_ok=True)
    (folder / "list.csv").write_text("".join(f'{key}, {start:.3f}, {end:.3f}, "/m/04rlf"\n' for key in ids))
    (folder / "ontology.json").write_text(json.dumps(ONTOLOGY))
    which = () if "--datasets" in more else ("--datasets", "mucaps")
    return ("--source", "audioset", "--segments", str(folder / "list.csv"), "--ontology",
            str(folder / "ontology.json"), "--url", template, "--assignment", "shared", *which, *more)


ANSWERS = {
    "gone-404": (Reply(status=404), "removed"), "gone-410": (Reply(status=410), "removed"),
    "law-451": (Reply(status=451), "geo_blocked"), "a-page": (Reply(b"<html>hello", "text/html"), "unsupported"),
    "a-text": (Reply(b"no media at all", "video/mp4"), "unsupported"),
    "mute": (Reply(timecode.make("mp4", 3, sound=False), "video/mp4"), "no_audio"),
    "refused": (Reply(status=403), "forbidden"), "ill": (Reply(status=503), "server_error"),
    "hung-up": (Reply(reset=True), "network"),
}


@pytest.mark.slow
def test_every_answer_ends_in_its_reason_and_only_the_passing_ones_are_asked_again(tmp_path):
    routes = {key: reply for key, (reply, _) in ANSWERS.items()} | {f"song-{n}": song(n) for n in range(3)}
    expected = {key: reason for key, (_, reason) in ANSWERS.items()} | {f"song-{n}": "done" for n in range(3)}
    held = next(key for key in ("-0Gj8-vB1q4", "--4gqARaEJE") if heldout.holds(key))
    expected[held] = "removed"
    with serving(routes) as server:
        options = asked(tmp_path / "lists", list(expected), server.template, "--fetchers", "2")
        build(tmp_path / "out", *options)
        rows = ledger(tmp_path / "out")
        assert {key: row["outcome"] for key, row in rows.items()} == expected
        assert rows[held]["split"] == "eval"
        assert all(row["uri"] == server.url(key) for key, row in rows.items())

        passing = {"refused", "ill", "hung-up"}
        before = Counter(server.asked)
        server.routes["ill"] = song(3)
        build(tmp_path / "out", *options)
        assert set(server.asked - before) == passing
        assert ledger(tmp_path / "out")["ill"]["outcome"] == "done"

        before = Counter(server.asked)
        server.routes["gone-404"] = song(4)
        build(tmp_path / "out", *options, "--retry", "removed")
        assert set(server.asked - before) == {"gone-404", "gone-410", held, "refused", "hung-up"}
        assert ledger(tmp_path / "out")["gone-404"]["outcome"] == "done"
    stored = shards.read(sorted((tmp_path / "out" / "stages" / "fetch" / "audioset").glob("*.arrow"))[0].as_posix())
    assert all(row["video"] is None for row in stored), "MUCaps needs no pictures, even where they came along"


@pytest.mark.slow
def test_a_storm_of_429_stops_the_asking_and_loses_nothing(tmp_path, capsys):
    keys = [f"song-{number}" for number in range(8)]
    routes = {key: song(number) for number, key in enumerate(keys)}
    with serving(routes) as server:
        build(tmp_path / "calm", *asked(tmp_path / "lists", keys, server.template))
        server.asked.clear()
        for key in keys[4:]:
            server.routes[key] = Reply(status=429)
        options = asked(tmp_path / "lists", keys, server.template, "--fetchers", "1")
        capsys.readouterr()
        assert cli.main(["build", "--out", str(tmp_path / "out"), "--workers", "1", *options]) == 1
        said = capsys.readouterr()
        assert "rate_limited" in said.err and "the same command asks again from" in said.err
        outcomes = Counter(row["outcome"] for row in ledger(tmp_path / "out").values())
        refused = [key for key in keys[4:] if server.asked[key]]
        assert len(refused) == 1, "one such answer is enough"
        assert outcomes["rate_limited"] == 1 and outcomes["done"] + outcomes["not_asked"] == 7
        assert outcomes["not_asked"] >= 3

        server.asked.clear()
        assert cli.main(["build", "--out", str(tmp_path / "out"), "--workers", "1", *options]) == 1
        assert not server.asked, "while it is open, nobody asks"

        server.routes |= routes
        storage.remove(Breaker(str(tmp_path / "out"))._url)
        build(tmp_path / "out", *options)
        assert set(keys[4:]) <= set(server.asked) and len(server.asked) == 8 - outcomes["done"]
    assert promised(tmp_path / "out") == promised(tmp_path / "calm")


@pytest.mark.slow
def test_segments_are_cut_where_the_list_says(tmp_path):
    """Sound and picture of the labelled seconds, by the time code in them."""
    routes = {"code-mp4": Reply(timecode.make("mp4", 40), "video/mp4"),
              "code-webm": Reply(timecode.make("webm", 40), "video/webm")}
    with serving(routes) as server:
        options = asked(tmp_path / "lists", list(routes), server.template, "--mucaps-span", "segment", start=21.3,
                        end=26.3)
        cli.main(["build", "--out", str(tmp_path / "out"), "--workers", "1", *options])
    found = {row["id"]: row for file in (tmp_path / "out" / "stages" / "fetch" / "audioset").glob("*.arrow")
             for row in shards.read(str(file))}
    assert set(found) == {"code-mp4_21300", "code-webm_21300"}
    for row in found.values():
        assert row["source_id"] == row["id"].removesuffix("_21300")
        waveform = media.decode_audio(row["audio"])
        assert waveform.duration == 5.0
        assert timecode.read_sound(waveform.samples[0], waveform.rate) == pytest.approx(21.3, abs=0.05)
        times = timecode.read_picture(row["video"])
        assert times[0][0] == pytest.approx(0, abs=0.001)
        assert all(told == pytest.approx(21.3 + shown, abs=0.05) for shown, told in times)


def test_clips_go_by_span_assignment_and_limit(tmp_path):
    """A track or a segment each, once, with the picture where a dataset wants it, however the lists repeat."""
    (tmp_path / "list.csv").write_text("".join(f'video-{n}, {s}.000, {s + 10}.000, "/m/04rlf"\n'
                                               for n in range(200) for s in (30, 50)))
    (tmp_path / "ontology.json").write_text(json.dumps(ONTOLOGY))

    def rows(span: str, assignment: str, limit: int | None = None) -> list[dict]:
        source = audioset.Source((str(tmp_path / "list.csv"),), str(tmp_path / "ontology.json"), (), span,
                                 audioset.Settings(url="http://127.0.0.1/{id}"), 1, 0.0)
        return list(audioset.segments(source, ("mucaps",), assignment, limit))

    tracks = rows("track", "shared")
    assert [row["id"] for row in tracks] == [f"video-{n}" for n in range(200)]
    assert {(row["start"], row["end"], row["video"]) for row in tracks} == {(None, None, False)}
    assert rows("track", "shared", 7) == tracks[:7]
    pieces = rows("segment", "shared")
    assert [row["id"] for row in pieces] == [f"video-{n}_{s}000" for n in range(200) for s in (30, 50)]
    assert all(row["video"] and row["end"] - row["start"] == 10 for row in pieces)
    own = rows("segment", "disjoint")
    assert 0 < len({row["source_id"] for row in own}) < 200 and not any(row["video"] for row in own)


def test_the_ledger_has_no_secrets_of_the_address():
    settings = audioset.Settings(url="https://me:secret@host.example/{id}?token=secret")
    source = audioset.Source((), "", (), "track", settings, 1, 0.0)
    row = audioset._row(audioset.audioset.Segment("abc", 1.0, 2.0, ()), "track", source, "shared")
    assert row["uri"] == "https://host.example/abc"
    source = replace(source, settings=replace(settings, url="https://host.example/watch?v={id}"))
    row = audioset._row(audioset.audioset.Segment("abc", 1.0, 2.0, ()), "track", source, "shared")
    assert row["uri"] == "https://host.example/watch?v=abc"


def test_a_fetcher_that_waits_for_its_turn_sees_that_the_others_were_stopped(tmp_path):
    source = audioset.Source((), "", (), "track", audioset.Settings(url="http://127.0.0.1:1/{id}"), 1, 3600 / 60)
    fetcher = audioset.Fetcher(source, audioset.Limits(), str(tmp_path))
    fetcher.asked = time.monotonic()
    Breaker(str(tmp_path)).failed(Loss("rate_limited", "HTTP 429"))
    with pytest.raises(Stop):  # at once, not after a minute, and without asking
        fetcher({"id": "a", "source_id": "a", "start": None, "end": None, "video": False})
    assert storage.names(str(tmp_path / "stages" / "fetch")) == ["breaker.json"]


@pytest.mark.parametrize(("url", "rate", "expected"), [
    (None, None, 300), ("https://youtu.be/{id}", None, 300), ("https://music.youtube.com/watch?v={id}", "12", 12),
    ("https://media.example.org/{id}", None, 0)])
def test_youtube_is_asked_slowly_by_any_of_its_names(tmp_path, url, rate, expected):
    given = [*asked(tmp_path, ["a"], "unused"), "--out", str(tmp_path / "out")]
    del given[given.index("--url"):given.index("--url") + 2]
    given += [*(["--url", url] if url else []), *(["--rate", rate] if rate else [])]
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    assert options.parse(parser, parser.parse_args(given), []).audioset.rate == expected


@pytest.mark.parametrize("option", [("--rate", "5"), ("--fetchers", "2"), ("--url", "x"), ("--user-agent", "x"),
                                    ("--mucaps-span", "segment"), ("--max-duration", "9")])
def test_options_of_this_source_are_refused_with_others(tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        cli.main(["build", "--out", str(tmp_path / "out"), *option])
    assert f"{option[0]}: goes with --source audioset" in capsys.readouterr().err


@pytest.mark.parametrize(("wrong", "words"), [
    (["--retry", "speech"], "--retry"),
    (["--url", "file:///etc/{id}"], "http"), (["--url", "http://127.0.0.1/x"], "{id}"), (["--rate", "-1"], "--rate"),
    (["--cookies", "/nosuch"], "--cookies"), (["--retry", "boredom"], "boredom"), (["--retry", "duplicate"], "--retry"),
    (["--exclude", "Musick"], "Music"), (["--max-duration", "0"], "--max-duration")])
def test_wrong_arguments_are_told_before_anything_is_done(tmp_path, capsys, wrong, words):
    given = asked(tmp_path / "lists", ["a"], "http://127.0.0.1/{id}", *wrong)
    try:
        code = cli.main(["build", "--out", str(tmp_path / "out"), *given])
    except SystemExit as ended:
        code = ended.code
    assert code in (1, 2)
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out" / "stages").exists()


@pytest.mark.slow
def test_a_killed_worker_takes_its_downloads_with_it(tmp_path):
    """SIGKILL of a worker in the middle of slow downloads: a clear end, no process left, and the same bytes later."""
    keys = [f"song-{number}" for number in range(4)]
    routes = {key: song(number) for number, key in enumerate(keys)}
    slow = {key: Reply(reply.body, reply.type, pause=3.0) for key, reply in routes.items()}
    with serving(slow) as server:
        options = asked(tmp_path / "lists", keys, server.template, "--fetchers", "2", "--workers", "2")
        command = [sys.executable, "-m", "pipelines", "build", "--out", str(tmp_path / "out"), *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        while sum(server.sent.values()) < 2:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
        assert any("pipelines.sandbox" in one.cmdline() for one in family)
        os.kill(next(one.pid for one in family if "pipelines.worker" in one.cmdline()), signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 1 and "a worker process died" in said
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive
        server.routes = routes
        build(tmp_path / "out", *options[:-2])
        build(tmp_path / "undisturbed", *options[:-2])
    assert promised(tmp_path / "out") == promised(tmp_path / "undisturbed")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(storage.TEMPORARY)]


def test_a_video_serves_mucaps_whole_and_the_others_by_its_segment(tmp_path):
    """The one is a copy of the other, and neither is lost for it; a copy by another name is."""
    keys = ["song-0", "song-1", "again-0"]
    with serving({key: song(int(key[-1])) for key in keys}) as server:
        options = asked(tmp_path / "lists", keys, server.template, "--datasets", "mucaps,muimage,muvideo,muedit",
                        "--tempo-edits", "1", "--pitch-edits", "0", start=1, end=9)
        build(tmp_path / "out", *options, workers=2)
    lines = {dataset: {} for dataset in ("mucaps", "muimage", "muvideo", "muedit")}
    for row in report.ledger(str(tmp_path / "out")):
        lines[row["dataset"]][row["id"]] = row["outcome"]
    assert Counter(lines["mucaps"].values()) == {"done": 2, "duplicate": 1} and lines["mucaps"]["song-1"] == "done"
    kept = next(key for key in ("song-0", "again-0") if lines["mucaps"][key] == "done")
    for dataset in ("muimage", "muvideo"):
        assert lines[dataset] == {f"{key}_1000": "done" if key in (kept, "song-1") else "duplicate" for key in keys}
    for dataset, seconds in (("mucaps", 10), ("muimage", 8), ("muedit", 8)):
        found = [row for split in load_from_disk(str(tmp_path / "out" / "datasets" / dataset)).values()
                 for row in split.select_columns(["source_id", "duration"])]
        assert {row["source_id"] for row in found} == {kept, "song-1"}
        assert all(row["duration"] == pytest.approx(seconds, abs=0.05) for row in found)
