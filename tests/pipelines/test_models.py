"""Builds whose texts are written by models: toys, under the production ids, loaded as real ones are."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from manifests import prompts, splits
from pipelines import sample
from tests.captioners.hub import snapshot
from tests.pipelines.test_build import promised
from tests.pipelines.test_datasets_together import ledger, rows
from tests.pipelines.test_runners import portable

CLIPS = 12
MODELS = {"caption": "mu-llama/MU-LLaMA", "image_caption": "Salesforce/blip-image-captioning-base",
          "video_caption": "Neleac/timesformer-gpt2-video-captioning"}
LLM = "mosaicml/mpt-7b-chat"


def command(out: Path, *options: str, workers: int = 2, limit: int = CLIPS) -> list[str]:
    return [sys.executable, "-m", "pipelines", "build", "--out", str(out), "--captions", "models", "--limit",
            str(limit), "--workers", str(workers), *options]


def build(hub: dict[str, str], out: Path, *options: str, expect: int = 0, **given) -> str:
    """Run a build as a user does; returns what it said on standard error."""
    done = subprocess.run(command(out, *options, **given), env=os.environ | hub, capture_output=True, text=True)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stderr


def worked(out: Path) -> dict[str, int]:
    """How many rows each stage of the last run worked on, of those that did anything."""
    run = json.loads((out / "run.json").read_text())
    assert run["state"] == "done"
    return {name: stage["clips"] for name, stage in run["stages"].items() if stage["clips"]}


@pytest.fixture(scope="module")
def undisturbed(toy_hub, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    build(toy_hub, out, workers=1)
    return out


def tried(undisturbed: Path, out: Path) -> Path:
    """A place for a build that need not load each model once to know that it can be."""
    shutil.copytree(undisturbed / "stages" / "models", out / "stages" / "models")
    return out


def test_every_clip_is_captioned_by_the_models_and_says_so(undisturbed):
    bad = {key for key in sample.ids(0, CLIPS) if sample.spec(key).bad}
    texts: dict[str, list[str]] = {name: [] for name in MODELS}
    for dataset in splits.SIZES:
        lines, found = ledger(undisturbed, dataset), rows(undisturbed, dataset)
        assert {row["id"] for row in found} == {line["id"] for line in lines if line["outcome"] == "done"}
        assert not any(line["outcome"] == "failed" for line in lines)
        if dataset in ("mucaps", "muimage", "muvideo", "musicqa"):
            losses = Counter(line["outcome"] for line in lines if line["id"] not in bad)
            assert losses["done"] >= 0.9 * (CLIPS - len(bad)), losses
        for row in found:
            for name in MODELS.keys() & row.keys():
                owner = name.removesuffix("caption")
                assert row[f"{owner}captioner"] == MODELS[name]
                commits = row[f"{owner}captioner_revision"].split("+")
                assert all(len(one) == 40 and int(one, 16) for one in commits)
                texts[name].append(row[name])
            if "conversation" in row:
                assert (row["instructor"], row["prompt_version"]) == (LLM, prompts.VERSION)
                assert len(row["instructor_revision"]) == 40
        assert {row["caption_prompt"][:18] for row in found} <= {"Describe the music"}
    for name, said in texts.items():
        assert all(text.strip() for text in said)
        assert len(set(said)) >= 0.7 * (CLIPS - len(bad)), f"{name}: what is different sounds and looks alike"


@pytest.mark.slow
def test_neither_workers_nor_batches_change_a_byte(toy_hub, undisturbed, tmp_path):
    """With batches of one, nothing is padded, nothing is sorted, and each row is alone with its model."""
    for name, some, options, workers in (("alone", ("mucaps", "muimage", "muvideo"), ("--batch", "1"), 1),
                                         ("three", ("mucaps", "muvideo"), ("--batch", "3"), 2)):
        out = tried(undisturbed, tmp_path / name)
        build(toy_hub, out, *options, "--datasets", ",".join(some), workers=workers)
        one, whole = ({file: data for file, data in promised(place).items() if file.startswith(
            tuple(f"datasets/{dataset}/" for dataset in some))} for place in (out, undisturbed))
        assert one == whole and len(one) >= 3 * len(some)


def test_a_finished_build_asks_no_model(toy_hub, undisturbed):
    before = promised(undisturbed)
    build(toy_hub, undisturbed, workers=1)
    assert (worked(undisturbed), promised(undisturbed)) == ({}, before)


def test_the_card_and_the_statistics_tell_who_wrote(undisturbed):
    made = json.loads((undisturbed / "stats.json").read_text())["made"]["captioners"]
    assert {kind: told.partition("@")[0] for kind, told in made.items()} == {
        "music": MODELS["caption"], "image": MODELS["image_caption"], "video": MODELS["video_caption"], "instruct": LLM}
    card = (undisturbed / "datasets" / "muimage" / "README.md").read_text()
    assert all(made[kind] in card for kind in ("music", "image", "instruct")) and made["video"] not in card


@pytest.mark.slow
def test_killed_while_models_write_and_finished_is_the_same_to_the_byte(toy_hub, undisturbed, tmp_path):
    out, draw = tried(undisturbed, tmp_path / "out"), random.Random(6)
    asked = ("caption", "image-caption", "instruct-muedit", "instruct-musicqa")
    killed = []
    for name in asked:
        process = subprocess.Popen(command(out, workers=1), env=os.environ | toy_hub, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None:
            if any((out / "stages" / name).rglob("*")):  # its first shard is begun
                time.sleep(draw.uniform(0, 1))
                os.killpg(process.pid, signal.SIGKILL)
                if process.wait() == -signal.SIGKILL:
                    killed.append(name)
                break
            time.sleep(0.02)
    assert len(killed) >= 3, "most of the kills were to find a model at work"
    build(toy_hub, out, workers=1)
    assert promised(out) == promised(undisturbed)


UNASKED = """
import sys
from captioners import model
from pipelines import __main__ as cli
load = model.load
def asked(spec):
    if spec.kind != "instruct":
        raise RuntimeError(f"{spec.name} is asked")
    return load(spec)
