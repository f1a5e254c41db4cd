"""README's commands run, in its order, in a copy of the checkout; what it names is there."""
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines import sample
from tests.conftest import encode, tone
from tests.manifests.lists import write_list
from tests.pipelines import hubserver
from tests.training import meta, toys

ROOT = Path(__file__).resolve().parents[1]
CODE = ("manifests", "pairing", "training", "captioners", "pipelines")
README = (ROOT / "README.md").read_text("utf-8")

NOT_RUN = {  # and why; where tests run the like, which
    "make test": "these tests are what it runs",
    "make datasets SOURCE=audioset OUT=audioset LIMIT=100": "YouTube; test_audioset.py, from a server on loopback",
    'make datasets SOURCE=audioset OUT=mine SEGMENTS=my.csv ONTOLOGY=ontology.json '
    'URL="https://media.example.org/{id}"': "a server on the web; test_audioset.py, from one on loopback",
    "make datasets CAPTIONS=models": "models of gigabytes from the Hub; test_models.py, with small ones",
    ".venv/bin/python -m captioners image *.jpg": "a model from the Hub; captioners/test_main.py, with small ones",
    "make train-stage1 OUT=data SIZE=7b LLAMA=meta-llama/Llama-2-7b-hf COCO=annotations/captions_train2017.json GPUS=8":
        "eight GPUs and LLaMA-2; test_makefile.py, small and on two processes",
    "make learn": "twenty minutes; benchmarks/test_learn.py, on few clips and for few steps"}
LATER = ("make publish-model OUT=data REPO=org/model",)  # README trains the model below
DIFFER = (".venv/bin/python -m pipelines diff data mine --json",)  # exits 1, like diff
CLIPS, TAKEN = 8, "sample-0-00003"
ONE_EPOCH = {"make train-": "--epochs 1 --device cpu"}  # ARGS, by what a command begins with


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def shell(snippet: str) -> str:
    return f"python -c {shlex.quote(snippet)}"


