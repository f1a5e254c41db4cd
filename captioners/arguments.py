"""Which models caption and instruct, on a command line: `python -m captioners`, and a build's."""
import argparse

from captioners import model
from captioners.model import Spec

# Option → whose, and which of its repositories. What is not given is the published one.
NAMES = {"mullama": ("music", "mullama"), "llama": ("music", "llama"), "mert": ("music", "mert"),
         "blip": ("image", "image"), "video": ("video", "video"), "video-processor": ("video", "processor"),
         "llm": ("instruct", "instruct")}
_WHAT = {"mullama": "music: MU-LLaMA", "llama": "music: the LLaMA-2 7B below it", "mert": "music: what it hears with",
         "blip": "images: BLIP or BLIP-2", "video": "videos: TimeSformer-GPT2", "video-processor": "videos: VideoMAE's",
         "llm": "instructions: MPT-7B-chat, or any chat model"}


def add(parser: argparse.ArgumentParser, kind: str = "") -> None:
    """The options of a kind, or of all."""
    group = parser.add_argument_group("models", "each a Hub id (ID@REVISION) or a directory")
    for name, what in _WHAT.items():
        if kind in ("", NAMES[name][0]):
            group.add_argument(f"--{name}", metavar="MODEL", help=f"{what} (default: {_default(name)})")
    group.add_argument("--dtype", choices=("float32", "bfloat16"), help="(default: bfloat16 on a GPU, else float32)")
    group.add_argument("--quantize", choices=("4bit", "8bit"), default="",
                       help="hold models of billions of weights in less (bitsandbytes); others stay as they are")
    if kind in ("", "image"):
        group.add_argument("--lavis", action="store_true",
                           help="ask BLIP by LAVIS, in its own environment (make lavis-env); it says the same")
    group.add_argument("--batch", type=_count, default=0, help="rows that a model is asked at a time")
    if kind in ("", "music"):
        group.add_argument("--windows", type=_count, default=1,
                           help="minutes of a longer track that MU-LLaMA hears, evenly over it (default: 1, the first)")


def chosen(values: argparse.Namespace, kind: str) -> Spec:
    """The model of a kind. Raises ValueError that says what to do."""
    names = {role: given for name, (whose, role) in NAMES.items()
             if whose == kind and (given := getattr(values, name.replace("-", "_")))}
    own = {"windows": values.windows} if kind == "music" else {}
    if kind == "image" and values.lavis:
        own["by"] = "lavis"
    return model.choose(kind, names, dtype=values.dtype or "", quantize=values.quantize,
                        batch=values.batch, **own)


def named(values: argparse.Namespace) -> set[str]:
    """The kinds of which a model is named."""
    found = {kind for name, (kind, _) in NAMES.items() if getattr(values, name.replace("-", "_"))}
    return found | {"image"} if values.lavis else found


def _default(name: str) -> str:
    kind, role = NAMES[name]
    return model.module(model.MODULES[kind]).ROLES[role]


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value
