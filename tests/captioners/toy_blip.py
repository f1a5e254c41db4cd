"""Tiny random BLIPs in the form of the Hub's repositories: BLIP, and BLIP-2 with OPT and with T5.

`Salesforce/blip-image-captioning-base` and `-large` (2022) hold config.json, preprocessor_config.json, BERT's tokenizer
(vocab.txt and tokenizer.json, without the two rows that the model has beyond it) and model.safetensors beside
pytorch_model.bin, tied weights twice. `Salesforce/blip2-*` hold their weights in shards, and a processor_config.json.
"""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipConfig,
    BlipForConditionalGeneration,
    PreTrainedModel,
)

from tests.captioners.hub import repository

BLIP, OPT, T5 = "Salesforce/blip-image-captioning-base", "Salesforce/blip2-opt-2.7b", "Salesforce/blip2-flan-t5-xl"
QUERIES = 8
_TEXT = """
 the image shows a an of in on at with and is are by near behind under two three man woman boy girl child
 dog cat horse bird crowd band singer dancer guitar piano drum violin player stage street kitchen beach park room field
 river mountain forest tree flower car train boat bicycle table chair window door house city night day sky sun snow
 rain light dark bright red blue green yellow black white brown small large old young playing singing dancing walking
 running riding holding cooking standing sitting looking wearing smiling waiting colourful picture music sound people
 photo group line wall hand face hat dress water fire road bridge garden"""
_WORDS = _TEXT.split()
_ENDINGS = ["##s", "##ing", "##ed", "##er"]


def save(cache: Path) -> None:
    """The three repositories, in a Hub cache."""
    blip(repository(cache, BLIP))
    blip2(repository(cache, OPT), "opt")
    blip2(repository(cache, T5), "t5")


def blip(folder: Path, seed: int = 1) -> BlipForConditionalGeneration:
    """Into an empty folder; returns what was saved."""
    tokens = bert(folder)
    text = {"vocab_size": len(tokens) + 2, "bos_token_id": len(tokens), "eos_token_id": 2, "pad_token_id": 0,
            "sep_token_id": tokens.index("[SEP]"), "hidden_size": 32, "encoder_hidden_size": 32, "num_hidden_layers": 2,
            "intermediate_size": 64, "num_attention_heads": 2, "is_decoder": True, "max_length": 20,
            "max_position_embeddings": 64, "model_type": "blip_text_model"}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 384, "patch_size": 16, "model_type": "blip_vision_model"}
    config = {"architectures": ["BlipForConditionalGeneration"], "model_type": "blip", "text_config": text,
              "vision_config": vision, "projection_dim": 32, "image_text_hidden_size": 16}
    _image(folder, 384)
    model = _spread(BlipForConditionalGeneration(BlipConfig.from_dict(config)), seed)
    said = [place for place, token in enumerate(tokens) if token.isalpha() or token in ("[SEP]", *_ENDINGS)]
    with torch.no_grad():
        bias = torch.full((text["vocab_size"],), -1e4)
        bias[said] = 0
        bias[text["sep_token_id"]] = 4  # so that captions end, at different lengths
        model.text_decoder.cls.predictions.bias.copy_(bias)
    (folder / "config.json").write_text(json.dumps(config))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["text_decoder.bert.embeddings.position_ids"] = torch.arange(64)[None]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return model


