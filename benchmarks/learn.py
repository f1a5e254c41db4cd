"""`make learn`: do the three stages teach M²UGen to hear, to see and to ask for music? At the debug size, on two cores.

Top to bottom: a build of the sample corpus, a small LLaMA that knows its language, a small MERT and a small ViViT that
know its sounds and films, features, the three stages from several seeds, and stage 1 with its gates shut, as the
released trainer has it. Then held-out clips, whose sources nobody trained on, are asked about: `learning.hearing` says
how it is counted.
benchmarks/learn.json, learn.md and learn.png are what came of it. What is there already in --out is not made again.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from datasets import Dataset, load_from_disk

from benchmarks.learning import ears, eyes, hearing, language, shown
from benchmarks.learning.hearing import Listener
from benchmarks.model import HERE, machine
from captioners import numbered, questions, seen, vocabulary
from manifests import splits
from training import features, pretrained, tokenizer
from training.config import m2ugen
from training.loading import quiet
from training.sources import Sources

MEDIA = {"mucaps": ["audio"], "musicqa": ["audio"], "muimage": ["image", "audio"], "muvideo": ["video", "audio"],
         "muedit": ["audio", "target_audio"]}
# Of each stage, beside the paper's values: rates, lengths and shares for 64 dimensions and minutes.
STAGES = {1: ["--rate", "1e-2", "--batch", "16", "--micro", "16", "--epochs", "4", "--weights",
              "mucaps=1.6,coco=0.5,muvideo=0.9", "--warm-up", "30", "--clip", "1"],
          2: ["--rate", "1e-3", "--batch", "8", "--epochs", "8", "--warm-up", "200", "--clip", "1"],
          3: ["--rate", "3e-3", "--batch", "8", "--micro", "8", "--epochs", "1", "--weights",
              "alpaca=1.5,musicqa=0.25,muedit=2", "--warm-up", "60", "--clip", "1"]}
PHASES = ("pipeline", "models and features", "stages and evaluation")
# An epoch is as good as four: through a gate of zero comes neither what is heard nor a gradient.
SHUT = ["--freeze-gates", "--epochs", "1"]
CORPUS = 6  # the seed of the sample corpus: rates, lengths and shapes were tried out on those of seeds 0 to 5


def main() -> None:
    parser = argparse.ArgumentParser(description="Does it learn? The sample corpus, three stages, held-out clips.")
    parser.add_argument("--out", type=Path, default=Path("data/learn"))
    parser.add_argument("--limit", type=int, default=600, help="clips (default: 600)")
    parser.add_argument("--seeds", default="0,1", help="of the trained parts and of the order (default: 0,1)")
    parser.add_argument("--words", type=int, default=1000, help="steps of the LLaMA's own training (default: 1000)")
    parser.add_argument("--sounds", type=int, default=350, help="steps of the MERT's (default: 350)")
    parser.add_argument("--films", type=int, default=600, help="steps of the ViViT's (default: 600)")
    parser.add_argument("--to", type=Path, default=HERE, help="where the results go (default: benchmarks/)")
    values = parser.parse_args()
    out, seeds = values.out.resolve(), [int(seed) for seed in values.seeds.split(",")]
    made = {"corpus": CORPUS, "limit": values.limit, "words": values.words, "sounds": values.sounds,
            "films": values.films}
    if made != (there := begun(out, made)):
        sys.exit(f"{out} was begun with {there}, and {made} is asked for: give another folder, or remove that one")
    took: dict[str, float] = {}

    with phase(took, "pipeline"):
        run("pipelines", "build", "--out", out, "--limit", values.limit, "--seed", CORPUS,
            "--tempo-edits", 0, "--pitch-edits", 0)
    # One core each: a LLaMA of captions, and a MERT and a ViViT with which features are then made.
    with phase(took, "models and features"), ThreadPoolExecutor(2) as both, ProcessPoolExecutor(
            2, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as cores:
        words = both.submit(timed, took, "LLaMA", lambda: cores.submit(_words, out, values.words).result())

        def encoded() -> dict:
            heard = timed(took, "MERT", lambda: cores.submit(_sounds, out, values.sounds).result())
            watched = timed(took, "ViViT", lambda: cores.submit(_films, out, values.films).result())
            timed(took, "features", lambda: run("pipelines", "features", "--out", out, "--mert", out / "mert",
                                                "--vivit", out / "vivit", "--workers", 1))
            return {"mert": heard, "vivit": watched}
        rest = both.submit(encoded)
        models = {"llama": words.result(), **rest.result()}
    _alpaca(out)
    chains = [*((f"seed {seed}", (1, 2, 3), []) for seed in seeds),
              *((f"seed {seed}, gates shut", (1,), SHUT) for seed in seeds)]
    with phase(took, "stages and evaluation"), ThreadPoolExecutor(2) as both, ProcessPoolExecutor(
            2, mp_context=get_context("spawn")) as cores:
        ready = {name: both.submit(trained, out, took, name, stages, more) for name, stages, more in chains}

        def heard(name: str, stages: Sequence[int]) -> dict:
            ready[name].result()
            return timed(took, f"{name}, evaluation", lambda: cores.submit(evaluated, out, name, stages[-1]).result())
        coming = {name: both.submit(heard, name, stages) for name, stages, _ in chains}
        found = {name: one.result() for name, one in coming.items()}
    took["all"] = sum(took[name] for name in PHASES)
    results = {"machine": machine(torch.device("cpu")), **made,
               "held out": len(_rows(out, "mucaps", splits.EVAL)), "stages": STAGES, "models": models,
               "seconds": {name: round(value) for name, value in took.items()}, "runs": found}
    values.to.mkdir(parents=True, exist_ok=True)
    (values.to / "learn.json").write_text(json.dumps(results, indent=1) + "\n")
    (values.to / "learn.md").write_text(text := shown.table(results))
    shown.plot(results, values.to / "learn.png")
    print(text)


def begun(out: Path, made: dict[str, int]) -> dict[str, int]:
    """With what `out` was begun: what is there is not made again, and must be of the same."""
    out.mkdir(parents=True, exist_ok=True)
    if not (file := out / "begun.json").exists():
        file.write_text(json.dumps(made))
    return json.loads(file.read_text())


@contextmanager
def phase(took: dict[str, float], name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    took[name] = time.monotonic() - start
    print(f"{name}: {took[name]:.0f} s", flush=True)


def timed(took: dict[str, float], name: str, work: Callable) -> object:
    with phase(took, name):
        return work()


def run(module: str, *arguments: object) -> None:
    """A command of ours in a process of its own; what it says goes by, and where it fails, so do we. It has one thread:
    there are two at a time."""
    said = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if said.returncode:
        sys.exit(f"python -m {module} {' '.join(map(str, arguments))} failed:\n{said.stdout}")


def _words(out: Path, steps: int) -> dict:
    return _learnt(out / "llama", lambda folder: language.train(Sources(str(out)), folder, steps=steps))


def _sounds(out: Path, steps: int) -> dict:
    return _learnt(out / "mert", lambda folder: ears.train(*_parts(out, "mucaps"), folder, steps=steps))


def _films(out: Path, steps: int) -> dict:
    return _learnt(out / "vivit", lambda folder: eyes.train(*_parts(out, "muvideo"), folder, steps=steps))


def _parts(out: Path, dataset: str) -> tuple[Dataset, Dataset]:
    return _rows(out, dataset, splits.TRAIN), _rows(out, dataset, splits.EVAL)


def _learnt(folder: Path, train: Callable[[Path], dict]) -> dict:
    """What a model scored when it was trained; that is written last, when the model is whole."""
    file = folder / "learnt.json"
    if not file.exists():
        with quiet():
            found = train(folder)
        file.write_text(json.dumps(found))
    return json.loads(file.read_text())


def _alpaca(out: Path) -> None:
    """Questions about texts, in Alpaca's form, so that stage 3 has some without a medium too: what a caption says."""
    exchanges = [{"instruction": question, "input": row["caption"], "output": answer}
                 for row in _rows(out, "mucaps", splits.TRAIN, media=False)
                 for question, answer in asked(row)[:2]]
    (out / "alpaca.json").write_text(json.dumps(exchanges))


