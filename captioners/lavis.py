"""Image → text: BLIP by LAVIS, the library it was published with, in an environment of its own (`make lavis-env`).

It takes the folder that captioners/blip.py takes, and its settings, and says the same words: the weights go into
LAVIS's model under its names, the pictures through its own processing, and only token ids come back. LAVIS is of 2022,
and so are the libraries it needs; hence a process beside this one, asked through pipes.

What does not agree is refused: LAVIS's beam search (transformers 4.26) divides a caption's score by its length with the
prompt, ours without, so that the best of several beams may be another; and only BLIP, base or large, is run.
"""
import os
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from captioners import blip
from captioners.blip import MODEL, ROLES, SIZE, Settings
from captioners.lavis_worker import receive, send
from training.loading import quiet, reading

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = ["MODEL", "ROLES", "SIZE", "VERSION", "Lavis", "Settings", "load"]

VERSION = blip.VERSION
PYTHON = Path(__file__).resolve().parents[1] / ".lavis" / "bin" / "python"
_WORKER = Path(__file__).with_name("lavis_worker.py")


def quantizes(folders: Mapping[str, Path]) -> bool:
    """Never."""
    return False


def load(folders: Mapping[str, Path], settings: Settings, *, dtype: "torch.dtype | None" = None,
         device: "str | torch.device" = "cpu", quantize: str = "") -> "Lavis":
    """As blip.load. Raises ValueError, also where the environment is missing, LAVIS cannot load the model, or the
    settings are among those in which LAVIS would say something else."""
    import torch
    from transformers import AutoConfig, AutoImageProcessor
    folder, dtype = folders["image"], dtype or torch.float32
    if not PYTHON.is_file():
        raise ValueError(f"{PYTHON}: LAVIS's environment is not there; run `make lavis-env`, or do without LAVIS")
    if settings.beams != 1 or quantize:
        raise ValueError(f"{settings.beams} beams, {quantize or 'not quantized'}: LAVIS is run with 1 beam, not "
                         "quantized; captioners/blip.py can do more")
    blip.read_config(folder, ("blip",))
    with quiet(), reading(folder, "config.json, preprocessor_config.json, tokenizer"):
        tokenizer = blip.read_tokenizer(folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    blip.check(folder, config, config.text_config.vocab_size, tokenizer, processor, settings)
    vision, text = config.vision_config, config.text_config
    weights = next((file for name in ("model.safetensors", "pytorch_model.bin") if (file := folder / name).is_file()),
                   None)
    if weights is None:
        raise ValueError(f"{folder}: holds neither model.safetensors nor pytorch_model.bin; fetch it again")
    if processor.resample != 3 or vision.hidden_act != "gelu":
        raise ValueError(f"{folder}: LAVIS knows only pictures resized by bicubics, and GELU; use captioners/blip.py")
    order = {
        "weights": str(weights), "dtype": str(dtype).removeprefix("torch."), "device": str(device),
        "threads": torch.get_num_threads(), "mean": list(processor.image_mean), "std": list(processor.image_std),
        "end": text.sep_token_id, "padding": text.pad_token_id,
        "vision": {"img_size": vision.image_size, "patch_size": vision.patch_size, "embed_dim": vision.hidden_size,
                   "depth": vision.num_hidden_layers, "num_heads": vision.num_attention_heads,
                   "mlp_ratio": vision.intermediate_size / vision.hidden_size, "eps": vision.layer_norm_eps},
        "text": {name: getattr(text, name) for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
            "layer_norm_eps", "max_position_embeddings", "pad_token_id")}
        | {"encoder_width": text.encoder_hidden_size, "add_cross_attention": True, "add_type_embeddings": False}}
    return Lavis(settings, tokenizer, text.bos_token_id, order)


class Lavis:
    """Pictures → captions, by a process that lives as long as this object."""

    def __init__(self, settings: Settings, tokenizer: "PreTrainedTokenizerBase", start: int, order: dict) -> None:
        self.settings, self.tokenizer, self._start, self._order = settings, tokenizer, start, order
        self._run()

    def __call__(self, inputs: Sequence[dict], seeds: Sequence[int]) -> list[str]:
        """As blip.Blip's, and the same words. Raises RuntimeError where LAVIS does, MemoryError where it has none."""
        if not inputs:
            return []
        if self._process.poll() is not None:  # what killed it was one batch, and this may be another
            self._run()
        prompt = self.tokenizer(self.settings.prompt).input_ids
        given = [self._start, *prompt[1:-1]]
        answer = self._ask({"sizes": [[one["width"], one["height"]] for one in inputs], "prompt": given,
                            "longest": len(given) + self.settings.max_new,
                            "shortest": len(given) + self.settings.min_new},
                           b"".join(one["pixels"] for one in inputs))
        if "fault" in answer:
            raise (MemoryError if answer["memory"] else RuntimeError)(f"LAVIS: {answer['fault']}")
        return [blip.told(self.tokenizer, prompt, row[len(given):]) for row in answer["said"]]

    def _run(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has ended
        # -I: neither our packages nor this folder's modules are to be found there. What it needs it is given.
        self._process = subprocess.Popen([PYTHON, "-I", _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=self._errors, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        weakref.finalize(self, _end, self._process)
        try:
            answer = self._ask(self._order)
        except RuntimeError as error:
            raise ValueError(f"{error}; run `make lavis-env` anew") from error
        if "fault" in answer:
            raise ValueError(f"{self._order['weights']}: LAVIS cannot load it: {answer['fault']}; where a module is "
                             "missing, run `make lavis-env` anew")

    def _ask(self, message: dict, raw: bytes = b"") -> dict:
        try:
            send(self._process.stdin, message, raw)
            received = receive(self._process.stdout)
        except BrokenPipeError:
            received = None
        if received is None:
            code = self._process.wait()
            raise RuntimeError(f"LAVIS's process ended ({code}): {_tail(self._errors)}")
        return received[0]


def _tail(errors: IO[bytes]) -> str:
    errors.seek(max(0, errors.seek(0, 2) - 500))
    return " ".join(errors.read().decode("utf-8", "replace").split())


def _end(process: subprocess.Popen) -> None:
    with suppress(BrokenPipeError):  # what a process that died did not take
        process.stdin.close()
    process.stdout.close()
    process.wait()
