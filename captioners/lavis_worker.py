"""What runs in LAVIS's own environment: its BLIP, filled from a Hugging Face folder, asked over stdin and stdout.

captioners/lavis.py starts it, and takes `send` and `receive` from here; so nothing but the standard library is imported
at the top. A message is a length (8 bytes), JSON, and as many raw bytes as its "raw" says. Token ids go in and out: the
tokenizer stays on the other side, where LAVIS would fetch one.
"""
import json
import os
import pickle
import sys
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import BinaryIO

# Hugging Face's names → LAVIS's, of the picture's half; the text's are the same.
_RENAMED = (("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
            ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
            ("vision_model.embeddings.patch_embedding.", "visual_encoder.patch_embed.proj."),
            ("vision_model.encoder.layers.", "visual_encoder.blocks."),
            ("vision_model.post_layernorm.", "visual_encoder.norm."),
            (".self_attn.qkv.", ".attn.qkv."), (".self_attn.projection.", ".attn.proj."), (".layer_norm", ".norm"))
_TIED = (("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
         ("cls.predictions.decoder.bias", "cls.predictions.bias"))


def send(pipe: BinaryIO, message: dict, raw: bytes = b"") -> None:
    told = json.dumps(message | {"raw": len(raw)}).encode()
    pipe.write(len(told).to_bytes(8, "big") + told + raw)
    pipe.flush()


def receive(pipe: BinaryIO) -> tuple[dict, bytes] | None:
    """None where the other side has ended, also in the middle of a message."""
    length = pipe.read(8)
    if len(length) < 8 or len(told := pipe.read(size := int.from_bytes(length, "big"))) < size:
        return None
    message = json.loads(told)
    raw = pipe.read(message["raw"])
    return (message, raw) if len(raw) == message["raw"] else None


def main() -> None:
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is not to come between the answers
    order, _ = receive(source)
    try:
        caption = _load(order)
    except (ImportError, OSError, ValueError, KeyError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        send(target, {"fault": _fault(error)})
        return
    send(target, {})
    while (asked := receive(source)) is not None:
        try:
            answer = {"said": caption(*asked)}
        except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
            answer = {"fault": _fault(error), "memory": isinstance(error, MemoryError)
                      or type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error)}
        send(target, answer)


def _fault(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _load(order: dict):
    """(message, raw) → token ids of each picture, the prompt's first."""
    import torch
    state = _state(order["weights"])  # first, since importing LAVIS takes long
    _import_torchvision()
    from lavis.models.med import XBertLMHeadDecoder
    from lavis.models.vit import VisionTransformerEncoder
    from lavis.processors.blip_processors import BlipImageEvalProcessor
    from PIL import Image
    from transformers.models.bert.configuration_bert import BertConfig
    torch.set_num_threads(order["threads"])
    vision, dtype, device = order["vision"], getattr(torch, order["dtype"]), order["device"]
    model = torch.nn.Module()
    # LAVIS's own layer norms add 1e-6; Hugging Face's configuration says what its weights are run with.
    model.visual_encoder = VisionTransformerEncoder(norm_layer=partial(torch.nn.LayerNorm, eps=vision.pop("eps")),
                                                    **vision)
    model.text_decoder = XBertLMHeadDecoder(BertConfig(**order["text"]))
    found = model.load_state_dict(state, strict=False)
    odd = [name for name in (*found.missing_keys, *found.unexpected_keys) if not name.endswith(".position_ids")]
    if odd:
        raise ValueError(f"{len(odd)} weights are missing or have no place ({', '.join(odd[:3])}); fetch it again")
    model.eval().to(device, dtype)
    look = BlipImageEvalProcessor(vision["img_size"], order["mean"], order["std"])

    @torch.no_grad()
    def caption(message: dict, raw: bytes) -> list[list[int]]:
        pixels, start = [], 0
        for width, height in message["sizes"]:
            pixels.append(look(Image.frombytes("RGB", (width, height), raw[start:start + width * height * 3])))
            start += width * height * 3
        seen = model.visual_encoder.forward_features(torch.stack(pixels).to(device, dtype))
        if not torch.isfinite(seen).all():
            raise FloatingPointError("the model's features are not numbers; take another dtype")
        prompt = torch.tensor([message["prompt"]] * len(pixels), device=device)
        return model.text_decoder.generate_from_encoder(
            tokenized_prompt=SimpleNamespace(input_ids=prompt), visual_embeds=seen, sep_token_id=order["end"],
            pad_token_id=order["padding"], num_beams=1, max_length=message["longest"],
            min_length=message["shortest"]).tolist()

    return caption


def _state(file: str) -> dict:
    """By LAVIS's names."""
    import torch
    if file.endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file
        try:
            state = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"it is not whole ({error}); fetch it again") from error
    else:
        state = torch.load(file, map_location="cpu", weights_only=True)
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("vision_model."):
            for theirs, ours in _RENAMED:
                name = name.replace(theirs, ours)
        renamed[name] = tensor
    for name, same in _TIED:
        renamed.setdefault(f"text_decoder.{name}", renamed[f"text_decoder.{same}"])
    return renamed


def _import_torchvision() -> None:
    """Also a build for another torch, whose compiled operators, which nothing here calls, are not there."""
    import torch
    try:
        import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _import_torchvision.operators = torch.library.Library("torchvision", "DEF")  # they go with it
        for name in ("nms", "qnms"):
            _import_torchvision.operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import_module("torchvision")


if __name__ == "__main__":
    main()
