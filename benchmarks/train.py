"""Training as it is, and beside it the same model fed one sample at a time with nothing precomputed, as the released
trainer feeds it: samples and tokens a second, MFU, memory, waiting for data.

`make bench-train` writes benchmarks/train-SIZE-DEVICE.json. Weights, rows and media are random; how long rows are and
what they hear is as in the stages' datasets, of which each has as many. `debug` runs on a CPU in minutes; the paper's
size wants a GPU: `--size 7b --device cuda`. With --checkpointing ours alone is measured, for its memory. Both ways take
turns; what is told is the median of their intervals, each behind steps that are not counted.
"""
import argparse
import gc
import io
import json
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import av
import numpy as np
import torch
import transformers as hub
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.model import HERE, machine, peak, synchronise
from manifests import records, shards
from manifests.outcomes import DONE
from training import beginning, cost, encoders, examples, features, frozen, packing, stages, step, targets
from training.config import Config, m2ugen
from training.feed import AHEAD, Feed, Micro, Precomputed
from training.fill import fill
from training.m2ugen import M2UGen
from training.meter import Meter, Reading
from training.parallel import Processes
from training.samples import Medium, Sample, kinds
from training.settings import Settings
from training.sources import Sources
from training.stored import Stored

ROUNDS = 3                      # intervals of each way
WARM = 1 + AHEAD                # steps before each of ours: what was made during the other's turn is used up then
ROWS, DISTINCT = 1024, 24       # of a stage, at least; media of each kind, and captions
PROMPT, ANSWER = 40, (20, 150)  # tokens, of M²UGen's prompt and of answers, most of which have about 55
DEFAULTS = {"debug": (8, 8, "float32"), "7b": (32, 16, "bfloat16")}  # rows of a step and at a time


def main() -> None:
    parser = argparse.ArgumentParser(description="Training, and the same model fed one sample at a time.")
    parser.add_argument("--size", choices=tuple(DEFAULTS), default="debug")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16; debug: float32")
    parser.add_argument("--stages", default="1,2,3")
    for name, default, what in (("steps", 8, "of an interval of ours (one at a time: a quarter)"),
                                ("batch", None, "rows a step (default: 32; debug: 8)"),
                                ("micro", None, "rows at a time (default: 16; debug: 8)"),
                                ("longest", 512, "tokens of a sample"), ("pack", None, "rows of so many tokens")):
        parser.add_argument(f"--{name}", type=int, default=default, help=what)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", help="default: benchmarks/train-SIZE-DEVICE.json; other runs' results stay in it")
    values = parser.parse_args()
    device, (batch, micro, dtype) = torch.device(values.device), DEFAULTS[values.size]
    batch, dtype = values.batch or batch, getattr(torch, values.dtype or dtype)
    if device.type == "cpu":
        torch.set_num_threads(1)  # threads of small products wait for each other where there is other work
        one = torch.randn(1024, 1024, dtype=dtype)
        best = 2 * 1024**3 / min(timeit.repeat(lambda: one @ one, number=1, repeat=10))
    else:
        best = cost.peak(torch.cuda.get_device_name(device))
    out = Path(values.out or HERE / f"train-{values.size}-{values.device}.json")
    results = {"machine": machine(device), "size": values.size, "dtype": str(dtype).removeprefix("torch.")}
    before = json.loads(out.read_text()) if out.exists() else {}
    runs = before["runs"] if results.items() <= before.items() else {}
    results["peak"] = {"tflops": best and round(best / 1e12, 4), "by": (
        "the device's data sheet" if device.type == "cuda" else "one thread's best product of matrices, in this run")}
    torch.manual_seed(0)
    model = random_model(m2ugen(values.size), device, dtype)
    with tempfile.TemporaryDirectory() as folder:
        store(folder, model.config)
        for stage in (stages.STAGES[int(number)] for number in values.stages.split(",")):
            told = {"batch": batch, "micro": min(values.micro or micro, batch), "pack": values.pack,
                    "checkpointing": values.checkpointing, "compile": values.compile}
            settings = Settings(stage, Sources(folder), Path(folder), values.size, longest=values.longest,
                                dtype=dtype, device=values.device, **told)
            name = f"stage {stage.number}: {', '.join(f'{key} {value}' for key, value in told.items() if value)}"
            runs[name] = {"steps": values.steps, "rounds": ROUNDS} | measured(settings, model, best, values.steps)
            print(json.dumps({name: runs[name]}, indent=1), flush=True)
            out.write_text(json.dumps(results | {"runs": dict(sorted(runs.items()))}, indent=1) + "\n")
            model.zero_grad(set_to_none=True)
            gc.collect()  # hooks make things refer to themselves
            if device.type == "cuda":
                torch.cuda.empty_cache()


