"""What the output projector learns to emit: the music decoder's own encoding of the music's caption.

Functions on models of transformers and diffusers, given by the caller, in eval and without gradient. Not yet times
`projector.FACTOR`: the loss does that.
"""
import torch
from torch import Tensor, nn
from transformers import BatchEncoding, ClapModel, GPT2Model, PreTrainedModel, PreTrainedTokenizerBase

TOKENS = 128     # of a caption, padded or cut
GPT2_TOKENS = 8  # that AudioLDM 2's language model says for a caption


def caption_tokens(tokenizer: PreTrainedTokenizerBase, captions: list[str], device: torch.device | str = "cpu",
                   length: int = TOKENS) -> BatchEncoding:
    """input_ids and attention_mask [B, length]. Raises ValueError for a tokenizer without a vocabulary."""
    if len(tokenizer) == 0:
        raise ValueError(f"{tokenizer.name_or_path}: the tokenizer's vocabulary is empty; files are missing there")
    return tokenizer(captions, padding="max_length", truncation=True, max_length=length,
                     return_tensors="pt").to(device)


@torch.no_grad()
def musicgen(text_encoder: PreTrainedModel, tokens: BatchEncoding) -> Tensor:
    """[B, 128, 768]: the last hidden state of MusicGen's T5 encoder, before `enc_to_dec_proj`."""
    text_encoder.eval()
    return text_encoder(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state


@torch.no_grad()
def audioldm2(clap: ClapModel, t5: PreTrainedModel, projection: nn.Module, language_model: GPT2Model,
              clap_tokens: BatchEncoding, t5_tokens: BatchEncoding, said: int = GPT2_TOKENS) -> Tensor:
    """[B, 1, 128 · 1024 + 8 · 768]: flan-T5's states and GPT-2's, each flattened, T5 first.

    GPT-2 reads CLAP's and T5's encodings of the caption, brought to its width by `projection` (diffusers'
    AudioLDM2ProjectionModel), and goes on for `said` states, each its input at the next step.
    """
    for model in (clap, t5, projection, language_model):
        model.eval()
    whole = clap.get_text_features(**clap_tokens).pooler_output[:, None]
    words = t5(input_ids=t5_tokens["input_ids"], attention_mask=t5_tokens["attention_mask"]).last_hidden_state
    mask = torch.ones(whole.shape[:2], dtype=torch.long, device=whole.device)
    read = projection(hidden_states=whole, hidden_states_1=words, attention_mask=mask,
                      attention_mask_1=t5_tokens["attention_mask"])
    spoken = continued(language_model, read.hidden_states, read.attention_mask, said)
    return torch.cat([words.flatten(1), spoken.flatten(1)], 1)[:, None]


@torch.no_grad()
def continued(language_model: GPT2Model, states: Tensor, mask: Tensor, count: int) -> Tensor:
    """[B, count, width]: each the last hidden state behind all before it, `states` [B, T, width] first."""
    for _ in range(count):
        last = language_model(inputs_embeds=states, attention_mask=mask).last_hidden_state[:, -1:]
        states = torch.cat([states, last], 1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return states[:, -count:]
