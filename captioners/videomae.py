"""Video → text: the paper's "VideoMAE captioning model", that is VideoMAE's processor with TimeSformer and GPT-2.

TimeSformer looks at a few frames of the whole clip, GPT-2 tells what it saw; both are one `VisionEncoderDecoderModel`.
As M²UGen's released script has it: beam search, no sampling, so that seeds change nothing.
"""
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.loading import quiet, reading

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, VideoMAEImageProcessorPil, VisionEncoderDecoderModel

VERSION = 1
MODEL = "Neleac/timesformer-gpt2-video-captioning"
# The model's own repository holds no tokenizer: it writes with GPT-2's. (See `needed`.)
ROLES = {"video": MODEL, "processor": "MCG-NJU/videomae-base", "tokenizer": "openai-community/gpt2"}
WEIGHTLESS = ("processor", "tokenizer")  # of which none are read
SIZE = 8  # each row is 8 beams, and each beam's view of the video takes 0.1 GB (float32)

# GPT-2's causal masks, which old versions of transformers stored as if they were weights.
_MASKS = (".attn.bias", ".attn.masked_bias", ".crossattention.bias", ".crossattention.masked_bias")
_LONGEST = 4  # times the shorter side: beyond, a frame's ends are cut off, which the processor would do after enlarging


@dataclass(frozen=True)
class Settings:
    frames: int = 8        # what the model was trained with
    beams: int = 8
    min_length: int = 20   # tokens, with the one it starts from and without the one that ends it
    max_length: int = 200  # tokens, with both


def settings(folders: Mapping[str, Path], **given: int) -> Settings:
    """Those of the model in `folders`: its number of frames, and what is given. Raises ValueError as `load` does."""
    return Settings(**{"frames": _config(folders["video"])["encoder"]["num_frames"]} | given)


def needed(role: str, folders: Mapping[str, Path]) -> bool:
    """Whether `load` needs that of `ROLES`: no tokenizer where the video's folder, among `folders`, has its own."""
    return role != "tokenizer" or not any((folders["video"] / name).is_file()
                                          for name in ("tokenizer.json", "vocab.json"))


def quantizes(folders: Mapping[str, Path]) -> bool:
    """Never: there are but 0.3 billion weights."""
    return False


def load(folders: Mapping[str, Path], settings: Settings, *, dtype: "torch.dtype | None" = None,
         device: "str | torch.device" = "cpu", quantize: str = "") -> "TimeSformerGPT2":
    """The model of `folders` (by `ROLES`; without a tokenizer the video's own), float32 by default.

    Raises ValueError, naming the folder, where it is not there, not whole, of another kind, or not of the same
    vocabulary and frames as the rest.
    """
    import torch
    from transformers import AutoTokenizer, VideoMAEImageProcessorPil, VisionEncoderDecoderModel
    if quantize:
        raise ValueError(f"{quantize}: the video model is not quantized, at 0.3 billion weights; that is for the music "
                         "and instruction models")
    video = folders["video"]
    words = folders.get("tokenizer", video)
    config = _config(video)
    with quiet():
        with reading(folders["processor"], "VideoMAE's preprocessor_config.json"):
            processor = VideoMAEImageProcessorPil.from_pretrained(folders["processor"], local_files_only=True)
        with reading(words, "GPT-2's tokenizer (tokenizer.json, or vocab.json and merges.txt)"):
            tokenizer = AutoTokenizer.from_pretrained(words, trust_remote_code=False, local_files_only=True)
        with reading(video, "weights (model.safetensors or pytorch_model.bin)"):
            model, found = VisionEncoderDecoderModel.from_pretrained(
                video, dtype=dtype or torch.float32, output_loading_info=True, local_files_only=True)
    unknown = [name for name in found["unexpected_keys"] if not name.endswith(_MASKS)]
    for names, fault in ((found["missing_keys"], "weights are missing"), (unknown, "weights have no place"),
                         (found["mismatched_keys"], "weights have another shape than config.json says")):
        if names:
            raise ValueError(f"{video}: {len(names)} {fault} ({', '.join(map(str, sorted(names)[:3]))}); fetch it "
                             "again, or give another model")
    _check(video, words, config, settings, model, tokenizer)
    captioner = TimeSformerGPT2(settings, processor, tokenizer, model.eval().to(device))
    _check_processor(folders["processor"], config, captioner)
    return captioner


