import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from tests.training import toys
from training import checkpoint, names, published, safefile, stored
from training.fill import fill
from training.m2ugen import M2UGen

BASE = {"id": "meta-llama/Llama-2-7b-hf", "revision": "01c7f73d771dfac7d292323805ebc428287df4f9"}
FORMS = {"zip": "pth", "legacy": "pth", "safetensors": "safetensors"}


def written(path: Path, tensors: dict, form: str = "zip", prefix: str = "") -> Path:
    tensors = {prefix + name: one for name, one in tensors.items()}
    if form == "safetensors":
        from safetensors.torch import save_file
        save_file(tensors, path)
    else:
        torch.save({"model": tensors, "epoch": 2}, path, _use_new_zipfile_serialization=form == "zip")
    return path


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def llama_folder(folder: Path) -> Path:
    folder.mkdir()
    torch.save(toys.meta_llama(toys.M2UGEN), folder / "consolidated.00.pth")
    (folder / "params.json").write_text(json.dumps({"dim": 16, "n_heads": 2, "norm_eps": 1e-5}))
    return folder


def on_llama() -> dict:
    """A published M²UGen whose frozen weights are those of `llama_folder`."""
    made = toys.checkpoint(toys.M2UGEN)
    for name, one in toys.meta_llama(toys.M2UGEN).items():
        theirs = f"llama.{name}"
        if name in ("tok_embeddings.weight", "output.weight"):
            made[theirs][:40] = one
        elif not name.endswith(("norm.weight", "rope.freqs")):
            made[theirs] = one
    return made


def ours(tensors: dict, config) -> dict:
    return published.ours(published.Checkpoint(config.name, None, config, {
        name: stored.in_memory("toy", one) for name, one in tensors.items()}))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix", ["", "module."], ids=["bare", "module"])
@pytest.mark.parametrize("layout", toys.LAYOUTS)
def test_published_to_ours_to_published(tmp_path, layout, prefix, form):
    made = {**toys.checkpoint(toys.LAYOUTS[layout]), **toys.encoders()}
    source = written(tmp_path / f"checkpoint.{FORMS[form]}", made, form, prefix)
    told = checkpoint.convert(source, tmp_path / "ours")
    assert f": {toys.LAYOUTS[layout].name}\n" in told and "largest |tanh(gate)|" in told
    assert checkpoint.is_ours(tmp_path / "ours")
    for ending in ("pth", "safetensors"):
        checkpoint.convert(tmp_path / "ours", tmp_path / f"back.{ending}")
        if ending == "pth":
            back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
        else:
            with safe_open(tmp_path / "back.safetensors", "pt") as file:
                back = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert set(back) == set(made)
        for name, one in made.items():
            assert back[name].dtype == one.dtype and torch.equal(back[name], one), name
    assert published.open_checkpoint(tmp_path / "back.pth").config == toys.LAYOUTS[layout]


@pytest.mark.parametrize("trained", ["gates", "all but llama"])
def test_a_mullama_of_only_what_it_trained(tmp_path, trained):
    kept = {"gates", "prefix", "audio adapter"} | ({"lora", "norms", "biases"} if trained != "gates" else set())
    whole = toys.checkpoint(toys.MULLAMA)
    made = {name: one for name, one in whole.items() if published.group(name) in kept}
    checkpoint.convert(written(tmp_path / "checkpoint.pth", made), tmp_path / "ours", base=BASE, config=toys.MULLAMA)
    (tmp_path / "base").mkdir()
    base = {name.removeprefix("llama."): one for name, one in whole.items()
            if published.group(name) in ("llama", "norms")}
    torch.save({**base, "norm.weight": torch.ones(16)}, tmp_path / "base" / "consolidated.00.pth")
    (tmp_path / "base" / "params.json").write_text(json.dumps({"dim": 16, "n_heads": 2}))
    with pytest.raises(ValueError, match=r"stands on meta-llama/Llama-2-7b-hf at 01c7f73d.*say where that lies"):
        checkpoint.load(tmp_path / "ours")
    saved = checkpoint.load(tmp_path / "ours", tmp_path / "base")
    back = published.theirs(saved.tensors, saved.config)
    assert all(torch.equal(back[name].load(), one) for name, one in made.items())
    assert set(back) == set(made) | {f"llama.{name}" for name in base}
    norm = whole["llama.norm.weight"] if trained != "gates" else torch.ones(16)  # the checkpoint's goes over the base's
    assert torch.equal(back["llama.norm.weight"].load(), norm)


