"""Agreement with the public implementations' outputs, and with one written here from their description."""
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.training import meta
from training import check_reference
from training.__main__ import main
from training.reference import Reference, read

SHARED = Path(__file__).resolve().parents[3] / "shared" / "reference"
CASES = ["text.text", "audio.music", "image+video.text", "audio+image+video.music"]
GRADS = ("mu_mert_f1_2.weight", "iu_vit_agg.weight", "iu_vivit_proj.weight", "prefix_query.weight",
         "llama.layers.1.attention.lora_wq_l2.weight", "llama.layers.2.attention.wq.bias",
         "llama.layers.6.attention.gate", "llama.layers.0.attention.gate", "llama.layers.4.attention.wk.weight",
         "llama.tok_embeddings.weight", "output_projector.query_embs")
AUDIO_GRADS = ("mu_mert_f1_2.weight", "prefix_query.weight", "llama.layers.6.attention.gate")


@pytest.mark.parametrize(("name", "counts"), [
    ("m2ugen_tiny", {"features": 3, "hidden": 12, "logits": 12, "projector output": 6, "losses": 24, "gradients": 120}),
    ("mullama_tiny", {"features": 1, "logits": 1, "losses": 1, "gradients": 8, "greedy tokens": 1})])
def test_public_outputs(name: str, counts: dict[str, int]) -> None:
    path = SHARED / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip("no shared reference beside this checkout")
    found = list(check_reference.differences(read(path)))
    assert {quantity: sum(one.quantity == quantity for one in found) for quantity in check_reference.QUANTITIES
            if quantity in counts} == counts and len(found) == sum(counts.values())
    for one in found:
        assert one.largest <= (0 if one.quantity == "greedy tokens" else 1e-4), one


@pytest.mark.parametrize("sizes", [
    meta.Sizes(),
    meta.Sizes(rows=4, summed=True, heads=3, dim=24),
    meta.Sizes(queries=1, out=37, audio_tokens=6, ratio=2, eps=1e-3)], ids=["ranges", "summed", "other sizes"])
