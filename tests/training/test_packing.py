"""Packed = padded = one by one, in losses and gradients; nothing passes from a segment to its neighbour."""
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache
from transformers import modeling_flash_attention_utils as flash

from tests.training import tiny
from training import packing
from training.config import Config
from training.loss import Losses, losses
from training.m2ugen import M2UGen
from training.packing import IGNORED, Rows

AUD = list(tiny.M2UGEN.audio_ids)
SHAPE = (tiny.M2UGEN.projector.queries, tiny.M2UGEN.projector.out)
HEARD = [("audio",), (), ("image", "video"), ("audio", "image", "video"), ("video",), ("audio",), ("image",)]
MUSIC = [True, False, True, False, True, False, True]
WORDS = [9, 14, 5, 1, 11, 22, 3]  # 1: a prompt of one token and an answer of one
ONE_BY_ONE: list[Rows] = [[[sample]] for sample in range(7)]
PADDED: list[Rows] = [[[sample] for sample in range(7)]]
PACKED: list[Rows] = [[[5, 0], [2, 3, 4], [6], [1]]]
SEGMENTS = torch.tensor([[1, 1, 1, 2, 3, 3, 0], [1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0, 2]])


def _samples() -> dict[int, tuple[list[int], list[int]]]:
    """A prompt, of which nothing is asked, and an answer, which may end in music."""
    made = {}
    for sample, (words, music) in enumerate(zip(WORDS, MUSIC, strict=True)):
        prompt = tiny.tokens((words + 1) // 2, sample)
        answer = tiny.tokens(words // 2 + 1, 100 + sample) + (AUD if music else []) + [2]
        made[sample] = prompt + answer, [IGNORED] * len(prompt) + answer
    return made


def _heard(config: Config, order: list[int]) -> dict[str, list[Tensor | None]]:
    return {one.name: [tiny.encoded(config, one.name, sample) if one.name in HEARD[sample] else None
                       for sample in order] for one in config.modalities}


def _target(sample: int) -> Tensor | None:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(sample)) if MUSIC[sample] else None


def _losses(model: M2UGen, batch: packing.Batch, masked: bool = False) -> Losses:
    """`masked`: as without segments, by a mask."""
    kinds = {"mask": batch.segments} if masked else {"segments": batch.segments}
    output = model(batch.tokens, encoded=_heard(model.config, batch.samples), **kinds)
    return losses(model, output, batch.labels, [_target(sample) for sample in batch.samples])


def _trained(model: M2UGen, batches: list[Rows], masked: bool = False) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The text and music losses of each sample, and the gradients of their mean."""
    model.zero_grad(set_to_none=True)
    text, music = torch.zeros(7), torch.zeros(7)
    for rows in batches:
        batch = packing.collate(rows, _samples())
        found = _losses(model, batch, masked)
        ((found.text + found.music).sum() / 7).backward()
        text[batch.samples], music[batch.samples] = found.text.detach(), found.music.detach()
    return text, music, {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def _same(found: tuple[Tensor, Tensor, dict[str, Tensor]], wanted: tuple[Tensor, Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-5, atol=0)
    assert found[2].keys() == wanted[2].keys()
    for name, gradient in wanted[2].items():
        # 2e-7 (of ten in all) for a lone number that is a sum of thousands which cancel: float32 has no more
        assert gradient.norm() > 0 and (found[2][name] - gradient).norm() < 1e-5 * gradient.norm() + 2e-7, name


@pytest.mark.parametrize("which", [tiny.M2UGEN, tiny.OLDER], ids=["ranges", "summed"])
def test_packed_is_padded_is_one_by_one(which: Config) -> None:
    model = tiny.model(which)
    alone = _trained(model, ONE_BY_ONE, masked=True)  # no padding, so no segments and no mask: the model as it was
    assert (alone[1] > 0).tolist() == MUSIC and (alone[0] > 0).all()
    _same(_trained(model, PADDED), alone)
    _same(_trained(model, PADDED, masked=True), alone)
    _same(_trained(model, PACKED), alone)
    model.llama.activation_checkpointing_enable()
    model.train()
    _same(_trained(model, PACKED), alone)


def test_eager_attention_agrees() -> None:
    model = tiny.model()
    wanted = _trained(model, ONE_BY_ONE)
    model.llama.set_attn_implementation("eager")
    _same(_trained(model, PACKED), wanted)


def _varlen(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
            max_seqlen_k: int, softmax_scale: float, causal: bool) -> Tensor:
    """What flash attention's kernel of this signature computes: [tokens, heads, width], each sequence by itself."""
    assert torch.equal(cu_seqlens_q, cu_seqlens_k) and causal
    lengths = cu_seqlens_q.diff().tolist()
    assert max_seqlen_q == max_seqlen_k == max(lengths)
    parts = zip(*(one.transpose(0, 1).split(lengths, 1) for one in (q, k, v)), strict=True)
    return torch.cat([functional.scaled_dot_product_attention(*(one[None] for one in part), scale=softmax_scale,
                                                              is_causal=True)[0] for part in parts], 1).transpose(0, 1)


def test_flash_attention_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of transformers' way to the kernel, which itself wants a GPU: four rows and ten sequences in one call."""
    functions = (None, _varlen, None, None, None), (flash._lazy_define_process_function(_varlen), None)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda _name: functions)
    model = tiny.model()
    wanted = _trained(model, ONE_BY_ONE)
    model.llama.config._attn_implementation = "flash_attention_2"  # its setter looks for the package
    _same(_trained(model, PACKED), wanted)
    _same(_trained(model, PADDED), wanted)


