"""Captions and instructions by models: in batches, as a build asks them, and one row at a time.

`make bench-captions` writes benchmarks/captions-SIZE-DEVICE.json. Weights are random, in files as the Hub has them, and
never end a text, so that both ways do the same work. (Trained ones end most far earlier than settings allow, and then a
batch lasts as long as its longest row.) `debug` runs on a CPU in a minute or two; the paper's sizes want a GPU:
`--size 7b --device cuda`, with 20 GB for files. Each kind has a process of its own, in which its memory is measured.
"""
import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from itertools import product
from math import prod
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.model import machine, peak  # noqa: E402
from captioners import device, measured, model, mullama  # noqa: E402
from captioners.inputs import RATE  # noqa: E402
from captioners.instructions import Prompt  # noqa: E402
from manifests import prompts  # noqa: E402
from training import config, safefile, sizes  # noqa: E402
from training.stored import Stored  # noqa: E402

BATCHES = {"music": 2, "image": 2, "video": 2, "instruct": 4}  # on a GPU; 4: three of lines, one of answers, all full
ALONE = {"music": 2, "image": 8, "video": 4, "instruct": 4}    # of these rows, on a GPU, since they take long
ROWS = 16                                                      # both ways, on a CPU
SHORT = {"music": {"max_new": 24}, "image": {}, "video": {"min_length": 8, "max_length": 32},
         "instruct": {"max_new_line": 32, "max_new_answers": 96}}  # of the debug size; the other has the defaults
WEIGHTS = "random, and never end a text: each is as long as its settings allow"
LOUD = 4.0  # the logits' standard deviation: some tokens are far likelier than others, as in trained models
SIDES = [(dataset, sides[place]) for place in (0, 1) for dataset, sides in prompts.SIDES.items()]  # each four: of all
HEARD = {"tempo": (60, 180), "tempo_confidence": (0, 1), "onset_rate": (0, 9), "loudness": (-40, -8),
         "dynamics": (2, 30), "centroid": (400, 5000), "percussiveness": (0, 1), "pitch_median": (40, 80)}
