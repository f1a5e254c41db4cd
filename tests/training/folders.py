"""Folders as the frozen models are published in, tiny and random, by the classes that made the real ones."""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    ClapConfig,
    ClapModel,
    EncodecConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    ViTForImageClassification,
    VivitForVideoClassification,
)

from training import encoders

WORDS = ("slow", "fast", "piece", "of", "music", "a", "in", "minor", "major", "key", "drums", "piano", "with", "quiet")
SIZE = len(WORDS) + 4


def mert(folder: Path) -> Path:
    encoders.debug(seed=1).audio.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 24000}')
    return folder


def vit(folder: Path) -> Path:
    made = encoders.debug(seed=1)
    whole = ViTForImageClassification(made.image.config)
    whole.vit.load_state_dict(made.image.state_dict(), strict=False)
    whole.save_pretrained(folder)
    made.image_processor.save_pretrained(folder)
    return folder


def vivit(folder: Path) -> Path:
    made = encoders.debug(seed=1)
    whole = VivitForVideoClassification(made.video.config)
    whole.vivit.load_state_dict(made.video.state_dict(), strict=False)
    whole.save_pretrained(folder)
    made.video_processor.save_pretrained(folder)
    return folder


def t5(folder: Path, width: int = 24, seed: int = 1, encoder: bool = False) -> Path:
    """As t5-base is saved, with its decoder; or the encoder alone."""
    torch.manual_seed(seed)
    (T5EncoderModel if encoder else T5ForConditionalGeneration)(_t5(width)).save_pretrained(folder)
    words(folder, 0, "</s>", "<pad>")
    return folder


def musicgen(folder: Path, width: int = 24) -> Path:
    torch.manual_seed(2)
    small = EncodecConfig(num_filters=4, hidden_size=8, codebook_size=16, codebook_dim=8, upsampling_ratios=[2, 2])
    decoder = MusicgenDecoderConfig(vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                    ffn_dim=16, num_codebooks=2)
    MusicgenForConditionalGeneration(MusicgenConfig(
        text_encoder=_t5(width).to_dict(), audio_encoder=small.to_dict(), decoder=decoder.to_dict())
    ).save_pretrained(folder)
    words(folder, 0, "</s>", "<pad>")
    return folder


def audioldm2(folder: Path, t5_width: int = 16, width: int = 12) -> Path:
    """The parts that encode captions, where diffusers saves them."""
    torch.manual_seed(3)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ClapModel(ClapConfig(
        text_config={**small, "vocab_size": SIZE, "projection_dim": 10, "max_position_embeddings": 40,
                     "pad_token_id": 1, "initializer_range": 0.5},
        audio_config={"num_mel_bins": 64, "spec_size": 64, "hidden_size": 32, "patch_embeds_hidden_size": 16,
                      "depths": [1], "num_attention_heads": [2], "window_size": 4, "projection_dim": 10},
        projection_dim=10)).save_pretrained(folder / "text_encoder")
    words(folder / "tokenizer", 1, "</s>", "<pad>", "<s>", longest=38)
    t5(folder / "text_encoder_2", t5_width, 3, encoder=True)
    words(folder / "tokenizer_2", 0, "</s>", "<pad>")
    GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=width, n_layer=1, n_head=2, n_positions=64, bos_token_id=0,
                               eos_token_id=0)).save_pretrained(folder / "language_model")
    (folder / "projection_model").mkdir()
    shapes = {"projection.weight": (width, 10), "projection.bias": (width,), "projection_1.weight": (width, t5_width),
              "projection_1.bias": (width,), "sos_embed": (width,), "eos_embed": (width,), "sos_embed_1": (width,),
              "eos_embed_1": (width,)}
    save_file({name: torch.randn(shape) for name, shape in shapes.items()},
              folder / "projection_model" / "diffusion_pytorch_model.safetensors")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "AudioLDM2Pipeline"}))
    return folder


def words(folder: Path, pad: int, end: str, padding: str, begin: str | None = None, longest: int = 512) -> None:
    """A tokenizer of whole words, with the marks of T5's or, with `begin`, RoBERTa's."""
    marks = [padding, end] if begin is None else [begin, padding, end]
    assert marks.index(padding) == pad
    vocabulary = {word: place for place, word in enumerate([*marks, "<unk>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {end}" if begin is None else f"{begin} $A {end}",
        special_tokens=[(mark, vocabulary[mark]) for mark in marks if mark != padding])
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token=padding, eos_token=end, unk_token="<unk>",
                            model_max_length=longest).save_pretrained(folder)


def _t5(width: int) -> T5Config:
    return T5Config(vocab_size=SIZE, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
