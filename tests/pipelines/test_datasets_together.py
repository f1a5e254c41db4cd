"""Builds of all datasets: their rows, that no source leaks, and that nothing but the input decides a byte."""
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from datasets import Audio, Dataset, Image, Video, load_dataset, load_from_disk
from PIL import Image as Pictures

from captioners import measured
from manifests import media, splits
from pairing import edits, features, fingerprint, match
from pipelines import __main__ as cli
from pipelines import pairs, report, sample
from tests.pipelines.test_build import build, promised

ALL = ("--datasets", ",".join(splits.SIZES))
CLIPS = 30  # with one silent, one clipped and one too short


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert build(out, *ALL, "--limit", str(CLIPS), workers=2)["fetch"] == CLIPS
    return out


def rows(out: Path, dataset: str) -> list[dict]:
    """Every row, with its split, as `load_dataset` gives it; media as bytes."""
    found = load_dataset(str(out / "datasets" / dataset), cache_dir=str(out.parent / "cache"))
    return [row | {"split": split} for split in found for row in plain(found[split])]


def plain(table: Dataset) -> Dataset:
    for name, kind in table.features.items():
        if isinstance(kind, (Audio, Image, Video)):
            table = table.cast_column(name, type(kind)(decode=False))
    return table


def ledger(out: Path, dataset: str) -> list[dict]:
    return [row for row in report.ledger(str(out)) if row["dataset"] == dataset]


def test_every_line_of_the_ledger_is_a_row_or_says_why_not(undisturbed):
    stats = json.loads((undisturbed / "stats.json").read_text())["datasets"]
    assert set(stats) == set(splits.SIZES)
    bad = {key for key in sample.ids(0, CLIPS) if sample.spec(key).bad}
    for dataset, numbers in stats.items():
        lines = ledger(undisturbed, dataset)
        done = {line["id"]: line["split"] for line in lines if line["outcome"] == "done"}
        assert {row["id"]: row["split"] for row in rows(undisturbed, dataset)} == done
        assert len({line["id"] for line in lines}) == len(lines) == numbers["requested"]
        assert numbers["lost"] == dict(Counter(line["outcome"] for line in lines if line["outcome"] != "done"))
        assert numbers["hours"] == pytest.approx(numbers["clips"] * 10 / 3600, rel=0.01)
        assert sum(numbers["agreement"]["tempo"].values()) <= len(lines) + numbers["clips"]
        assert not {"failed", "instruction_failed", "caption_failed"} & set(numbers["lost"])
        assert all(line["detail"] for line in lines if line["outcome"] != "done")
        if dataset != "muedit":
            assert set(done) == set(sample.ids(0, CLIPS)) - bad
    clips = {re.split("[~@]", line["id"])[0] for line in ledger(undisturbed, "muedit")}
    assert clips == set(sample.ids(0, CLIPS)), "of every clip it is told what became of it"


def test_it_opens_mapped_and_streamed_too(undisturbed):
    for dataset in splits.SIZES:
        folder = str(undisturbed / "datasets" / dataset)
        loaded = Counter(row["id"] for row in rows(undisturbed, dataset))
        for found in (load_from_disk(folder), load_dataset(folder, streaming=True)):
            ids = Counter(row["id"] for split in found.values() for row in split.select_columns(["id"]))
            assert ids == loaded


def test_conversations_are_in_the_published_layout_and_speak_of_the_captions(undisturbed):
    asked = {"muedit": "audio", "muimage": "image", "muvideo": "video", "musicqa": "audio"}
    for dataset, modality in asked.items():
        said = []
        for row in rows(undisturbed, dataset):
            talk = row["conversation"]
            said += [turn["value"] for turn in talk]
            assert [turn["from"] for turn in talk] == ["human", "gpt"] * (9 if dataset == "musicqa" else 1)
            for human, gpt in zip(talk[::2], talk[1::2], strict=True):
                assert (human["input_modality"], human["output_modality"]) == (modality, None)
                assert (gpt["input_modality"], gpt["output_modality"]) == (
                    None, "text" if dataset == "musicqa" else "audio")
            if dataset != "musicqa":
                assert talk[1]["caption"] == row["target_caption" if dataset == "muedit" else "caption"]
                assert talk[0]["caption"] == row[{"muedit": "caption"}.get(dataset, f"{modality}_caption")]
                assert talk[1]["value"].startswith("Here is a music that is ")
            if dataset in ("muimage", "muvideo"):
                assert talk[0]["value"].startswith(f"Generate a music for the {modality} that ")
            assert (row["instructor"], row["prompt_version"] > 0) == ("template", True)
        assert all(text and "\n" not in text for text in said)


