"""The models' speed and memory: forward, forward and backward, generation with and without the cache, and loading.

`make bench-model` writes benchmarks/model-SIZE-DEVICE.json. Weights are random. `debug` runs on a CPU in seconds; the
paper's size wants a GPU: `--size 7b --device cuda`. Loading comes after the model of the other measurements is freed.
"""
import argparse
import gc
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from training import config, generate, loss, published, stored, weights  # noqa: E402
from training.checkpoint import write_published  # noqa: E402
from training.fill import fill  # noqa: E402
from training.m2ugen import M2UGen  # noqa: E402

BATCH, LENGTH = 4, 256      # samples of so many tokens
PROMPT, NEW = 64, 64        # of generation
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("debug", "7b"), default="debug")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", help="default: benchmarks/model-SIZE-DEVICE.json")
    values = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(values.device)
    dtype = torch.bfloat16 if values.device == "cuda" else torch.float32
    shape = config.m2ugen(values.size)
    results = {"machine": machine(device), "size": values.size, "dtype": str(dtype).removeprefix("torch."),
               "batch": BATCH, "tokens": LENGTH, "rounds": values.rounds}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        results |= computing(shape, device, dtype, values.rounds, path)
        results["loading"] = loading(path, shape, device, dtype)
    text = json.dumps(results, indent=1)
    Path(values.out or HERE / f"model-{values.size}-{values.device}.json").write_text(text + "\n")
    print(text)


def computing(shape: config.Config, device: torch.device, dtype: torch.dtype, rounds: int, path: str) -> dict:
    """All but loading, whose file it leaves at `path`. When it returns, its model is gone."""
    model = random_model(shape, device, dtype)
    results = {"parameters": sum(one.numel() for one in model.parameters()),
               "model_gb": round(sum(one.numel() * one.element_size() for one in model.parameters()) / 2**30, 3)}
    results["forward"], results["forward_and_backward"] = passes(model, device, rounds)
    results["generation"] = generation(model, rounds)
    results["peak_memory"] = peak(device)
    write_published(path, shape, {name: stored.in_memory("the model", one) for name, one in model.state_dict().items()})
    left = weakref.ref(model)
    del model
    gc.collect()  # hooks make it refer to itself
    if left() is not None:
        raise RuntimeError("the first model is still held; what loading takes would be measured beside it")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return results


def machine(device: torch.device) -> dict:
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return gpu | {"cpu": _cpu(), "cores": os.cpu_count(), "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
            "python": platform.python_version(), "torch": torch.__version__}


def random_model(shape: config.Config, device: torch.device, dtype: torch.dtype) -> M2UGen:
    """Made where it runs: 7b in float32 would not fit beside itself."""
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = M2UGen(shape)
        finally:
            torch.set_default_dtype(before)
    with torch.no_grad():
        for gate in model.prefix.gates:
            gate.fill_(0.1)
    # What stage 3 trains: adapters, prefix, gates, projector and LoRA; the base is frozen.
    for name, one in model.named_parameters():
        one.requires_grad_(one.requires_grad and (not name.startswith("llama.") or "lora_" in name))
    return model


def samples(model: M2UGen, device: torch.device) -> tuple[torch.Tensor, dict, torch.Tensor, list[torch.Tensor]]:
    """A batch of mixed modalities, each with [AUD0..7] at its end and a music target."""
    shape, generator = model.config, torch.Generator().manual_seed(1)
    tokens = torch.randint(3, shape.vocabulary, (BATCH, LENGTH), generator=generator)
    tokens[:, -shape.audio_tokens:] = torch.tensor(shape.audio_ids)
    labels = tokens.masked_fill(torch.arange(LENGTH) < LENGTH // 2, loss.IGNORED)
    encoded = {one.name: [torch.randn(one.tokens, one.width, generator=generator).to(device)
                          if row % len(shape.modalities) == place else None for row in range(BATCH)]
               for place, one in enumerate(shape.modalities)}
    targets = [torch.randn(shape.projector.queries, shape.projector.out, generator=generator).to(device)] * BATCH
    return tokens.to(device), encoded, labels.to(device), targets


def passes(model: M2UGen, device: torch.device, rounds: int) -> tuple[dict, dict]:
    tokens, encoded, labels, targets = samples(model, device)

    def forward() -> torch.Tensor:
        return loss.losses(model, model(tokens, encoded=encoded), labels, targets).total

    def both() -> None:
        model.zero_grad(set_to_none=True)
        forward().backward()

    with torch.no_grad():
        quick = timed(forward, device, rounds)
    whole = timed(both, device, rounds)
    return tuple({"seconds": round(seconds, 5), "samples_per_second": round(BATCH / seconds, 2),
                  "tokens_per_second": round(BATCH * LENGTH / seconds, 1)} for seconds in (quick, whole))


def generation(model: M2UGen, rounds: int) -> dict:
    prompts = [list(range(3, 3 + PROMPT - row)) for row in range(BATCH)]
    found = {}
    for name, cached in (("cached", True), ("uncached", False)):
        def run(cached: bool = cached) -> None:
            generate.generate(model, prompts, seeds=range(BATCH), max_new=NEW, eos=[], cached=cached)
        seconds = timed(run, model.prefix.query.device, max(2, rounds // 2))
        found[name] = {"tokens_per_second": round(BATCH * NEW / seconds, 1), "seconds": round(seconds, 4)}
    return found | {"batch": BATCH, "prompt": PROMPT, "new": NEW}


def loading(path: str, shape: config.Config, device: torch.device, dtype: torch.dtype) -> dict:
    """From a published-style file in safetensors, into a model that was never allocated."""
    size, cache = os.path.getsize(path), uncached(path)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with torch.device("meta"):
        empty = M2UGen(shape)
    synchronise(device)
    start = time.perf_counter()
    checkpoint = published.recognise(weights.open_weights(path), shape)
    fill(empty, published.ours(checkpoint, shape), dtype=dtype, device=str(device))
    synchronise(device)
    seconds = time.perf_counter() - start
    return {"file_gb": round(size / 2**30, 3), "page_cache": cache, "seconds": round(seconds, 3),
            "gb_per_second": round(size / 2**30 / seconds, 3), "peak_memory": peak(device)}


def uncached(path: str) -> str:
    """Ask the system to forget the file's pages, so that it is read from its disk; what became of that, in words."""
    if not hasattr(os, "posix_fadvise"):
        return "the file may be in it: this system cannot be asked to drop it"
    with open(path, "rb+") as file:
        os.fsync(file.fileno())  # pages that are not written yet are not dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return "the system was asked to drop the file before it was read (a file system in memory keeps it)"


def timed(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The median of some rounds, in seconds; the first is not counted."""
    found = []
    for _ in range(rounds + 1):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(device: torch.device) -> dict:
    """The GPU's, since its last reset; else the process's since it began, for which there is no reset."""
    if device.type == "cuda":
        return {"gb": round(torch.cuda.max_memory_allocated(device) / 2**30, 3), "of": "the GPU, in this part"}
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"gb": round(kilobytes / 2**20, 3), "of": "the process, since it began"}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