@torch.no_grad()
def test_nothing_passes_between_segments() -> None:
    model = tiny.model()
    batch = packing.collate(PACKED[0], _samples())
    encoded = _heard(model.config, batch.samples)
    whose = packing.owners(batch.segments)

    def changed(other: Tensor) -> list[int]:
        """The samples whose logits are not the same bit for bit."""
        return sorted(set(whose[(other != logits).any(2)].tolist()) - {-1})

    logits = model(batch.tokens, encoded=encoded, segments=batch.segments).logits
    for sample in range(7):
        first = (whose == sample).nonzero()[0].tolist()
        tokens = batch.tokens.clone()
        tokens[tuple(first)] += 1
        assert changed(model(tokens, encoded=encoded, segments=batch.segments).logits) == [sample]
        for name, features in encoded.items():
            if features[sample] is not None:
                louder = {**encoded, name: [one if place != sample else -one for place, one in enumerate(features)]}
                assert changed(model(batch.tokens, encoded=louder, segments=batch.segments).logits) == [sample]
    # and a row taken for one sample does see its beginning, so there was something to keep apart
    tokens[0, 0] += 1
    assert not torch.equal(model(tokens[:1]).logits[:, 40:], model(batch.tokens[:1]).logits[:, 40:])


def test_a_label_that_another_sample_predicts_is_not_counted() -> None:
    """Labels made elsewhere may begin with the first token: alone, nothing predicts it."""
    model, batch = tiny.model(), packing.collate(PACKED[0], _samples())
    clean = _losses(model, batch)
    for row, begins in ((0, 24), (1, 15), (1, 18)):
        assert batch.segments[row, begins] == batch.segments[row, begins - 1] + 1
        assert batch.labels[row, begins] == IGNORED
        batch.labels[row, begins] = 7
    found = _losses(model, batch)
    assert torch.equal(found.text, clean.text) and torch.equal(found.music, clean.music)


def test_audio_tokens_are_sought_in_their_own_segment() -> None:
    model = tiny.model()
    parts = {0: ([5, 6, *AUD[:4]],) * 2, 1: ([*AUD[4:], 7, 8],) * 2, 2: ([5, *AUD],) * 2, 3: ([*AUD, 7],) * 2}
    batch = packing.collate([[2, 3], [0, 1]], parts)
    batch.labels.copy_(batch.tokens)  # a run that goes on across a boundary, and one that nothing of its own predicts
    output = model(batch.tokens, segments=batch.segments)
    assert losses(model, output, batch.labels, [torch.zeros(SHAPE), None, None, None]).music[0] > 0
    for sample, row, segment in ((1, 0, 2), (2, 1, 1), (3, 1, 2)):
        targets = [torch.zeros(SHAPE) if place == sample else None for place in range(4)]
        with pytest.raises(ValueError, match=rf"row {row} .*segment {segment}\) hold \[AUD0\] to \[AUD7\] 0 times"):
            losses(model, output, batch.labels, targets)
    with pytest.raises(ValueError, match="2 targets were given for 4 samples"):
        losses(model, output, batch.labels, [None, None])


def test_gradients_of_bfloat16_are_summed_finely() -> None:
    """Hundreds of positions hear one sample: summed in bfloat16, one by one, a fifth of the gradient would be lost."""
    model = tiny.model().bfloat16()
    found = []
    for segments in (None, torch.ones(1, 800, dtype=torch.long)):
        model.zero_grad(set_to_none=True)
        heard = model.heard({"audio": [tiny.encoded(model.config, "audio", 0).bfloat16()]}, 1)
        with model.prefix.hearing(heard, None if segments is None else packing.owners(segments)):
            states = model.llama.model(torch.arange(800)[None] % 60).last_hidden_state
        states.float().sum().backward()
        found.append(model.prefix.gates[7].grad.float())
    assert (found[1] - found[0]).norm() < 0.02 * found[0].norm()


def test_segments_say_whose_and_where() -> None:
    assert packing.count(SEGMENTS) == 6
    assert packing.owners(SEGMENTS).tolist() == [[0, 0, 0, 1, 2, 2, -1], [3] * 7, [-1, -1, 4, 4, -1, -1, 5]]
    positions = packing.positions(SEGMENTS)
    assert positions.tolist() == [[0, 1, 2, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 1, 2, 3, 0]]
    bounds = packing.varlen(positions)
    assert bounds["cu_seq_lens_q"].tolist() == [0, 3, 4, 7, 14, 16, 20, 21] and bounds["max_length_k"] == 7
    assert bounds["cu_seq_lens_q"].dtype == torch.int32  # which the kernels insist on