model.load = asked
sys.exit(cli.main(sys.argv[1:]))
"""


def test_what_was_captioned_is_not_captioned_again_under_another_name(toy_hub, undisturbed, tmp_path):
    """The cache is of contents: a file that was renamed has the caption that it had."""
    media = tmp_path / "media"
    media.mkdir()
    keys = [key for key in sample.ids(0, 20) if not sample.spec(key).bad][:3]
    for key in keys:
        (media / f"{key}.mp4").write_bytes(sample.render(key))
    options = ("--source", "folder", "--media", str(media), "--datasets", "mucaps,muvideo")
    build(toy_hub, tried(undisturbed, tmp_path / "out"), *options, workers=1)
    before = {row["audio"]["bytes"]: (row["caption"], row["caption_seed"]) for row in rows(tmp_path / "out", "mucaps")}
    for key in keys:
        (media / f"{key}.mp4").rename(media / f"again {key}.mp4")
    done = subprocess.run([sys.executable, "-c", UNASKED, *command(tmp_path / "out", *options, workers=1)[3:]],
                          env=os.environ | toy_hub, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "out", "mucaps")
    assert all(row["id"].startswith("again") for row in found)
    assert {row["audio"]["bytes"]: (row["caption"], row["caption_seed"]) for row in found} == before
    assert len(before) == 3 and worked(tmp_path / "out").items() >= {"caption": 3, "video-caption": 3}.items()


def test_of_a_model_that_is_named_alone_the_rest_is_measured(toy_hub, tmp_path):
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-m", "pipelines", "build", "--out", str(out), "--limit", "4", "--workers",
                           "1", "--datasets", "muimage", "--blip", MODELS["image_caption"]],
                          env=os.environ | toy_hub, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for row in rows(out, "muimage"):
        assert (row["captioner"], row["image_captioner"], row["instructor"]) == (
            "measured", MODELS["image_caption"], "template")


# What is wrong, and what is said of it before anything is fetched.
def _nowhere(hub: Path, tmp_path: Path) -> list[str]:
    return ["--blip", str(tmp_path / "not-there")]


def _unknown(hub: Path, tmp_path: Path) -> list[str]:
    return ["--llm", "nobody/has-this"]


def _truncated(hub: Path, tmp_path: Path) -> list[str]:
    shutil.copytree(snapshot(hub, MODELS["image_caption"]), tmp_path / "cut")
    for file in [*(tmp_path / "cut").glob("*.safetensors"), *(tmp_path / "cut").glob("*.bin")]:
        file.write_bytes(file.read_bytes()[:-1000])
    return ["--blip", str(tmp_path / "cut")]


def _another_vocabulary(hub: Path, tmp_path: Path) -> list[str]:
    shutil.copytree(snapshot(hub, LLM), tmp_path / "chat")
    told = json.loads((tmp_path / "chat" / "tokenizer.json").read_text())
    told["added_tokens"] = [one for one in told["added_tokens"] if "im_" not in one["content"]]
    (tmp_path / "chat" / "tokenizer.json").write_text(json.dumps(told))
    return ["--llm", str(tmp_path / "chat")]


@pytest.mark.parametrize(("wrong", "code", "said"), [
    (_nowhere, 2, "not-there: no such file or directory, and no Hub id"),
    (_unknown, 2, "nobody/has-this: there is no such directory, and it cannot be fetched"),
    (_truncated, 1, "cut"), (_another_vocabulary, 1, "vocabulary")])
def test_a_model_that_cannot_be_loaded_is_told_of_before_any_work(toy_hub, tmp_path, wrong, code, said):
    options = wrong(Path(toy_hub["HF_HUB_CACHE"]), tmp_path)
    told = build(toy_hub, tmp_path / "out", *options, limit=4, workers=1, expect=code)
    assert said in told and "Traceback" not in told
    assert not (tmp_path / "out" / "stages" / "fetch").exists()


FAULTY = """
import sys
from captioners import model
from pipelines import __main__ as cli
load = model.load
def faulty(spec):
    real = load(spec)
    if spec.kind != "image":
        return real
    def ask(inputs, seeds):
        if len(inputs) > 2:
            raise MemoryError("simulated")
        if any(one["pixels"] == POISON for one in inputs):
            raise FloatingPointError("simulated")
        return ["" if one["pixels"] == MUTE else text for one, text in zip(inputs, real(inputs, seeds))]
    return ask
