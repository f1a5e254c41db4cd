"""MU-LLaMA, LLaMA-2 and MERT, tiny and random, as the Hub has them.

mu-llama/MU-LLaMA holds checkpoint.pth ({"model": ...}, beside a baseline and a search index); meta-llama/Llama-2-7b-hf
float16 safetensors, config.json, and the tokenizer as tokenizer.model and tokenizer.json; m-a-p/MERT-v1-330M
pytorch_model.bin with the weight norms' old names, config.json of its own model type, and preprocessor_config.json.
Here checkpoint.pth holds the LLaMA as well, since one without it is of LLaMA-2's 32000 tokens.
"""
import io
import json
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, HubertConfig, HubertModel

from captioners.mullama import ROLES, TEMPLATE
from tests.captioners import hub
from tests.training.toys import hugging_face
from training.config import SUMMED, Config, Modality
from training.sizes import shapes

WORDS = ("a", "the", "of", "with", "and", "slow", "fast", "calm", "bright", "dark", "warm", "gentle", "heavy",
         "steady", "quick", "soft", "loud", "sad", "happy", "tense", "playful", "guitar", "piano", "drums", "bass",
         "violin", "flute", "strings", "synth", "organ", "trumpet", "voice", "choir", "melody", "rhythm", "tempo",
         "beat", "chord", "song", "track", "music", "piece", "mood", "tone", "sound", "plays", "leads", "follows",
         "drives", "carries", "builds", "fades", "repeats", "features", "acoustic", "electric", "ambient", "classical",
         "electronic", "folk", "jazz", "rock", "pop", "dance", "minor", "major", "minute", "hour")
TOKENS = 480  # of which 259 are LLaMA's marks and bytes
CONFIG = Config(name="mullama", dim=64, layers=6, heads=4, feed_forward=128, vocabulary=TOKENS, audio_tokens=0,
                modalities=(Modality("audio", 25, 32),), adapter_ratio=4, prefix_rows=4, prefix_layout=SUMMED,
                projector=None, music_decoder=None, lora_rank=4)


def save(cache: Path) -> None:
    """The three repositories under their own ids."""
    pieces = tokenizer()
    tensors = checkpoint(CONFIG, pieces)
    torch.save({"model": tensors, "epoch": 19}, hub.repository(cache, ROLES["mullama"]) / "checkpoint.pth")
    save_llama(hub.repository(cache, ROLES["llama"]), CONFIG, tensors, pieces)
    save_mert(hub.repository(cache, ROLES["mert"]))


def tokenizer(count: int = TOKENS) -> bytes:
    """A sentencepiece model as LLaMA's: BPE, bytes for what has no piece, no mark but <unk>, <s> and </s>."""
    model = io.BytesIO()
    text = [*WORDS * 20, *TEMPLATE.split() * 2]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=count, model_type="bpe", byte_fallback=True,
        character_coverage=0.99, num_threads=1, minloglevel=2, normalization_rule_name="identity", pad_id=-1,
        hard_vocab_limit=False)
    return model.getvalue()


def checkpoint(config: Config, pieces: bytes, seed: int = 0) -> dict[str, Tensor]:
    """Every tensor under its published name; what it says are the tokenizer's whole words."""
    random = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes(config).items():
        if name.endswith("norm.weight") or ".norm_" in name or "_norm_" in name:
            tensor = torch.ones(shape)
        elif name.endswith(".gate"):
            tensor = torch.full(shape, 2.0)
        else:
            tensor = torch.randn(shape, generator=random) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.1)
        made[name] = tensor
    words = sentencepiece.SentencePieceProcessor(model_proto=pieces)
    said = [words.piece_to_id(f"▁{word}") for word in WORDS]
    mute = torch.ones(config.vocabulary, dtype=torch.bool)
    mute[[one for one in said if one != words.unk_id()] + [config.eos]] = False
    made["llama.output.weight"][mute] = 0
    made["llama.output.weight"][~mute] *= 8
    made["llama.output.weight"][config.eos] *= 2  # or hardly any caption would end
    made["prefix_query.weight"] *= 0.1
    return {name: tensor.half() if name.startswith("llama.") and not name.endswith((".gate", ".bias")) else tensor
            for name, tensor in made.items()}


def save_llama(folder: Path, config: Config, tensors: dict[str, Tensor], pieces: bytes) -> None:
    """The LLaMA below a checkpoint, as Hugging Face lays it out."""
    held = {name.removeprefix("llama."): tensor for name, tensor in tensors.items() if name.startswith("llama.") and not
            name.endswith((".bias", ".gate")) and ".lora_" not in name}
    save_file({name: tensor.clone() for name, tensor in hugging_face(config, held).items()},
              folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": config.dim,
        "num_hidden_layers": config.layers, "num_attention_heads": config.heads, "num_key_value_heads": config.heads,
        "intermediate_size": config.feed_forward, "vocab_size": config.vocabulary, "rms_norm_eps": config.norm_eps,
        "bos_token_id": config.bos, "eos_token_id": config.eos, "torch_dtype": "float16"}))
    (folder / "tokenizer.model").write_bytes(pieces)
    said = json.loads(AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())
    # As LLaMA-2's own tokenizer.json has it; what was made of the model forgets the blank that begins every text.
    said["normalizer"]["normalizers"].insert(0, {"type": "Prepend", "prepend": "▁"})
    (folder / "tokenizer.json").write_text(json.dumps(said))


def save_mert(folder: Path, width: int = 32) -> None:
    config = HubertConfig(
        hidden_size=width, num_hidden_layers=24, num_attention_heads=2, intermediate_size=2 * width,
        conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, do_stable_layer_norm=True,
        feat_extract_norm="group", conv_bias=False, initializer_range=0.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tensors = HubertModel(config).state_dict()
    for place, letter in enumerate("gv"):
        tensors[f"encoder.pos_conv_embed.conv.weight_{letter}"] = tensors.pop(
            f"encoder.pos_conv_embed.conv.parametrizations.weight.original{place}")
    torch.save(tensors, folder / "pytorch_model.bin")
    said = config.to_dict() | {"model_type": "mert_model", "architectures": ["MERTModel"], "sample_rate": 24000,
                               "auto_map": {"AutoModel": "modeling_MERT.MERTModel"}, "feature_extractor_cqt": True}
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 24000, "do_normalize": True,
        "feature_size": 1, "padding_side": "right", "padding_value": 0, "return_attention_mask": True}))