def test_media_decodes(undisturbed):
    for dataset in splits.SIZES:
        for row in rows(undisturbed, dataset):
            wave = media.decode_audio(row["audio"]["bytes"])
            assert wave.duration == pytest.approx(row["duration"], abs=1e-3)
            if dataset == "muimage":
                with Pictures.open(io.BytesIO(row["image"]["bytes"])) as picture:
                    assert (picture.format, picture.size) == ("JPEG", (row["width"], row["height"]))
                    assert np.asarray(picture.convert("L")).std() > 2
            if dataset == "muvideo":
                with av.open(io.BytesIO(row["video"]["bytes"])) as container:
                    assert [stream.type for stream in container.streams] == ["video"]
                    assert container.streams.video[0].codec.canonical_name == "h264"
                    count = sum(1 for _ in container.decode(video=0))
                assert count == row["frames"] and min(row["width"], row["height"]) <= 360
                assert row["frame_index"] == np.linspace(0, count - 1, 32).round().astype(int).tolist()
            if dataset == "muedit":
                target = media.decode_audio(row["target_audio"]["bytes"])
                assert target.duration == pytest.approx(row["target_duration"], abs=1e-3)


def test_pairs_have_the_tempo_that_they_were_made_with(undisturbed):
    """By the truth, not by the measurement: the threshold bounds how far tempi may be apart."""
    truth = json.loads((undisturbed / "sample" / "truth.json").read_text())
    found = [row for row in rows(undisturbed, "muedit") if row["edit"] == "pair"]
    assert found
    for row in found:
        one, other = (truth[row[name]]["tempo"] for name in ("source_id", "target_source_id"))
        assert max(one, other) / min(one, other) <= match.Settings().tempo_ratio, row["id"]
        assert row["source_id"] != row["target_source_id"] and row["distance"] <= match.Settings().threshold


def test_edits_are_what_they_say(undisturbed):
    """Against the truth: durations, and the tempo and key that the clip was made with."""
    truth = json.loads((undisturbed / "sample" / "truth.json").read_text())
    found = [row for row in rows(undisturbed, "muedit") if row["edit"] != "pair"]
    assert {row["edit"] for row in found} == {"tempo", "pitch"}
    assert {row["amount"] for row in found} <= {*edits.TEMPI, *edits.SHIFTS}
    keys = []
    for row in found:
        clip = truth[row["source_id"]]
        ratio = row["amount"] if row["edit"] == "tempo" else 1.0
        assert row["target_duration"] == pytest.approx(row["duration"] / ratio, abs=0.002)
        assert row["target_source_id"] == row["source_id"] and row["distance"] is None
        if row["tempo"] and abs(row["tempo"] / clip["tempo"] - 1) < 0.04:
            assert row["target_tempo"] == pytest.approx(clip["tempo"] * ratio, rel=0.04)
        if row["edit"] == "pitch" and (row["key"], row["mode"]) == (clip["key"], clip["mode"]):
            place = features.tonality.KEYS.index(clip["key"]) + int(row["amount"])
            assert (row["target_key"], row["target_mode"]) == (features.tonality.KEYS[place % 12], clip["mode"])
            keys.append(row["id"])
    assert keys


