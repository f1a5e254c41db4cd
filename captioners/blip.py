"""Image → text: BLIP, and BLIP-2, whose language model is OPT or T5, in transformers' own classes.

As M²UGen's released script has it: the model goes on from the words "the image shows", which its captions keep, by the
likeliest token each time, so that seeds change nothing.
"""
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from training.loading import quiet, reading

if TYPE_CHECKING:
    import torch
    from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

VERSION = 1
MODEL = "Salesforce/blip-image-captioning-base"
ROLES = {"image": MODEL}
SIZE = 16

# How many rows more than the tokenizer has tokens: BLIP's [DEC] and [ENC]; in OPT and T5, padding to a round number.
_SPARE = {"blip": 2, "blip-2": 127}
# What of BLIP-2 is never quantized: all but the language model.
_WHOLE = ["vision_model", "qformer", "language_projection", "lm_head"]


@dataclass(frozen=True)
class Settings:
    """The released script sets 4 beams and 100 tokens but hands neither to the model: its captions are greedy, and cut
    at the 20 tokens (prompt and all) of the Hub's configuration. Here they are greedy too; they may end later."""
    prompt: str = "the image shows"
    beams: int = 1
    max_new: int = 30  # tokens after the prompt; BLIP saw captions of up to 40
    min_new: int = 0


def quantizes(folders: Mapping[str, Path]) -> bool:
    """Only BLIP-2's language model; BLIP has but 0.2 to 0.5 billion weights."""
    return read_config(folders["image"], ("blip", "blip-2"))["model_type"] == "blip-2"


def load(folders: Mapping[str, Path], settings: Settings, *, dtype: "torch.dtype | None" = None,
         device: "str | torch.device" = "cpu", quantize: str = "") -> "Blip":
    """The model of `folders["image"]`: BLIP (base, large) or BLIP-2, as its config.json says; float32 by default.

    `quantize`: BLIP-2's language model in "4bit" (nf4), or in "8bit", where a caption depends a little on the others of
    its batch. Raises ValueError, naming the folder, where it is not there, not whole, of another kind, or not of the
    tokenizer's vocabulary and the processor's pixels; and for settings that the model cannot follow.
    """
    import torch
    from transformers import (
        AutoImageProcessor,
        BitsAndBytesConfig,
        Blip2ForConditionalGeneration,
        BlipForConditionalGeneration,
    )
    folder, dtype = folders["image"], dtype or torch.float32
    kinds = {"blip": BlipForConditionalGeneration, "blip-2": Blip2ForConditionalGeneration}
    kind = read_config(folder, tuple(kinds))["model_type"]
    placed = {}
    if quantize:
        few = {"4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype},
               "8bit": {"load_in_8bit": True}}
        if quantize not in few or kind == "blip":
            raise ValueError(f"{folder}: {quantize}: {' and '.join(few)} are for BLIP-2's language model; BLIP, of at "
                             "most half a billion weights, is not quantized")
        config = BitsAndBytesConfig(llm_int8_skip_modules=_WHOLE, **few[quantize])
        placed = {"quantization_config": config, "device_map": {"": str(device)}}
    with quiet():
        with reading(folder, "preprocessor_config.json"):
            processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        tokenizer = read_tokenizer(folder)
        weights = [file.name for end in ("safetensors", "bin") for file in sorted(folder.glob(f"*.{end}"))]
        with reading(folder, ", ".join(weights) or "model.safetensors, or pytorch_model.bin"):
            model, found = kinds[kind].from_pretrained(folder, dtype=dtype, output_loading_info=True,
                                                       ignore_mismatched_sizes=True, local_files_only=True, **placed)
    ours = {name for name, _ in (*model.named_children(), *model.named_parameters(recurse=False))}
    for names, fault in ((found["missing_keys"], "weights are missing"),
                         (found["mismatched_keys"], "weights have another shape than config.json says"),
                         ([name for name in found["unexpected_keys"] if name.partition(".")[0] not in ours],
                          "weights are another model's, which does not caption")):
        if names:
            raise ValueError(f"{folder}: {len(names)} {fault} ({', '.join(map(str, sorted(names)[:3]))}); fetch it "
                             "again, or give another model")
    check(folder, model.config, model.get_input_embeddings().weight.shape[0], tokenizer, processor, settings)
    return Blip(settings, processor, tokenizer, (model if quantize else model.to(device)).eval())


