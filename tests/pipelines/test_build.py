"""Whole builds of MUCaps, which all others rest on: what comes out, and that nothing but the input decides it.

Builds of all datasets are in test_datasets_together.py.
"""
import contextlib
import io
import json
import shutil
import time
from collections import Counter
from functools import partial
from pathlib import Path

import av
import pytest
from datasets import Audio, load_dataset, load_from_disk

from captioners import measured
from manifests import media, storage
from pairing import match
from pipelines import __main__ as cli
from pipelines import report, sample
from pipelines.folder import safe_id
from pipelines.sample import synth
from tests.conftest import encode
from tests.pairing.voices import synthetic_speech

CLIPS = 30  # with one silent, one clipped and one too short


def build(out, *options: str, workers: int = 1, expect: int = 0) -> dict[str, int]:
    """Run a build in this process, of MUCaps if not told; returns how many clips each stage worked on."""
    if "--datasets" not in options:
        options += ("--datasets", "mucaps")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert cli.main(["build", "--out", str(out), "--workers", str(workers), *options]) == expect, said.getvalue()
    run = json.loads((Path(out) / "run.json").read_text())
    assert run["state"] == "done"
    return {name: stage["clips"] for name, stage in run["stages"].items()}


def promised(out) -> dict[str, bytes]:
    """Every byte that is promised to be the same."""
    out = Path(out)
    files = [path for folder in ("datasets", "ledger") for path in (out / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in [*files, out / "stats.json"]}


def ledger(out) -> dict[str, dict]:
    return {row["id"]: row for row in report.ledger(str(out))}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert build(out, "--limit", str(CLIPS))["fetch"] == CLIPS
    return out


def test_every_clip_is_accounted_for(undisturbed):
    rows, stats = ledger(undisturbed), json.loads((undisturbed / "stats.json").read_text())["datasets"]["mucaps"]
    assert list(rows) == sorted(sample.ids(0, CLIPS))
    truth = json.loads((undisturbed / "sample" / "truth.json").read_text())
    assert {key: row["outcome"] for key, row in rows.items()} == {key: clip["bad"] or "done"
                                                                  for key, clip in truth.items()}
    assert stats["requested"] == stats["done"] + sum(stats["lost"].values()) == CLIPS
    assert stats["lost"] == dict(Counter(clip["bad"] for clip in truth.values() if clip["bad"]))
    assert stats["splits"] == dict(Counter(row["split"] for row in rows.values() if row["outcome"] == "done"))
    assert stats["hours"] == pytest.approx(stats["done"] * 10 / 3600, rel=0.01)


def test_the_sample_corpus_is_measured_as_it_was_made(tmp_path):
    """Its 80 clips: losses for the right reasons, tempo within 4 % in 95 %, key and mode right in 80 %.

    And no pair of clips whose tempi, in truth, are farther apart than the threshold allows.
    """
    out = tmp_path / "out"
    build(out, "--datasets", "mucaps,muedit", "--tempo-edits", "0", "--pitch-edits", "0", workers=2)
    truth = json.loads((out / "sample" / "truth.json").read_text())
    assert len(truth) >= 64
    assert {row["id"]: row["outcome"] for row in report.ledger(str(out)) if row["dataset"] == "mucaps"} == {
        key: clip["bad"] or "done" for key, clip in truth.items()}
    pairs = [row for split in load_from_disk(str(out / "datasets" / "muedit")).values()
             for row in split.select_columns(["source_id", "target_source_id"])]
    tempi = [[truth[row[name]]["tempo"] for name in row] for row in pairs]
    assert len(tempi) >= 20 and all(max(two) / min(two) <= match.Settings().tempo_ratio for two in tempi)
    rows = [row for split in load_from_disk(str(out / "datasets" / "mucaps")).values()
            for row in split.remove_columns("audio")]
    tempi = [abs(row["tempo"] / truth[row["id"]]["tempo"] - 1) <= 0.04 for row in rows]
    keys = [(row["key"], row["mode"]) == (truth[row["id"]]["key"], truth[row["id"]]["mode"])
            for row in rows if truth[row["id"]]["key"]]
    assert len(tempi) > 60 and sum(tempi) / len(tempi) >= 0.95
    assert len(keys) > 60 and sum(keys) / len(keys) >= 0.80


def test_datasets_opens_it_in_three_ways(undisturbed, tmp_path, caplog):
    folder = str(undisturbed / "datasets" / "mucaps")
    with caplog.at_level("WARNING"):
        loaded = load_dataset(folder, cache_dir=str(tmp_path))
    assert not caplog.records, "the card is not as `datasets` wants it"
    mapped = load_from_disk(folder)
    streamed = load_dataset(folder, streaming=True)
    done = {key: row["split"] for key, row in ledger(undisturbed).items() if row["outcome"] == "done"}
    assert isinstance(loaded["train"].features["audio"], Audio)
    for found in (loaded, mapped, streamed):
        assert set(found) == {"train", "eval"}
        ids = {}
        for split in found:
            rows = list(found[split].cast_column("audio", Audio(decode=False)))
            ids |= {row["id"]: split for row in rows}
            assert len({row["caption"] for row in rows}) == len(rows)
            for row in rows:
                wave = media.decode_audio(row["audio"]["bytes"])
                assert wave.duration == pytest.approx(row["duration"], abs=1e-3)
                assert row["source_id"] == row["id"] and row["captioner"] == "measured"
                assert 40 <= row["tempo"] <= 220 and 0 < row["tempo_confidence"] <= 1
        assert ids == done


def test_a_rebuild_is_seen_through_the_cache_of_datasets(undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    folder, cache = str(out / "datasets" / "mucaps"), str(tmp_path / "cache")
    load = partial(load_dataset, folder, cache_dir=cache, split="train")
    assert set(load()["captioner_revision"]) == {str(measured.VERSION)}
    monkeypatch.setattr(measured, "VERSION", measured.VERSION + 1)
    build(out, "--limit", str(CLIPS))
    assert set(load()["captioner_revision"]) == {str(measured.VERSION)}


def test_workers_do_not_change_a_byte(undisturbed, tmp_path):
    build(tmp_path / "out", "--limit", str(CLIPS), workers=2)
    assert promised(tmp_path / "out") == promised(undisturbed)


def test_a_finished_build_does_no_work(undisturbed):
    before = promised(undisturbed), {path: path.stat().st_mtime_ns for path in (undisturbed / "datasets").rglob("*")}
    assert set(build(undisturbed, "--limit", str(CLIPS)).values()) == {0}
    assert promised(undisturbed) == before[0]
    assert {path: path.stat().st_mtime_ns for path in (undisturbed / "datasets").rglob("*")} == before[1]


def test_ten_more_clips_are_ten_clips_work(tmp_path):
    build(tmp_path / "grown", "--limit", "12")
    work = build(tmp_path / "grown", "--limit", "22")
    assert (work["fetch"], work["measure"]) == (10, 10)
    assert work["caption"] == sum(sample.spec(key).bad is None for key in sample.ids(0, 22)[12:])
    build(tmp_path / "whole", "--limit", "22")
    assert promised(tmp_path / "grown") == promised(tmp_path / "whole")
    # And fewer: what is no longer asked for is no longer in the dataset, but is kept for when it is asked for again.
    assert set(build(tmp_path / "whole", "--limit", "12").values()) - {0} == {11}
    build(tmp_path / "small", "--limit", "12")
    assert promised(tmp_path / "small") == promised(tmp_path / "whole")


def test_a_new_caption_version_redoes_captions_and_shards_only(tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = build(out, "--limit", "8")
    before = promised(out)
    monkeypatch.setattr(measured, "VERSION", measured.VERSION + 1)
    assert build(out, "--limit", "8") == {"fetch": 0, "measure": 0, "filter": 0, "caption": first["caption"],
                                          "check": first["check"], "write": first["write"]}
    assert promised(out).keys() != before.keys(), "the shards kept their names"
    row = next(iter(load_from_disk(str(out / "datasets" / "mucaps"))["train"].remove_columns("audio")))
    assert row["captioner_revision"] == str(measured.VERSION)


def test_a_threshold_costs_no_measuring(tmp_path):
    out = tmp_path / "out"
    build(out, "--limit", "8")
    work = build(out, "--limit", "8", "--min-loudness", "0", expect=3)
    assert work == {"fetch": 0, "measure": 0, "filter": 8, "caption": 0, "check": 0, "write": 0}
    assert {row["outcome"] for row in ledger(out).values()} == {"too_quiet"}
    assert not (out / "datasets" / "mucaps").exists()
    assert set(build(out, "--limit", "8").values()) == {0, 8}


def test_status_tells_of_builds_in_flight_ended_and_dead(undisturbed, tmp_path):
    assert "done" in report.status(str(undisturbed)).splitlines()[0]
    assert f"{CLIPS} requested" in report.status(str(undisturbed))
    run = json.loads((undisturbed / "run.json").read_text())
    for age, words in ((0, "running"), (3600, "stopped without an end")):
        (tmp_path / "run.json").write_text(json.dumps(run | {"state": "running", "updated": time.time() - age}))
        assert words in report.status(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no build here"):
        report.status(str(tmp_path / "nosuch"))


def test_two_builds_in_one_place_do_not_mix(tmp_path, capsys):
    with storage.lock(str(tmp_path)):
        assert cli.main(["build", "--out", str(tmp_path), "--limit", "1", "--datasets", "mucaps"]) == 1
    assert "another build is at work" in capsys.readouterr().err
    build(tmp_path, "--limit", "1")


def test_the_ledger_speaks_to_people_and_machines(undisturbed, capsys):
    assert cli.main(["ledger", str(undisturbed), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == CLIPS
    assert set(rows[0]) >= {"dataset", "id", "source_id", "outcome", "detail"}
    assert cli.main(["ledger", str(undisturbed)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(row["outcome"] != "done" for row in rows)
    assert all(line.startswith("mucaps\tsample-0-") for line in lines)


@pytest.mark.parametrize(("options", "words"), [
    (["--source", "folder"], "--media"), (["--media", "x"], "goes with"), (["--datasets", "muwhat"], "muwhat"),
    (["--source", "folder", "--media", "/nosuch"], "not a directory"), (["--runner", "DaskRunner"], "silently"),
    (["--max-speech", "20"], "from 0 to 1"), (["--min-duration", "nan"], "--min-duration"), (["--limit", "x"], "count"),
    (["--max-sp", "0.2"], "--max-sp"),
    (["--tempo-edits", "5"], "at most 4"), (["--descriptions", __file__], "its header is none that is known"),
    (["--max-pairs-per-clip", "0", "--tempo-edits", "0", "--pitch-edits", "0"], "nothing to make"),
    (["--pair-threshold", "0"], "threshold"),
    (["--descriptions", "/nosuch"], "--descriptions"),
    (["--descriptions", "/nosuch", "--datasets", "mucaps"], "goes with --datasets musicqa"),
    (["--frobnicate"], "--frobnicate"), (["--limit", "0"], "at least 1"), (["--tagger", "/nosuch"], "--tagger")])
def test_wrong_arguments_exit_2_and_say_what_is_wrong(tmp_path, capsys, options, words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["build", "--out", str(tmp_path / "out"), *options])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_card_names_what_is_there(undisturbed):
    card = (undisturbed / "datasets" / "mucaps" / "README.md").read_text()
    for path in (undisturbed / "datasets" / "mucaps").rglob("*.arrow"):
        assert f"{path.parent.name}/{path.name}" in card
    assert "| silent | 1 |" in card


def test_the_stored_audio_has_no_picture(undisturbed):
    for split, rows in load_from_disk(str(undisturbed / "datasets" / "mucaps")).items():
        for row in rows.cast_column("audio", Audio(decode=False)):
            with av.open(io.BytesIO(row["audio"]["bytes"])) as container:
                assert (len(container.streams.audio), len(container.streams)) == (1, 1), split


def test_a_folder_of_everything(tmp_path):
    """Real bytes of many kinds: rows, reasons, and the trace of a file that was replaced."""
    folder, out = tmp_path / "media", tmp_path / "out"
    by_defect = {sample.spec(key).defect: key for key in sample.ids(0, 80)}
    songs = [key for key in sample.ids(0, 20) if sample.spec(key).bad is None and sample.spec(key).key]
    quiet = media.decode_audio(sample.render(songs[2])).samples * 10 ** (-34 / 20)
    voice = synthetic_speech(6.0, 16000)
    expected = {
        "song.mp4": (sample.render(songs[0]), "done"),
        "deep/er/song.m4a": (media.part(sample.render(songs[1]))["audio"], "done"),
        "the same/song.mp4": (sample.render(songs[0]), "duplicate"),
        "quiet.wav": (encode(quiet, synth.RATE, "wav", "pcm_f32le"), "too_quiet"),
        "voice.flac": (encode(voice[None], 16000, "flac", "flac"), "speech"),
        "notes.mp3": (b"these are notes, not music", "decode_error"),
        **{f"bad/{name}{sample.suffix(by_defect[name])}": (sample.render(by_defect[name]), sample.DEFECTS[name])
           for name in ("silence", "clipping", "short", "truncation", "noise", "mute")},
        "huge.wav": (bytes(9_000_000), "too_large"),
    }
    for name, (data, _) in expected.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "readme.txt").write_text("not asked for")
    options = ("--source", "folder", "--media", str(folder), "--max-bytes", "8000000")
    assert build(out, *options, workers=2)["fetch"] == len(expected)
    rows = ledger(out)
    assert rows["song.mp4"]["split"] == rows[safe_id("the same/song.mp4")]["split"], "else the copy might be kept"
    assert {safe_id(name): reason for name, (_, reason) in expected.items()} == {key: row["outcome"]
                                                                                 for key, row in rows.items()}
    # A raised limit lets the file in that was too large, and costs the others nothing.
    assert build(out, *options[:-1], "10000000")["fetch"] == 1
    assert ledger(out)["huge.wav"]["outcome"] == "decode_error"
    # A file with another content under the same name is another clip; the others are left alone.
    (folder / "song.mp4").write_bytes(sample.render(songs[3]))
    assert build(out, *options)["measure"] == 1
    assert ledger(out)[safe_id("the same/song.mp4")]["outcome"] == "done", "what it repeated is gone"
    # And one that is gone is no longer asked for.
    (folder / "notes.mp3").unlink()
    assert set(build(out, *options).values()) == {0}
    assert "notes.mp3" not in ledger(out)


def test_real_media(shared_media, tmp_path):
    assert build(tmp_path / "out", "--source", "folder", "--media", str(shared_media), workers=2)["fetch"] == 12
    outcome = {key: row["outcome"] for key, row in ledger(tmp_path / "out").items()}
    assert {key for key, reason in outcome.items() if reason == "done"} >= {
        f"music__{name}.mp3" for name in ("bach", "electro_1", "electronic", "sep_drums_1")}
    assert outcome["not-music__speech.wav"] == "speech"
    assert outcome["not-music__rain.mp3"] == "not_music"
    assert outcome["bad__no_duration.webm"] == outcome["bad__video_with_failing_audio.mp4"] == "silent"
    assert outcome["video__chaplin.mp4"] == outcome["video__big_buck_bunny_0_30.webm"] == "done"
    assert outcome["bad__with-attached-pic.mp3"] in ("silent", "too_short")
    assert all(row["detail"] for row in ledger(tmp_path / "out").values() if row["outcome"] != "done")
