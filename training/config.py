"""The sizes of M²UGen and MU-LLaMA: the paper's (`7b`) and one that runs in seconds on a CPU (`debug`).

Facts that published weights depend on: which modality speaks in which of LLaMA's layers, how long the prefix is, what
the output projector emits for which music decoder. A config is plain data (`as_dict`, `from_dict`), so that a saved
model carries it as JSON.
"""
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Size = Literal["debug", "7b"]
MusicDecoder = Literal["musicgen", "audioldm2"]
RANGES, SUMMED = "ranges", "summed"
MODALITIES = ("audio", "image", "video")  # those that published weights have names for


@dataclass(frozen=True)
class Modality:
    """What an encoder hands to its understanding adapter: `tokens` rows of `width` numbers."""
    name: str  # audio, image or video
    tokens: int
    width: int


@dataclass(frozen=True)
class Projector:
    """The output projector: `queries` learned rows, each becoming `out` numbers of the music decoder's condition."""
    queries: int
    out: int
    width: int = 512
    heads: int = 4
    layers: int = 4  # of its encoder, and as many of its decoder
    feed_forward: int = 2048


@dataclass(frozen=True)
class Config:
    """One model. `projector` is None where the model makes no music (MU-LLaMA).

    `prefix_layout`: `ranges` shares the last `prefix_rows` layers out among the modalities in their order, an equal
    range each; `summed` adds all features up and gives the sum to each of them (checkpoints of 2023-12-23 to
    2024-01-10, and MU-LLaMA, which has one modality).
    """
    name: str  # m2ugen or mullama
    dim: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int  # without the audio tokens, which follow it
    audio_tokens: int
    modalities: tuple[Modality, ...]
    adapter_ratio: int
    prefix_rows: int
    prefix_layout: Literal["ranges", "summed"]
    projector: Projector | None
    music_decoder: MusicDecoder | None
    lora_rank: int = 16
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    positions: int = 4096
    bos: int = 1
    eos: int = 2

    def __post_init__(self) -> None:
        """Raises ValueError for what no model can be made of, naming the field."""
        _positive("", self, ("dim", "layers", "heads", "feed_forward", "vocabulary", "adapter_ratio", "prefix_rows",
                             "lora_rank", "positions"))
        for one in self.modalities:
            if one.name not in MODALITIES:
                raise ValueError(f"modality {one.name!r} is unknown; there are {', '.join(MODALITIES)}")
            _positive(f"{one.name}'s ", one, ("tokens", "width"))
        if not self.modalities or len({one.name for one in self.modalities}) < len(self.modalities):
            raise ValueError("at least one modality is needed, and each only once")
        if self.projector is not None:
            _positive("the projector's ", self.projector,
                      ("queries", "out", "width", "heads", "layers", "feed_forward"))
            if self.projector.width % self.projector.heads:
                raise ValueError(f"the projector's {self.projector.heads} heads do not share its width of "
                                 f"{self.projector.width}")
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name} is {value!r}; it must be a number above 0")
        for name in ("audio_tokens", "bos", "eos"):
            value = getattr(self, name)
            if type(value) is not int or value < 0:
                raise ValueError(f"{name} is {value!r}; it must be a whole number, 0 or above")
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"{self.heads} heads of an even size do not fill {self.dim} dimensions")
        if self.prefix_rows > self.layers:
            raise ValueError(f"a prefix of {self.prefix_rows} rows does not fit {self.layers} layers")
        if self.prefix_layout not in (RANGES, SUMMED):
            raise ValueError(f"prefix_layout is {self.prefix_layout!r}; it may be {RANGES} or {SUMMED}")
        if self.prefix_layout == RANGES and self.prefix_rows % len(self.modalities):
            raise ValueError(f"{self.prefix_rows} prefix rows cannot be shared by {len(self.modalities)} modalities")
        if (self.projector is None) != (self.audio_tokens == 0):
            raise ValueError("audio tokens and an output projector go together")

    @property
    def all_tokens(self) -> int:
        """Rows of the embedding table: the vocabulary and the audio tokens."""
        return self.vocabulary + self.audio_tokens

    @property
    def audio_ids(self) -> range:
        """The ids of [AUD0], [AUD1], ..."""
        return range(self.vocabulary, self.all_tokens)

    @property
    def prefix_start(self) -> int:
        """The first layer with a prefix."""
        return self.layers - self.prefix_rows

    @property
    def groups(self) -> int:
        """How many features a layer can choose from: one a modality, or their sum."""
        return len(self.modalities) if self.prefix_layout == RANGES else 1

    def group(self, layer: int) -> int:
        """Which of them the prefix of `layer` takes."""
        return (layer - self.prefix_start) * self.groups // self.prefix_rows

    def as_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def from_dict(values: Mapping[str, object]) -> Config:
    """The inverse of `as_dict`, after a trip through JSON too. Raises ValueError, naming what is unknown or missing."""
    fields = {field.name: field for field in dataclasses.fields(Config)}
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    if wrong := sorted(set(values) - set(fields)) or sorted(needed - set(values)):
        raise ValueError(f"not a model's config: unknown or missing {', '.join(wrong)}")
    values = dict(values)
    try:
        values["modalities"] = tuple(Modality(**one) for one in values["modalities"])
        if values["projector"] is not None:
            values["projector"] = Projector(**values["projector"])
        return Config(**values)
    except TypeError as error:
        raise ValueError(f"not a model's config: {error}") from None