def test_collated_rows() -> None:
    samples = {3: ([1, 8, 9], [1, IGNORED, 9]), 5: ([1, 7], [IGNORED, 7]), 8: ([4], [4])}
    batch = packing.collate([[3, 5], [8]], samples, width=6)
    assert batch.tokens.tolist() == [[1, 8, 9, 1, 7, 0], [4, 0, 0, 0, 0, 0]]
    assert batch.labels.tolist() == [[-100, -100, 9, -100, 7, -100], [-100] * 6]
    assert batch.segments.tolist() == [[1, 1, 1, 2, 2, 0], [1, 0, 0, 0, 0, 0]]
    assert batch.samples == [3, 5, 8]
    assert packing.collate([[3, 5], [8]], samples).tokens.shape == (2, 5)
    with pytest.raises(ValueError, match="a row of 5 tokens does not fit a batch that is 4 wide"):
        packing.collate([[3, 5]], samples, width=4)
    for wrong in (([], []), ([1, 2], [1])):
        with pytest.raises(ValueError, match=r"sample 5 has \d tokens and \d labels"):
            packing.collate([[3, 5]], {**samples, 5: wrong})


def test_first_fit_decreasing() -> None:
    lengths = [2, 6, 3, 5, 4, 10]
    (rows,) = packing.packed(lengths, budget=10, rows=8, seed=0, epoch=0)
    assert sorted(rows) == [[1, 4], [3, 2, 0], [5]]  # 6 + 4, 5 + 3 + 2, 10
    with pytest.raises(ValueError, match=r"sample 1 has 6 tokens, but a row has room for 5.*\(2 samples"):
        list(packing.packed(lengths, budget=5, rows=1, seed=0, epoch=0))


def _lengths() -> np.ndarray:
    """Captions, instructions and long answers, as a mixture of log-normals; from 8 to 1024 tokens."""
    generator = np.random.default_rng(0)
    parts = [generator.lognormal(np.log(middle), spread, count)
             for middle, spread, count in ((40, 0.3, 3000), (120, 0.4, 3000), (250, 0.6, 2000))]
    return np.concatenate(parts).clip(8, 1024).astype(int)


def _padding(plan: list[Rows], lengths: np.ndarray, width: int | None = None) -> float:
    """The share of the batches' positions that are padding."""
    filled = [[lengths[row].sum() for row in rows] for rows in plan]
    return 1 - sum(map(sum, filled)) / sum(len(rows) * (width or max(rows)) for rows in filled)


def test_plans_hold_every_sample_once_and_depend_on_seed_and_epoch_alone() -> None:
    lengths = _lengths()
    for plan in (lambda *when: list(packing.packed(lengths, 2048, 4, *when)),
                 lambda *when: list(packing.padded(lengths, 16, *when))):
        made = plan(3, 0)
        assert sorted(sample for rows in made for row in rows for sample in row) == list(range(len(lengths)))
        np.random.seed(1)
        assert plan(3, 0) == made and plan(3, 1) != made and plan(4, 0) != made
    made = list(packing.packed(lengths, 2048, 4, 3, 0))
    assert all(lengths[row].sum() <= 2048 for rows in made for row in rows)
    assert {len(rows) for rows in made[:-1]} == {4}


def test_long_samples_come_neither_first_nor_last() -> None:
    lengths = _lengths()[::8]  # one window
    for plan in (packing.packed(lengths, 2048, 1, 3, 0), packing.padded(lengths, 16, 3, 0)):
        long = np.array([lengths[[sample for row in rows for sample in row]].mean() for rows in plan])
        assert len(long) > 50 and abs(np.corrcoef(long, np.arange(len(long)))[0, 1]) < 0.3


def test_packing_leaves_little_padding() -> None:
    lengths = _lengths()
    random = np.random.default_rng(0).permutation(len(lengths)).reshape(-1, 16, 1).tolist()
    shares = {"random": _padding(random, lengths),
              "padded": _padding(list(packing.padded(lengths, 16, 0, 0)), lengths),
              "packed": _padding(list(packing.packed(lengths, 2048, 4, 0, 0)), lengths, 2048)}
    # 0.9 %, 5.7 % and 72 %
    assert shares["packed"] < 0.02 and shares["padded"] < 0.1 and shares["random"] > 0.5, shares


def test_what_has_no_place_beside_segments() -> None:
    model, tokens = tiny.model(), torch.tensor([tiny.tokens(7, 0)])
    segments = SEGMENTS[:1]
    with pytest.raises(ValueError, match="mask and cache have no place"):
        model(tokens, torch.ones(1, 7), segments=segments)
    with pytest.raises(ValueError, match="mask and cache have no place"):
        model(tokens, segments=segments, cache=DynamicCache(config=model.llama.config))
    heard = model.heard(_heard(model.config, [0, 1]), 2)
    with pytest.raises(ValueError, match="features of 2 samples were given for segments of 3"):
        model(tokens, segments=segments, heard=heard)
    with pytest.raises(ValueError, match="2 entries for a batch of 3"):
        model(tokens, segments=segments, encoded=_heard(model.config, [0, 1]))
