"""Text encodings of the music decoders, against what tiny models of the same classes say."""
from types import SimpleNamespace

import torch
from torch import nn
from transformers import ClapConfig, ClapModel, GPT2Config, GPT2Model, T5Config, T5EncoderModel

from training import targets


def test_musicgen_target() -> None:
    torch.manual_seed(0)
    t5 = T5EncoderModel(T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)).eval()
    ids = torch.tensor([[5, 6, 7, 1] + [0] * 124, [8, 1] + [0] * 126])
    tokens = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    target = targets.musicgen(t5.train(), tokens)
    assert target.shape == (2, 128, 16) and not target.requires_grad and not t5.training
    torch.testing.assert_close(target[0, :4], t5(input_ids=ids[:1, :4]).last_hidden_state[0], rtol=0, atol=1e-5)


def test_gpt2_goes_on() -> None:
    """Each state is what the model says behind all before it; a padded row is what it is unpadded."""
    torch.manual_seed(0)
    gpt2 = GPT2Model(GPT2Config(vocab_size=10, n_embd=16, n_layer=2, n_head=2, n_positions=64)).eval()
    states = torch.randn(1, 5, 16)
    said = targets.continued(gpt2, states, torch.ones(1, 5, dtype=torch.long), 4)
    assert said.shape == (1, 4, 16)
    so_far = states
    for step in range(4):
        following = gpt2(inputs_embeds=so_far).last_hidden_state[:, -1]
        torch.testing.assert_close(said[:, step], following, rtol=0, atol=1e-5)
        so_far = torch.cat([so_far, following[:, None]], 1)


def test_audioldm2_target() -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    clap = ClapModel(ClapConfig(
        text_config={**small, "vocab_size": 30, "projection_dim": 12, "max_position_embeddings": 40},
        audio_config={"num_mel_bins": 64, "spec_size": 64, "hidden_size": 32, "patch_embeds_hidden_size": 16,
                      "depths": [1], "num_attention_heads": [2], "window_size": 4, "projection_dim": 12},
        projection_dim=12))
    t5 = T5EncoderModel(T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    gpt2 = GPT2Model(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=2, n_positions=200))

    class Projection(nn.Module):
        """diffusers' AudioLDM2ProjectionModel, less its start and end tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(12, 8), nn.Linear(16, 8)

        def forward(self, hidden_states, hidden_states_1, attention_mask, attention_mask_1):
            return SimpleNamespace(hidden_states=torch.cat([self.one(hidden_states), self.other(hidden_states_1)], 1),
                                   attention_mask=torch.cat([attention_mask, attention_mask_1], 1))

    ids = torch.tensor([[5, 6, 7, 1] + [0] * 124])
    tokens = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    words = {"input_ids": torch.tensor([[0, 5, 6, 2]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    projection = Projection()
    target = targets.audioldm2(clap, t5, projection, gpt2, words, tokens)
    assert target.shape == (1, 1, 128 * 16 + 8 * 8)
    states = t5(**tokens).last_hidden_state
    torch.testing.assert_close(target[0, 0, :2048].view(128, 16), states[0])
    whole = clap.get_text_features(**words).pooler_output[:, None]
    read = torch.cat([projection.one(whole), projection.other(states)], 1)
    mask = torch.cat([torch.ones(1, 1, dtype=torch.long), tokens["attention_mask"]], 1)
    first = gpt2(inputs_embeds=read, attention_mask=mask).last_hidden_state[0, -1]
    torch.testing.assert_close(target[0, 0, 2048:2056], first, rtol=0, atol=1e-5)
