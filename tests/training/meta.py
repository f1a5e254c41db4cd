"""M²UGen and MU-LLaMA once more, written plainly from their description, on published names; slow, and independent.

Interleaved RoPE by complex numbers, attention by matmul and a softmax of its own over the prefix token, a transformer
by hand. `write` makes a file of the fixtures' format of any size with it.
"""
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

ENCODED = {"audio": "mu_mert_", "image": "iu_vit_", "video": "iu_vivit_"}


@dataclass(frozen=True)
class Sizes:
    m2ugen: bool = True
    dim: int = 24
    layers: int = 7
    heads: int = 2
    hidden: int = 40
    vocab: int = 50
    audio_tokens: int = 8
    rank: int = 3
    ratio: int = 1
    rows: int = 6
    summed: bool = False
    queries: int = 3
    out: int = 5
    width: int = 16
    eps: float = 1e-5
    encoders: tuple[tuple[str, int, int], ...] = (("audio", 5, 12), ("image", 4, 8), ("video", 6, 8))


MULLAMA = Sizes(m2ugen=False, audio_tokens=0, ratio=4, rows=5, summed=True, encoders=(("audio", 5, 12),))


def weights(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """By published name, all random."""
    shapes = {"llama.tok_embeddings.weight": (sizes.vocab + sizes.audio_tokens, sizes.dim),
              "llama.output.weight": (sizes.vocab + sizes.audio_tokens, sizes.dim),
              "llama.norm.weight": (sizes.dim,), "prefix_query.weight": (sizes.rows, sizes.dim)}
    for layer in range(sizes.layers):
        at = f"llama.layers.{layer}."
        shapes |= {f"{at}attention_norm.weight": (sizes.dim,), f"{at}ffn_norm.weight": (sizes.dim,),
                   f"{at}attention.gate": (1, sizes.heads, 1, 1)}
        for part, ones in (("attention", "qkvo"), ("feed_forward", "123")):
            for one in ones:
                wide, narrow = {"2": (sizes.dim, sizes.hidden)}.get(one, (sizes.hidden, sizes.dim)) \
                    if part == "feed_forward" else (sizes.dim, sizes.dim)
                shapes |= {f"{at}{part}.w{one}.weight": (wide, narrow),
                           f"{at}{part}.lora_w{one}_l1.weight": (sizes.rank, narrow),
                           f"{at}{part}.lora_w{one}_l2.weight": (wide, sizes.rank)}
                if one not in "kv":
                    shapes[f"{at}{part}.w{one}.bias"] = (wide,)
    for name, count, width in sizes.encoders:
        at, inner = ENCODED[name], sizes.dim * sizes.ratio
        shapes |= {f"{at}agg.weight": (1, count, 1), f"{at}agg.bias": (1,), f"{at}proj.weight": (sizes.dim, width),
                   f"{at}proj.bias": (sizes.dim,)}
        for block in "123":
            shapes |= {f"{at}norm_{block}.weight": (sizes.dim,), f"{at}f1_{block}.weight": (inner, sizes.dim),
                       f"{at}f2_{block}.weight": (sizes.dim, inner), f"{at}f3_{block}.weight": (inner, sizes.dim)}
    if sizes.m2ugen:
        width = sizes.width
        shapes |= {"output_projector.fc.weight": (width, sizes.dim), "output_projector.fc.bias": (width,),
                   "output_projector.model.weight": (sizes.out, width), "output_projector.model.bias": (sizes.out,),
                   "output_projector.query_embs": (1, sizes.queries, width)}
        for side, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "multihead_attn"])):
            for layer in range(4):
                at = f"output_projector.tfm.{side}.layers.{layer}."
                for one in attentions:
                    shapes |= {f"{at}{one}.in_proj_weight": (3 * width, width), f"{at}{one}.in_proj_bias": (3 * width,),
                               f"{at}{one}.out_proj.weight": (width, width), f"{at}{one}.out_proj.bias": (width,)}
                shapes |= {f"{at}linear1.weight": (4 * width, width), f"{at}linear1.bias": (4 * width,),
                           f"{at}linear2.weight": (width, 4 * width), f"{at}linear2.bias": (width,)}
                for norm in range(len(attentions) + 1):
                    shapes |= {f"{at}norm{norm + 1}.weight": (width,), f"{at}norm{norm + 1}.bias": (width,)}
            shapes |= {f"output_projector.tfm.{side}.norm.weight": (width,),
                       f"output_projector.tfm.{side}.norm.bias": (width,)}
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        made[name] = 1 + 0.1 * noise if "norm" in name and name.endswith("weight") else 0.12 * noise
    return made


def feature(w: dict[str, Tensor], name: str, encoded: Tensor) -> Tensor:
    """[B, tokens, width] → [B, dim]."""
    at = ENCODED[name]
    x = torch.einsum("btw,t->bw", encoded, w[f"{at}agg.weight"][0, :, 0]) + w[f"{at}agg.bias"]
    x = x / x.norm(dim=-1, keepdim=True) / (1 + 1e-6)
    x = x @ w[f"{at}proj.weight"].T + w[f"{at}proj.bias"]
    for block in "123":
        n = _norm(x, w[f"{at}norm_{block}.weight"], 1e-6)
        gate = n @ w[f"{at}f1_{block}.weight"].T
        x = x + (gate * gate.sigmoid() * (n @ w[f"{at}f3_{block}.weight"].T)) @ w[f"{at}f2_{block}.weight"].T
    return x