class TimeSformerGPT2:
    """Captions of videos. What it says of one does not depend on the others beside it."""

    def __init__(self, settings: Settings, processor: "VideoMAEImageProcessorPil", tokenizer: "PreTrainedTokenizerBase",
                 model: "VisionEncoderDecoderModel") -> None:
        self.settings, self.processor, self.tokenizer, self.model = settings, processor, tokenizer, model

    def __call__(self, inputs: Sequence[dict], seeds: Sequence[int]) -> list[str]:
        """What `captioners.inputs.video` gave, with `settings.frames` frames each → one text each, "" where nothing was
        said. Raises ValueError for another number of frames, FloatingPointError where weights overflow."""
        import torch
        from transformers.modeling_outputs import BaseModelOutput
        if not inputs:
            return []
        with torch.inference_mode(), quiet():
            seen = self.see(inputs)
            tokens = self.model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=seen), num_beams=self.settings.beams, do_sample=False,
                min_length=self.settings.min_length, max_length=self.settings.max_length)
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def see(self, inputs: Sequence[dict]) -> "torch.Tensor":
        """What TimeSformer sees: [B, 1 + frames · patches, width]."""
        import torch
        pixels = torch.cat([self.pixels(one) for one in inputs])
        with torch.inference_mode():
            seen = self.model.encoder(pixels.to(self.model.device, self.model.dtype)).last_hidden_state
        if not torch.isfinite(seen).all():
            raise FloatingPointError("the video model's features are not numbers")
        return seen

    def pixels(self, given: dict) -> "torch.Tensor":
        """Of one video, as TimeSformer takes them: float32 [1, frames, 3, 224, 224]."""
        if given["count"] != self.settings.frames:
            raise ValueError(f"a video of {given['count']} frames, for a model that takes {self.settings.frames}")
        frames = np.frombuffer(given["pixels"], np.uint8).reshape(given["count"], given["height"], given["width"], 3)
        most = _LONGEST * min(given["height"], given["width"])
        top, left = (max(0, side - most) // 2 for side in (given["height"], given["width"]))
        return self.processor(list(frames[:, top:top + most, left:left + most]), return_tensors="pt")["pixel_values"]


def _config(folder: Path) -> dict:
    with reading(folder, "the config.json of a TimeSformer-GPT2"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kinds = [part.get("model_type") for part in (config, config.get("encoder", {}), config.get("decoder", {}))]
    if kinds != ["vision-encoder-decoder", "timesformer", "gpt2"]:
        raise ValueError(f"{folder}: is a model of type {kinds[0]} ({kinds[1]}, {kinds[2]}), where a "
                         f"vision-encoder-decoder (timesformer, gpt2) such as {MODEL} is needed")
    # Files hold only what differs from the defaults, in the manner of old versions or by hand.
    config["encoder"] = {"num_frames": 8, "image_size": 224} | config["encoder"]
    return config


def _check(video: Path, words: Path, config: dict, settings: Settings, model: "VisionEncoderDecoderModel",
           tokenizer: "PreTrainedTokenizerBase") -> None:
    frames, decoder, said = config["encoder"]["num_frames"], model.config.decoder, model.generation_config
    if settings.frames != frames:
        raise ValueError(f"{video}: takes {frames} frames, not {settings.frames}; set frames to {frames}")
    if not 0 <= settings.min_length <= settings.max_length <= decoder.n_positions or settings.beams < 1:
        raise ValueError(f"{video}: can do beams from 1 and lengths from 0 to {decoder.n_positions}, not {settings}")
    if len(tokenizer) != decoder.vocab_size:
        raise ValueError(f"{words}: a vocabulary of {len(tokenizer)} tokens, where the model in {video} has "
                         f"{decoder.vocab_size}; give the tokenizer that it was trained with, {ROLES['tokenizer']}")
    if said.eos_token_id != tokenizer.eos_token_id:
        raise ValueError(f"{video}: ends at token {said.eos_token_id}, which does not fit the tokenizer's end, "
                         f"{tokenizer.eos_token_id}; its config.json is not that of a trained captioner")
    for name in ("decoder_start_token_id", "pad_token_id"):  # GPT-2 has but one mark
        if getattr(said, name) is None:
            setattr(said, name, tokenizer.eos_token_id)


def _check_processor(folder: Path, config: dict, captioner: "TimeSformerGPT2") -> None:
    told = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    kind = told.get("image_processor_type", told.get("feature_extractor_type", "VideoMAE"))
    frames, side = config["encoder"]["num_frames"], config["encoder"]["image_size"]
    black = {"count": frames, "width": 64, "height": 48, "pixels": bytes(frames * 64 * 48 * 3)}
    shape = tuple(captioner.pixels(black).shape)
    # TimeSformer would take other sizes and other colours, and see nothing it knows.
    if shape != (1, frames, 3, side, side) or not kind.startswith("VideoMAE"):
        raise ValueError(f"{folder}: is a {kind} that makes pixels of shape {shape}, where a VideoMAEImageProcessor "
                         f"and {(1, frames, 3, side, side)} are needed; give {ROLES['processor']}")