SEEN = "a young woman with long hair is playing an acoustic guitar on a stage in front of a large crowd"
LITTLE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("debug", "7b"), default="debug")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--kinds", default=",".join(KINDS), help="default: %(default)s")
    parser.add_argument("--rows", type=int, default=0, help=f"default: {ROWS}; on a GPU, whole batches")
    parser.add_argument("--rounds", type=int, default=0, help="default: 3; on a GPU, 2")
    parser.add_argument("--out", help="default: benchmarks/captions-SIZE-DEVICE.json; other kinds' results stay in it")
    values = parser.parse_args()
    kinds, gpu = values.kinds.split(","), values.device == "cuda"
    if unknown := sorted(set(kinds) - set(KINDS)):
        parser.error(f"{', '.join(unknown)}: the kinds are {', '.join(KINDS)}")
    # Of the processes below: a thread each, as a build's have; nothing is fetched; a GPU that is there may be unwanted.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE"), "1")
    os.environ |= {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    out = Path(values.out or HERE / f"captions-{values.size}-{values.device}.json")
    results = {"machine": machine(torch.device(values.device)), "size": values.size, "weights": WEIGHTS}
    before = json.loads(out.read_text()) if out.exists() else {}
    found = before["kinds"] if results.items() <= before.items() else {}
    for kind in kinds:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found[kind] = pool.submit(measure, kind, values.size, gpu, values.rows,
                                      values.rounds or (2 if gpu else 3)).result()
        results["kinds"] = {one: found[one] for one in KINDS if one in found}
        print(json.dumps({kind: found[kind]}, indent=1), flush=True)
        out.write_text(json.dumps(results, indent=1) + "\n")  # kind by kind, so that what is done stays


def measure(kind: str, size: str, gpu: bool, rows: int, rounds: int) -> dict:
    """One model: made, written, loaded and asked, in this process. `rows` 0: the default."""
    debug, where, (make, ask) = size == "debug", torch.device(device.claim()), KINDS[kind]
    dtype = torch.float32 if debug and not gpu else torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        names, parameters = make(Path(folder), debug, partial(write, where=where, dtype=dtype))
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(where)
        start = time.perf_counter()
        spec = model.choose(kind, names, dtype=str(dtype).removeprefix("torch."), **SHORT[kind] if debug else {})
        chosen = time.perf_counter()
        captioner = model.load(spec)
        loading = {"hashing": round(chosen - start, 2), "loading": round(time.perf_counter() - chosen, 2)}
    inputs = [ask(row, debug) for row in range(rows or (BATCHES[kind] * spec.batch if gpu else ROWS))]
    ways = {"batched": (inputs, len(inputs) if kind == "instruct" else spec.batch),  # the writer makes its own batches
            "one_by_one": (inputs[:ALONE[kind]] if gpu else inputs, 1)}
    asked(kind, captioner, inputs[:1], 1)  # what only the first call does is not counted
    given = len(spec.prompt.split()) if kind == "image" else 0  # words of BLIP's prompt, with which its texts begin
    seconds, texts, tokens = {name: [] for name in ways}, {}, {}
    for _ in range(rounds):
        for name, way in ways.items():
            before, start = getattr(captioner, "tokens", 0), time.perf_counter()
            texts[name] = asked(kind, captioner, *way)  # which are here when a GPU is done
            seconds[name].append(time.perf_counter() - start)
            tokens[name] = (captioner.tokens - before if kind == "instruct" else
                            sum(len(text.split()) - given for text in texts[name]))  # a word is a token
    result = {"parameters": parameters, "dtype": spec.dtype, "settings": asdict(spec.settings),
              "batch": spec.batch, "rounds": rounds, "seconds": loading}
    for name in ways:
        median, count = np.median(seconds[name]), {"rows": len(texts[name]), "tokens": tokens[name]}
        result[name] = count | {"seconds": round(median, 3)} | {
            f"{noun}_per_second": round(number / median, 2) for noun, number in count.items()}
    pairs = [(one.split(), other.split()) for one, other in zip(texts["one_by_one"], texts["batched"], strict=False)]
    alike = [np.cumprod([*map(str.__eq__, *pair)]).sum() / max(map(len, pair)) for pair in pairs]
    result["ratio"] = round(result["batched"]["tokens_per_second"] / result["one_by_one"]["tokens_per_second"], 2)
    # In bfloat16 random weights make more of rounding than trained ones.
    result["rows_that_differ"] = round(sum(one < 1 for one in alike) / len(alike), 3)
    result["words_before_they_do"] = round(np.mean(alike), 3)  # the share of all words
    halved = {"out_of_memory": torch.cuda.memory_stats(where)["num_ooms"]} if gpu else {}  # batches that were halved
    return result | {"peak_memory": peak(where)} | halved


def asked(kind: str, captioner: Callable, inputs: Sequence, step: int) -> list[str]:
    """`step` at a time; music, as in a build, by its length. Row n's seed is n."""
    texts: dict[int, str | Exception] = {}
    order = sorted(range(len(inputs)), key=lambda row: len(inputs[row]["windows"][0]) if kind == "music" else 0)
    for start in range(0, len(order), step):
        rows = order[start:start + step]
        texts |= zip(rows, captioner([inputs[row] for row in rows], rows), strict=True)
    if faults := [text for text in texts.values() if isinstance(text, Exception)]:  # in an instruction's place
        raise faults[0]
    return [texts[row] for row in range(len(inputs))]


# What the models are asked of, row by row; of the first three as captioners.inputs gives it.
def clip(row: int, debug: bool) -> dict:
    """Tones in noise, of 10 to 60 s, or a tenth of that."""
    noise, seconds = np.random.default_rng(row), (10.0, 60.0, 10.0, 31.7)[row % 4] / (10 if debug else 1)
    times = np.arange(int(seconds * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * pitch * times) for pitch in noise.uniform(100, 2000, 4))
    return {"windows": [(0.1 * tones + 0.05 * noise.standard_normal(len(times))).astype("<f4").tobytes()]}


def picture(row: int, debug: bool, count: int = 1) -> dict:
    """Of a few colours, since noise would be grey once it is made small; or `count` frames."""
    size, colours = ((640, 480), (480, 640), (854, 480), (320, 240))[row % 4], np.random.default_rng(row)
    pixels = [Image.fromarray(colours.integers(0, 256, (6, 8, 3), np.uint8)).resize(size) for _ in range(count)]
    return {"count": count, "width": size[0], "height": size[1], "pixels": b"".join(one.tobytes() for one in pixels)}


def prompt(row: int, debug: bool) -> Prompt:
    """A real one, of captions as long as real ones."""
    (dataset, side), draw = SIDES[row % len(SIDES)], np.random.default_rng(row)
    music, target = (measured.caption({name: draw.uniform(*span) for name, span in HEARD.items()}, row) for _ in "ab")
    given = {"muedit": {"source": music, "target": target, "edit": "pair"}, "muimage": {"music": music, "image": SEEN},
             "muvideo": {"music": music, "video": SEEN}, "musicqa": {"music": music}}[dataset]
    return Prompt(dataset, side, prompts.system(dataset, side, given), prompts.user(dataset, side, given), given)


# Models with random weights, in folders as the Hub's: what `choose` is told of them, and how many parameters they have.
def mu_llama(folder: Path, debug: bool, draw: Callable[..., int]) -> tuple[dict[str, str], int]:
    """A file that holds its LLaMA-2, with the tokenizer beside it; and MERT."""
    shape = config.mullama("debug" if debug else "7b")
    size = (32, 4, 128, [32] * 7) if debug else (1024, 16, 4096, [512] * 7)
    music, ears, marks = folder / "music", folder / "mert", {0: "<unk>", 1: "<s>", 2: "</s>"}
    tokenizer(music, shape.vocabulary, marks, mullama.TEMPLATE + mullama.QUESTION)
    count = draw(music / "checkpoint.safetensors", sizes.shapes(shape), shape.vocabulary, marks)
    hears = transformers.HubertConfig(
        hidden_size=size[0], num_attention_heads=size[1], intermediate_size=size[2], conv_dim=size[3],
        num_hidden_layers=24, do_stable_layer_norm=True, conv_bias=False)
    count += hub(ears, transformers.HubertModel, hears, draw, model_type="mert_model")
    return {"mullama": str(music), "mert": str(ears)}, count


def blip(folder: Path, debug: bool, draw: Callable[..., int]) -> tuple[dict[str, str], int]:
    small = dict.fromkeys(("text_config", "vision_config"), LITTLE | {"encoder_hidden_size": 128}) if debug else {}
    shape = transformers.BlipConfig(**small)  # two rows more than there are tokens
    rows, marks = shape.text_config.vocab_size, {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]"}
    tokenizer(folder, rows - 2, marks, "the image shows", pad_token="[PAD]", sep_token="[SEP]")
    transformers.BlipImageProcessorPil().save_pretrained(folder)
    return {"image": str(folder)}, hub(folder, transformers.BlipForConditionalGeneration, shape, draw, rows, marks)


def timesformer(folder: Path, debug: bool, draw: Callable[..., int]) -> tuple[dict[str, str], int]:
    end, video, processor = 50256, folder / "video", folder / "processor"
    shape = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.TimesformerConfig(**LITTLE | {"patch_size": 32} if debug else {}), transformers.GPT2Config(
            **{"n_embd": 128, "n_layer": 4, "n_head": 4} if debug else {}, add_cross_attention=True, is_decoder=True))
    tokenizer(video, end + 1, {end: "<|endoftext|>"}, eos_token="<|endoftext|>")
    transformers.VideoMAEImageProcessorPil().save_pretrained(processor)
    return {"video": str(video), "processor": str(processor)}, hub(
        video, transformers.VisionEncoderDecoderModel, shape, draw, end + 1, [end], decoder_start_token_id=end,
        pad_token_id=end, eos_token_id=end)


