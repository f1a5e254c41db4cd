"""Published-style checkpoints at toy size, with every number different from every other."""
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from training import names
from training.config import SUMMED, Config, Modality, Projector
from training.sizes import shapes

M2UGEN = Config(
    name="m2ugen", dim=16, layers=20, heads=2, feed_forward=24, vocabulary=40, audio_tokens=8,
    modalities=(Modality("audio", 25, 12), Modality("image", 7, 10), Modality("video", 9, 10)), adapter_ratio=1,
    prefix_rows=18, prefix_layout="ranges", projector=Projector(16, 6, 8, 4, 2, 16), music_decoder="musicgen",
    lora_rank=4)
M2UGEN_SUMMED = replace(M2UGEN, prefix_rows=20, prefix_layout=SUMMED)
M2UGEN_AUDIOLDM2 = replace(M2UGEN, projector=Projector(1, 44, 8, 4, 2, 16), music_decoder="audioldm2")
MULLAMA = Config(
    name="mullama", dim=16, layers=22, heads=2, feed_forward=24, vocabulary=48, audio_tokens=0,
    modalities=(Modality("audio", 25, 12),), adapter_ratio=4, prefix_rows=20, prefix_layout=SUMMED, projector=None,
    music_decoder=None, lora_rank=4)
LAYOUTS = {"ranges": M2UGEN, "summed": M2UGEN_SUMMED, "audioldm2": M2UGEN_AUDIOLDM2,
           "summed audioldm2": replace(M2UGEN_SUMMED, projector=M2UGEN_AUDIOLDM2.projector, music_decoder="audioldm2"),
           "mullama": MULLAMA}


def checkpoint(config: Config, seed: int = 0) -> dict[str, Tensor]:
    """All tensors by published name, in the dtypes of the released files: LLaMA's own in float16, others in float32."""
    generator = torch.Generator().manual_seed(seed)

    def dtype(name: str) -> torch.dtype:
        trained = ".lora_" in name or name.endswith(("bias", "norm.weight"))
        return torch.float16 if name.startswith("llama.") and not trained else torch.float32
    return {name: torch.randn(shape, generator=generator).to(dtype(name)) for name, shape in shapes(config).items()}


def encoders() -> dict[str, Tensor]:
    """A few tensors as MERT, ViT, ViViT and MusicGen bring them, one of whole numbers among them."""
    return {"mert_model.encoder.pos_conv_embed.conv.weight_g": torch.randn(1, 1, 4),
            "vit_model.layernorm.bias": torch.ones(3),
            "vivit_model.embeddings.cls_token": torch.randn(1, 1, 3).bfloat16(),
            "generation_model.decoder.steps": torch.arange(4)}


def meta_llama(config: Config, seed: int = 1) -> dict[str, Tensor]:
    """A LLaMA in Meta's names and float16, as consolidated.00.pth holds it, with `rope.freqs`."""
    rows = replace(config, audio_tokens=0, name="mullama", projector=None,
                   music_decoder=None, modalities=config.modalities[:1], prefix_layout=SUMMED)
    sizes, generator = shapes(rows), torch.Generator().manual_seed(seed)
    held = {name: torch.randn(sizes[f"llama.{name}"], generator=generator).half() for name in names.meta_llama(rows)}
    return {**held, "rope.freqs": torch.ones(4)}


def hugging_face(config: Config, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same LLaMA as transformers names and orders it, made here without `names`."""
    half = config.dim // config.heads // 2
    own = {"wq": "self_attn.q_proj", "wk": "self_attn.k_proj", "wv": "self_attn.v_proj", "wo": "self_attn.o_proj",
           "w1": "mlp.gate_proj", "w2": "mlp.down_proj", "w3": "mlp.up_proj", "attention_norm": "input_layernorm",
           "ffn_norm": "post_attention_layernorm"}
    top = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
    # Row 2i of a head goes to i, row 2i + 1 to half + i.
    one_head = (*range(0, 2 * half, 2), *range(1, 2 * half, 2))
    order = [head * 2 * half + row for head in range(config.heads) for row in one_head]
    made = {}
    for name, tensor in held.items():
        parts = name.split(".")
        if parts[0] == "layers":
            kind = parts[-2]
            made[f"model.layers.{parts[1]}.{own[kind]}.weight"] = tensor[order] if kind in ("wq", "wk") else tensor
        elif parts[0] in top:
            made[f"{top[parts[0]]}.weight"] = tensor
    return made