def states(w: dict[str, Tensor], sizes: Sizes, tokens: Tensor, features: dict[str, Tensor]) -> Tensor:
    """tokens [B, T], features [B, dim] by modality → [B, T, dim], before the final norm."""
    x = w["llama.tok_embeddings.weight"][tokens]
    start, group = sizes.layers - sizes.rows, sizes.rows // 3
    for layer in range(sizes.layers):
        at = f"llama.layers.{layer}."
        prefix = None
        if layer >= start:
            prefix = w["prefix_query.weight"][layer - start].expand(len(x), -1)
            heard = features.values() if sizes.summed else \
                [one for name, one in features.items() if list(ENCODED).index(name) == (layer - start) // group]
            for one in heard:
                prefix = prefix + one
        x = x + _attention(w, sizes, f"{at}attention.", _norm(x, w[f"{at}attention_norm.weight"], sizes.eps), prefix)
        n = _norm(x, w[f"{at}ffn_norm.weight"], sizes.eps)
        gate = _linear(w, f"{at}feed_forward.", "1", n)
        x = x + _linear(w, f"{at}feed_forward.", "2", gate * gate.sigmoid() * _linear(w, f"{at}feed_forward.", "3", n))
    return x


def logits(w: dict[str, Tensor], sizes: Sizes, hidden: Tensor) -> Tensor:
    return _norm(hidden, w["llama.norm.weight"], sizes.eps) @ w["llama.output.weight"].T


def project(w: dict[str, Tensor], sizes: Sizes, hidden: Tensor) -> Tensor:
    """hidden [B, T, dim] of a sequence that ends in the audio tokens → [B, queries, out]."""
    count = sizes.audio_tokens
    x = hidden[:, -count - 1:-1] + w["llama.tok_embeddings.weight"][-count:]
    x = x @ w["output_projector.fc.weight"].T + w["output_projector.fc.bias"]
    at = "output_projector.tfm."
    for layer in range(4):
        x = _block(w, f"{at}encoder.layers.{layer}.", x, None)
    memory = _layer_norm(w, f"{at}encoder.norm.", x)
    x = w["output_projector.query_embs"].expand(len(x), -1, -1)
    for layer in range(4):
        x = _block(w, f"{at}decoder.layers.{layer}.", x, memory)
    x = _layer_norm(w, f"{at}decoder.norm.", x)
    return x @ w["output_projector.model.weight"].T + w["output_projector.model.bias"]


def write(path: Path, sizes: Sizes, cases: list[str], seed: int = 0, grads: tuple[str, ...] = ()) -> None:
    """A file of the fixtures' format: `cases` as `audio+image.music`; of MU-LLaMA one case without a name."""
    generator = torch.Generator().manual_seed(seed + 1)
    w = weights(sizes, seed)
    tensors = {f"model.{name}": tensor for name, tensor in w.items()}
    inputs = {name: torch.randn(1, count, width, generator=generator) for name, count, width in sizes.encoders}
    target = torch.randn(1, sizes.queries, sizes.out, generator=generator)
    tensors |= {f"in.{name}": tensor for name, tensor in inputs.items()}
    tensors |= {f"out.{name}_feats": feature(w, name, tensor)[:, None] for name, tensor in inputs.items()}
    if sizes.m2ugen:
        tensors["in.music_text_encoding"] = target
    for case in cases:
        tokens = torch.randint(1, sizes.vocab, (1, 20), generator=generator)
        if case.endswith(".music"):
            tokens[0, -sizes.audio_tokens:] = torch.arange(sizes.vocab, sizes.vocab + sizes.audio_tokens)
        labels = tokens.clone()
        labels[:, :6] = 0
        live = {name: tensor.clone().requires_grad_(name in grads) for name, tensor in w.items()}
        named = inputs if not case else {name: inputs[name] for name in case.split(".")[0].split("+") if name in inputs}
        hidden = states(live, sizes, tokens, {name: feature(live, name, one) for name, one in named.items()})
        said = logits(live, sizes, hidden)
        chosen = said[0, :-1].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        ce = -chosen[5:].mean()
        mse = torch.zeros(())
        dot = f"{case}." if case else ""
        if case.endswith(".music"):
            emitted = project(live, sizes, hidden)
            mse = ((emitted - 10 * target) ** 2).mean()
            tensors[f"out.{dot}projector_output"] = emitted.detach()
        tensors |= {f"in.{dot}tokens": tokens, f"in.{dot}labels": labels, f"out.{dot}logits": said.detach(),
                    f"out.{dot}ce_loss": ce.detach()[None]}
        if sizes.m2ugen:
            tensors |= {f"out.{dot}final_hidden": hidden.detach(), f"out.{dot}mse_loss": mse.detach()[None]}
        if grads:
            (ce + mse).backward()
            tensors |= {f"grad.{dot}{name}": torch.zeros_like(live[name]) if live[name].grad is None
                        else live[name].grad for name in grads}
    if not sizes.m2ugen:
        prompt = torch.randint(1, sizes.vocab, (6,), generator=generator)
        tensors |= {"in.prompt": prompt, "out.greedy": torch.tensor(greedy(w, sizes, prompt, inputs, 12))}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata(sizes))