def mpt(folder: Path, debug: bool, draw: Callable[..., int]) -> tuple[dict[str, str], int]:
    """It has more rows than tokens, of which its marks are the last."""
    tokens, rows, size = (4000, 4096, (256, 4, 8)) if debug else (50279, 50432, (4096, 32, 32))
    shape = transformers.MptConfig(d_model=size[0], n_layers=size[1], n_heads=size[2], vocab_size=rows)
    marks = {0: "<|endoftext|>", tokens - 2: "<|im_start|>", tokens - 1: "<|im_end|>"}
    known = " ".join(f"{one.system} {one.user}" for one in (prompt(row, debug) for row in range(100)))
    tokenizer(folder, tokens, marks, f"{known} system user assistant", eos_token=marks[0])
    silent = [*marks, *range(tokens, rows)]
    return {"instruct": str(folder)}, hub(folder, transformers.MptForCausalLM, shape, draw, rows, silent)


def tokenizer(folder: Path, count: int, marks: Mapping[int, str], known: str = "", **named: str) -> None:
    """Of whole words: `marks` at their places, the words `known`, and made-up ones."""
    folder.mkdir(exist_ok=True)
    cut, syllables = pre_tokenizers.Whitespace(), ["".join(one) for one in product("bdfgklmnprstv", "aeiou")]
    told = [word for word, _ in cut.pre_tokenize_str(known)]
    names = iter(dict.fromkeys([*told, *map("".join, product(syllables, repeat=3))]))
    made = Tokenizer(models.WordLevel({marks.get(place) or next(names): place for place in range(count)},
                                      unk_token=next(iter(marks.values()))))
    made.pre_tokenizer = cut
    made.add_special_tokens(list(marks.values()))
    if "sep_token" in named:
        made.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(named | {"tokenizer_class": "PreTrainedTokenizerFast"}))