def m2ugen(size: Size = "7b", music_decoder: MusicDecoder = "musicgen", prefix_layout: str = RANGES) -> Config:
    """M²UGen (paper, sections 3 and 5.1): LLaMA-2 7B, MERT, ViT and ViViT, eight audio tokens."""
    shape = _projector(size, music_decoder)
    debug = size == "debug"
    return Config(
        name="m2ugen", **_llama(size, layers=20), audio_tokens=8,
        modalities=(Modality("audio", 25, 32 if debug else 1024), Modality("image", 197, 32 if debug else 768),
                    Modality("video", 3137, 32 if debug else 768)),
        adapter_ratio=1, prefix_rows=18 if prefix_layout == RANGES else 20, prefix_layout=prefix_layout,
        projector=shape, music_decoder=music_decoder)


def mullama(size: Size = "7b") -> Config:
    """MU-LLaMA: LLaMA-2 7B that hears, and answers in words."""
    return Config(name="mullama", **_llama(size, layers=24), audio_tokens=0,
                  modalities=(Modality("audio", 25, 32 if size == "debug" else 1024),), adapter_ratio=4, prefix_rows=20,
                  prefix_layout=SUMMED, projector=None, music_decoder=None)


def _positive(whose: str, sizes: object, fields: tuple[str, ...]) -> None:
    for name in fields:
        value = getattr(sizes, name)
        if type(value) is not int or value < 1:
            raise ValueError(f"{whose}{name} is {value!r}; it must be a whole number above 0")


def feed_forward(dim: int, multiple_of: int) -> int:
    """LLaMA's feed-forward size: two thirds of 4 × dim, rounded up to a multiple (Meta's params.json)."""
    return math.ceil(int(2 * 4 * dim / 3) / multiple_of) * multiple_of


def _llama(size: Size, layers: int) -> dict[str, int]:
    if size == "7b":
        return {"dim": 4096, "layers": 32, "heads": 32, "feed_forward": 11008, "vocabulary": 32000}
    if size == "debug":
        return {"dim": 64, "layers": layers, "heads": 4, "feed_forward": 176, "vocabulary": 512, "positions": 1024}
    raise ValueError(f"size is {size!r}; it may be debug or 7b")


def _projector(size: Size, music_decoder: MusicDecoder) -> Projector:
    debug = size == "debug"
    if music_decoder == "musicgen":    # T5-base: 128 tokens of 768
        return Projector(16, 24, 256, 4, 1, 256) if debug else Projector(128, 768)
    if music_decoder == "audioldm2":   # flan-T5-large's 128 tokens of 1024 and GPT-2's 8 of 768, in one row
        return Projector(1, 16 * 16 + 8 * 12, 256, 4, 1, 256) if debug else Projector(1, 128 * 1024 + 8 * 768)
    raise ValueError(f"the music decoder is {music_decoder!r}; it may be musicgen or audioldm2")