def greedy(w: dict[str, Tensor], sizes: Sizes, prompt: Tensor, inputs: dict[str, Tensor], count: int) -> list[int]:
    features = {name: feature(w, name, one) for name, one in inputs.items()}
    tokens = prompt[None]
    for _ in range(count):
        said = logits(w, sizes, states(w, sizes, tokens, features))[:, -1:]
        tokens = torch.cat([tokens, said.argmax(-1)], 1)
    return tokens[0, len(prompt):].tolist()


def metadata(sizes: Sizes) -> dict[str, str]:
    wide = {name: width for name, _, width in sizes.encoders}
    both = {"dim": sizes.dim, "n_layers": sizes.layers, "n_heads": sizes.heads, "vocab": sizes.vocab,
            "lora_rank": sizes.rank, "norm_eps": sizes.eps, "mert_hidden": wide["audio"],
            "query_layer": sizes.rows if sizes.summed else sizes.rows // 3}
    own = {"audio_tokens": sizes.audio_tokens, "num_output_tokens": sizes.queries, "output_dim_tokens": sizes.out,
           "projector_hidden": sizes.width, "vit_hidden": wide["image"]} if sizes.m2ugen else \
        {"adapter_ratio": sizes.ratio}
    return {name: str(value) for name, value in (both | own).items()}


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def _linear(w: dict[str, Tensor], at: str, one: str, x: Tensor) -> Tensor:
    y = x @ w[f"{at}w{one}.weight"].T + x @ w[f"{at}lora_w{one}_l1.weight"].T @ w[f"{at}lora_w{one}_l2.weight"].T
    return y + w[f"{at}w{one}.bias"] if f"{at}w{one}.bias" in w else y


def _attention(w: dict[str, Tensor], sizes: Sizes, at: str, x: Tensor, prefix: Tensor | None) -> Tensor:
    rows, length, dim = x.shape
    head = dim // sizes.heads

    def apart(y: Tensor) -> Tensor:
        return y.reshape(rows, -1, sizes.heads, head).transpose(1, 2)

    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, head, 2) / head)
    turn = torch.polar(torch.ones_like(angles), angles)

    def turned(y: Tensor) -> Tensor:
        pairs = torch.view_as_complex(y.reshape(*y.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * turn).flatten(-2)

    q, k, v = (apart(_linear(w, at, one, x)) for one in "qkv")
    scores = turned(q) @ turned(k).transpose(2, 3) / math.sqrt(head)
    scores = scores + torch.full((length, length), -torch.inf).triu(1)
    y = scores.softmax(-1) @ v
    if prefix is not None:
        other = prefix[:, None]
        keys, values = apart(other @ w[f"{at}wk.weight"].T), apart(other @ w[f"{at}wv.weight"].T)
        weight = (q @ keys.transpose(2, 3) / math.sqrt(head)).softmax(-1)  # of one token: 1
        y = y + w[f"{at}gate"].tanh() * (weight @ values)
    return _linear(w, at, "o", y.transpose(1, 2).reshape(rows, length, dim))


def _layer_norm(w: dict[str, Tensor], at: str, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{at}weight"] + w[f"{at}bias"]


def _mix(w: dict[str, Tensor], at: str, x: Tensor, other: Tensor) -> Tensor:
    """Multi-head attention with four heads, of x to other."""
    (wq, wk, wv), (bq, bk, bv) = w[f"{at}in_proj_weight"].chunk(3), w[f"{at}in_proj_bias"].chunk(3)
    q, k, v = (y.reshape(len(x), -1, 4, x.shape[-1] // 4).transpose(1, 2)
               for y in (x @ wq.T + bq, other @ wk.T + bk, other @ wv.T + bv))
    y = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1) @ v
    return y.transpose(1, 2).reshape(x.shape) @ w[f"{at}out_proj.weight"].T + w[f"{at}out_proj.bias"]


def _block(w: dict[str, Tensor], at: str, x: Tensor, memory: Tensor | None) -> Tensor:
    x = _layer_norm(w, f"{at}norm1.", x + _mix(w, f"{at}self_attn.", x, x))
    if memory is not None:
        x = _layer_norm(w, f"{at}norm2.", x + _mix(w, f"{at}multihead_attn.", x, memory))
    inner = (x @ w[f"{at}linear1.weight"].T + w[f"{at}linear1.bias"]).relu()
    last = "norm2." if memory is None else "norm3."
    return _layer_norm(w, f"{at}{last}", x + inner @ w[f"{at}linear2.weight"].T + w[f"{at}linear2.bias"])