def test_a_base_is_named_and_not_held(tmp_path):
    made, llama = on_llama(), llama_folder(tmp_path / "llama")
    checkpoint.save(tmp_path / "whole", toys.M2UGEN, ours(made, toys.M2UGEN), base=None)
    checkpoint.save(tmp_path / "small", toys.M2UGEN, ours(made, toys.M2UGEN), base=BASE, trained=["lora", "adapters"],
                    encoders={"audio": {"id": "m-a-p/MERT-v1-330M", "revision": "abc"}})
    assert {path.name for path in (tmp_path / "small").iterdir()} == {
        "README.md", "config.json", "adapters.safetensors", "lora.safetensors", "prefix.safetensors",
        "projector.safetensors", "tokens.safetensors", "tuned.safetensors"}
    assert {path.name for path in (tmp_path / "whole").iterdir()} == {
        "base-00001-of-00001.safetensors", *(path.name for path in (tmp_path / "small").iterdir())}
    with safe_open(tmp_path / "small" / "tokens.safetensors", "pt") as file:
        rows = file.get_tensor("llama.model.embed_tokens.weight")
    assert torch.equal(rows, made["llama.tok_embeddings.weight"][40:])
    for folder, base in (("small", llama), ("whole", None)):
        saved = checkpoint.load(tmp_path / folder, base)
        back = published.theirs(saved.tensors, saved.config)
        assert set(back) == set(made)
        for name, one in made.items():
            assert back[name].dtype == one.dtype and torch.equal(back[name].load(), one), name
    assert saved.config == toys.M2UGEN
    checkpoint.convert(tmp_path / "small", tmp_path / "back.safetensors", llama=llama)
    assert set(published.open_checkpoint(tmp_path / "back.safetensors").tensors) == set(made)


def test_embeddings_that_were_trained_are_kept_whole(tmp_path):
    made, llama = on_llama(), llama_folder(tmp_path / "llama")
    made["llama.tok_embeddings.weight"][3] += 1
    for whole in (True, False):
        checkpoint.save(tmp_path / f"{whole}", toys.M2UGEN, ours(made, toys.M2UGEN), base=BASE, whole_embeddings=whole)
        loaded = checkpoint.load(tmp_path / f"{whole}", llama).tensors["llama.model.embed_tokens.weight"].load()
        assert torch.equal(loaded, made["llama.tok_embeddings.weight"]) is whole
        assert torch.equal(loaded[40:], made["llama.tok_embeddings.weight"][40:])


@pytest.mark.parametrize("layout", ["ranges", "mullama"])
def test_a_model_is_saved_and_loaded_and_says_the_same(tmp_path, layout):
    config = toys.LAYOUTS[layout]
    torch.manual_seed(0)
    model = M2UGen(config)
    for gate in model.prefix.gates:
        torch.nn.init.normal_(gate)
    checkpoint.save(tmp_path / "ours", config, model.state_dict(), base=None)
    with torch.device("meta"):
        again = M2UGen(config)
    fill(again, checkpoint.load(tmp_path / "ours").tensors)
    tokens, sound = torch.tensor([[1, 5, 9, 2]]), {"audio": torch.randn(1, 25, 12)}
    assert torch.equal(model(tokens, encoded=sound).logits, again(tokens, encoded=sound).logits)
    assert {name: one.dtype for name, one in again.state_dict().items()} == {
        name: one.dtype for name, one in model.state_dict().items()}


