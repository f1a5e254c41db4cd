"""What encodes captions for a music decoder: of folders as published, or tiny and random.

Each function gives captions → [n, *shape], what `training.targets` says of them; not yet times `projector.FACTOR`.
"""
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BatchEncoding,
    ClapConfig,
    ClapModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerBase,
    T5Config,
    T5EncoderModel,
)

from training import config, stored, targets
from training.loading import quiet, reading, whole
from training.weights import open_weights

CLAP_TOKENS = 512     # that AudioLDM 2's CLAP reads of a caption at most
DEBUG_TOKENS, DEBUG_WIDTH = 16, 16  # of AudioLDM 2's T5 at the debug size
_WORDS = re.compile(r"\w{4,}|\d+|\b[A-G](?:#|(?= m))")  # and names of keys
Encode = Callable[[list[str]], Tensor]


class Projection(nn.Module):
    """AudioLDM 2's `projection_model`: CLAP's and T5's states brought to GPT-2's width, each between a learned
    beginning and end. Parameters are named as in the published folder."""

    def __init__(self, clap: int, t5: int, width: int) -> None:
        super().__init__()
        self.projection, self.projection_1 = nn.Linear(clap, width), nn.Linear(t5, width)
        self.sos_embed, self.eos_embed, self.sos_embed_1, self.eos_embed_1 = (
            nn.Parameter(torch.ones(width)) for _ in range(4))

    def forward(self, hidden_states: Tensor, hidden_states_1: Tensor, attention_mask: Tensor,
                attention_mask_1: Tensor) -> SimpleNamespace:
        """`hidden_states` [B, 1 + 2 + T + 2, width], and the `attention_mask` of these."""
        states, masks = [], []
        for some, mask, project, *marks in (
                (hidden_states, attention_mask, self.projection, self.sos_embed, self.eos_embed),
                (hidden_states_1, attention_mask_1, self.projection_1, self.sos_embed_1, self.eos_embed_1)):
            first, last = (mark.expand(len(some), 1, -1) for mark in marks)
            states += [first, project(some), last]
            masks += [mask.new_ones(len(mask), 1), mask, mask.new_ones(len(mask), 1)]
        return SimpleNamespace(hidden_states=torch.cat(states, 1), attention_mask=torch.cat(masks, 1))


def musicgen(folder: Path, shape: tuple[int, int], device: str | torch.device, dtype: torch.dtype) -> Encode:
    """T5-base, or the text encoder inside a MusicGen. Raises ValueError, naming the folder, for what is neither."""
    words = _tokenizer(folder)
    with reading(folder, "T5's or MusicGen's weights and config.json"):
        found = open_weights(folder)
    if (kind := found.params.get("model_type")) in ("musicgen", "musicgen_melody"):
        own = {name.removeprefix("text_encoder."): one for name, one in found.tensors.items()
               if name.startswith("text_encoder.")}
        with reading(folder, "MusicGen's text encoder"):
            about = T5Config.from_dict(found.params["text_encoder"])
        t5 = whole(T5EncoderModel, None, dtype=dtype, where=folder, config=about,
                   state_dict={name: stored.finite(name, one) for name, one in own.items()})
    elif kind == "t5":
        t5 = whole(T5EncoderModel, folder, dtype=dtype, where=folder)
    else:
        raise ValueError(f"{folder}: its model_type is {kind!r}; give T5-base or a MusicGen")
    _same(folder, (shape[0], t5.config.d_model), shape)
    t5.to(device)
    return lambda captions: targets.musicgen(t5, targets.caption_tokens(words, captions, device, shape[0]))


def audioldm2(folder: Path, shape: tuple[int, int], device: str | torch.device, dtype: torch.dtype,
              length: int = targets.TOKENS) -> Encode:
    """Of a folder as diffusers saves its pipeline; `length` of T5's states are part of it. Raises ValueError, naming
    the part, for what is not whole."""
    heard, words = _tokenizer(folder / "tokenizer"), _tokenizer(folder / "tokenizer_2")
    clap = whole(ClapModel, folder / "text_encoder", dtype=dtype, where=folder / "text_encoder",
                 lacks=("audio_", "logit_scale"))
    t5 = whole(T5EncoderModel, folder / "text_encoder_2", dtype=dtype, where=folder / "text_encoder_2")
    # It is given states and never ids.
    gpt2 = whole(GPT2Model, folder / "language_model", dtype=dtype, where=folder / "language_model", lacks=("wte.",))
    projection = _projection(folder / "projection_model", clap.config.projection_dim, t5.config.d_model,
                             gpt2.config.n_embd)
    _same(folder, (1, length * t5.config.d_model + targets.GPT2_TOKENS * gpt2.config.n_embd), shape)
    clap.audio_model = clap.audio_projection = None  # of which nothing is asked
    for model in (clap, t5, gpt2, projection):
        model.to(device, dtype)
    room = min(CLAP_TOKENS, heard.model_max_length)
    return lambda captions: targets.audioldm2(
        clap, t5, projection, gpt2, targets.caption_tokens(heard, captions, device, room),
        targets.caption_tokens(words, captions, device, length))


