"""Features of small builds: what is there, what was lost, and that neither kills nor workers change a byte."""
import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manifests import records, shards, storage
from pipelines import __main__ as cli
from pipelines import contents, encode, write
from pipelines import features as pipeline
from tests.conftest import encode as encoded
from tests.conftest import tone
from training import config, features, frozen, mixture, samples, stages, tokenizer
from training.sources import Sources

_TURNS = ("from", "value", "input_modality", "output_modality", "caption")


def sound(hertz: float, seconds: float = 1.0) -> bytes:
    return encoded(tone(seconds, hertz=hertz), 22050, "wav", "pcm_s16le")


def picture(red: int, size: int = 40) -> bytes:
    target = io.BytesIO()
    pixels = np.full((size, size, 3), (red, 90, 30), np.uint8)
    pixels[: red % size] = 255
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


def film() -> bytes:
    return encoded(tone(1.0), 22050, "matroska", "pcm_s16le", pictures=12)


def talk(modality: str, caption: str | None) -> list[dict]:
    music = caption is not None
    return [dict(zip(_TURNS, ("human", "Make it.", modality, None, None), strict=True)),
            dict(zip(_TURNS, ("gpt", "Here.", None, "audio" if music else "text", caption), strict=True))]


def shard(out: Path, dataset: str, split: str, number: int, rows: Iterable[dict]) -> None:
    """One more, as `pipelines.write` lays them out."""
    folder = out / "datasets" / dataset / split
    name = f"data-{number:05d}.arrow"
    shards.write(str(folder / name), write.DATASETS[dataset].features().arrow_schema, rows)
    state = folder / "state.json"
    files = json.loads(state.read_text())["_data_files"] if state.exists() else []
    state.write_text(json.dumps({"_data_files": [*files, {"filename": name}]}))


def medium(data: bytes | None) -> dict:
    return {"bytes": data, "path": "file"}


def small(out: Path) -> None:
    """A build with every dataset: one content under several ids, a sound that is none, and one that is not there."""
    shard(out, "mucaps", "train", 0, [
        {"id": "a", "audio": medium(sound(440)), "caption": " slow jazz "},
        {"id": "b", "audio": medium(sound(440)), "caption": "slow jazz"},
        {"id": "c", "audio": medium(b"RIFF, and then nothing that anybody can play" * 9), "caption": "a song"},
        {"id": "d", "audio": medium(None), "caption": ""}])
    shard(out, "mucaps", "eval", 0, [{"id": "e", "audio": medium(sound(220)), "caption": "loud rock"}])
    shard(out, "musicqa", "train", 0, [
        {"id": "a", "audio": medium(sound(440)), "conversation": talk("audio", None)}])
    shard(out, "muedit", "train", 0, [
        {"id": "a~e", "audio": medium(sound(440, 2.0)), "conversation": talk("audio", "loud rock")}])
    shard(out, "muimage", "train", 0, [
        {"id": "a", "image": medium(picture(10)), "conversation": talk("image", "calm piano")},
        {"id": "b", "image": medium(picture(20)), "conversation": talk("image", "never asked for")[:1]}])
    shard(out, "muvideo", "eval", 0, [
        {"id": "a", "video": medium(film()), "conversation": talk("video", "slow jazz")}])


