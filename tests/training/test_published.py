import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.training import toys
from training import names, published, stored
from training.sizes import shapes
from training.weights import Weights, open_weights

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"


def write(path: Path, tensors: dict, *, wrapped: bool = False, form: str = "zip") -> Path:
    tensors = {("module." if wrapped else "") + name: tensor for name, tensor in tensors.items()}
    if form == "safetensors":
        save_file(tensors, path)
    else:
        value = {"model": tensors, "epoch": 4, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=1e-4)}
        torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    return path


def opened(tmp_path: Path, tensors: dict, **options) -> published.Checkpoint:
    return published.open_checkpoint(write(tmp_path / "checkpoint.pth", tensors, **options))


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "module"])
@pytest.mark.parametrize("layout", toys.LAYOUTS)
def test_every_layout_is_recognised_and_goes_through_our_names_and_back(tmp_path, layout, wrapped, form):
    config, made = toys.LAYOUTS[layout], toys.checkpoint(toys.LAYOUTS[layout])
    found = opened(tmp_path, {**made, **toys.encoders()}, wrapped=wrapped, form=form)
    assert found.kind == config.name and found.config == config
    assert set(found.tensors) == set(made) and set(found.others) == set(toys.encoders())
    ours = published.ours(found)
    assert set(ours) == {own.name for own in names.published(config).values()}
    back = published.theirs(ours, config)
    for name, tensor in made.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name].load(), tensor), name
    query, key = f"llama.model.layers.{config.layers - 1}.self_attn.q_proj", "llama.layers.{}.attention.wq.weight"
    turned, straight = ours[f"{query}.base_layer.weight"].load(), made[key.format(config.layers - 1)]
    assert not torch.equal(turned, straight) and torch.equal(turned.sort(0).values, straight.sort(0).values)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference beside this checkout")
@pytest.mark.parametrize("name", ["m2ugen", "mullama"])
def test_sizes_of_the_reference_are_read_off_its_shapes(name):
    with safe_open(REFERENCE / f"{name}_tiny.safetensors", "pt") as file:
        said = file.metadata()
    whole = open_weights(REFERENCE / f"{name}_tiny.safetensors").tensors
    found = published.recognise(Weights("tiny", {one.removeprefix("model."): tensor for one, tensor in whole.items()
                                                 if one.startswith("model.")}))
    config = found.config
    assert (found.kind, config.dim, config.layers, config.heads, config.vocabulary, config.lora_rank) == (
        name, int(said["dim"]), int(said["n_layers"]), int(said["n_heads"]), int(said["vocab"]), int(said["lora_rank"]))
    assert config.modalities[0].width == int(said["mert_hidden"])
    if name == "m2ugen":
        assert (config.projector.queries, config.projector.out, config.projector.width, config.audio_tokens) == (
            int(said["num_output_tokens"]), int(said["output_dim_tokens"]), int(said["projector_hidden"]), 8)
        assert (config.prefix_layout, config.music_decoder) == ("ranges", "musicgen")
    else:
        assert (config.adapter_ratio, config.prefix_layout) == (int(said["adapter_ratio"]), "summed")


def test_the_paper_s_sizes_make_the_published_shapes():
    from training.config import m2ugen, mullama
    big = shapes(m2ugen())
    assert big["llama.tok_embeddings.weight"] == big["llama.output.weight"] == (32008, 4096)
    assert big["prefix_query.weight"] == (18, 4096) and big["llama.layers.31.attention.gate"] == (1, 32, 1, 1)
    assert big["output_projector.query_embs"] == (1, 128, 512) and big["iu_vivit_agg.weight"] == (1, 3137, 1)
    assert shapes(m2ugen(music_decoder="audioldm2"))["output_projector.model.weight"] == (137216, 512)
    assert shapes(m2ugen(prefix_layout="summed"))["prefix_query.weight"] == (20, 4096)
    assert shapes(mullama())["mu_mert_f1_1.weight"] == (16384, 4096)