def hub(folder: Path, kind: type, shape: transformers.PreTrainedConfig, draw: Callable[..., int], rows: int = 0,
        silent: Iterable[int] = (), **own: object) -> int:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape.to_dict() | {"architectures": [kind.__name__]} | own))
    with torch.device("meta"):
        empty = kind(shape)
    wanted = {name: one.shape for name, one in empty.state_dict().items() if name not in empty.all_tied_weights_keys}
    return draw(folder / "model.safetensors", wanted, rows, silent)


def write(path: Path, shapes: Mapping[str, Sequence[int]], rows: int, silent: Iterable[int], where: torch.device,
          dtype: torch.dtype) -> int:
    """Random tensors, made on the device and written one by one; how many numbers they are. In tables of so many `rows`
    the tokens' make logits of LOUD, and those of the `silent` none: they are never said. All else is twice as large as
    is usual at the start, or attention would look at everything alike, and every row would say the same."""
    seeded = torch.Generator(where).manual_seed(0)

    def drawn(name: str, shape: Sequence[int]) -> torch.Tensor:
        if name.endswith(".gate") or len(shape) == 1:  # zero gates do not hear; weights are norms'
            return torch.full(shape, float(name.endswith((".gate", "weight"))), dtype=dtype)
        made = torch.randn(shape, generator=seeded, device=where, dtype=dtype)
        made *= (LOUD if shape[0] == rows else 2) * prod(shape[1:]) ** -0.5
        if shape[0] == rows:
            made[list(silent)] = 0
        return made.cpu()

    safefile.write(str(path), {name: Stored("random", tuple(shape), dtype, partial(drawn, name, shape))
                               for name, shape in shapes.items()}, {"format": "pt"})
    return sum(map(prod, shapes.values()))


KINDS = {"instruct": (mpt, prompt), "music": (mu_llama, clip), "image": (blip, picture),
         "video": (timesformer, partial(picture, count=8))}

if __name__ == "__main__":
    main()
