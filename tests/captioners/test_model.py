import fcntl
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
import torch

from captioners import device, held, inputs, model
from captioners.model import Spec
from tests.captioners import hub


def snapshot(toys: dict[str, str], name: str) -> str:
    return str(hub.snapshot(Path(toys["HF_HUB_CACHE"]), name))


@pytest.fixture
def blip(toy_hub) -> Spec:
    return model.choose("image", {"image": snapshot(toy_hub, "Salesforce/blip-image-captioning-base")})


@pytest.fixture
def video(toy_hub) -> Spec:
    return model.choose("video", {
        "video": snapshot(toy_hub, "Neleac/timesformer-gpt2-video-captioning"),
        "processor": snapshot(toy_hub, "MCG-NJU/videomae-base"),
        "tokenizer": snapshot(toy_hub, "openai-community/gpt2")})


def test_a_spec_tells_what_its_words_follow_from(blip, video):
    assert pickle.loads(pickle.dumps(blip)) == blip and hash(blip) == hash(pickle.loads(pickle.dumps(blip)))
    assert (blip.name, blip.prompt) == ("Salesforce/blip-image-captioning-base", "the image shows")
    assert replace(blip, batch=1).version() == blip.version()
    others = [replace(blip, dtype="bfloat16"), replace(blip, quantize="4bit"), replace(blip, module="lavis"),
              replace(blip, settings=replace(blip.settings, max_new=7))]
    assert all(other.version() != blip.version() for other in others)
    assert video.revision.split("+") == [pinned.revision for _, pinned in video.files] and len(video.files) == 3
    told = replace(blip, dtype="bfloat16", quantize="8bit", settings=replace(blip.settings, beams=3)).revision
    assert told == f"{blip.revision};bfloat16;8bit;beams=3"
    assert asdict(video.settings)["frames"] == 8


def test_what_an_input_is_made_by(blip, video):
    assert model.decoder(blip) is inputs.image
    made = model.decoder(video)
    assert (made.func, made.keywords) == (inputs.video, {"count": 8})


def test_a_process_holds_one_model(blip, video):
    def asked(spec: Spec) -> weakref.ref:
        with model.asking(spec) as found:
            return weakref.ref(found)

    first = asked(blip)
    assert first() is asked(blip)() is not None
    second = asked(video)
    assert first() is None, "the first is gone, or two would not fit"
    held.release()
    assert second() is None


def test_one_thread_asks_at_a_time(blip):
    """Runners work in several threads of a process, and models keep what they hear."""
    inside, most = [], []

    def ask() -> None:
        with model.asking(blip):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_a_changed_file_is_another_revision(toy_hub, tmp_path, blip):
    import shutil
    shutil.copytree(blip.files[0][1].name, tmp_path / "own")
    one = model.choose("image", {"image": str(tmp_path / "own")})
    assert one.revision == blip.revision
    (tmp_path / "own" / "tokenizer_config.json").write_text("{}")
    assert model.choose("image", {"image": str(tmp_path / "own")}).revision != blip.revision


def _killed(spec: Spec) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_while_it_loads_is_too_little_memory(blip, monkeypatch):
    monkeypatch.setattr(model, "load", _killed)
    with pytest.raises(ValueError, match="as where there is too little memory"):
        model.try_out(blip)


def test_a_model_is_tried_out_elsewhere(blip, tmp_path):
    held._held.clear()
    model.try_out(blip)
    assert not held._held
    gone = replace(blip, files=(("image", replace(blip.files[0][1], name=str(tmp_path / "moved"))),))
    with pytest.raises(ValueError, match=r"moved: is not there"):
        model.try_out(gone)


def test_where_there_is_no_gpu_it_is_the_cpu():
    if device.there():
        pytest.skip("there is a GPU")
    assert device.claim() == "cpu"
    device.release()


ORPHAN = """
import sys, time
from captioners import model
def loading(spec):
    open(sys.argv[1], "w").write(str(__import__("os").getpid()))
    time.sleep(600)
if __name__ == "__main__":
    model.try_out(None)
else:
    model.load = loading
"""


def test_a_trial_ends_with_whoever_began_it(tmp_path):
    """Or it would keep a GPU for ever."""
    (tmp_path / "orphan.py").write_text(ORPHAN)
    process = subprocess.Popen([sys.executable, str(tmp_path / "orphan.py"), str(tmp_path / "pid")],
                               env=os.environ | {"PYTHONPATH": os.getcwd()})
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    os.kill(child, 0)
    process.kill()
    process.wait()
    for _ in range(200):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("it lived on")


class Cards:
    """Two GPUs, as far as claiming goes; the second has more memory left."""
    def __init__(self, monkeypatch, tmp_path):
        monkeypatch.setattr(device, "there", lambda: 2)
        monkeypatch.setattr(device, "_lock", lambda number: tmp_path / f"card-{number}")
        monkeypatch.setattr(device, "_claimed", {})
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (10 + number, 80))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def taken(path: Path) -> bool:
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_each_process_claims_a_gpu_of_its_own(monkeypatch, tmp_path):
    Cards(monkeypatch, tmp_path)
    with open(tmp_path / "card-0", "w") as other:  # locks are of open files: this stands for another process
        fcntl.flock(other, fcntl.LOCK_EX)
        assert device.claim() == device.claim() == "cuda:1"
        assert taken(tmp_path / "card-1")
        device.release()
        assert not taken(tmp_path / "card-1")


def test_where_all_gpus_are_taken_nobody_waits(monkeypatch, tmp_path):
    Cards(monkeypatch, tmp_path)
    with open(tmp_path / "card-0", "w") as one, open(tmp_path / "card-1", "w") as other:
        for file in (one, other):
            fcntl.flock(file, fcntl.LOCK_EX)
        assert device.claim() == "cuda:1" and not device._claimed