def test_the_same_weights_give_the_same_bytes(tmp_path):
    tensors = ours(on_llama(), toys.M2UGEN)
    checkpoint.save(tmp_path / "one", toys.M2UGEN, tensors, base=None)
    checkpoint.save(tmp_path / "other", toys.M2UGEN, dict(reversed(tensors.items())), base=None)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "other")
    for name in ("a.pth", "b.pth"):
        checkpoint.write_published(tmp_path / name, toys.M2UGEN, tensors)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_the_card_says_what_it_is_and_whether_it_hears(tmp_path):
    made = toys.checkpoint(toys.M2UGEN)
    for layer in range(2, 8):  # the audio's layers
        made[f"llama.layers.{layer}.attention.gate"].zero_()
    checkpoint.save(tmp_path / "x", toys.M2UGEN, ours(made, toys.M2UGEN), base=BASE, trained=["lora", "projector"],
                    notes="Stage 3 on MUEdit.", encoders={"video": {"id": "google/vivit-b-16x2", "revision": "r1"}})
    text = (tmp_path / "x" / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["base_model"] == BASE["id"]
    for told in ("Stage 3 on MUEdit.", f"{BASE['id']} at {BASE['revision']}", "video: google/vivit-b-16x2 at r1",
                 "Trained: lora, projector.", "**The gates are zero for audio: what comes in there changes nothing.**",
                 "Music decoder: musicgen", f"torch {torch.__version__}", "audio 0, image 0."):
        assert told in body, told
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "x").glob("*.safetensors")}
    assert all(f"| {name} | " in body and f"{size:,} |" in body for name, size in sizes.items())


def test_a_folder_is_not_overwritten_by_mistake_nor_half(tmp_path):
    first, second = (ours(toys.checkpoint(toys.M2UGEN, seed), toys.M2UGEN) for seed in (0, 7))
    checkpoint.save(tmp_path / "x", toys.M2UGEN, first, base=None)
    before = bytes_of(tmp_path / "x")
    with pytest.raises(FileExistsError, match=r"x: is there already; choose another"):
        checkpoint.save(tmp_path / "x", toys.M2UGEN, second, base=None)

    def breaks():
        raise OSError("the disk is full")
    bad = {**second, "prefix.query": stored.Stored("x", (18, 16), torch.float32, breaks)}
    with pytest.raises(OSError, match="the disk is full"):
        checkpoint.save(tmp_path / "x", toys.M2UGEN, bad, base=None, replace_old=True)
    with pytest.raises(OSError, match="the disk is full"):
        checkpoint.write_published(tmp_path / "y.safetensors", toys.M2UGEN, bad)
    assert bytes_of(tmp_path / "x") == before and [path.name for path in tmp_path.iterdir()] == ["x"]
    checkpoint.save(tmp_path / "x", toys.M2UGEN, second, base=None, replace_old=True)
    assert bytes_of(tmp_path / "x")["lora.safetensors"] != before["lora.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


KILLED = """
import os, sys
import training.safefile as safefile
from tests.training import toys
from tests.training.test_checkpoint import ours
from training import checkpoint
left, write = int(sys.argv[2]), safefile.write
def dying(*arguments):
    global left
    if not left:
        os._exit(9)
    left -= 1
    write(*arguments)
safefile.write = dying
tensors = ours(toys.checkpoint(toys.M2UGEN, 7), toys.M2UGEN)
checkpoint.save(sys.argv[1], toys.M2UGEN, tensors, base=None, replace_old=True)
"""


def test_a_killed_save_leaves_the_old_folder_whole(tmp_path):
    checkpoint.save(tmp_path / "x", toys.M2UGEN, ours(toys.checkpoint(toys.M2UGEN), toys.M2UGEN), base=None)
    before = bytes_of(tmp_path / "x")
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "x", "3"], cwd=Path(__file__).resolve().parents[2],
                          check=False)
    assert done.returncode == 9 and bytes_of(tmp_path / "x") == before
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".tmp-")] == ["x"]


