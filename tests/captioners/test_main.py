"""python -m captioners, as a user calls it: toys under the production ids, and no network."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from captioners import blip, chat, mullama, videomae
from pipelines import sample


def run(hub: dict[str, str], *arguments: object, expect: int = 0) -> tuple[list[str], str]:
    """Lines of the output, and what was said beside it."""
    done = subprocess.run([sys.executable, "-m", "captioners", *map(str, arguments)], env=os.environ | hub,
                          capture_output=True, text=True)
    assert done.returncode == expect, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Path]:
    """Six sample clips that are sound, as MP4 files with music and a picture."""
    folder = tmp_path_factory.mktemp("clips")
    keys = [key for key in sample.ids(0, 20) if not sample.spec(key).bad][:6]
    for key in keys:
        (folder / f"{key}.mp4").write_bytes(sample.render(key))
    return sorted(folder.iterdir())


@pytest.mark.parametrize(("kind", "model", "prompt"), [("music", mullama, mullama.QUESTION), ("video", videomae, "")])
def test_files_are_captioned_each_on_its_own(toy_hub, clips, tmp_path, kind, model, prompt):
    broken, absent = tmp_path / "broken\n.mp4", tmp_path / "absent.mp4"
    broken.write_bytes(b"no media at all")
    lines, said = run(toy_hub, kind, *clips, broken, absent, "--json", "--batch", "4", expect=1)
    found = [json.loads(line) for line in lines]
    assert [row["file"] for row in found] == list(map(str, clips))
    assert {(row["captioner"], row["caption_prompt"]) for row in found} == {(model.MODEL, prompt)}
    assert len({row["caption"] for row in found}) >= 5 and all(row["caption"] for row in found)
    told = said.splitlines()
    assert len(told) == 2 and "broken\\n.mp4: decode_error" in told[0] and "absent.mp4" in told[1], said
    alone, said = run(toy_hub, kind, clips[-1], "--batch", "1")
    assert (alone, said) == ([f"{clips[-1]}\t{found[-1]['caption']}"], "")


def test_pictures_and_real_music(toy_hub, shared_media, tmp_path):
    music = sorted((shared_media / "music").iterdir())[:3]
    lines, _ = run(toy_hub, "music", *music)
    assert [line.partition("\t")[0] for line in lines] == list(map(str, music))
    assert len({line.partition("\t")[2] for line in lines}) == 3
    from PIL import Image

    from manifests import media
    frames = [media.frames(path.read_bytes(), 1)[0] for path in sorted((shared_media / "video").iterdir())
              if path.suffix in (".mp4", ".webm", ".mkv")][:2]
    pictures = [tmp_path / f"{number}.png" for number in range(len(frames))]
    for path, frame in zip(pictures, frames, strict=True):
        Image.fromarray(frame).save(path)
    lines, _ = run(toy_hub, "image", *pictures)
    assert len({line.partition("\t")[2] for line in lines}) == len(pictures) == 2
    assert all(line.partition("\t")[2].startswith(blip.Settings().prompt) for line in lines)


def test_instructions_from_captions(toy_hub, tmp_path):
    good = [{"dataset": "muimage", "music": "A slow piano piece.", "image": "a dark room"},
            {"dataset": "musicqa", "music": "A fast rock song with drums."},
            {"dataset": "muedit", "source": "A slow song.", "target": "A fast song.", "edit": "pair", "amount": None}]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("\n".join([json.dumps(good[0]), "{not json", json.dumps(good[1]), '["a list"]',
                                '{"dataset": "mudance"}', "[" * 9999, "", json.dumps(good[2])]))
    lines, said = run(toy_hub, "instruct", asked, tmp_path / "none.jsonl", expect=1)
    found = [json.loads(line) for line in lines]
    assert [row["dataset"] for row in found] == ["muimage", "musicqa", "muedit"]
    assert [len(row["conversation"]) for row in found] == [2, 18, 2]
    assert {row["instructor"] for row in found} == {chat.MODEL}
    told = said.splitlines()
    assert [f"asked.jsonl:{number}: " in line for number, line in zip((2, 4, 5, 6), told, strict=False)] == [True] * 4
    assert "unknown dataset 'mudance'" in told[2] and "none.jsonl" in told[4] and len(told) == 5


@pytest.mark.parametrize(("arguments", "said"), [
    (("music", "{file}", "--mullama", "no/where"), "no/where: there is no such directory"),
    (("image", "{file}", "--blip", "{empty}"), "holds no model"),
    (("music", "x.mp3", "y.mp3"), "no such file: x.mp3, y.mp3"),
    (("video", "{file}", "--mullama", "x"), "unrecognized arguments: --mullama"),
    (("instruct", "{file}", "--batch", "0"), "must be at least 1")])
def test_what_cannot_be_loaded_or_is_wrongly_asked_for_ends_at_once(toy_hub, tmp_path, arguments, said):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    lines, told = run(toy_hub, *(one.format(empty=tmp_path / "empty", file=tmp_path / "file") for one in arguments),
                      expect=2)
    assert lines == [] and said in told and "Traceback" not in told