class Blip:
    """Pictures → captions, many at a time."""

    def __init__(self, settings: Settings, processor: "BaseImageProcessor", tokenizer: "PreTrainedTokenizerBase",
                 model: "PreTrainedModel") -> None:
        self.settings, self.processor, self.tokenizer, self.model = settings, processor, tokenizer, model

    def pixels(self, inputs: Sequence[dict]) -> "torch.Tensor":
        """[B, 3, 384, 384] (BLIP-2: 224), of any sizes: squeezed, not cropped."""
        pictures = [picture(one) for one in inputs]
        # What is where is said, since three rows of pixels would be taken for three channels.
        return self.processor(pictures, return_tensors="pt", input_data_format="channels_last")["pixel_values"]

    def __call__(self, inputs: Sequence[dict], seeds: Sequence[int]) -> list[str]:
        """B of `captioners.inputs.image` → B captions, which begin with the prompt; "" where nothing was added to it.

        `seeds` are not needed: nothing is drawn. Raises FloatingPointError where the model's numbers overflow.
        """
        import torch
        if not inputs:
            return []
        prompt = self.tokenizer(self.settings.prompt).input_ids
        config, text = self.model.config, self.model.config.text_config
        given = prompt
        if two := config.model_type == "blip-2":
            given = [config.image_token_id] * config.num_query_tokens + prompt
            ends = {"eos_token_id": text.eos_token_id, "pad_token_id": text.pad_token_id}
        else:
            ends = {}  # its own `generate` says them, and takes the prompt's last token, [SEP], off
        ids = torch.tensor([given] * len(inputs), device=self.model.device)
        with torch.inference_mode(), quiet():
            made = self.model.generate(
                self.pixels(inputs).to(self.model.device, self.model.dtype), input_ids=ids,
                attention_mask=torch.ones_like(ids), do_sample=False, num_beams=self.settings.beams,
                max_new_tokens=self.settings.max_new, min_new_tokens=self.settings.min_new, length_penalty=1.0,
                repetition_penalty=1.0, logits_processor=[_numbers], **ends)
        # T5's answers begin with one token of its own; the others' with all that was given.
        start = 1 if text.is_encoder_decoder else len(given) if two else len(given) - 1
        return [told(self.tokenizer, prompt, row) for row in made[:, start:].tolist()]


def told(tokenizer: "PreTrainedTokenizerBase", prompt: Sequence[int], said: Sequence[int]) -> str:
    """The prompt's tokens and what was said after it, in words; "" where that is nothing."""
    if not tokenizer.decode(said, skip_special_tokens=True).strip():
        return ""
    return tokenizer.decode([*prompt, *said], skip_special_tokens=True).strip()


def _numbers(tokens: "torch.Tensor", logits: "torch.Tensor") -> "torch.Tensor":
    if logits.isnan().any():
        raise FloatingPointError("the image model's logits are not numbers; take another dtype")
    return logits


def picture(one: dict) -> Image.Image:
    """Of `captioners.inputs.image`."""
    return Image.frombytes("RGB", (one["width"], one["height"]), one["pixels"])


def read_config(folder: Path, kinds: Sequence[str]) -> dict:
    """config.json of a model whose type is one of `kinds`. Raises ValueError, also where another file is cut short."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: holds no config.json; give the directory of a BLIP model in the Hub's format")
    for file in sorted(folder.glob("*.json")):  # here, since not everyone who reads them says which it was
        try:
            read = json.loads(file.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{file}: is not whole ({error}); fetch it again") from error
        if file.name == "config.json":
            config = read
    if config.get("model_type") not in kinds:
        raise ValueError(f"{folder}: is a {config.get('model_type')} model; {' or '.join(kinds)} is needed, such as "
                         f"{MODEL}")
    return config


def read_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer
    with reading(folder, "the tokenizer's files"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def check(folder: Path, config: "PreTrainedConfig", rows: int, tokenizer: "PreTrainedTokenizerBase",
          processor: "BaseImageProcessor", settings: Settings) -> None:
    """Model (of so many `rows` of embeddings), tokenizer, processor and settings belong together; else it shows only in
    wrong words. Raises ValueError."""
    text, side = config.text_config, config.vision_config.image_size
    if (processor.size["height"], processor.size["width"]) != (side, side):
        raise ValueError(f"{folder}: preprocessor_config.json makes pictures of another size than {side}, which the "
                         "model takes; fetch it again")
    if not 0 <= rows - len(tokenizer) <= _SPARE[config.model_type]:
        raise ValueError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {rows}: they are of "
                         "different models; fetch it again")
    special = {"padding": (tokenizer.pad_token_id, text.pad_token_id)}
    if config.model_type == "blip":
        special["end"] = (tokenizer.sep_token_id, text.sep_token_id)
    else:
        special["<image>"] = (tokenizer.get_vocab().get("<image>"), config.image_token_id)
    for name, (theirs, ours) in special.items():
        if ours is None or theirs != ours:
            raise ValueError(f"{folder}: its token of {name} is {theirs} in the tokenizer and {ours} in config.json; "
                             "fetch it again: old revisions of BLIP-2 lack it")
    length = len(tokenizer(settings.prompt).input_ids) + settings.max_new
    length += config.num_query_tokens if config.model_type == "blip-2" else 0
    most = getattr(text, "max_position_embeddings", None) or length
    if settings.beams < 1 or not 0 <= settings.min_new <= settings.max_new or settings.max_new < 1 or length > most:
        raise ValueError(f"{folder}: {settings}: a beam, a token and no more than {most} tokens in all are possible")