@pytest.mark.parametrize("assignment", splits.ASSIGNMENTS)
def test_nothing_leaks(undisturbed, tmp_path, assignment):
    """Over all datasets together: sources, pairs and recordings."""
    out = undisturbed
    if assignment == "disjoint":
        out = tmp_path / "out"
        shutil.copytree(undisturbed, out)
        # More clips, since each serves one dataset only.
        build(out, *ALL, "--limit", "60", "--assignment", assignment, workers=2)
    split_of: dict[str, set[str]] = {}
    dataset_of: dict[str, set[str]] = {}
    prints: dict[tuple[str, str], np.ndarray] = {}
    for dataset in splits.SIZES:
        if not (out / "datasets" / dataset).exists():
            continue
        for row in rows(out, dataset):
            for source in {row[name] for name in row if name.endswith("source_id")}:
                split_of.setdefault(source, set()).add(row["split"])
                dataset_of.setdefault(source, set()).add(dataset)
            for name, source in (("audio", "source_id"), ("target_audio", "target_source_id")):
                place = (row.get(source), row["split"])
                if name in row and row.get("edit") in (None, "pair") and place not in prints:
                    sound = media.decode_audio(row[name]["bytes"]).mono(fingerprint.RATE)
                    prints[place] = fingerprint.fingerprint(sound)
    assert len(split_of) > 20
    assert all(len(found) == 1 for found in split_of.values())
    if assignment == "disjoint":
        assert all(len(found) == 1 for found in dataset_of.values())
        assert len(set().union(*dataset_of.values())) == 5
    else:
        assert max(len(found) for found in dataset_of.values()) == 5
    places = list(prints)
    for one, other, _ in fingerprint.duplicates(list(prints.values())):
        assert places[one][1] == places[other][1], "a recording straddles the splits"


def test_workers_do_not_change_a_byte(undisturbed, tmp_path):
    build(tmp_path / "out", *ALL, "--limit", str(CLIPS), workers=1)
    assert promised(tmp_path / "out") == promised(undisturbed)


def test_a_finished_build_does_no_work(undisturbed):
    before = promised(undisturbed), {path: path.stat().st_mtime_ns for path in (undisturbed / "datasets").rglob("*")}
    assert set(build(undisturbed, *ALL, "--limit", str(CLIPS)).values()) == {0}
    assert promised(undisturbed) == before[0]
    assert {path: path.stat().st_mtime_ns for path in (undisturbed / "datasets").rglob("*")} == before[1]


def test_new_captions_of_music_cost_no_pictures_no_edits_and_no_pairs(undisturbed, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    monkeypatch.setattr(measured, "VERSION", measured.VERSION + 1)
    monkeypatch.setattr(pairs, "_clips", lambda *_: pytest.fail("paired again"))
    work = build(out, *ALL, "--limit", str(CLIPS))
    assert {name for name, count in work.items() if count} == {
        "caption", "check", "edit-caption", "edit-check", "write", *(f"instruct-{name}" for name in splits.SIZES
                                                                     if name != "mucaps")}
    assert {row["captioner_revision"] for row in rows(out, "muvideo")} == {str(measured.VERSION)}


def test_what_others_wrote_is_what_answers_rest_on(undisturbed, tmp_path):
    """MTG-Jamendo's tags for some of the clips; the others are lost, and nothing else is done anew.

    A tag's category tells what it is: of itself "drama" is no mood.
    """
    out, told = tmp_path / "out", tmp_path / "tags.tsv"
    shutil.copytree(undisturbed, out)
    keys = [row["id"] for row in rows(undisturbed, "musicqa")][:5]
    told.write_text("TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n" + "".join(
        f"track_{number:07d}\tartist_1\talbum_1\t{key}\t100.0\tgenre---rock\tinstrument---guitar\tmood/theme---drama\n"
        for number, key in enumerate(keys)))
    work = build(out, "--datasets", "musicqa", "--descriptions", str(told), "--limit", str(CLIPS))
    assert {name: count for name, count in work.items() if count} == {"instruct-musicqa": 5, "write": 5}
    found = {row["id"]: row for row in rows(out, "musicqa")}
    assert set(found) == set(keys)
    for row in found.values():
        assert row["description"] is None and row["tags"] == ["rock", "guitar", "drama"]
        answers = " ".join(turn["value"] for turn in row["conversation"] if turn["from"] == "gpt").lower()
        assert "guitar" in answers and "rock" in answers and "bpm" not in answers
        assert re.search(r"mood is drama|feels drama|comes across as drama", answers)
    lost = {line["id"]: line["outcome"] for line in ledger(out, "musicqa")}
    assert Counter(lost.values())["not_described"] == CLIPS - 3 - 5


@pytest.mark.slow
def test_killed_ten_times_and_finished_is_the_same_to_the_byte(undisturbed, tmp_path):
    out, draw = tmp_path / "out", random.Random(20240229)
    command = [sys.executable, "-m", "pipelines", "build", "--out", str(out), "--limit", str(CLIPS), "--workers", "2"]
    files = sum(len(names) for _, _, names in os.walk(undisturbed))
    # Ten moments over the whole of the build, told by the files that are there: clocks differ from machine to machine.
    moments = sorted(draw.randrange(files) for _ in range(10))
    killed = 0
    for moment in moments:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True)
        start = time.monotonic()
        while process.poll() is None:
            if sum(len(names) for _, _, names in os.walk(out)) >= moment and time.monotonic() - start > 2.5:
                time.sleep(draw.uniform(0, 0.5))
                os.killpg(process.pid, signal.SIGKILL)
                killed += process.wait() == -signal.SIGKILL
                break
    assert killed >= 8, "most of the kills were to find the build at work"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert promised(out) == promised(undisturbed)
    assert not [path for path in out.rglob("*") if path.name.startswith(".tmp-")]


