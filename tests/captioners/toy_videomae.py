"""A tiny random TimeSformer-GPT2 as its author saved it in 2023, beside the processor and the tokenizer for it.

`Neleac/timesformer-gpt2-video-captioning` holds config.json (generation settings at its root, as its training script
put them there) and pytorch_model.bin (tied weights twice, and GPT-2's causal masks, which transformers stored then);
no tokenizer. `MCG-NJU/videomae-base` names a feature extractor, a class that transformers 5 no longer has.
"""
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GPT2Config, TimesformerConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

from tests.captioners.hub import repository

VIDEO, PROCESSOR = "Neleac/timesformer-gpt2-video-captioning", "MCG-NJU/videomae-base"
TOKENIZER = "openai-community/gpt2"
END = "<|endoftext|>"
_WORDS = [
    "a", "the", "man", "woman", "boy", "girl", "dog", "cat", "crowd", "band", "singer", "dancer", "is", "are",
    "and", "in", "on", "at", "with", "while", "who", "then", "near", "behind", "playing", "singing", "dancing",
    "walking", "running", "riding", "holding", "cooking", "standing", "sitting", "guitar", "drums", "piano",
    "violin", "bike", "ball", "street", "stage", "kitchen", "beach", "park", "room", "field", "bright", "dark",
    "slow", "fast", "young", "old", "small", "large", "red", "blue", "green"]
_POSITIONS, _FRAMES, _LAYERS = 256, 8, 2


def save(cache: Path) -> None:
    """The three repositories, in a Hub cache."""
    vocabulary = _tokenizer(repository(cache, TOKENIZER))
    _processor(repository(cache, PROCESSOR))
    _model(repository(cache, VIDEO), vocabulary)


def _tokenizer(folder: Path) -> dict[str, int]:
    """Byte-level BPE of whole words, as GPT-2's is: tokenizer.json, vocab.json, merges.txt, and the end as the last."""
    letters = sorted({letter for word in _WORDS for letter in word})
    vocabulary, merges = {token: place for place, token in enumerate([*letters, "Ġ"])}, []
    for word in _WORDS:
        made = "Ġ"
        for letter in word:
            if made + letter not in vocabulary:
                merges.append((made, letter))
                vocabulary[made + letter] = len(vocabulary)
            made += letter
    vocabulary[END] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{one} {other}\n" for one, other in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1024}))
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": len(vocabulary)}))
    return vocabulary


def _processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_normalize": True, "do_rescale": True,
        "do_resize": True, "feature_extractor_type": "VideoMAEFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 2,
        "rescale_factor": 1 / 255, "size": {"shortest_edge": 224}}))
    (folder / "config.json").write_text(json.dumps({"model_type": "videomae", "architectures": [
        "VideoMAEForPreTraining"]}))


def _model(folder: Path, vocabulary: dict[str, int]) -> None:
    end = vocabulary[END]
    # Patches of 56 x 56 keep it quick; the pixels are the real 224 x 224.
    encoder = TimesformerConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                                patch_size=56, num_frames=_FRAMES)
    decoder = GPT2Config(vocab_size=len(vocabulary), n_embd=32, n_layer=_LAYERS, n_head=2, n_positions=_POSITIONS,
                         bos_token_id=end, eos_token_id=end, add_cross_attention=True, is_decoder=True)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = VisionEncoderDecoderModel(config)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.5 if "cross" in name or "token" in name else 0.25)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _prefer_words(state, vocabulary)
    for layer in range(_LAYERS):  # the first 4.x wrote these
        for attention in ("attn", "crossattention"):
            state[f"decoder.transformer.h.{layer}.{attention}.bias"] = torch.ones(
                1, 1, _POSITIONS, _POSITIONS, dtype=torch.uint8).tril()
            state[f"decoder.transformer.h.{layer}.{attention}.masked_bias"] = torch.tensor(-1e4)
    torch.save(state, folder / "pytorch_model.bin")
    told = config.to_dict() | {"decoder_start_token_id": end, "pad_token_id": end, "max_length": 50, "num_beams": 4,
                               "early_stopping": True, "architectures": ["VisionEncoderDecoderModel"],
                               "tie_word_embeddings": False, "transformers_version": "4.28.1"}
    (folder / "config.json").write_text(json.dumps(told, indent=2))


def _prefer_words(state: dict[str, torch.Tensor], vocabulary: dict[str, int]) -> None:
    """The last norm's bias points to whole words, and a little to the end: what comes out reads as words."""
    table = state["decoder.transformer.wte.weight"]
    words = {f"Ġ{word}" for word in _WORDS}
    table[:, 0] = torch.tensor([1.0 if token in words else 1.25 if token == END else -1.0 for token in vocabulary])
    state["decoder.transformer.ln_f.bias"][0] = 12.0
    state["decoder.lm_head.weight"] = table.clone()