def test_trained_rows_keep_their_numbers_on_a_base_of_another_dtype(tmp_path):
    made, llama = on_llama(), llama_folder(tmp_path / "llama")
    tensors, table = {name: one.load() for name, one in ours(made, toys.M2UGEN).items()}, "llama.lm_head.weight"
    tensors[table] = tensors[table].float()
    tensors[table][40:] += 1e-4
    tensors[table][41, 0] = 70000.  # beyond float16
    checkpoint.save(tmp_path / "x", toys.M2UGEN, tensors, base=BASE)
    back = checkpoint.load(tmp_path / "x", llama).tensors
    assert back[table].dtype == torch.float32 and torch.equal(back[table].load(), tensors[table])
    assert back["llama.model.embed_tokens.weight"].dtype == torch.float16


@pytest.mark.parametrize("base", [None, BASE], ids=["whole", "on a base"])
def test_inspect_reads_the_gates_and_not_the_card(tmp_path, base):
    folder = tmp_path / "x"
    checkpoint.save(folder, toys.M2UGEN, ours(on_llama(), toys.M2UGEN), base=base, notes="Stage 3.")
    (folder / "README.md").unlink()
    assert "No modality's gates are all zero" in checkpoint.inspect(folder) and "Stage 3." in checkpoint.inspect(folder)
    held, _ = safefile.read(str(folder / "prefix.safetensors"))
    safefile.write(str(folder / "prefix.safetensors"), {name: stored.in_memory(
        "x", torch.zeros(one.shape) if "gates" in name else one.load()) for name, one in held.items()})
    assert "The gates are zero for audio, image, video:" in checkpoint.inspect(folder)


def test_a_partial_mullama_says_what_it_stands_on(tmp_path):
    kept = {"gates", "prefix", "audio adapter"}
    whole = toys.checkpoint(toys.MULLAMA)
    source = written(tmp_path / "mu.pth", {name: one for name, one in whole.items() if published.group(name) in kept})
    with pytest.raises(ValueError, match=r"ours: the LLaMA below this mullama is neither .*\(--llama\).*\(--base\)"):
        checkpoint.convert(source, tmp_path / "ours", config=toys.MULLAMA)
    assert not (tmp_path / "ours").exists()


def test_what_a_base_leaves_out_is_told_and_another_llama_refused(tmp_path):
    source = written(tmp_path / "c.pth", {**on_llama(), **toys.encoders()})
    told = checkpoint.convert(source, tmp_path / "one", base=BASE, llama=llama_folder(tmp_path / "llama"))
    last = told.splitlines()[-1]
    assert last.startswith(f"stands on {BASE['id']} at {BASE['revision']}; left out: its own LLaMA (")
    assert last.endswith("audio encoder, image encoder, music decoder, video encoder")
    other = {**on_llama()}
    other["llama.layers.7.feed_forward.w2.weight"] = other["llama.layers.7.feed_forward.w2.weight"] + 1
    with pytest.raises(ValueError, match=r"d\.pth: brings a LLaMA of its own, and .*llama is another \(first in llama\."
                                         r"model\.layers\.7\.mlp\.down_proj"):
        checkpoint.convert(written(tmp_path / "d.pth", other), tmp_path / "two", base=BASE, llama=tmp_path / "llama")
    assert not (tmp_path / "two").exists()


def test_what_is_not_the_model_s_is_not_saved(tmp_path):
    tensors = ours(toys.checkpoint(toys.M2UGEN), toys.M2UGEN)
    with pytest.raises(ValueError, match=r"x: tensors do not fit\. 1 missing: prefix\.query\."):
        checkpoint.save(tmp_path / "x", toys.M2UGEN, base=BASE,
                        tensors={name: one for name, one in tensors.items() if name != "prefix.query"})
    with pytest.raises(ValueError, match="1 unexpected: head"):
        checkpoint.save(tmp_path / "x", toys.M2UGEN, {**tensors, "head": torch.ones(2)}, base=BASE)
    with pytest.raises(ValueError, match=r"x\.bin: should end in"):
        checkpoint.write_published(tmp_path / "x.bin", toys.M2UGEN, tensors)
    assert not list(tmp_path.iterdir())