def test_agrees_with_a_plain_implementation(sizes: meta.Sizes, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "m2ugen.safetensors"
    meta.write(path, sizes, CASES, grads=GRADS)
    assert check_reference.main([str(path)]) == 0
    printed = capsys.readouterr().out
    for quantity, count in (("features", 3), ("hidden", 4), ("logits", 4), ("projector output", 2), ("losses", 8),
                            ("gradients", 4 * len(GRADS))):
        assert re.search(rf"{quantity} +agrees .*largest of {count}:", printed), quantity


def test_agrees_with_a_plain_mullama(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "mullama.safetensors"
    meta.write(path, meta.MULLAMA, [""], grads=AUDIO_GRADS)
    assert check_reference.main([str(path)]) == 0
    printed = capsys.readouterr().out
    for quantity in ("features", "logits", "losses", "gradients", "greedy tokens"):
        assert re.search(rf"{quantity} +agrees", printed), quantity


def test_the_older_prefix_is_told_by_its_shape(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """20 rows cannot be shared by three modalities, whatever the metadata says of a layer's query."""
    path = tmp_path / "m2ugen.safetensors"
    meta.write(path, meta.Sizes(layers=21, rows=20, summed=True), CASES, grads=GRADS)
    for query_layer in ("6", "20", None):
        _change(path, {}, {"query_layer": query_layer})
        assert main(["check-reference", str(path)]) == 0
        assert "prefix 20 (summed)" in capsys.readouterr().out


@pytest.mark.parametrize("tensor", [
    "model.llama.layers.6.attention.gate", "model.llama.layers.3.attention.wq.bias", "model.prefix_query.weight",
    "model.llama.layers.5.attention.wv.weight", "model.mu_mert_norm_2.weight", "model.output_projector.query_embs",
    "out.audio_feats", "out.audio.music.final_hidden", "out.audio.music.logits", "out.audio.music.ce_loss",
    "out.audio.music.mse_loss", "out.audio.music.projector_output", "grad.audio.music.prefix_query.weight"])
def test_a_difference_is_found(tensor: str, tmp_path: Path) -> None:
    path = tmp_path / "m2ugen.safetensors"
    meta.write(path, meta.Sizes(), ["audio.music"], grads=GRADS)
    _change(path, {tensor: lambda value: value * 1.02})
    assert check_reference.main([str(path)]) == 1


def test_no_gradient_must_be_none(tmp_path: Path) -> None:
    """The file says that a parameter takes no part; here it does."""
    path = tmp_path / "m2ugen.safetensors"
    meta.write(path, meta.Sizes(), ["audio.music"], grads=GRADS)
    _change(path, {"grad.audio.music.mu_mert_f1_2.weight": torch.zeros_like})
    assert check_reference.main([str(path)]) == 1


@pytest.mark.parametrize("wrong", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize(("tensor", "whole"), [
    ("out.audio_feats", False), ("out.audio.music.logits", True), ("out.audio.music.ce_loss", True),
    ("out.audio.music.mse_loss", True), ("grad.audio.music.prefix_query.weight", False),
    ("grad.audio.music.prefix_query.weight", True)])
def test_what_is_infinite_never_agrees(tensor: str, whole: bool, wrong: float) -> None:
    """On the differences themselves: there, here, and in the same place of both."""
    finite = torch.tensor([[0.5, -2.0], [0.0, 1.0]]) if tensor.startswith(("grad", "out.audio_feats")) else \
        torch.tensor([3.0])
    bad = torch.full_like(finite, wrong) if whole else finite.index_fill(0, torch.tensor([1]), wrong)
    compare = check_reference._relative if "logits" not in tensor and "feats" not in tensor else \
        check_reference._absolute
    for ours, theirs, beyond in ((finite, bad, True), (bad, finite, True), (bad, bad, True), (finite, finite, False)):
        reference = Reference(None, {tensor: theirs})
        one = compare("losses", tensor, ours, reference)
        assert one.beyond is beyond and one.largest == (torch.inf if beyond else 0)


def test_infinity_in_a_file_is_a_difference(tmp_path: Path) -> None:
    path = tmp_path / "m2ugen.safetensors"
    for tensor in ("out.audio.music.ce_loss", "grad.audio.music.prefix_query.weight"):
        meta.write(path, meta.Sizes(), ["audio.music"], grads=GRADS)
        _change(path, {tensor: lambda value: value.index_fill(0, torch.tensor([0]), torch.inf)})
        assert check_reference.main([str(path)]) == 1, tensor


def test_each_element_that_is_zero_there_is_zero_here() -> None:
    """Not only rows: one element, so small beside its row's others that the tolerance alone would let it pass."""
    theirs = torch.tensor([[1.0, 0.0, -2.0], [0.5, 0.25, 0.0]])
    for place, small, largest in (((0, 1), 1e-9, torch.inf), ((1, 2), -1e-30, torch.inf), ((0, 1), 0.0, 0.0),
                                  ((0, 1), -0.0, 0.0), ((0, 0), 1 + 1e-5, 0.5e-5)):
        ours = theirs.clone()
        ours[place] = small
        one = check_reference._relative("gradients", "grad.x", ours, Reference(None, {"grad.x": theirs}))
        assert one.largest == pytest.approx(largest, rel=0.01) and one.beyond is (largest == torch.inf)


def test_a_file_may_hold_a_part(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Logits and the projector's output need neither labels nor a music target."""
    path = tmp_path / "m2ugen.safetensors"
    meta.write(path, meta.Sizes(), ["audio.music"])
    losses = dict.fromkeys(("out.audio.music.ce_loss", "out.audio.music.mse_loss"))
    _change(path, losses | {"in.audio.music.labels": None, "in.music_text_encoding": None})
    assert check_reference.main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"{one} +agrees", printed) for one in ("logits", "projector output"))
    assert "losses" not in printed
    meta.write(path, meta.Sizes(), ["audio.music"])
    _change(path, {"out.audio.music.mse_loss": None, "in.music_text_encoding": None})  # the text's loss needs none
    assert check_reference.main([str(path)]) == 0
    assert re.search(r"losses +agrees .*largest of 1:", capsys.readouterr().out)


def test_the_projector_s_heads_are_the_metadata_s(tmp_path: Path) -> None:
    path = tmp_path / "m2ugen.safetensors"
    meta.write(path, meta.Sizes(), ["audio.music"])
    for heads, code in (("4", 0), ("2", 1), ("3", 2), ("0", 2)):
        _change(path, {}, {"projector_heads": heads})
        assert check_reference.main([str(path)]) == code, heads


@pytest.mark.parametrize(("changes", "said"), [
    ({"in.prompt": lambda value: value + 1000}, "in.prompt holds ids outside"),
    ({"in.prompt": lambda value: value - 1000}, "in.prompt holds ids outside"),
    ({"in.prompt": lambda value: value.float()}, "in.prompt is missing, empty or not of whole numbers"),
    ({"in.prompt": lambda value: value.repeat(2, 1)}, "one answer"),
    ({"out.greedy": lambda value: value.float() + 0.25}, "one answer"),
    ({"model.llama.output.weight": lambda value: value * 1e38,
      "model.llama.norm.weight": lambda value: value * 1e10}, "not numbers")])
def test_greedy_tokens_that_cannot_be_computed_are_told(changes: dict, said: str, tmp_path: Path,
                                                        capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "mullama.safetensors"
    meta.write(path, meta.MULLAMA, [""])
    _change(path, changes | dict.fromkeys(("out.logits", "out.ce_loss")))
    assert check_reference.main([str(path)]) == 2
    message = capsys.readouterr().err
    assert str(path) in message and said in message


def test_greedy_tokens_and_not_a_number_are_differences(tmp_path: Path) -> None:
    path = tmp_path / "mullama.safetensors"
    meta.write(path, meta.MULLAMA, [""])
    _change(path, {"out.greedy": lambda value: value.index_fill(0, torch.tensor([7]), 3)})
    assert check_reference.main([str(path)]) == 1
    meta.write(path, meta.MULLAMA, [""])
    _change(path, {"out.logits": lambda value: value.index_fill(1, torch.tensor([2]), torch.nan)})
    assert check_reference.main([str(path)]) == 1


@pytest.mark.parametrize(("changes", "metadata", "said"), [
    ({"model.llama.norm.weight": None}, {}, "llama.norm.weight"),
    ({"model.llama.layers.3.attention.gate": lambda value: value[:, :1]}, {}, "llama.layers.3.attention.gate"),
    ({"model.llama.layers.3.attention.extra": None}, {"lora_rank": "5"}, "lora_rank"),
    ({"in.audio.music.labels": None}, {}, "in.audio.music.labels"),
    ({"in.audio": None}, {}, "in.audio"),
    ({"in.audio.music.tokens": lambda value: value + 999}, {}, "outside"),
    ({}, {"audio_tokens": None}, "audio_tokens"),
    ({}, {"norm_eps": "small"}, "norm_eps"),
    ({}, {"query_layer": "5"}, "query_layer"),
    ({}, {"rope_theta": "nan"}, "rope_theta"),
    ({"model.llama.layers.9999999.attention.gate": lambda _: torch.ones(1, 2, 1, 1)}, {"n_layers": None},
     "llama.layers."),
    ({"model.llama.norm.weight": lambda value: value.double()}, {}, "llama.norm.weight (torch.float64)"),
    ({"model.llama.layers.3.attention.gate": lambda value: value.long()}, {}, "attention.gate (torch.int64)"),
    ({"model.output_projector.fc.weight": lambda value: value[:6]}, {"projector_hidden": None}, "width of 6"),
    ({"model.llama.layers.6.attention.lora_wq_l1.weight": lambda value: value[:0]}, {"lora_rank": None}, "lora_rank"),
    ({"model.prefix_query.weight": lambda value: value[:0]}, {"query_layer": None}, "prefix_rows"),
    ({"in.audio.music.labels": lambda value: value[:, 1:]}, {}, "in.audio.music.labels has shape (1, 19)"),
    ({"in.audio.music.labels": lambda value: value.repeat(2, 1), "in.audio.music.tokens": lambda value: value.repeat(
        2, 1)}, {}, "batch of 2"),
    ({"in.music_text_encoding": None}, {}, "in.music_text_encoding"),
    ({"in.audio.music.tokens": lambda value: value.clamp(max=49)}, {}, "does not end in the audio tokens"),
    ({"out.audio.music.ce_loss": lambda value: value[None]}, {}, "out.audio.music.ce_loss has shape (1, 1)"),
    ({"out.audio_feats": lambda value: value[:, 0]}, {}, "out.audio_feats has shape (1, 24)")])
def test_another_format_is_told(changes: dict, metadata: dict, said: str, tmp_path: Path,
                                capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "m2ugen.safetensors"
    meta.write(path, meta.Sizes(), ["audio.music"])
    _change(path, changes, metadata)
    assert check_reference.main([str(path)]) == 2
    message = capsys.readouterr().err
    assert str(path) in message and said in message


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    cut = tmp_path / "cut.safetensors"
    meta.write(cut, meta.MULLAMA, [""])
    cut.write_bytes(cut.read_bytes()[:-100])
    good = tmp_path / "good.safetensors"
    meta.write(good, meta.MULLAMA, [""])
    for path in (other, cut, tmp_path / "absent.safetensors"):
        assert check_reference.main([str(path), str(good)]) == 2
        told = capsys.readouterr()
        assert str(path) in told.err and "greedy tokens    agrees" in told.out  # the others are still compared


def _change(path: Path, changes: dict, metadata: dict | None = None) -> None:
    """Rewrite a file with some tensors changed, or left out (None)."""
    with safe_open(path, "pt") as file:
        about = {**file.metadata(), **(metadata or {})}
    tensors = load_file(path)
    for name, change in changes.items():
        value = tensors.pop(name, None)
        if change is not None:
            tensors[name] = change(value).contiguous()
    save_file(tensors, path, {name: value for name, value in about.items() if value is not None})
