"""Understanding adapters: what an encoder says, as one token of LLaMA's width (M²UGen, section 3.1; MU-LLaMA)."""
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.config import Modality

BLOCKS = 3
NORM_EPS = 1e-6          # LLaMA's own is 1e-5
SCALE = 1 / (1 + 1e-6)   # of the unit vector: what the published weights were trained behind


class Block(nn.Module):
    """x + f2(silu(f1(n(x))) · f3(n(x))), n being an RMSNorm: LLaMA's feed-forward, without biases."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=NORM_EPS)
        self.f1 = nn.Linear(dim, hidden, bias=False)
        self.f2 = nn.Linear(hidden, dim, bias=False)
        self.f3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.f2(functional.silu(self.f1(normed)) * self.f3(normed))


class Adapter(nn.Module):
    """[B, tokens, width] of one encoder → [B, 1, dim]."""

    def __init__(self, modality: Modality, dim: int, ratio: int) -> None:
        super().__init__()
        self.aggregate = nn.Conv1d(modality.tokens, 1, 1)
        self.project = nn.Linear(modality.width, dim)
        self.blocks = nn.ModuleList(Block(dim, dim * ratio) for _ in range(BLOCKS))

    def forward(self, encoded: Tensor) -> Tensor:
        # The convolution, as the product that it is: torch's own of 3137 channels in bfloat16 writes beyond its memory
        # on a CPU with several threads.
        summed = torch.matmul(self.aggregate.weight[:, :, 0], encoded) + self.aggregate.bias
        x = self.project(functional.normalize(summed, dim=-1) * SCALE)
        for block in self.blocks:
            x = block(x)
        return x
