"""The published checkpoints' names and row order, and ours, one to one.

Meta's LLaMA rotates neighbouring pairs of each head's dimensions, transformers' rotates halves: rows of wq and wk, and
of whatever is added to their outputs, change places on the way. Shapes are the same on both sides.
"""
import re
from dataclasses import dataclass

from torch import Tensor

from training.config import Config

WRAPPED = "module."   # what DistributedDataParallel puts before every name
ENCODERS = {"audio": "mert_model.", "image": "vit_model.", "video": "vivit_model."}
DECODER = "generation_model."
ADAPTERS = {"audio": "mu_mert_", "image": "iu_vit_", "video": "iu_vivit_"}

_LINEARS = {"attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
            "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
            "feed_forward.w3": "mlp.up_proj"}
_NORMS = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_UNBIASED = ("attention.wk", "attention.wv")
_ROTATED = ("attention.wq", "attention.wk")
_TOP = {"tok_embeddings.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight"}


@dataclass(frozen=True)
class Ours:
    """Where a published tensor goes: a name of M2UGen's state dict; `rotated` if its rows change places."""
    name: str
    rotated: bool = False


def published(config: Config) -> dict[str, Ours]:
    """Every tensor of a published checkpoint of this config, by its published name (without `module.`).

    Encoders and the music decoder are not listed: they keep their libraries' names behind a prefix (ENCODERS, DECODER).
    """
    table = {f"llama.{name}": ours for name, ours in meta_llama(config).items()}
    for layer in range(config.layers):
        table[f"llama.layers.{layer}.attention.gate"] = Ours(f"prefix.gates.{layer}")
        for linear, own in _LINEARS.items():
            block, _, short = linear.partition(".")
            theirs = f"llama.layers.{layer}.{block}.lora_{short}"
            mine = f"llama.model.layers.{layer}.{own}"
            table[f"{theirs}_l1.weight"] = Ours(f"{mine}.lora_A.default.weight")
            table[f"{theirs}_l2.weight"] = Ours(f"{mine}.lora_B.default.weight", linear in _ROTATED)
            if linear not in _UNBIASED:
                table[f"llama.layers.{layer}.{linear}.bias"] = Ours(f"{mine}.base_layer.bias", linear in _ROTATED)
    table["prefix_query.weight"] = Ours("prefix.query")
    for modality in config.modalities:
        theirs, mine = ADAPTERS[modality.name], f"adapters.{modality.name}"
        for part, own in (("agg", "aggregate"), ("proj", "project")):
            table |= {f"{theirs}{part}.{kind}": Ours(f"{mine}.{own}.{kind}") for kind in ("weight", "bias")}
        for block in range(3):
            table |= {f"{theirs}{part}_{block + 1}.weight": Ours(f"{mine}.blocks.{block}.{part}.weight")
                      for part in ("norm", "f1", "f2", "f3")}
    if config.projector is not None:
        table |= {f"output_projector.{name}": Ours(f"projector.{name}") for name in _projector(config)}
    return table


def meta_llama(config: Config) -> dict[str, Ours]:
    """The tensors of a LLaMA-2 in Meta's format (consolidated.00.pth; its `rope.freqs` is no weight)."""
    table = {name: Ours(f"llama.{own}") for name, own in _TOP.items()}
    for layer in range(config.layers):
        for norm, own in _NORMS.items():
            table[f"layers.{layer}.{norm}.weight"] = Ours(f"llama.model.layers.{layer}.{own}.weight")
        for linear, own in _LINEARS.items():
            table[f"layers.{layer}.{linear}.weight"] = Ours(
                f"llama.model.layers.{layer}.{own}.base_layer.weight", linear in _ROTATED)
    return table


def hugging_face_llama(config: Config) -> dict[str, Ours]:
    """The tensors of a LLaMA-2 in Hugging Face's format, whose rows are in our order already.

    Its `rotary_emb.inv_freq` (old files) is no weight.
    """
    return {plain(ours.name).removeprefix("llama."): Ours(ours.name) for ours in meta_llama(config).values()}


def plain(name: str) -> str:
    """Our name without what peft puts into it: the base weight's own name, or `lora_A.weight` / `lora_B.weight`."""
    return re.sub(r"\.(base_layer|default)(?=\.(?:weight|bias)$)", "", name)


def to_ours(tensor: Tensor, rotated: bool, config: Config) -> Tensor:
    """The published tensor in our row order (a new tensor if rotated, otherwise the same)."""
    return _swap(tensor, config, (-1, 2)) if rotated else tensor


def to_published(tensor: Tensor, rotated: bool, config: Config) -> Tensor:
    """Our tensor in the published row order: the inverse of `to_ours`."""
    return _swap(tensor, config, (2, -1)) if rotated else tensor


def _swap(tensor: Tensor, config: Config, inner: tuple[int, int]) -> Tensor:
    """Within each head: pairs (d/2, 2) → halves (2, d/2), or back."""
    apart = tensor.reshape(config.heads, *inner, *tensor.shape[1:])
    return apart.transpose(1, 2).reshape(tensor.shape).contiguous()


def _projector(config: Config) -> list[str]:
    """The output projector's names: nn.Transformer's own."""
    attention = ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    names = ["fc.weight", "fc.bias", "model.weight", "model.bias", "query_embs"]
    for side, attentions, norms in (("encoder", ["self_attn"], 2), ("decoder", ["self_attn", "multihead_attn"], 3)):
        parts = [f"{one}.{name}" for one in attentions for name in attention]
        parts += [f"{one}.{kind}" for one in ["linear1", "linear2", *(f"norm{n + 1}" for n in range(norms))]
                  for kind in ("weight", "bias")]
        names += [f"tfm.{side}.layers.{layer}.{part}" for layer in range(config.projector.layers) for part in parts]
        names += [f"tfm.{side}.norm.weight", f"tfm.{side}.norm.bias"]
    return names
