"""The loss against sums written out, and what belongs to a row against what its neighbours have."""
import pytest
import torch

from tests.training import tiny
from training.loss import IGNORED, cross_entropy, ignore_zero, losses
from training.projector import FACTOR

AUD = list(tiny.M2UGEN.audio_ids)
SHAPE = (tiny.M2UGEN.projector.queries, tiny.M2UGEN.projector.out)


def test_cross_entropy_written_out() -> None:
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[IGNORED, IGNORED, 3, 1], [2, IGNORED, IGNORED, IGNORED]])
    own = [-logits[0, place].log_softmax(-1)[label] for place, label in ((1, 3), (2, 1))]
    found = cross_entropy(logits, labels)
    torch.testing.assert_close(found[0], sum(own) / 2)
    assert found[1] == 0  # its only label is of the first token, which nothing predicts
    assert ignore_zero(torch.tensor([[0, 4, 0]])).tolist() == [[IGNORED, 4, IGNORED]]


def test_rows_are_what_they_are_alone() -> None:
    model = tiny.model()
    tokens = torch.tensor([tiny.tokens(12, 0) + AUD, tiny.tokens(20, 1), tiny.tokens(8, 2) + AUD + [2, 5, 6, 7]])
    labels = tokens.clone()
    labels[:, :4] = IGNORED
    targets = [torch.randn(SHAPE), None, torch.randn(SHAPE)]
    with torch.no_grad():
        together = losses(model, model(tokens), labels, targets)
        alone = [losses(model, model(tokens[row:row + 1]), labels[row:row + 1], targets[row:row + 1])
                 for row in range(3)]
        output = model(tokens)
        states = torch.stack([output.hidden[0, 11:19], output.hidden[2, 7:15]])
        emitted = model.projector(states + model.llama.model.embed_tokens.weight[60:])
    torch.testing.assert_close(together.text, torch.cat([one.text for one in alone]))
    torch.testing.assert_close(together.music, torch.cat([one.music for one in alone]))
    assert together.music[1] == 0
    for row, place in ((0, 0), (2, 1)):
        torch.testing.assert_close(together.music[row], (emitted[place] - FACTOR * targets[row]).square().mean())
    torch.testing.assert_close(together.total, sum(one.total for one in alone) / 3)


def test_targets_may_be_flat() -> None:
    model = tiny.model()
    tokens, target = torch.tensor([tiny.tokens(12, 0) + AUD]), torch.randn(SHAPE)
    output = model(tokens)
    flat, shaped = (losses(model, output, tokens, [one]).music for one in (target.flatten(), target))
    assert torch.equal(flat, shaped) and shaped > 0


def test_a_target_without_audio_tokens_is_an_error() -> None:
    model = tiny.model()
    tokens = torch.tensor([tiny.tokens(12, 0) + AUD, tiny.tokens(20, 1)])
    output = model(tokens)
    with pytest.raises(ValueError, match="row 1 of the batch has a music target"):
        losses(model, output, tokens, [None, torch.zeros(SHAPE)])
    cut = tokens[:1].clone()
    cut[0, -1] = IGNORED  # as truncation would
    with pytest.raises(ValueError, match=r"\[AUD7\] 0 times"):
        losses(model, model(tokens[:1]), cut, [torch.zeros(SHAPE)])
    # audio tokens without a target are text like any other
    assert losses(model, output, tokens, [None, None]).music.tolist() == [0, 0]