model.load = faulty
from captioners import inputs
from manifests import shards
from pathlib import Path
pictures = sorted((row["id"], row["image"]) for path in Path(sys.argv[1]).glob("stages/frame/*/*.arrow")
                  for row in shards.read(str(path)) if row["image"])
POISON, MUTE = (inputs.image(image)["pixels"] for _, image in pictures[:2])
print(pictures[0][0], pictures[1][0])
sys.exit(cli.main(["build", "--out", sys.argv[2], "--captions", "models", "--datasets", "muimage", "--workers", "1",
                   "--limit", sys.argv[3]]))
"""


def test_what_one_picture_does_to_the_model_costs_no_other(toy_hub, undisturbed, tmp_path):
    """One that it raises on, one of which it says nothing, and no room for more than two at a time."""
    tried(undisturbed, tmp_path / "out")
    done = subprocess.run([sys.executable, "-c", FAULTY, str(undisturbed), str(tmp_path / "out"), str(CLIPS)],
                          env=os.environ | toy_hub, capture_output=True, text=True)
    poison, mute = done.stdout.split()[:2]
    lines = {line["id"]: line for line in ledger(tmp_path / "out", "muimage")}
    assert (lines[poison]["outcome"], lines[mute]["outcome"]) == ("failed", "caption_failed")
    assert "simulated" in lines[poison]["detail"] and "said nothing" in lines[mute]["detail"]
    whole = {row["id"]: row["image_caption"] for row in rows(undisturbed, "muimage")}
    assert {row["id"]: row["image_caption"] for row in rows(tmp_path / "out", "muimage")} == {
        key: text for key, text in whole.items() if key not in (poison, mute)}
    build(toy_hub, tmp_path / "out", "--datasets", "muimage", workers=1)  # the model is well again
    assert worked(tmp_path / "out")["image-caption"] == 1
    assert set(whole) - {row["id"] for row in rows(tmp_path / "out", "muimage")} == {mute}


@pytest.mark.slow
def test_another_runner_tries_the_models_on_its_workers_and_gives_the_same_bytes(toy_hub, tmp_path):
    options = ("--datasets", "muimage", "--blip", MODELS["image_caption"], "--limit", "6")
    here = [sys.executable, "-m", "pipelines", "build", *options]
    local = subprocess.run([*here, "--out", str(tmp_path / "local"), "--workers", "1"], env=os.environ | toy_hub)
    assert local.returncode == 0
    (tmp_path / "empty").mkdir()
    with portable(Path(sys.executable).parent, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "empty")) as runner:
        ended = subprocess.run([*here, "--out", str(tmp_path / "none"), *runner], env=os.environ | toy_hub,
                               capture_output=True, text=True, timeout=300)
        assert ended.returncode == 1 and not list((tmp_path / "none").rglob("*.arrow"))
        assert f"{MODELS['image_caption']}@" in ended.stderr and "cannot be fetched from the Hub" in ended.stderr
    with portable(Path(sys.executable).parent, **toy_hub) as runner:
        ended = subprocess.run([*here, "--out", str(tmp_path / "out"), *runner], env=os.environ | toy_hub,
                               capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
    assert promised(tmp_path / "out") == promised(tmp_path / "local")
