"""The frozen models whose outputs the trainer needs: three encoders, and what encodes captions for the music decoder.

Which they are is plain data (`choose`) that travels to workers; `decode` makes of media what they take, `load` has
them here. No model library is imported before `load`, since media is decoded in processes that need none.
"""
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training import inputs
from training.config import Config, MusicDecoder, Size, m2ugen
from training.loading import quiet
from training.pinned import Pinned, folder, pin

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from PIL.Image import Image
    from torch import Tensor

VERSION = 3  # of our own code: it rises where the same model would give other numbers
KINDS = ("audio", "image", "video", "text")
# Of the size 7b (paper, section 3): what M²UGen was trained with.
PUBLISHED = {"audio": "m-a-p/MERT-v1-330M", "image": "google/vit-base-patch16-224",
             "video": "google/vivit-b-16x2-kinetics400", "musicgen": "google-t5/t5-base",
             "audioldm2": "cvssp/audioldm2"}
AT_ONCE = 16  # pictures or captions, on a GPU
_DECODERS = {"audio": inputs.audio, "image": inputs.image, "video": inputs.video}


@dataclass(frozen=True)
class Frozen:
    """Plain data. `pinned` None is the debug size's own, tiny and random. `shape`: of one output, (tokens, width)."""
    kind: str
    size: Size
    pinned: Pinned | None
    music_decoder: MusicDecoder | None  # of text
    shape: tuple[int, ...]

    def about(self) -> dict:
        """All that the numbers depend on but for rounding (`load`'s device and dtype), as JSON."""
        model, revision = (self.pinned.title, self.pinned.revision) if self.pinned else ("debug", "")
        return {"kind": self.kind, "model": model, "revision": revision, "music_decoder": self.music_decoder,
                "shape": list(self.shape), "version": VERSION}


def shapes(config: Config) -> dict[str, tuple[int, int]]:
    """By kind, (tokens, width) of what a model of `config` takes; of "text", of what its projector learns to emit."""
    found = {one.name: (one.tokens, one.width) for one in config.modalities}
    if config.projector is not None:
        found["text"] = (config.projector.queries, config.projector.out)
    return found


def choose(config: Config, names: Mapping[str, str | None], kinds: Collection[str] = KINDS) -> dict[str, Frozen]:
    """By kind, those of `kinds` that a model of `config` needs: its encoders, and what encodes captions of music.

    `names`: by kind, Hub ids (`ID@REVISION`) or directories in place of the published ones; of the debug size, in place
    of its own. Of Hub ids the files are fetched. Raises ValueError, saying what to do, where there are none.
    """
    wanted = shapes(config)
    if unused := sorted(kind for kind, name in names.items() if name and kind not in wanted):
        raise ValueError(f"{config.name} takes nothing from {' and '.join(unused)}; it takes {', '.join(wanted)}")
    # A smaller LLaMA upon the published encoders is of the size 7b here, and so is what it takes.
    size: Size = "debug" if set(config.modalities) <= set(m2ugen("debug").modalities) else "7b"
    found = {}
    for kind in KINDS:
        if kind in wanted and kind in kinds:
            decoder = config.music_decoder if kind == "text" else None
            name = names.get(kind) or (PUBLISHED[decoder or kind] if size == "7b" else None)
            found[kind] = Frozen(kind, size, _pinned(name) if name else None, decoder, wanted[kind])
    return found


def decode(kind: str, media: bytes) -> dict:
    """What `load`'s callable takes of one audio, image or video file, as plain data. Raises manifests.outcomes.Loss
    where the media is not fit."""
    return _DECODERS[kind](media)


def load(frozen: Frozen, device: "str | torch.device" = "cpu", dtype: "torch.dtype | None" = None,
         ) -> "Callable[[Sequence[dict]], Tensor]":
    """Items (`decode`'s; of text {"text": str}) → [n, *shape] bfloat16 on the CPU.

    What comes of an item is the same to the bit, whatever it comes with: each is computed by itself or, of pictures and
    captions on a GPU, among `at_once`, so that sums have the same shapes. `dtype`: what is computed in; bfloat16 on a
    GPU and float32 elsewhere, at the debug size always float32. Raises ValueError or OSError, naming the folder, for
    what is not whole or gives other shapes than `frozen` says.
    """
    import torch
    small = frozen.size == "debug" or torch.device(device).type == "cpu"
    dtype = dtype or (torch.float32 if small else torch.bfloat16)
    place = folder(frozen.pinned) if frozen.pinned else None
    ask = (_text if frozen.kind == "text" else _encoder)(frozen, place, device, dtype)
    count = at_once(frozen.kind, device)

    def encode(items: "Sequence[dict]") -> "Tensor":
        found = torch.empty(len(items), *frozen.shape, dtype=torch.bfloat16)
        for start in range(0, len(items), count):
            some = list(items[start:start + count])
            said = ask(some + some[-1:] * (count - len(some)))
            found[start:start + count] = said[:len(some)]
        return found

    return encode


