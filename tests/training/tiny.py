"""Small random models for tests: every parameter off zero, so that nothing is hidden by one."""
import dataclasses

import torch

from training.config import SUMMED, Config, Modality, Projector, m2ugen, mullama
from training.m2ugen import M2UGen

MODALITIES = (Modality("audio", 5, 12), Modality("image", 7, 8), Modality("video", 9, 8))
M2UGEN = dataclasses.replace(m2ugen("debug"), dim=32, layers=8, heads=2, feed_forward=48, vocabulary=60, prefix_rows=6,
                             modalities=MODALITIES, lora_rank=4, projector=Projector(3, 5, 16, 4, 2, 24))
OLDER = dataclasses.replace(M2UGEN, prefix_rows=5, prefix_layout=SUMMED)
MULLAMA = dataclasses.replace(mullama("debug"), dim=32, layers=6, heads=2, feed_forward=48, vocabulary=60,
                              prefix_rows=4, modalities=MODALITIES[:1], lora_rank=4)


def model(config: Config = M2UGEN, seed: int = 0) -> M2UGen:
    """In eval; gates around 0.5, so that what is heard matters."""
    generator = torch.Generator().manual_seed(seed)
    made = M2UGen(config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "prefix.gates" in name:
                parameter.copy_(0.5 + 0.2 * noise)
            elif "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            else:
                parameter.copy_(noise * (0.5 if "prefix" in name else 0.15))
    return made.eval()


def encoded(config: Config, name: str, seed: int) -> torch.Tensor:
    """[tokens, width] of one sample."""
    one = next(one for one in config.modalities if one.name == name)
    return torch.randn(one.tokens, one.width, generator=torch.Generator().manual_seed(seed))


def tokens(length: int, seed: int, config: Config = M2UGEN) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, config.vocabulary, (length,), generator=generator).tolist()