def test_a_saved_folder_with_something_wrong(tmp_path):
    folder, made = tmp_path / "x", toys.checkpoint(toys.M2UGEN)
    checkpoint.save(folder, toys.M2UGEN, ours(made, toys.M2UGEN), base=None)
    good = json.loads((folder / "config.json").read_text())

    def refused(told, **changes):
        (folder / "config.json").write_text(json.dumps({**good, **changes}))
        with pytest.raises((ValueError, OSError), match=told):
            checkpoint.load(folder)
    refused(r"config\.json: points at '\.\./y', outside of its folder", files={"../y": [1, 1]})
    refused(r"config\.json: not a model's config", model={"dim": 3})
    refused(r"config\.json: not a model that was saved here", m2ugen_format=2)
    refused(r"config\.json: not a model's config|config\.json: ", model=[1])
    model = good["model"]
    for told, change in {"heads is 0": {"heads": 0}, "at least one modality": {"modalities": []},
                         "layers is 20.0": {"layers": 20.0}, "1000000 layers .* but 20": {"layers": 1000000},
                         "5000 of the projector": {"projector": {**model["projector"], "layers": 5000}},
                         "dim is 1099511627776": {"dim": 2 ** 40}, "none of our models": {"name": ["m2ugen"]},
                         "'smell' is unknown": {"modalities": [{"name": "smell", "tokens": 1, "width": 1}]},
                         "do not share its width": {"projector": {**model["projector"], "width": 6}}}.items():
        refused(rf"config\.json: .*{told}", model={**model, **change})
    for name in ("..", ".", "", "a/b", "a\\b"):
        refused(r"config\.json: points at .* outside of its folder", files={name: [1, 1]})
    refused(r"config\.json: its base is not", base="x")
    refused(r"config\.json: its encoders is not", encoders=[1])
    refused(r"config\.json: its files is not", files=[1])
    fewer = {name: one for name, one in good["files"].items() if "lora" not in name}
    refused(r"do not fit\. .* missing: llama", files=fewer)
    refused("heads|do not fit", model={**good["model"], "layers": 21})
    refused(r"gone\.safetensors", files={**good["files"], "gone.safetensors": [1, 1]})
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON"):
        checkpoint.load(folder)
    (folder / "config.json").write_text(json.dumps(good))
    os.truncate(folder / "lora.safetensors", 5000)
    with pytest.raises(ValueError, match=r"lora\.safetensors: no whole safetensors file"):
        checkpoint.load(folder)
    held, _ = safefile.read(str(folder / "prefix.safetensors"))
    safefile.write(str(folder / "prefix.safetensors"), {name: stored.in_memory("x", one.load().to(torch.int8))
                                                        for name, one in held.items()})
    checkpoint.save(tmp_path / "y", toys.M2UGEN, ours(made, toys.M2UGEN), base=None)
    (folder / "lora.safetensors").write_bytes((tmp_path / "y" / "lora.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"prefix\.safetensors: 21 weights are not float16.*torch\.int8"):
        checkpoint.load(folder)
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "nowhere")


def test_every_tensor_of_the_model_has_its_file():
    parts = {own.name: checkpoint.part(own.name) for own in names.published(toys.M2UGEN).values()}
    assert set(parts.values()) == {"adapters", "projector", "prefix", "tokens", "lora", "tuned", "base"}
    base = {names.plain(name).removeprefix("llama.") for name, one in parts.items()
            if one in ("base", "tokens", "tuned") and not name.endswith("bias")}
    assert base == set(names.hugging_face_llama(toys.M2UGEN))
