"""Batches, padding and cache change nothing; gradient reaches what it should; features do not leak."""
import copy

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from tests.training import tiny
from training import config, m2ugen
from training.loss import losses
from training.m2ugen import M2UGen, Output

CLOSE = {"rtol": 0, "atol": 1e-5}
HEARD = [("audio",), (), ("image", "video"), ("audio", "image", "video"), ("video",)]
LENGTHS = [9, 14, 11, 6, 14]


def _batch(model: M2UGen, side: str) -> tuple[Tensor, Tensor, dict[str, list[Tensor | None]]]:
    width = max(LENGTHS)
    tokens, mask = torch.zeros(len(LENGTHS), width, dtype=torch.long), torch.zeros(len(LENGTHS), width)
    for row, length in enumerate(LENGTHS):
        place = slice(width - length, None) if side == "left" else slice(length)
        tokens[row, place] = torch.tensor(tiny.tokens(length, row))
        mask[row, place] = 1
    return tokens, mask, {one.name: [tiny.encoded(model.config, one.name, row) if one.name in heard else None
                                     for row, heard in enumerate(HEARD)] for one in model.config.modalities}


def _alone(model: M2UGen, row: int) -> Output:
    encoded = {name: [tiny.encoded(model.config, name, row)] for name in HEARD[row]
               if name in {one.name for one in model.config.modalities}}
    return model(torch.tensor([tiny.tokens(LENGTHS[row], row)]), encoded=encoded)


@pytest.mark.parametrize("which", [tiny.M2UGEN, tiny.OLDER, tiny.MULLAMA], ids=["ranges", "summed", "mullama"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_mixed_padded_batch_is_its_samples(which: config.Config, side: str) -> None:
    model = tiny.model(which)
    tokens, mask, encoded = _batch(model, side)
    together = model(tokens, mask, encoded)
    for row, length in enumerate(LENGTHS):
        alone = _alone(model, row)
        place = slice(max(LENGTHS) - length, None) if side == "left" else slice(length)
        torch.testing.assert_close(together.logits[row, place], alone.logits[0], **CLOSE)
        torch.testing.assert_close(together.hidden[row, place], alone.hidden[0], **CLOSE)


@torch.no_grad()
def test_every_modality_is_heard_and_only_in_its_layers() -> None:
    """A modality's first layer is the first whose output it changes."""
    model = tiny.model()
    tokens = torch.tensor([tiny.tokens(8, 0)])
    outputs: list[Tensor] = []
    for layer in model.llama.model.layers:
        layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output))

    def run(encoded: dict[str, list[Tensor]] | None) -> list[Tensor]:
        outputs.clear()
        model(tokens, encoded=encoded)
        return list(outputs)

    silent = run(None)
    for name, first in (("audio", 2), ("image", 4), ("video", 6)):  # 8 layers, of which the last 6 in three ranges
        changed = [not torch.equal(one, other) for one, other in
                   zip(run({name: [tiny.encoded(model.config, name, 1)]}), silent, strict=True)]
        assert changed == [layer >= first for layer in range(8)], name


@torch.no_grad()
def test_cached_is_uncached() -> None:
    model = tiny.model()
    tokens, mask, encoded = _batch(model, "left")
    whole = model(tokens, mask, encoded)
    cache, heard = DynamicCache(config=model.llama.config), model.heard(encoded, len(tokens))
    parts = [model(tokens[:, start:end], mask[:, :end], heard=heard, cache=cache)
             for start, end in ((0, 10), (10, 11), (11, 14))]
    seen = mask.bool()
    torch.testing.assert_close(torch.cat([one.logits for one in parts], 1)[seen], whole.logits[seen], **CLOSE)
    torch.testing.assert_close(torch.cat([one.hidden for one in parts], 1)[seen], whole.hidden[seen], **CLOSE)


@torch.no_grad()
def test_attention_implementations_agree() -> None:
    model, eager = tiny.model(), M2UGen(tiny.M2UGEN, attention="eager").eval()
    eager.load_state_dict(model.state_dict())
    tokens, mask, encoded = _batch(model, "right")
    seen = mask.bool()
    torch.testing.assert_close(model(tokens, mask, encoded).logits[seen], eager(tokens, mask, encoded).logits[seen],
                               **CLOSE)


