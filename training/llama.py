"""LLaMA-2 as transformers has it, with the biases that M²UGen and MU-LLaMA tune and LoRA on its seven linears."""
from collections.abc import Callable

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from training.config import Config

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj")
BIASED = ("q_proj", "o_proj", "gate_proj", "down_proj", "up_proj")  # k and v have none


class Rotary(LlamaRotaryEmbedding):
    """Frequencies that stay exact: `model.bfloat16()` would round them, and with them every position."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Rotary":
        super()._apply(fn, recurse)
        with torch.device("cpu"):
            exact, _ = self.compute_default_rope_parameters(self.config)
        self.inv_freq = self.original_inv_freq = exact.to(self.inv_freq.device)
        return self


def llama(config: Config, attention: str = "sdpa") -> LlamaForCausalLM:
    """A LLaMA-2 of `config`'s size, randomly initialised, in float32.

    Under `torch.device("meta")` its weights take no memory, and rotary frequencies (no weights: no file holds them) are
    real all the same. LoRA's scale is 1 (alpha = rank). All weights but LoRA's come back frozen (peft does that).
    """
    model = LlamaForCausalLM._from_config(LlamaConfig(
        hidden_size=config.dim, num_hidden_layers=config.layers, num_attention_heads=config.heads,
        num_key_value_heads=config.heads, intermediate_size=config.feed_forward, vocab_size=config.all_tokens,
        rms_norm_eps=config.norm_eps, max_position_embeddings=config.positions, attention_bias=False, mlp_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta}, tie_word_embeddings=False,
        bos_token_id=config.bos, eos_token_id=config.eos, pad_token_id=None),
        attn_implementation=attention)
    for layer in model.model.layers:
        for name in ("q_proj", "o_proj"):  # attention_bias would give k and v one too
            getattr(layer.self_attn, name).bias = nn.Parameter(torch.zeros(config.dim))
    with torch.device("cpu"):
        model.model.rotary_emb = Rotary(model.config)
    inject_adapter_in_model(
        LoraConfig(r=config.lora_rank, lora_alpha=config.lora_rank, lora_dropout=0.0, target_modules=list(LINEARS),
                   bias="none"), model)
    return model