def at_once(kind: str, device: "str | torch.device") -> int:
    """How many items are computed together, so that it is wise to give a multiple of them."""
    import torch
    return AT_ONCE if kind in ("image", "text") and torch.device(device).type != "cpu" else 1


def _pinned(name: str) -> Pinned:
    with quiet():
        return pin(name)


def _text(frozen: Frozen, place: "Path | None", device: "str | torch.device",
          dtype: "torch.dtype") -> "Callable[[list[dict]], Tensor]":
    from training import conditions
    if place is None:
        ask = conditions.debug(frozen.music_decoder, frozen.shape, device, dtype)
    elif frozen.music_decoder == "musicgen":
        ask = conditions.musicgen(place, frozen.shape, device, dtype)
    else:
        length = {"length": conditions.DEBUG_TOKENS} if frozen.size == "debug" else {}
        ask = conditions.audioldm2(place, frozen.shape, device, dtype, **length)
    return lambda items: ask([item["text"] for item in items])


def _encoder(frozen: Frozen, place: "Path | None", device: "str | torch.device",
             dtype: "torch.dtype") -> "Callable[[list[dict]], Tensor]":
    """Of an encoder alone."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, ViTModel, VivitImageProcessor, VivitModel

    from training import encoders
    from training.loading import reading, whole
    if place is None:
        made = encoders.debug(frozen.shape[1])
    elif frozen.kind == "audio":
        with quiet():
            made = encoders.hearing(place, dtype)
    else:
        kind, read, how = {"image": (ViTModel, AutoImageProcessor, {"backend": "pil"}),
                           "video": (VivitModel, VivitImageProcessor, {})}[frozen.kind]
        model = whole(kind, place, dtype=dtype, where=place, add_pooling_layer=False)
        with quiet(), reading(place, "its preprocessor_config.json"):
            processor = read.from_pretrained(place, local_files_only=True, **how)
        made = encoders.Encoders(None, **{frozen.kind: model, f"{frozen.kind}_processor": processor})
    for kind in {"audio", "image", "video"} - {frozen.kind}:
        setattr(made, kind, None)
    made.to(device, dtype)
    about = getattr(made, frozen.kind).config
    given = (_tokens(frozen.kind, about), about.hidden_size)
    if given != frozen.shape:
        raise ValueError(f"{place or 'the debug size'}: gives {given[0]} rows of {given[1]} for {frozen.kind}, and the "
                         f"model takes {frozen.shape[0]} of {frozen.shape[1]}; give the encoder that it was made for")

    def hear(items: list[dict]) -> torch.Tensor:
        """As `Encoders.hear` has it of whole tracks."""
        windows = [torch.from_numpy(np.frombuffer(window, "<f4").copy())[None] for window in items[0]["windows"]]
        return torch.stack([made.hear(window) for window in windows]).mean(0)

    def look(items: list[dict]) -> torch.Tensor:
        return made.look([picture(item, item["pixels"]) for item in items])

    def watch(items: list[dict]) -> torch.Tensor:
        size = items[0]["width"] * items[0]["height"] * 3
        return made.watch([picture(items[0], items[0]["pixels"][at * size:(at + 1) * size])
                           for at in range(items[0]["count"])])[None]

    def picture(item: dict, pixels: bytes) -> "Image":
        return Image.frombytes("RGB", (item["width"], item["height"]), pixels)

    return {"audio": hear, "image": look, "video": watch}[frozen.kind]


def _tokens(kind: str, config) -> int:
    """Rows that an encoder gives."""
    if kind == "audio":
        return config.num_hidden_layers + 1
    if kind == "image":
        return (config.image_size // config.patch_size) ** 2 + 1
    frames, height, width = config.tubelet_size
    return (config.num_frames // frames) * (config.image_size // height) * (config.image_size // width) + 1