@pytest.mark.parametrize("layout", toys.LAYOUTS)
def test_whether_it_can_hear_is_said(tmp_path, layout):
    config, made = toys.LAYOUTS[layout], toys.checkpoint(toys.LAYOUTS[layout])
    for name in made:
        if name.endswith("gate"):
            made[name] = torch.zeros_like(made[name])
    if config.prefix_start:
        made["llama.layers.0.attention.gate"] += 1  # below the prefix: nothing reads it
    told = published.describe(opened(tmp_path, made))
    everyone = ", ".join(one.name for one in config.modalities)
    assert f"THE GATES ARE ZERO for {everyone}: with this checkpoint" in told
    made[f"llama.layers.{config.layers - 1}.attention.gate"][0, 1] = 0.5  # the last layers are the video's, or all's
    told = published.describe(opened(tmp_path, made))
    rest = "audio, image" if config.prefix_layout == "ranges" else ""
    assert (f"THE GATES ARE ZERO for {rest}:" in told) if rest else ("THE GATES ARE ZERO" not in told)
    assert f"{config.modalities[-1].name} 0.462" in told
    assert f"music decoder: {config.music_decoder or 'none'}" in told and config.prefix_layout in told
    assert f"gates: {config.layers} tensors, {2 * config.layers} numbers, float16" in told and "epoch: 4" in told


def test_what_mullama_did_not_train_may_be_missing_but_only_as_a_whole(tmp_path):
    made = toys.checkpoint(toys.MULLAMA)
    for kept in ({"gates", "prefix", "audio adapter"}, {"gates", "prefix", "audio adapter", "norms", "biases", "lora"}):
        part = {name: tensor for name, tensor in made.items() if published.group(name) in kept}
        found = opened(tmp_path, part)
        assert found.kind == "mullama" and set(found.tensors) == set(part)
        assert (found.config.dim, found.config.layers, found.config.heads) == (16, 22, 2)
    del part["llama.layers.3.ffn_norm.weight"]
    with pytest.raises(ValueError, match=r"checkpoint\.pth: .*1 missing: llama\.layers\.3\.ffn_norm\.weight\."):
        opened(tmp_path, part)


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path):
    made = toys.checkpoint(toys.M2UGEN)
    cut = {name: tensor for name, tensor in made.items() if ".lora_w2_l1" not in name}
    with pytest.raises(ValueError, match=r"20 missing: llama\.layers\.0\.feed_forward\.lora_w2_l1\.w.* and 10 more\."):
        opened(tmp_path, cut)
    with pytest.raises(ValueError, match=r"1 unexpected: mu_mert_norm_1\.bias\."):
        opened(tmp_path, {**made, "mu_mert_norm_1.bias": torch.ones(16)})
    with pytest.raises(ValueError, match=r"1 of a wrong shape: iu_vit_f2_2\.weight is \[16, 15\] and not \[16, 16\]"):
        opened(tmp_path, {**made, "iu_vit_f2_2.weight": torch.ones(16, 15)})
    with pytest.raises(ValueError, match=r"of llama\.layers\.0, llama\.layers\.1 and so on some or all are missing"):
        opened(tmp_path, {**made, "llama.layers.99999999.attention.gate": torch.ones(1, 2, 1, 1)})
    for name in ("prefix_query.weight", "output_projector.query_embs", "mu_mert_agg.weight"):
        with pytest.raises(ValueError, match=rf"checkpoint\.pth: .*{name.split('.')[0]}"):
            opened(tmp_path, {one: tensor for one, tensor in made.items() if one != name})
        with pytest.raises(ValueError, match=r"checkpoint\.pth: "):
            opened(tmp_path, {**made, name: torch.ones(())})


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.complex64, torch.float64, torch.bool,
                                   torch.float8_e4m3fn])
def test_weights_are_floats(tmp_path, dtype):
    made = toys.checkpoint(toys.M2UGEN)
    made["mu_mert_proj.weight"] = made["mu_mert_proj.weight"].to(dtype)
    with pytest.raises(ValueError, match=rf"1 weights are not float16.*mu_mert_proj\.weight \({dtype}\)\. Convert"):
        opened(tmp_path, made, form="safetensors")