def measured(settings: Settings, model: M2UGen, best: float | None, steps: int) -> dict:
    """One stage, both ways. The memory told of ours is that of its first interval, before there are encoders."""
    stage, device = settings.stage, model.prefix.query.device
    trained = stages.train(model, stage)
    beginning.lighten(model, settings.dtype)
    model.train()
    parts = [part for part in stages.PARTS if any(stages.part(name) == part for name in trained.parameters)]
    here = Processes(0, 1, device)
    work = step.Steps(settings, here, model, step.wrapped(model, settings, here), trained, parts,
                      torch.optim.AdamW(trained.groups, betas=stage.betas))
    rows = corpus(settings.run / f"stage{stage.number}.arrow", stage, model.config, settings.longest, max(
        ROWS, (WARM + steps) * settings.batch * ((settings.pack or 0) // PROMPT + 1)))
    feed = Feed(rows, Precomputed(features.opened(settings.sources.out)), rows=settings.batch, micro=settings.micro,
                budget=settings.pack, weights=stage.data)

    def interval(coming: Iterator[list[Micro]], warm: int, steps: int) -> Reading:
        meter = Meter(best, device)
        for number in range(warm + steps):
            if number == warm:
                synchronise(device)
                meter.read()
            with meter.waiting():
                micros = next(coming)
            meter.stepped(work.step(number, micros, stage.rate, meter), stage.rate)
        synchronise(device)
        coming.close()
        return meter.read()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    readings, released = {"ours": [interval(feed.epoch(0), WARM, steps)]}, None
    widest = cost.Work([settings.pack or int(rows.lengths.max())] * settings.micro, dict.fromkeys(
        model.adapters, settings.micro), settings.micro, masked=settings.micro * (settings.pack or 0) ** 2)
    said = cost.needed(model.config, parts, widest, dtype=settings.dtype, checkpointing=settings.checkpointing,
                       kept=frozenset().union(*stages.TRAINED["paper"].values())).total
    memory = peak(device) | {"said_before_gb": round(said / 2**30, 3)}
    for turn in range(ROUNDS):
        if turn:
            readings["ours"].append(interval(feed.epoch(turn), WARM, steps))
        if not settings.checkpointing:
            released = released or Released(stage, settings.size, model.config, device, settings.dtype)
            with torch.compiler.set_stance("force_eager"):  # each sample has a length of its own
                readings.setdefault("one_at_a_time", []).append(
                    interval(released.steps(rows, settings.batch, turn), 1, max(1, steps // 4)))
    found = {"trains": parts} | {way: {name: round(statistics.median(each), 4) for name, each in (
        ("samples_per_second", [one.samples / one.seconds for one in some]),
        ("tokens_per_second", [one.tokens / one.seconds for one in some]),
        ("mfu", [one.mfu for one in some if best]), ("waiting", [one.waiting / one.seconds for one in some])) if each}
        for way, some in readings.items()}
    found["ours"]["peak_memory"] = memory
    if released:  # other processes could decode meanwhile, as the released loader's do: what it took is told apart
        fast, slow, took = *(found[way]["samples_per_second"] for way in readings), released.seconds / released.count
        found["one_at_a_time"] |= {"peak_memory": peak(device), "decoding_seconds_per_sample": round(took, 4)}
        found |= {"ratio": round(fast / slow, 2), "ratio_if_decoding_took_no_time": round(fast * (1 / slow - took), 2)}
    return found


class Released:
    """Each sample's media decoded and encoded, and its caption encoded, before its own pass; captions come as ids.
    The released trainer does more: in stage 2 it decodes music and throws it away."""

    def __init__(self, stage: stages.Stage, size: str, shape: Config, device: torch.device, dtype: torch.dtype) -> None:
        self.shape, self.device, self.seconds, self.count = shape, device, 0.0, 0
        self.media = {kind: [media(kind, number) for number in range(DISTINCT)] for kind in encoders.ENCODERS}
        mert = hub.HubertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
                                do_stable_layer_norm=True, feat_extract_norm="group", conv_bias=False)
        self.encoders = (encoders.debug() if size == "debug" else encoders.Encoders(
            hub.HubertModel(mert), hub.ViTModel(hub.ViTConfig(), add_pooling_layer=False),
            hub.VivitModel(hub.VivitConfig(), add_pooling_layer=False), hub.ViTImageProcessorPil(),
            hub.VivitImageProcessor())).to(device, dtype)
        t5 = {"d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 2} if size == "debug" else {
            "d_ff": 3072, "num_layers": 12, "num_heads": 12}
        self.t5 = hub.T5EncoderModel(hub.T5Config(d_model=shape.projector.out, **t5)).to(device, dtype)

    def steps(self, rows: examples.Samples, batch: int, turn: int) -> Iterator[list[Micro]]:
        """The first, which is not counted, is short."""
        order = iter(np.random.default_rng(turn).permutation(len(rows)).tolist())
        for size in chain([min(batch, 8)], repeat(batch)):
            yield [self.micro(rows[next(order)], 1 / size) for _ in range(size)]

    def micro(self, example: examples.Example, share: float) -> Micro:
        self.count += 1
        encoded = {kind: [self.heard(kind, int(medium.id)).bfloat16()] for kind, medium in example.hears.items()}
        batch = packing.collate([[0]], {0: (example.tokens.tolist(), example.labels.tolist())})
        return Micro(batch, encoded, [self.said().bfloat16() if example.music else None],
                     [f"{example.dataset} {example.id}"], share)

    def heard(self, kind: str, number: int) -> Tensor:
        start = time.perf_counter()
        found = frozen.decode(kind, self.media[kind][number])
        self.seconds += time.perf_counter() - start
        if kind == "audio":
            return self.encoders.hear(torch.frombuffer(bytearray(found["windows"][0]), dtype=torch.float32)[None])[0]
        pixels = np.frombuffer(found["pixels"], np.uint8).reshape(-1, found["height"], found["width"], 3)
        pictures = [Image.fromarray(one) for one in pixels]
        return self.encoders.watch(pictures) if kind == "video" else self.encoders.look(pictures)[0]

    def said(self) -> Tensor:
        """Of a caption that half fills what is encoded."""
        ids = torch.arange(self.shape.projector.queries, device=self.device)[None]
        return targets.musicgen(self.t5, {"input_ids": ids, "attention_mask": (ids < ids.shape[1] // 2).long()})[0]


def random_model(shape: Config, device: torch.device, dtype: torch.dtype) -> M2UGen:
    """Made where it runs, tensor by tensor: what some stage trains in float32, the rest in `dtype`; gates are open."""
    def drawn(name: str, one: Tensor) -> Stored:
        kind = torch.float32 if any(stages.is_trained(name, shape, stage) for stage in stages.STAGES) else dtype
        fixed = 0.1 if name.startswith("prefix.gates") else float(name.endswith("weight"))  # norms' 1, biases 0
        fixed = fixed if one.dim() in (1, 4) else None
        return Stored("random", tuple(one.shape), kind, lambda: (
            torch.empty(one.shape, dtype=kind, device=device).normal_(std=0.02) if fixed is None else
            torch.full(one.shape, fixed, dtype=kind, device=device)))

    with torch.device("meta"):
        model = M2UGen(shape)
    tensors = {name: drawn(name, one) for name, one in model.state_dict().items()}
    fill(model, tensors, dtype=lambda name: tensors[name].dtype, device=device)
    return model.to(device)  # what no file holds: the rotary frequencies


def corpus(path: Path, stage: stages.Stage, shape: Config, longest: int, many: int) -> examples.Samples:
    """As stages' rows are stored. Media and captions are numbers, and so are the rows of their features."""
    def row(number: int) -> dict:
        place, draw = number % len(stage.data), np.random.default_rng([stage.number, number])
        name, room = list(stage.data)[place], (longest - PROMPT - shape.audio_tokens - 1) // 2
        answer = min(int(np.clip(draw.lognormal(np.log(55), 0.5), *ANSWER)), room)
        given = PROMPT + min({1: 0, 2: answer, 3: int(draw.integers(8, 40))}[stage.number], room)
        places = {kind: int(draw.integers(DISTINCT)) for kind in sorted(kinds(stage.number, name))}
        ids = draw.integers(3, shape.vocabulary, given + answer).tolist()
        tokens = (shape.bos, *ids[1:], *(shape.audio_ids if "text" in places else ()), shape.eos)
        hears = {kind: Medium(name, str(at)) for kind, at in places.items() if kind != "text"}
        labels, music = (packing.IGNORED,) * given + tokens[given:], str(places.get("text", "")) or None
        return examples.row(Sample(str(number), name, tokens, labels, hears, music, 0), place, places)
    examples.write(path, map(row, range(many)))
    return examples.Samples(path, stage.data)


def store(out: str, shape: Config) -> None:
    """Features of every kind, as `make features` leaves them."""
    for kind, size in frozen.shapes(shape).items():
        values = (torch.randn(size).bfloat16().view(torch.uint8).numpy().tobytes() for _ in range(DISTINCT))
        shards.write(f"{out}/features/{kind}-0.arrow", records.FEATURE, (
            {"id": str(at), "outcome": DONE, "detail": "", "values": one} for at, one in enumerate(values)))
        features.publish(out, kind, {"kind": kind}, size, (
            (str(at), f"features/{kind}-0.arrow", at, DONE, "") for at in range(DISTINCT)))


def media(kind: str, number: int) -> bytes:
    """10 s of noise; a picture of a few colours that run into each other; 32 frames of four such."""
    draw = np.random.default_rng(number)
    pictures = [Image.fromarray(draw.integers(0, 256, (6, 8, 3), np.uint8)).resize((224, 224)) for _ in range(4)]
    file = io.BytesIO()
    if kind == "image":
        pictures[0].save(file, "JPEG")
        return file.getvalue()
    with av.open(file, "w", format="matroska") as sink:
        if kind == "audio":
            stream = sink.add_stream("pcm_s16le", rate=48000, layout="mono")
            frames = [av.AudioFrame.from_ndarray(draw.normal(0, 3000, (1, 480000)).astype(np.int16), "s16", "mono")]
            frames[0].sample_rate = 48000
        else:
            stream = sink.add_stream("mpeg4", rate=8, width=224, height=224)
            frames = [av.VideoFrame.from_image(pictures[place // 8]) for place in range(32)]
        for frame in (*frames, None):
            sink.mux(stream.encode(frame))
    return file.getvalue()


if __name__ == "__main__":
    main()
