"""The output projector: LLaMA's states at the audio tokens → a condition for the music decoder (M²UGen, 3.3)."""
import torch
from torch import Tensor, nn

from training.config import Projector

FACTOR = 10.0  # published weights emit this many times the decoder's text encoding


class OutputProjector(nn.Module):
    """[B, audio tokens, dim] → [B, queries, out], in the published scale: divide by FACTOR before generating.

    Names within are the published ones.
    """

    def __init__(self, config: Projector, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, config.width)
        self.tfm = nn.Transformer(config.width, config.heads, config.layers, config.layers, config.feed_forward,
                                  dropout=0.0, activation="relu", norm_first=False, batch_first=True)
        self.model = nn.Linear(config.width, config.out)
        self.query_embs = nn.Parameter(torch.empty(1, config.queries, config.width).normal_())

    def forward(self, states: Tensor) -> Tensor:
        queries = self.query_embs.expand(len(states), -1, -1)
        return self.model(self.tfm(self.fc(states), queries))