@pytest.mark.parametrize(("name", "tensor", "told"), [
    ("output_projector.fc.weight", torch.ones(6, 16), "4 heads do not share its width of 6"),
    ("output_projector.fc.weight", torch.ones(2 ** 40, 0), "width is 1099511627776"),
    ("output_projector.model.weight", torch.ones(0, 8), "out is 0"),
    ("llama.layers.19.attention.lora_wq_l1.weight", torch.ones(0, 16), "lora_rank is 0"),
    ("mu_mert_agg.weight", torch.ones(1, 0, 1), "tokens is 0")])
def test_sizes_that_no_model_has(tmp_path, name, tensor, told):
    with pytest.raises(ValueError, match=rf"checkpoint\.pth: its shapes make no 'm2ugen' \(.*{told}"):
        opened(tmp_path, {**toys.checkpoint(toys.M2UGEN), name: tensor})


def test_one_stray_tensor_is_no_encoder(tmp_path):
    made = {**toys.checkpoint(toys.M2UGEN), "mert_model.a": torch.ones(2), "vit_model.a": torch.ones(2),
            "vit_model.b": torch.ones(2)}
    assert "not in it: audio encoder, video encoder\n" in published.describe(opened(tmp_path, made))


def test_opening_reads_no_tensor(tmp_path, monkeypatch):
    path = write(tmp_path / "x.pth", toys.checkpoint(toys.M2UGEN))

    def read(*_):
        raise OSError("a tensor was read")
    monkeypatch.setattr(stored, "_read", read)
    found = published.open_checkpoint(path)
    assert found.config == toys.M2UGEN
    with pytest.raises(OSError, match="a tensor was read"):
        published.describe(found)


def test_vocabularies_are_not_mixed_up(tmp_path):
    wide, narrow = {}, {}
    for name in ("llama.tok_embeddings.weight", "llama.output.weight"):
        wide[name], narrow[name] = torch.zeros(32008, 16).half(), torch.zeros(32000, 16).half()
    with pytest.raises(ValueError, match=r"32000 rows lacks M²UGen's 8 audio tokens \(32008 are needed\)"):
        opened(tmp_path, {**toys.checkpoint(toys.M2UGEN), **narrow})
    assert opened(tmp_path, {**toys.checkpoint(toys.M2UGEN), **wide}).config.vocabulary == 32000
    with pytest.raises(ValueError, match="32008 rows, 8 more than MU-LLaMA has: is this M²UGen"):
        opened(tmp_path, {**toys.checkpoint(toys.MULLAMA), **wide})
    with pytest.raises(ValueError, match="have 48 and 32000 rows"):
        opened(tmp_path, {**toys.checkpoint(toys.M2UGEN), "llama.output.weight": narrow["llama.output.weight"]})
    path = write(tmp_path / "x.pth", toys.checkpoint(replace(toys.M2UGEN, vocabulary=32)))
    with pytest.raises(ValueError, match="its vocabulary is 40 and not 48: only M²UGen has 8 audio tokens"):
        published.open_checkpoint(path, toys.M2UGEN)


def test_a_checkpoint_of_the_other_model(tmp_path):
    path = write(tmp_path / "x.pth", toys.checkpoint(toys.MULLAMA))
    with pytest.raises(ValueError, match=r"x\.pth: is mullama and not m2ugen; give that model's checkpoint"):
        published.open_checkpoint(path, toys.M2UGEN)
    wanted = replace(toys.MULLAMA, norm_eps=1e-6)  # which no shape says
    assert published.open_checkpoint(path, wanted).config == wanted


@pytest.mark.parametrize("names_of", ["image_bind.trunk.weight", "image_bind_proj.weight", "adapter_query.weight",
                                      "prefix_query.weight", "visual_blocks.0.attn.qkv.weight"])
def test_the_baseline_is_not_taken_for_mullama(tmp_path, names_of):
    made = {names_of: torch.ones(32, 16), "prefix_query.weight": torch.ones(32, 16),
            **{f"llama.layers.{layer}.attention.gate": torch.ones(1, 2, 1, 1) for layer in range(4)}}
    with pytest.raises(ValueError, match=r"7B\.pth: is the LLaMA-Adapter baseline .*not MU-LLaMA\. Give checkpoint\."):
        published.open_checkpoint(write(tmp_path / "7B.pth", made))