def debug(decoder: config.MusicDecoder, shape: tuple[int, int], device: str | torch.device,
          dtype: torch.dtype) -> Encode:
    """The same in every run."""
    size = config.m2ugen("debug").all_tokens
    length, width = shape if decoder == "musicgen" else (DEBUG_TOKENS, DEBUG_WIDTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        t5 = T5EncoderModel(T5Config(vocab_size=size, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2,
                                     num_heads=2)).requires_grad_(False).eval().to(device, dtype)
        if decoder == "musicgen":
            return lambda captions: targets.musicgen(t5, _ids(size, captions, length, device))
        narrow = (shape[1] - length * width) // targets.GPT2_TOKENS
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        clap = ClapModel(ClapConfig(
            text_config={**small, "vocab_size": size, "projection_dim": 16, "pad_token_id": 0},
            audio_config={"num_mel_bins": 64, "spec_size": 64, "hidden_size": 32, "patch_embeds_hidden_size": 16,
                          "depths": [1], "num_attention_heads": [2], "window_size": 4, "projection_dim": 16},
            projection_dim=16))
        gpt2 = GPT2Model(GPT2Config(vocab_size=1, n_embd=narrow, n_layer=1, n_head=2, n_positions=64, bos_token_id=0,
                                    eos_token_id=0))
        projection = Projection(16, width, narrow)
    for model in (clap, gpt2, projection):
        model.requires_grad_(False).eval().to(device, dtype)

    def encode(captions: list[str]) -> Tensor:
        tokens = _ids(size, captions, length, device)
        return targets.audioldm2(clap, t5, projection, gpt2, tokens, tokens)

    return encode


def _ids(size: int, captions: list[str], length: int, device: str | torch.device) -> BatchEncoding:
    """input_ids and attention_mask [B, length], in which each word has its place, by a hash of it; 0 where none is.

    So what is at a place follows from which words a caption has, and in no way from their order: in their order all
    but 2 % of the states' variance would be beyond who knows all of a caption's words, and with it beyond a model of
    this size. Short words, which captions share, are left out.
    """
    rows = torch.zeros(len(captions), length, dtype=torch.long)
    for row, caption in zip(rows, captions, strict=True):
        for word in sorted({word.lower() for word in _WORDS.findall(caption)}):  # of two at a place, always the same
            drawn = zlib.crc32(word.encode())
            row[drawn % length] = 1 + drawn // length % (size - 1)
    return BatchEncoding({"input_ids": rows.to(device), "attention_mask": torch.ones_like(rows, device=device)})


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    with quiet(), reading(folder, "a tokenizer (tokenizer.json and tokenizer_config.json)"):
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        targets.caption_tokens(found, ["A slow piece."])  # one without a vocabulary, or that cannot pad, is told now
    return found


def _projection(folder: Path, clap: int, t5: int, width: int) -> Projection:
    file = next((folder / name for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
                 if (folder / name).is_file()), None)
    if file is None:
        raise ValueError(f"{folder}: no diffusion_pytorch_model.safetensors in it; give AudioLDM 2's folder, whole")
    made = Projection(clap, t5, width)
    found = open_weights(file).tensors
    wanted = {name: tuple(one.shape) for name, one in made.state_dict().items()}
    if wanted != (there := {name: one.shape for name, one in found.items()}):
        wrong = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
        raise ValueError(f"{file}: unknown, missing or of another shape: {', '.join(wrong[:5])}; it must fit the rest "
                         "of AudioLDM 2's folder")
    made.load_state_dict({name: stored.finite(name, one) for name, one in found.items()})
    return made.requires_grad_(False).eval()


def _same(folder: Path, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if given != wanted:
        raise ValueError(f"{folder}: encodes a caption in {given}, and the model needs {wanted}; give the music "
                         "decoder's own")