def trained(out: Path, took: dict[str, float], name: str, stages: Sequence[int], more: Sequence[str]) -> None:
    """The model of `name` ("seed 0", ...), by `make train-stage1` and what follows it."""
    for stage in stages:
        with phase(took, f"{name}, stage {stage}"):
            run("training", "train", "--stage", stage, "--out", out, "--run", _run(out, name), "--llama", out / "llama",
                "--alpaca", out / "alpaca.json", "--seed", name.split()[1].rstrip(","), *STAGES[stage], *more)


def evaluated(out: Path, name: str, last: int) -> dict:
    """What held-out clips are asked: captions after stage 1, of music after the last too; retrieval after the two that
    teach it; all else after the last."""
    torch.set_num_threads(1)
    found: dict = {"validation": {}}
    for stage in sorted({1, last}):
        listener = _listener(out, name, stage)
        found[f"captions after stage {stage}"] = {
            kind: hearing.captions(listener, kind, dataset, [row["id"] for row in rows], [truth(row) for row in rows],
                                   read)
            for kind, (dataset, truth, read) in CAPTIONED.items() if stage == 1 or kind == "audio"
            for rows in [_rows(out, dataset, splits.EVAL, media=False)]}
    for stage in range(1, last + 1):
        validation = json.loads((_run(out, name) / f"stage{stage}" / "run.json").read_text())["validation"]
        found["validation"][stage] = [{part: one[part] for part in ("text", "music")} for one in
                                      (validation[0], validation[-1])]
    if last < 3:
        return found
    clips = _rows(out, "mucaps", splits.EVAL, media=False)
    captions = [row["caption"] for row in clips]
    found["retrieval"] = {f"after stage {stage}": hearing.retrieval(_listener(out, name, stage), captions)
                          for stage in (2, last)}
    about = [(row["id"], turn["value"]) for row in _rows(out, "musicqa", splits.EVAL, media=False)
             for turn in row["conversation"][8::2]]
    facts = {row["id"]: hearing.music(vocabulary.facts(row)) for row in clips}
    found["answers"] = hearing.answers(listener, [key for key, _ in about], [question for _, question in about],
                                       [facts[key] for key, _ in about])
    found["music"] = _music(out, listener, clips)
    return found