def test_other_models_are_refused(tmp_path):
    made = toys.checkpoint(toys.M2UGEN)
    with pytest.raises(ValueError, match="is the later MuMu-LLaMA"):
        opened(tmp_path, {**made, "mu_mert_rnn.weight_ih_l0": torch.ones(2, 2)})
    with pytest.raises(ValueError, match=r"none of M²UGen, MU-LLaMA and LLaMA-2: its tensors are conv1, conv2\. Is"):
        opened(tmp_path, {"conv1": torch.ones(2), "conv2": torch.ones(2)})


def llama_folder(folder: Path, form: str, **params) -> Path:
    folder.mkdir()
    held = toys.meta_llama(toys.M2UGEN)
    if form == "meta":
        torch.save(held, folder / "consolidated.00.pth")
        said = {"dim": 16, "n_heads": 2, "n_layers": 20, "norm_eps": 1e-5, "vocab_size": -1, **params}
        (folder / "params.json").write_text(json.dumps(said))
    else:
        own = toys.hugging_face(toys.M2UGEN, held)
        own["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        torch.save(own, folder / "pytorch_model.bin") if form == "bin" else save_file(
            {name: one.contiguous() for name, one in own.items()}, folder / "model.safetensors")
        said = {"num_attention_heads": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 1e4, **params}
        (folder / "config.json").write_text(json.dumps(said))
    return folder


def test_llama_is_the_same_in_both_formats(tmp_path):
    read = {}
    for form in ("meta", "bin", "safetensors"):
        found = published.open_checkpoint(llama_folder(tmp_path / form, form))
        assert found.kind == ("llama-meta" if form == "meta" else "llama-hf") and found.config is None
        assert "llama: 183 tensors" in published.describe(found)
        read[form] = {name: one.load() for name, one in published.ours(found, toys.M2UGEN).items()}
    assert read["meta"]["llama.model.embed_tokens.weight"].shape == (40, 16)  # without the audio tokens
    for form in ("bin", "safetensors"):
        assert set(read[form]) == set(read["meta"])
        assert all(torch.equal(tensor, read["meta"][name]) for name, tensor in read[form].items())


@pytest.mark.parametrize(("form", "params", "told"), [
    ("meta", {"n_heads": 4}, "has heads 4, the model 2"),
    ("meta", {"norm_eps": 1e-6}, "norm eps 1e-06, the model 1e-05"),
    ("meta", {"n_kv_heads": 1}, "key and value heads 1"), ("bin", {"rope_theta": 500000.0}, "RoPE theta 500000"),
    ("bin", {"rope_parameters": {"rope_theta": 1e6}, "rope_theta": None}, "RoPE theta 1000000"),
    ("bin", {"rope_scaling": {"type": "linear", "factor": 2}}, "scales RoPE")])
def test_another_llama_is_noticed(tmp_path, form, params, told):
    found = published.open_checkpoint(llama_folder(tmp_path / "llama", form, **params))
    with pytest.raises(ValueError, match=f"llama: .*{told}"):
        published.ours(found, toys.M2UGEN)


def test_a_llama_of_another_size_or_vocabulary(tmp_path):
    found = published.open_checkpoint(llama_folder(tmp_path / "llama", "meta"))
    with pytest.raises(ValueError, match=r"9 missing: layers\.20\.attention_norm\.weight"):
        published.ours(found, replace(toys.M2UGEN, layers=21))
    with pytest.raises(ValueError, match="its vocabulary is 40 and not 48: only M²UGen"):
        published.ours(found, replace(toys.M2UGEN, vocabulary=48))
    with pytest.raises(ValueError, match="goes into a model of a known config"):
        published.ours(found)


def test_a_diverged_gate_is_noticed_when_it_is_described(tmp_path):
    made = toys.checkpoint(toys.MULLAMA)
    made["llama.layers.9.attention.gate"][0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"'the gate of layer 9' holds NaN or infinity: .*diverged"):
        published.describe(opened(tmp_path, made))
