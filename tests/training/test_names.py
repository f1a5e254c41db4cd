"""Published names and ours, one to one, with rows where each side's RoPE needs them."""
import dataclasses

import torch

from tests.training import meta, tiny
from training import names


def test_names_are_one_to_one() -> None:
    """Every published tensor has a place, every place a published tensor; and back to the same bytes."""
    for which, sizes in ((tiny.M2UGEN, meta.Sizes()), (tiny.MULLAMA, meta.MULLAMA)):
        own = {**tiny.model(which).state_dict()}
        table = names.published(which)
        assert sorted(ours.name for ours in table.values()) == sorted(own)
        for theirs, ours in table.items():
            published = names.to_published(own[ours.name], ours.rotated, which)
            assert torch.equal(names.to_ours(published, ours.rotated, which), own[ours.name]), theirs
        rotated = {_numberless(theirs) for theirs, ours in table.items() if ours.rotated}
        assert rotated == {f"llama.layers.N.attention.{one}" for one in
                           ("wq.weight", "wk.weight", "wq.bias", "lora_wq_l2.weight", "lora_wk_l2.weight")}
        alike = dataclasses.replace(which, dim=sizes.dim, layers=sizes.layers, projector=which.projector and
                                    dataclasses.replace(which.projector, layers=4))
        assert set(names.published(alike)) == set(meta.weights(sizes))


def _numberless(name: str) -> str:
    return ".".join("N" if part.isdigit() else part for part in name.split("."))


def test_rows_change_places_as_rope_needs() -> None:
    """Rotating neighbours, then moving rows, is moving rows, then rotating halves."""
    which = dataclasses.replace(tiny.M2UGEN, dim=12, heads=2)  # two heads of 6
    rows = torch.arange(12.0)
    assert names.to_ours(rows, True, which).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert names.to_ours(rows, False, which) is rows
    assert names.plain("llama.model.layers.3.self_attn.q_proj.base_layer.weight") == \
        "llama.model.layers.3.self_attn.q_proj.weight"
    assert names.plain("llama.model.layers.3.self_attn.q_proj.lora_A.default.weight") == \
        "llama.model.layers.3.self_attn.q_proj.lora_A.weight"