def outside() -> dict[str, str]:
    """The environment as it is outside of a `make` that these tests may run in: one inside it would say where it is."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


def commands() -> list[str]:
    """Without the comments beside them."""
    lines = [re.sub(r"\s+# .*", "", line).strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_what_is_not_run_is_there():
    assert {*NOT_RUN, *LATER, *DIFFER} <= set(commands())


def test_what_is_named_is_there():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = re.findall(r"(?:^|`)make ([a-z][a-z0-9-]*)(?: (train-[a-z0-9]+))*", README, re.MULTILINE)
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    assert len(named) > 20 and {one for names in named for one in names if one} <= targets
    cells = re.findall(r"^\| (`[A-Z]+`(?:, `[A-Z]+`)*) \|", README, re.MULTILINE)
    variables = {*re.findall(r"`([A-Z]+)`", " ".join(cells)), *re.findall(r"\b([A-Z_]{2,})=", README)}
    known = set(re.findall(r"\$\(([A-Z_]+)\)|\$\((?:if|or) \$\(([A-Z_]+)\)", makefile.replace("),$(", ") $(")))
    assert len(variables) > 20 and variables - {name for pair in known for name in pair} == set()
    places = [*re.findall(r"\]\(((?!http|#)[^)#]+)", README),
              *re.findall(r"`((?:pipelines|benchmarks|captioners|training|manifests)/[a-z_/.-]*)`", README)]
    assert len(places) > 10 and [place for place in places if not (ROOT / place).exists()] == []
    headings = {re.sub(r"[^a-z -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)", README,
                                                                                            re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings


def test_help_lists_every_target_with_its_variables():
    said = subprocess.run(["make", "help"], cwd=ROOT, env=outside(), capture_output=True, text=True,
                          check=True).stdout.splitlines()
    targets = re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert [line.split()[0] for line in said] == targets
    assert len({re.match(r"\S+ +", line).end() for line in said}) == 1, "in columns"
    for target, variables in {"publish": "OUT= REPO=org/name", "takedown": "IDS=file", "diff": "A= B="}.items():
        assert any(line.startswith(f"{target} ") and variables in line for line in said)


@pytest.mark.slow
def test_options_that_are_named_are_there():
    helps = [["pipelines", "build"], ["pipelines", "diff"], ["training", "train"], ["manifests", "segments"]]
    said = " ".join(subprocess.run([sys.executable, "-m", *one, "--help"], cwd=ROOT, capture_output=True, text=True,
                                   check=True).stdout for one in helps)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    assert len(named) > 30 and named - set(re.findall(r"--[a-z][a-z-]+", said)) == set()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """Where `make` finds its environment ready: this interpreter. Beside it a home; in it the files of README."""
    copy, home = tmp_path / "checkout", tmp_path / "home"
    for name in (*CODE, "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ("Makefile", "README.md", "setup.py", "pyproject.toml", "requirements.txt", "requirements-torch.txt"):
        shutil.copy(ROOT / path, copy)
    python = copy / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (copy / ".venv" / "ready").touch()
    (home / "Music").mkdir(parents=True)
    for number in range(2):
        (home / "Music" / f"song {number}.mp4").write_bytes(sample.render(f"sample-0-{number:05d}"))
    write_list(copy, 'video000001, 30, 40, "/m/04rlf"\n', "my.csv")
    (copy / "ontology.json").write_text(
        '[{"id": "/m/04rlf", "name": "Music", "description": "", "citation_uri": "", "positive_examples": [], '
        '"child_ids": [], "restrictions": []}]')
    (copy / "ids.txt").write_text(f"{TAKEN}  # asked for by mail\n")
    (copy / "music.mp3").write_bytes(encode(tone(3.0), 22050, "mp3", "libmp3lame"))
    torch.save({"model": toys.checkpoint(toys.M2UGEN)}, copy / "checkpoint.pth")
    meta.write(copy / "FILE.safetensors", meta.Sizes(), ["text.text"])
    return copy


@pytest.mark.slow
def test_its_commands_run(checkout):
    """`make` with a small LIMIT, and the Hub's own client against a server on loopback that speaks as the Hub does."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    mine = {name: value for name, value in outside().items() if not name.startswith("HF_")}
    ordered = [one for one in commands() if one not in NOT_RUN]
    ordered = [one for one in ordered if one not in LATER] + [one for one in ordered if one in LATER]
    ordered[1:1] = map(shell, blocks("python"))  # after the sample corpus
    ordered.append(shell(blocks("python", (ROOT / "docs" / "training.md").read_text("utf-8"))[-1]))  # after training
    with hubserver.serving() as hub:
        env = mine | {"HOME": str(checkout.parent / "home"), "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1",
                      "PATH": f"{checkout}/.venv/bin:{mine['PATH']}", "LIMIT": str(CLIPS), "WORKERS": "1",
                      "HF_HOME": str(checkout.parent / "hub"), "HF_ENDPOINT": hub.url, "HF_TOKEN": hubserver.TOKEN,
                      "HF_HUB_DISABLE_XET": "1"}
        for command in ordered:
            arguments = next((value for start, value in ONE_EPOCH.items() if command.startswith(start)), "")
            done = subprocess.run(["bash", "-euc", command], cwd=checkout, capture_output=True, text=True, timeout=300,
                                  env=env | ({"ARGS": arguments} if arguments else {}))
            assert done.returncode == (command in DIFFER), f"{command}\n{done.stdout}\n{done.stderr}"
            assert hubserver.TOKEN not in done.stdout + done.stderr
        published = hub.files("dataset", "org/music")
        assert "config.json" in hub.files("model", "org/model")
    assert TAKEN.encode() not in b"".join(published.values()) and b"squashed" in published["README.md"]
    assert (checkout / "data" / "runs" / "stage3" / "model" / "config.json").is_file()
    assert (checkout / "mine" / "datasets" / "mucaps" / "README.md").is_file()