@torch.no_grad()
def test_nothing_stays_behind() -> None:
    model = tiny.model()
    tokens = torch.tensor([tiny.tokens(8, 0), tiny.tokens(8, 1)])
    encoded = {"audio": [tiny.encoded(model.config, "audio", 0), tiny.encoded(model.config, "audio", 1)]}
    silent, loud = model(tokens).logits, model(tokens, encoded=encoded).logits
    assert (silent - loud).abs().max() > 0.01
    torch.testing.assert_close(model(tokens).logits, silent, rtol=0, atol=0)
    with pytest.raises(ValueError, match="features of 1 samples were given for a batch of 2"):
        model(tokens, heard=model.heard({"audio": encoded["audio"][:1]}, 1))
    torch.testing.assert_close(model(tokens).logits, silent, rtol=0, atol=0)
    with model.prefix.hearing(model.heard(encoded, 2)):
        torch.testing.assert_close(model.llama(tokens).logits, loud, rtol=0, atol=0)
    torch.testing.assert_close(model.llama(tokens).logits, silent, rtol=0, atol=0)


@torch.no_grad()
def test_transformers_generate_hears() -> None:
    model = tiny.model()
    tokens, mask, encoded = _batch(model, "left")
    with model.prefix.hearing(model.heard(encoded, len(tokens))):
        said = model.llama.generate(tokens, attention_mask=mask.long(), max_new_tokens=5, do_sample=False,
                                    eos_token_id=None, pad_token_id=0)[:, -5:]
    for row in range(len(tokens)):
        own = {name: [values[row]] for name, values in encoded.items()}
        answer = torch.tensor([tiny.tokens(LENGTHS[row], row)])
        for _ in range(5):
            answer = torch.cat([answer, model(answer, encoded=own).logits[:, -1].argmax(-1)[:, None]], 1)
        assert answer[0, -5:].tolist() == said[row].tolist()


def _gradients(model: M2UGen, checkpointing: bool = False) -> dict[str, Tensor]:
    """Of a batch in which every modality speaks and one row is music."""
    ids = list(model.config.audio_ids)
    tokens = torch.tensor([tiny.tokens(8, 0, model.config) + ids, tiny.tokens(8 + len(ids), 1, model.config)])
    encoded = {one.name: [tiny.encoded(model.config, one.name, row) for row in range(2)]
               for one in model.config.modalities}
    targets = [torch.ones(model.config.projector.queries, model.config.projector.out), None] if ids else None
    if checkpointing:
        model.llama.activation_checkpointing_enable()
    model.train()
    model.zero_grad(set_to_none=True)
    losses(model, model(tokens, encoded=encoded), tokens, targets).total.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("which", [tiny.M2UGEN, tiny.OLDER, tiny.MULLAMA], ids=["ranges", "summed", "mullama"])
def test_gradient_reaches_everything(which: config.Config) -> None:
    gradients = _gradients(tiny.model(which))
    deaf = {f"prefix.gates.{layer}" for layer in range(which.prefix_start)}
    for name, gradient in gradients.items():
        if name in deaf:
            assert gradient is None, name
        else:
            assert gradient is not None and gradient.abs().max() > 0, name
    assert (gradients["prefix.query"].abs().amax(1) > 0).all()
    for layer in range(which.prefix_start, which.layers):
        assert (gradients[f"prefix.gates.{layer}"] != 0).all()  # of every head


@pytest.mark.parametrize("which", [tiny.M2UGEN, tiny.OLDER, tiny.MULLAMA], ids=["ranges", "summed", "mullama"])
def test_at_gate_zero_only_gates_learn_to_hear(which: config.Config) -> None:
    """As training begins: the released code, which does not train gates, would stay here for ever."""
    model = tiny.model(which)
    with torch.no_grad():
        for gate in model.prefix.gates:
            gate.zero_()
    gradients = _gradients(model)
    for name, gradient in gradients.items():
        if name.startswith(("adapters.", "prefix.query")):
            assert gradient.abs().max() == 0, name
    for layer in range(which.prefix_start, which.layers):
        assert (gradients[f"prefix.gates.{layer}"] != 0).all()


@torch.no_grad()
def test_at_gate_zero_it_is_llama() -> None:
    model = tiny.model()
    for gate in model.prefix.gates:
        gate.zero_()
    tokens = torch.tensor([tiny.tokens(8, 0)])
    heard = model(tokens, encoded={"audio": [tiny.encoded(model.config, "audio", 0)]}).logits
    for layer in model.llama.model.layers:
        layer._forward_pre_hooks.clear()
        layer.self_attn._forward_pre_hooks.clear()
        layer.self_attn.o_proj._forward_pre_hooks.clear()
    assert torch.equal(heard, model.llama(tokens).logits)


