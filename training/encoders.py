"""The frozen encoders: MERT, ViT and ViViT in transformers' own classes (no remote code), always in eval.

`train()` on whatever holds them leaves them in eval: in training mode HuBERT masks its input (SpecAugment), and all
three drop out.
"""
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    BaseImageProcessor,
    HubertConfig,
    HubertModel,
    PreTrainedConfig,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
    VivitConfig,
    VivitImageProcessor,
    VivitModel,
)

from manifests import checked
from manifests.media import spread
from manifests.messages import shown
from training import stored
from training.inputs import FRAMES, RATE, SHORTEST, WINDOW
from training.loading import whole
from training.names import ENCODERS
from training.weights import open_weights

_OF_TRAINING = ("masked_spec_embed",)  # files without it are whole


class Encoders(nn.Module):
    """Waveforms, pictures and frames → what the understanding adapters take. Without gradient."""

    def __init__(self, audio: HubertModel, image: ViTModel | None = None, video: VivitModel | None = None,
                 image_processor: BaseImageProcessor | None = None,
                 video_processor: BaseImageProcessor | None = None) -> None:
        super().__init__()
        self.audio, self.image, self.video = audio, image, video
        self.image_processor, self.video_processor = image_processor, video_processor
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Encoders":
        """Stays in eval, whatever is asked for."""
        return super().train(False)

    @torch.no_grad()
    def hear(self, waveforms: Tensor) -> Tensor:
        """[B, n] at RATE, of equal lengths → [B, layers + 1, width]: MERT's hidden states, averaged over time.

        As the released code has it: the first minute; of tracks of an hour and more, one minute further on for each
        full hour, averaged in. Raises ValueError for less than SHORTEST samples.
        """
        if waveforms.dim() != 2 or waveforms.shape[1] < SHORTEST:
            raise ValueError(f"audio of shape {tuple(waveforms.shape)}: [B, n] with n of at least {SHORTEST} is needed")
        size = RATE * WINDOW
        windows = waveforms.shape[1] // size // 60 + 1
        return torch.stack([self._hear(waveforms[:, start * size:(start + 1) * size])
                            for start in range(windows)]).mean(0)

    def _hear(self, window: Tensor) -> Tensor:
        window = window.float()
        window = (window - window.mean(1, keepdim=True)) / (window.var(1, correction=0, keepdim=True) + 1e-7).sqrt()
        output = self.audio(window.to(self.audio.device, self.audio.dtype), output_hidden_states=True)
        # transformers 5 takes hidden_states[-1] before the final layer norm; MERT's users always had it after.
        states = [*output.hidden_states[:-1], output.last_hidden_state]
        return torch.stack([state.float().mean(1) for state in states], 1)

    @torch.no_grad()
    def look(self, pictures: Sequence[Image.Image]) -> Tensor:
        """B pictures of any size → [B, 197, 768]."""
        pixels = self.image_processor([picture.convert("RGB") for picture in pictures], return_tensors="pt")
        return self.image(pixels["pixel_values"].to(self.image.device, self.image.dtype)).last_hidden_state.float()

    @torch.no_grad()
    def watch(self, frames: Sequence[Image.Image]) -> Tensor:
        """One video's frames, all of them or the 32 of MUVideo's `frame_index` → [3137, 768]; ValueError for none.

        Evenly from the first to the last, where the released code takes 32 in a row at a random place; repeated where
        there are fewer.
        """
        if not len(frames):
            raise ValueError("a video without frames")
        chosen = [np.asarray(frames[index].convert("RGB")) for index in spread(len(frames), FRAMES)]
        pixels = self.video_processor(chosen, return_tensors="pt")
        return self.video(pixels["pixel_values"].to(self.video.device, self.video.dtype)).last_hidden_state[0].float()


def hearing(folder: str | Path, dtype: torch.dtype = torch.float32) -> Encoders:
    """MERT alone, of a folder in the Hub's format: it hears, and neither looks nor watches.

    Raises ValueError or OSError, naming the file, where it is broken, no MERT, or weights are missing.
    """
    found = open_weights(folder)
    rate = RATE
    if (processor := Path(folder) / "preprocessor_config.json").is_file():
        rate = checked.read_json(str(processor), "a preprocessor's config").get("sampling_rate")
    if (kind := found.params.get("model_type")) not in ("mert_model", "hubert") or rate != RATE:
        raise ValueError(f"{folder}: its model_type is {shown(str(kind))} and its sampling_rate {shown(str(rate))}; "
                         f"give MERT, which hears at {RATE} Hz")
    return Encoders(whole(HubertModel, None, dtype=dtype, where=Path(folder), lacks=_OF_TRAINING,
                          config=HubertConfig.from_dict({**found.params, "model_type": "hubert"}),
                          state_dict={name: stored.finite(name, one) for name, one in found.tensors.items()}))


def published(tensors: Mapping[str, Tensor], audio: HubertConfig | None = None, image: ViTConfig | None = None,
              video: VivitConfig | None = None, dtype: torch.dtype = torch.float32) -> Encoders:
    """Those inside a published checkpoint: its `mert_model.*`, `vit_model.*` and `vivit_model.*`.

    Their sizes are the released ones, unless configs say otherwise.
    """
    def load(kind: type, modality: str, config: PreTrainedConfig, **settings: object) -> nn.Module:
        prefix = ENCODERS[modality]
        state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        return whole(kind, None, dtype=dtype, where=Path("the checkpoint"), lacks=_OF_TRAINING, config=config,
                     state_dict=state, **settings)

    mert = HubertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
                        do_stable_layer_norm=True, feat_extract_norm="group", conv_bias=False)
    return Encoders(
        load(HubertModel, "audio", audio or mert),
        load(ViTModel, "image", image or ViTConfig(), add_pooling_layer=False),
        load(VivitModel, "video", video or VivitConfig(), add_pooling_layer=False),
        ViTImageProcessorPil(), VivitImageProcessor())


def debug(width: int = 32, seed: int = 0) -> Encoders:
    """Tiny and random, with the token counts of the real ones."""
    size = {"hidden_size": width, "num_attention_heads": 2, "intermediate_size": 2 * width}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoders(
            HubertModel(HubertConfig(
                **size, num_hidden_layers=24, conv_dim=(16,) * 7, num_conv_pos_embeddings=16,
                num_conv_pos_embedding_groups=4, do_stable_layer_norm=True, feat_extract_norm="group")),
            ViTModel(ViTConfig(**size, num_hidden_layers=2), add_pooling_layer=False),
            VivitModel(VivitConfig(**size, num_hidden_layers=1), add_pooling_layer=False),
            ViTImageProcessorPil(), VivitImageProcessor())