def _listener(out: Path, name: str, stage: int) -> Listener:
    model = pretrained.load(_run(out, name) / f"stage{stage}" / "model", out / "llama")[0]
    return Listener(model, tokenizer.debug(m2ugen("debug")), features.opened(str(out)))


def _music(out: Path, listener: Listener, clips: Dataset) -> dict[str, dict]:
    """Where audio tokens come, and where they do not, by what is given."""
    found = {}
    requests = {"text": ("muimage", None), "image": ("muimage", "image"), "video": ("muvideo", "video"),
                "music": ("muedit", "audio")}
    for name, (dataset, kind) in requests.items():
        if not (out / "datasets" / dataset / splits.EVAL).is_dir():  # of few clips no pair may be held out
            continue
        rows = _rows(out, dataset, splits.EVAL, media=False)
        wanted = [row["conversation"][0]["value"] for row in rows]
        heard = {kind: listener.medium(kind, dataset, [row["id"] for row in rows])} if kind else None
        found[f"{name}: request"] = hearing.music_comes(listener, wanted, heard)
    found["a caption alone, as in stage 2: request"] = hearing.music_comes(
        listener, [row["caption"] for row in clips], None)
    texts = [f"{question}\n\n{row['caption']}" for row in clips for question, _ in asked(row)[:1]]
    found["text: question"] = hearing.music_comes(listener, texts, None)
    rows = _rows(out, "musicqa", splits.EVAL, media=False)
    found["music: question"] = hearing.music_comes(
        listener, [row["conversation"][8]["value"] for row in rows],
        {"audio": listener.medium("audio", "musicqa", [row["id"] for row in rows])})
    for kind in ("image", "video"):
        rows = _rows(out, f"mu{kind}", splits.EVAL, media=False)
        found[f"{kind}: to describe"] = hearing.music_comes(
            listener, [None] * len(rows), {kind: listener.medium(kind, f"mu{kind}", [row["id"] for row in rows])})
    return found


def asked(row: Mapping) -> list[tuple[str, str]]:
    """Questions about a caption that it answers, with the answers; the same for a row in every run."""
    return numbered.opened(questions.opened(random.Random(row["id"]), {"caption": row["caption"]}))


CAPTIONED = {"audio": ("mucaps", lambda row: hearing.music(vocabulary.facts(row)),
                       lambda text: hearing.music(vocabulary.claims(text))),
             "image": ("muimage", lambda row: hearing.sight(seen.claims(row["image_caption"])),
                       lambda text: hearing.sight(seen.claims(text))),
             "video": ("muvideo", lambda row: hearing.sight(seen.claims(row["video_caption"])),
                       lambda text: hearing.sight(seen.claims(text)))}


def _run(out: Path, name: str) -> Path:
    return out / "runs" / name.replace(", ", "-").replace(" ", "-")


def _rows(out: Path, dataset: str, split: str, media: bool = True) -> Dataset:
    found = load_from_disk(str(out / "datasets" / dataset / split))
    return found if media else found.remove_columns([one for one in MEDIA[dataset] if one in found.column_names])


if __name__ == "__main__":
    main()