def pictures(folder: Path, count: int) -> Path:
    """COCO's, in the flat layout; of the last the file is missing."""
    folder.mkdir(parents=True)
    names = [f"{number:03d}.png" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(picture(number))
    (folder / names[-1]).unlink()
    (folder / "captions.json").write_text(json.dumps({name: f"picture {name}" for name in names}))
    return folder / "captions.json"


def run(out: Path, *options: str, workers: int = 1, expect: int = 0) -> None:
    assert cli.main(["features", "--out", str(out), "--workers", str(workers), *options]) == expect


def promised(out: Path) -> dict[str, bytes]:
    files = [*(out / "features").glob("*.arrow"), *(out / "features").glob("[!r]*.json"),
             *(out / "stages").glob("features-*/*/*.arrow")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("built") / "out"
    small(out)
    run(out, "--coco", str(pictures(out.parent / "coco", 4)))
    return out


def test_each_medium_and_caption_has_what_its_model_says_of_it(built):
    there, models = features.opened(str(built)), frozen.choose(config.m2ugen("debug"), {})
    media = {"audio": {"mucaps/a": sound(440), "mucaps/b": sound(440), "mucaps/e": sound(220),
                       "musicqa/a": sound(440), "muedit/a~e": sound(440, 2.0)},
             "image": {"muimage/a": picture(10), "muimage/b": picture(20),
                       **{f"coco/{number:03d}.png": picture(number) for number in range(3)}},
             "video": {"muvideo/a": film()}}
    wanted = {kind: {key: frozen.decode(kind, data) for key, data in some.items()} for kind, some in media.items()}
    wanted["text"] = {features.text_key(text): {"text": text} for text in (
        "slow jazz", "loud rock", "a song", "calm piano")}
    assert there.keys() == wanted.keys()
    for kind, some in wanted.items():
        model = frozen.load(models[kind])
        assert (there[kind].about, there[kind].shape) == (json.loads(json.dumps(models[kind].about())),
                                                          models[kind].shape)
        found = {key: there[kind].read(there[kind].place(key)) for key in some}
        for key, item in some.items():
            torch.testing.assert_close(found[key], model([item])[0], rtol=2**-7, atol=2**-7)
        distinct = {values.view(torch.int16).numpy().tobytes() for values in found.values()}
        assert len(distinct) == {"audio": 3, "image": 5, "video": 1, "text": 4}[kind]
    assert len({there["audio"].place(key) for key in ("mucaps/a", "mucaps/b", "musicqa/a")}) == 1


def test_what_was_lost_is_told_with_its_reason(built, capsys):
    there = features.opened(str(built))
    for kind, key, reason, said in (("audio", "mucaps/c", "decode_error", ""),
                                    ("audio", "mucaps/d", "unreadable", "the row holds no audio"),
                                    ("image", "coco/003.png", "unreadable", "No such file"),
                                    ("image", "muimage/z", "not_encoded", "")):
        with pytest.raises(features.Missing) as missing:
            there[kind].place(key)
        assert missing.value.reason == reason and said in missing.value.detail
    with pytest.raises(features.Missing):
        there["text"].place(features.text_key("never asked for"))
    run(built, "--coco", str(built.parent / "coco" / "captions.json"))
    said = capsys.readouterr().out
    assert "audio: 7 wanted, 5 done; 4 different, 0 new, 4 reused" in said
    assert "image: 6 wanted, 5 done; 5 different, 0 new, 5 reused" in said
    assert "lost      1  decode_error" in said and "mucaps/d: the row holds no audio" in said
    assert "nothing was left to do" in said


def copied(built: Path, out: Path) -> Path:
    out.mkdir()
    for name in ("datasets", "stages", "features"):
        subprocess.run(["cp", "-rp", str(built / name), str(out)], check=True)
    return out


def marked(out: Path, kind: str) -> int:
    return sum(len(json.loads(path.read_text())["rows"]) for path in out.glob(f"stages/features-{kind}/*/*.json"))


def test_a_build_that_grew_encodes_what_is_new_alone(built, tmp_path):
    out = copied(built, tmp_path / "out")
    before = {path: path.read_bytes() for path in out.glob("stages/features-*/*/*")}
    shard(out, "muimage", "train", 1, [
        {"id": "x", "image": medium(picture(20)), "conversation": talk("image", "calm piano")},
        {"id": "y", "image": medium(picture(30)), "conversation": talk("image", "a waltz")}])
    run(out)
    assert {kind: marked(out, kind) - marked(built, kind) for kind in frozen.KINDS} == {
        "audio": 0, "image": 1, "video": 0, "text": 1}
    assert {path: path.read_bytes() for path in before} == before
    there = features.opened(str(out))
    assert there["image"].place("muimage/x") == there["image"].place("muimage/b")
    assert there["image"].place("muimage/y") != there["image"].place("muimage/b")
    with pytest.raises(features.Missing, match="not_encoded"):  # it was not asked for this time
        there["image"].place("coco/000.png")


def test_a_shard_that_is_cut_or_gone_is_made_again(built, tmp_path):
    out = copied(built, tmp_path / "out")
    before = promised(out)
    cut, gone = (next(out.glob(f"stages/features-{kind}/*/*.arrow")) for kind in ("image", "text"))
    cut.write_bytes(cut.read_bytes()[:-300])
    gone.unlink()
    with pytest.raises(ValueError, match="make features"):
        features.opened(str(out))
    run(out, "--coco", str(built.parent / "coco" / "captions.json"))
    assert promised(out) == before


def exchanged(out: Path, name: str, *reds: int) -> Path:
    """muimage's rows of training in a shard of that name, under the ids that they always had, with pictures of these
    reds."""
    folder = out / "datasets" / "muimage" / "train"
    for path in folder.iterdir():
        path.unlink()
    shards.write(str(folder / name), write.DATASETS["muimage"].features().arrow_schema, [
        {"id": key, "image": medium(picture(red)), "conversation": talk("image", "calm piano")}
        for key, red in zip("ab", reds, strict=True)])
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    return folder / name


def test_other_media_under_known_names_are_trained_on_once_they_are_encoded(built, tmp_path):
    """No key is new, no row is missing: what a build has put in the place of its shards would be heard wrongly."""
    out = copied(built, tmp_path / "out")
    stage = dataclasses.replace(stages.STAGES[3], data={"muimage": 1.0})

    def prepared() -> list[torch.Tensor]:
        there = features.opened(str(out))
        made = mixture.prepare(tmp_path / "data", stage, Sources(str(out)), tokenizer.debug(config.m2ugen("debug")),
                               512, there)
        return [there["image"].read(one.places["image"]).clone() for one in made.train]
    run(out)
    before = prepared()
    shard = exchanged(out, "data-00000-of-00001-0123456789ab.arrow", 20, 30)
    with pytest.raises(ValueError, match=rf"{shard}: was not there, or another one, when features of image were "):
        prepared()
    run(out)
    after = prepared()
    model = frozen.load(frozen.choose(config.m2ugen("debug"), {})["image"])
    assert len(before) == 1 and len(after) == 2
    for found, red in zip([*before, *after], (10, 20, 30), strict=True):
        torch.testing.assert_close(found, model([frozen.decode("image", picture(red))])[0], rtol=2**-7, atol=2**-7)


def test_a_shard_that_changed_in_its_place_is_hashed_again(built, tmp_path):
    """Of a name that says nothing, and of the same size."""
    out = copied(built, tmp_path / "out")
    first = exchanged(out, "data.arrow", 20, 30)
    size = first.stat().st_size
    run(out)
    there = features.opened(str(out))["image"]
    a, b = (there.read(there.place(f"muimage/{key}")).clone() for key in "ab")
    exchanged(out, "data.arrow", 30, 20)
    os.utime(first, (1, 1))
    assert first.stat().st_size == size
    run(out)
    there = features.opened(str(out))["image"]
    assert not torch.equal(a, b)
    assert torch.equal(there.read(there.place("muimage/a")), b) and torch.equal(there.read(there.place("muimage/b")), a)


def test_home_is_found_in_what_no_shell_has_seen(tmp_path, monkeypatch, capsys):
    captions = pictures(tmp_path / "home" / "pictures", 3)
    (tmp_path / "home" / "texts").mkdir()
    captions.rename(tmp_path / "home" / "texts" / "captions.json")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["features", "--out", "~/out", "--workers", "1", "--coco", "~/texts/captions.json,~/pictures"]) == 0
    assert "image: 3 wanted, 2 done" in capsys.readouterr().out
    assert features.opened(str(tmp_path / "home" / "out"))["image"].place("coco/000.png") >= 0


def test_what_passes_is_asked_again_and_its_newer_outcome_counts(built, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for number, name in enumerate("ab"):
        shard(out, "muimage", "train", number, [{"id": name, "image": medium(picture(70 + number))}])
    real, poison = encode.ask, frozen.decode("image", picture(70))

    def ask(inputs: list[dict], encoder: encode.Encoder) -> list:
        if poison in inputs:
            raise FloatingPointError("simulated")
        return real(inputs, encoder)

    monkeypatch.setattr(encode, "ask", ask)
    run(out)
    with pytest.raises(features.Missing, match="simulated"):
        features.opened(str(out))["image"].place("muimage/a")
    monkeypatch.setattr(encode, "ask", real)
    run(out)
    there = features.opened(str(out))["image"]
    assert there.place("muimage/a") != there.place("muimage/b") and marked(out, "image") == 3
    before = promised(out)
    run(out)
    assert promised(out) == before and marked(out, "image") == 3


def test_a_file_that_changed_is_looked_at_again(tmp_path):
    captions = pictures(tmp_path / "coco", 3)
    run(tmp_path / "out", "--coco", str(captions))
    first = features.opened(str(tmp_path / "out"))["image"]
    kept, other = (first.read(first.place(f"coco/{name}.png")) for name in ("000", "001"))
    (captions.parent / "000.png").write_bytes(picture(99, 41))
    (captions.parent / "002.png").write_bytes(picture(1))
    run(tmp_path / "out", "--coco", str(captions))
    second = features.opened(str(tmp_path / "out"))["image"]
    assert not torch.equal(second.read(second.place("coco/000.png")), kept)
    assert torch.equal(second.read(second.place("coco/002.png")), other)
    assert marked(tmp_path / "out", "image") == 3


@pytest.mark.slow
def test_processes_do_not_change_a_byte(tmp_path, monkeypatch):
    captions = pictures(tmp_path / "coco", 14)
    monkeypatch.setattr(pipeline, "_LITTLE", 0.1)  # as if there were more of them
    for workers in (1, 2):
        run(tmp_path / str(workers), "--coco", str(captions), "--batch", "3", workers=workers)
    one, two = (promised(tmp_path / name) for name in "12")
    assert one == two and len([name for name in one if "features-image" in name]) == 5


CRASH = """
import os, sys
from pipelines import __main__ as cli
left, replace = int(sys.argv[1]), os.replace
def dying(*names):
    global left
    left -= "/features" in names[1] and not names[1].endswith("run.json")
    if left < 0:
        os._exit(9)
    replace(*names)
os.replace = dying
sys.exit(cli.main(["features", "--out", sys.argv[2], "--coco", sys.argv[3], "--workers", "1", "--batch", "3"]))
"""


@pytest.mark.parametrize("renames", [9, *(pytest.param(some, marks=pytest.mark.slow) for some in (0, 4, 13))])
def test_killed_and_run_again_it_is_the_same_to_the_byte(tmp_path, renames):
    """It dies in place of the n-th file: two are the hashing's, two each of five shards', two the index's."""
    captions = pictures(tmp_path / "coco", 14)
    died = subprocess.run([sys.executable, "-c", CRASH, str(renames), str(tmp_path / "out"), str(captions)],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    assert died.returncode == 9
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("stages/features-image/*/[!.]*.json")}
    assert len(before) == max(0, min(5, (renames - 2) // 2))
    run(tmp_path / "out", "--coco", str(captions), "--batch", "3")
    run(tmp_path / "whole", "--coco", str(captions), "--batch", "3")
    assert promised(tmp_path / "out") == promised(tmp_path / "whole")
    assert {path: path.read_bytes() for path in before} == before, "what was done is not done again"
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(storage.TEMPORARY)]


def test_wrong_arguments_are_told_of(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model").mkdir()
    for out, options, said in ((tmp_path / "none", (), "there are no datasets"),
                               (tmp_path, ("--coco", "c.json", "--vit", str(tmp_path / "gone")), "gone"),
                               (tmp_path, ("--coco", "c.json", "--mert", str(tmp_path / "model")), "model"),
                               (tmp_path, ("--coco", ""), "--coco: empty"),
                               (tmp_path, ("--coco", "c.json", "--runner", "DaskRunner"), "loses data"),
                               (tmp_path, ("--coco", "c.json", "--max-file-seconds", "0"), "more than 0"),
                               (tmp_path, ("--coco", "c.json", "--nonsense", "1"), "--nonsense")):
        with pytest.raises(SystemExit) as left:
            cli.main(["features", "--out", str(out), *options])
        assert left.value.code == 2 and said in capsys.readouterr().err


def test_nothing_usable_is_told_of(tmp_path, capsys):
    run(tmp_path / "out", "--coco", str(pictures(tmp_path / "coco", 1)), expect=3)
    assert "nothing usable" in capsys.readouterr().err
    run(tmp_path / "out", "--coco", str(tmp_path / "coco" / "no.json"), expect=1)
    assert "no.json: no such file" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_is_told_of_before_any_work(tmp_path, capsys):
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel
    made = ViTModel(ViTConfig(hidden_size=32, num_attention_heads=2, intermediate_size=64, num_hidden_layers=1),
                    add_pooling_layer=False)
    made.save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil().save_pretrained(tmp_path / "vit")
    weights = tmp_path / "vit" / "model.safetensors"
    whole = weights.read_bytes()
    captions = pictures(tmp_path / "coco", 3)
    weights.write_bytes(whole[:-1000])
    run(tmp_path / "out", "--coco", str(captions), "--vit", str(tmp_path / "vit"), expect=1)
    assert str(tmp_path / "vit") in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("stages/features-*"))


def test_a_dataset_without_media_or_not_whole_ends_it(tmp_path, capsys):
    out = tmp_path / "out"
    shards.write(str(out / "datasets" / "muimage" / "train" / "x.arrow"), records.VERDICT,
                 [{"id": "a", "outcome": "", "detail": ""}])
    (out / "datasets" / "muimage" / "train" / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    run(out, expect=1)
    assert "no column image" in capsys.readouterr().err
    (out / "datasets" / "muimage" / "train" / "x.arrow").write_bytes(b"nothing")
    run(out, expect=1)
    assert "x.arrow: not a readable Arrow shard" in capsys.readouterr().err


def test_captions_are_those_that_the_trainer_takes(built):
    row = {"id": "a", "conversation": talk("image", "\n a waltz\n")}
    (texts,) = samples.exchanges(3, "muimage", row)
    assert contents.captions("muimage", row) == ["a waltz"] == [texts.music.strip()]
    asked = {row["id"]: row for row in contents.wanted(Sources(str(built)))}
    assert sorted({one.rpartition("/")[0] for one in asked}) == [
        "mucaps/eval", "mucaps/train", "muedit/train", "muimage/train", "musicqa/train", "muvideo/eval"]