CRASH = """
import os, sys
from captioners import measured
from pipelines import __main__ as cli
measured.VERSION += 1  # captions and shards are made anew, and the build ends as every build does
left, replace = int(sys.argv[1]), os.replace
def dying(*names):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    replace(*names)
os.replace = dying
sys.exit(cli.main(["build", "--out", sys.argv[2], "--limit", "6", "--workers", "1"]))
"""


@pytest.mark.slow
def test_dying_at_any_file_of_the_end_is_mended(tmp_path):
    """Each file appears by a rename; a process that dies instead of the n-th leaves what a kill there leaves."""
    build(tmp_path / "base", *ALL, "--limit", "6")

    def run(renames: int, out: Path) -> int:
        return subprocess.run([sys.executable, "-c", CRASH, str(renames), str(out)], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode

    shutil.copytree(tmp_path / "base", tmp_path / "whole")
    assert run(10**6, tmp_path / "whole") == 0
    died = 0
    for renames in range(3, 90, 8):
        out = tmp_path / str(renames)
        shutil.copytree(tmp_path / "base", out)
        code = run(renames, out)
        died += code == 9
        assert code in (0, 9) and run(10**6, out) == 0
        assert promised(out) == promised(tmp_path / "whole"), renames
        if code == 0:
            break
    assert died >= 5


def test_names_that_look_like_ours_are_nobodys(tmp_path):
    """Files whose names are made of what rows' ids are made of: each row is of its own clips, and all ids differ."""
    (tmp_path / "media").mkdir()
    keys = [key for key in sample.ids(0, 60) if not sample.spec(key).bad]
    names = ["a--b.mp4", "a-down-b.mp4", "tempo-0.5", "pitch-up-1.mp4", "a~b@tempo-0.5.mp4", "-x.mp4"]
    for name, key in zip(names, keys, strict=False):
        (tmp_path / "media" / name).write_bytes(sample.render(key))
    build(tmp_path / "out", "--datasets", "muedit", "--source", "folder", "--media", str(tmp_path / "media"),
          "--pair-threshold", "100", "--tempo-edits", "4", "--pitch-edits", "6", "--both-directions")
    lines = ledger(tmp_path / "out", "muedit")
    assert len({line["id"] for line in lines}) == len(lines) > 6 * 8
    for row in rows(tmp_path / "out", "muedit"):
        if row["edit"] == "pair":
            assert row["id"] == f"{row['source_id']}~{row['target_source_id']}"
        else:
            assert row["id"].startswith(f"{row['source_id']}@{row['edit']}-")
            assert abs(row["amount"]) == float(row["id"].rpartition("-")[2])
            ratio = row["amount"] if row["edit"] == "tempo" else 1
            assert row["target_duration"] == pytest.approx(row["duration"] / ratio, abs=0.002)


def test_a_description_of_nothing_that_is_here_costs_nothing(undisturbed, tmp_path, capsys):
    """The wrong file, or another folder's: what was there before stays."""
    out, told = tmp_path / "out", tmp_path / "tags.tsv"
    shutil.copytree(undisturbed, out)
    told.write_text("TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\ntrack_1\ta\tb\telse/where.mp3\t9.0\tgenre---rock\n")
    code = cli.main(["build", "--out", str(out), "--limit", str(CLIPS), "--workers", "1", "--datasets", "musicqa",
                     "--descriptions", str(told)])
    assert code == 1
    said = capsys.readouterr().err
    assert "describes none of 27 clips, such as sample-0-" in said
    assert "mucaps, muedit, muimage, muvideo of an earlier build stay as they are" in said
    assert {row["id"] for row in rows(out, "musicqa")} == {row["id"] for row in rows(undisturbed, "musicqa")}