def blip2(folder: Path, kind: str, seed: int = 2) -> Blip2ForConditionalGeneration:
    """Into an empty folder, with OPT ("opt") or T5 ("t5"); returns what was saved."""
    tokens, spoken = _byte_level(folder) if kind == "opt" else _unigram(folder)
    rows = -(-len(tokens) // 64) * 64
    if kind == "opt":  # 64 wide, since four bits come in blocks of 64
        text = {"model_type": "opt", "vocab_size": rows, "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 64,
                "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128, "bos_token_id": 2,
                "eos_token_id": tokens["Ċ"], "pad_token_id": 1, "dropout": 0.0}
    else:
        text = {"model_type": "t5", "vocab_size": rows, "d_model": 64, "d_kv": 32, "d_ff": 64, "num_layers": 2,
                "num_decoder_layers": 2, "num_heads": 2, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
                "eos_token_id": 1, "pad_token_id": 0, "tie_word_embeddings": False, "is_encoder_decoder": True}
    config = {"architectures": ["Blip2ForConditionalGeneration"], "model_type": "blip-2", "text_config": text,
              "use_decoder_only_language_model": kind == "opt", "num_query_tokens": QUERIES,
              "image_token_index": tokens["<image>"],
              "vision_config": {"model_type": "blip_2_vision_model", "hidden_size": 32, "intermediate_size": 64,
                                "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 224, "patch_size": 56},
              "qformer_config": {"model_type": "blip_2_qformer", "hidden_size": 32, "intermediate_size": 64,
                                 "num_hidden_layers": 2, "num_attention_heads": 2, "encoder_hidden_size": 32,
                                 "vocab_size": 64}}
    _image(folder, 224)
    (folder / "processor_config.json").write_text(json.dumps({
        "image_token": {"content": "<image>", "lstrip": False, "normalized": False, "rstrip": False,
                        "single_word": False, "special": True},
        "num_query_tokens": QUERIES, "processor_class": "Blip2Processor"}))
    model = _spread(Blip2ForConditionalGeneration(Blip2Config.from_dict(config)), seed)
    with torch.no_grad():
        rest = torch.ones(rows, dtype=torch.bool)
        rest[[*spoken, text["eos_token_id"]]] = False
        # A head without a bias: what is never said has none of the others' weight.
        model.language_model.get_output_embeddings().weight[rest] *= 0.01
    model.save_pretrained(folder, max_shard_size="60kB")
    (folder / "config.json").write_text(json.dumps(config))
    return model


def bert(folder: Path) -> list[str]:
    """BERT's tokenizer, with its special tokens where BERT has them; vocab.txt and tokenizer.json."""
    tokens = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS,
              *_ENDINGS, ".", ","]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    tokenizer = Tokenizer(models.WordPiece({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", tokens.index("[CLS]")), ("[SEP]", tokens.index("[SEP]"))])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]",
               "unk_token": "[UNK]"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"do_lower_case": True, "model_max_length": 512, "processor_class": "BlipProcessor",
         "tokenizer_class": "BertTokenizer", **special}))
    return tokens


def _byte_level(folder: Path) -> tuple[dict[str, int], list[int]]:
    """OPT's: GPT-2's byte-level BPE, of whole words here, between <s>, <pad>, </s>, <unk> and <image>."""
    letters = sorted({letter for word in _WORDS for letter in word})
    tokens = {token: place for place, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *letters, "Ġ", "Ċ"])}
    merges = []
    for word in _WORDS:
        made = "Ġ"
        for letter in word:
            if made + letter not in tokens:
                merges.append((made, letter))
                tokens[made + letter] = len(tokens)
            made += letter
    tokens["<image>"] = len(tokens)
    tokenizer = Tokenizer(models.BPE({name: place for name, place in tokens.items() if name != "<image>"}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<image>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>",
         "unk_token": "</s>", "add_bos_token": True, "model_max_length": 128}))
    return tokens, [tokens[f"Ġ{word}"] for word in _WORDS]


def _unigram(folder: Path) -> tuple[dict[str, int], list[int]]:
    """T5's: SentencePiece's unigrams, of whole words here, after <pad>, </s>, <unk> and before <image>."""
    names = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in _WORDS), "▁",
             *sorted({letter for word in _WORDS for letter in word} - set("▁"))]
    tokenizer = Tokenizer(models.Unigram([(name, -1.0 - place / 100) for place, name in enumerate(names)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", "<image>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
         "extra_ids": 0, "model_max_length": 128}))
    tokens = tokenizer.get_vocab()
    return tokens, [tokens[f"▁{word}"] for word in _WORDS]


def _image(folder: Path, size: int) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "do_normalize": True, "do_rescale": True, "do_resize": True, "do_convert_rgb": True, "do_pad": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor", "resample": 3,
        "rescale_factor": 1 / 255, "size": {"height": size, "width": size}, "size_divisor": 32}))


def _spread(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Weights so far apart that different pictures are told in different words."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() and parameter.dim() == 1:
                continue
            wide = 1.5 if "position" in name else 0.7 if "embed" in name or "cross" in name or "query" in name else 0.25
            parameter.normal_(std=wide if parameter.dim() > 1 else 0.05, generator=generator)
    return model.eval()