def test_activation_checkpointing_changes_no_gradient() -> None:
    """Layers run again in the backward pass, when `forward` is long over."""
    plain = _gradients(tiny.model())
    again = _gradients(tiny.model(), checkpointing=True)
    for name, gradient in plain.items():
        if gradient is not None:
            torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_a_copy_hears_by_itself() -> None:
    model = tiny.model()
    twin = copy.deepcopy(model)
    tokens, encoded = torch.tensor([tiny.tokens(8, 0)]), {"audio": [tiny.encoded(model.config, "audio", 0)]}
    before = model(tokens, encoded=encoded).logits
    with torch.no_grad():
        for gate in twin.prefix.gates:
            gate.zero_()
    assert torch.equal(model(tokens, encoded=encoded).logits, before)
    assert not torch.equal(twin(tokens, encoded=encoded).logits, before)


def test_what_cannot_be_heard_is_an_error() -> None:
    model = tiny.model(tiny.MULLAMA)
    tokens = torch.tensor([tiny.tokens(8, 0)])
    with pytest.raises(ValueError, match="no adapter for image"):
        model(tokens, encoded={"image": [torch.zeros(7, 8)]})
    with pytest.raises(ValueError, match=r"audio features of shape \(1, 4, 12\)"):
        model(tokens, encoded={"audio": [torch.zeros(4, 12)]})
    with pytest.raises(ValueError, match="2 entries for a batch of 1"):
        model(tokens, encoded={"audio": [None, None]})


def test_frequencies_stay_exact_in_bfloat16() -> None:
    """Rounded to bfloat16, they would put position 1000 some turns from where it is."""
    model = tiny.model()
    exact = model.llama.model.rotary_emb.inv_freq.clone()
    assert exact.dtype == torch.float32 and exact.numel() == 8
    model.bfloat16()
    assert torch.equal(model.llama.model.rotary_emb.inv_freq, exact)
    model.to_empty(device="cpu")
    assert torch.equal(model.llama.model.rotary_emb.inv_freq, exact)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16(autocast: bool) -> None:
    """As weights, and by autocast: near float32, with gradient for all."""
    model, exact = tiny.model(), tiny.model()
    if not autocast:
        model.bfloat16()
    tokens, mask, encoded = _batch(model, "right")
    seen = mask.bool()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(tokens, mask, encoded)
    wanted = exact(tokens, mask, encoded).logits.detach()
    assert (output.logits.float() - wanted)[seen].abs().max() < 0.1 * wanted[seen].abs().max()
    output.logits.float()[seen].square().mean().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("projector.") and parameter.requires_grad:
            assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_eps_are_the_released_ones() -> None:
    model = tiny.model()
    assert model.llama.model.norm.variance_epsilon == 1e-5
    assert model.llama.model.layers[0].input_layernorm.variance_epsilon == 1e-5
    assert model.adapters["audio"].blocks[0].norm.eps == 1e-6
    # Encoder output 0 but for one bias: what the adapter projects is exactly 1 / (1 + 1e-6) long.
    adapter = copy.deepcopy(model.adapters["audio"]).double()
    seen: list[Tensor] = []
    adapter.project.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    adapter(tiny.encoded(model.config, "audio", 0)[None].double())
    assert abs(seen[0].norm().item() - 1 / (1 + 1e-6)) < 1e-9


@torch.no_grad()
def test_audio_tokens_begin_among_the_others() -> None:
    model, twin = tiny.model(), tiny.model()
    m2ugen.start_audio_tokens(model, seed=3)
    m2ugen.start_audio_tokens(twin, seed=3)
    for name in ("llama.model.embed_tokens.weight", "llama.lm_head.weight"):
        weight, before = model.get_parameter(name), tiny.model().get_parameter(name)
        base, new = weight[:60], weight[60:]
        assert torch.equal(base, before[:60]) and torch.equal(new, twin.get_parameter(name)[60:])
        assert ((new - base.mean(0)).abs() < 0.5 * base.std(0)).all()
        assert torch.cdist(new, new).add(torch.eye(8)).min() > 0.05  # eight tokens, not one
