"""P(music) by an audio tagger: the Audio Spectrogram Transformer (Gong et al., Interspeech 2021) on AudioSet's classes.

Optional: for those who have its weights, e.g. `MIT/ast-finetuned-audioset-10-10-0.4593`, as a Hub id or a directory.
"""
import functools
import hashlib
from pathlib import Path

import numpy as np

RATE = 16000      # Hz
_WINDOW = 10.24   # s: what AST was trained on
_LABEL = "Music"


def revision(name: str) -> str:
    """The commit of a Hub model, or a hash of a directory's files: what makes two taggers differ.

    A model that cannot be used is a ValueError here, before any work.
    """
    from transformers import AutoConfig
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"--tagger {name}: cannot be loaded ({error}); give a Hub id or a directory with config.json, "
                         "preprocessor_config.json and model.safetensors") from error
    if _LABEL not in config.id2label.values():
        raise ValueError(f"--tagger {name}: has no class {_LABEL!r}; it must be trained on AudioSet's classes")
    if commit := getattr(config, "_commit_hash", None):  # set where it came from the Hub
        return commit
    digest = hashlib.sha256()
    for path in sorted(Path(name).iterdir()):
        if path.suffix in (".json", ".safetensors"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def music(audio: np.ndarray, name: str) -> float:
    """The mean over windows of P(music), 0..1, of mono float32 audio [n] at `RATE` Hz."""
    import torch
    extractor, model, label = _load(name)
    size = round(_WINDOW * RATE)
    # A last window of under a second would be padding, mostly.
    starts = range(0, max(len(audio) - RATE, 1), size)
    with torch.inference_mode():
        scores = [torch.sigmoid(model(**extractor(audio[start:start + size], sampling_rate=RATE, return_tensors="pt"))
                                .logits[0, label]).item() for start in starts]
    return round(float(np.mean(scores)), 4)


@functools.cache
def _load(name: str):
    import torch
    from transformers import ASTFeatureExtractor, ASTForAudioClassification
    from transformers.utils import logging
    logging.disable_progress_bar()
    torch.set_num_threads(1)  # workers are the parallelism
    extractor = ASTFeatureExtractor.from_pretrained(name)
    model, info = ASTForAudioClassification.from_pretrained(name, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"--tagger {name}: weights are missing: {', '.join(sorted(info['missing_keys'])[:5])}")
    label = next(index for index, name in model.config.id2label.items() if name == _LABEL)
    return extractor, model.eval(), label
