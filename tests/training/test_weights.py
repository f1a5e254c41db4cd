import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training import safefile, stored
from training.weights import open_weights

TENSORS = {"a": torch.arange(6.).reshape(2, 3), "b": torch.ones(4).half(), "c": torch.zeros(2, dtype=torch.bfloat16)}


def same(opened, expected):
    assert set(opened) == set(expected)
    for name, tensor in expected.items():
        assert opened[name].dtype == tensor.dtype
        assert torch.equal(opened[name].load(), tensor), name


@pytest.mark.parametrize("ending", ["pth", "old.pth", "safetensors"])
def test_the_prefix_of_a_wrapped_model_is_taken_off(tmp_path, ending):
    wrapped, path = {f"module.{name}": tensor for name, tensor in TENSORS.items()}, tmp_path / f"x.{ending}"
    if ending == "safetensors":
        save_file(wrapped, path, {"format": "pt"})
    else:
        torch.save({"model": wrapped, "epoch": 1}, path, _use_new_zipfile_serialization=ending == "pth")
    same(open_weights(path).tensors, TENSORS)
    path = tmp_path / "twice.pth"
    torch.save({"model": {**wrapped, "b": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match=r"twice\.pth: .*with and without `module\.`: b; keep one"):
        open_weights(path)


def test_our_safetensors_files_are_the_library_s(tmp_path):
    held = {name: stored.in_memory("here", tensor) for name, tensor in TENSORS.items()}
    held["turned"] = stored.in_memory("here", torch.arange(6).reshape(2, 3).t())
    held["none"] = stored.in_memory("here", torch.zeros(0, 3))
    safefile.write(str(tmp_path / "x.safetensors"), held, {"format": "pt"})
    from safetensors import safe_open
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(held)
        for name, one in held.items():
            assert file.get_tensor(name).dtype == one.dtype and torch.equal(file.get_tensor(name), one.load())
    again = dict(reversed(held.items()))
    safefile.write(str(tmp_path / "y.safetensors"), again, {"format": "pt"})
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def broken(header: dict | bytes, data: bytes = b"\0" * 24, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


GOOD = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


@pytest.mark.parametrize("data", [
    broken(GOOD, b"\0" * 20), broken(GOOD, b"\0" * 28), broken(GOOD, length=10 ** 12), broken(GOOD, length=9),
    broken({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [4, 28]}}, b"\0" * 28),
    broken({"a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 24]}}),
    broken({"a": {"dtype": "F32", "shape": [2 ** 62, 4], "data_offsets": [0, 24]}}),
    broken({"a": {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}}),
    broken({"a": {"dtype": "F99", "shape": [2, 3], "data_offsets": [0, 24]}}),
    broken({**GOOD, "b": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}), broken(b'{"a": {"dtype"'),
    broken(b'{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'),
], ids=["cut", "long", "huge", "short", "hole", "shape", "overflow", "negative", "dtype", "overlap", "json", "twice"])
def test_safetensors_with_a_wrong_header_are_refused(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(broken(GOOD))
    assert open_weights(tmp_path / "x.safetensors").tensors["a"].load().shape == (2, 3)
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.safetensors: "):
        open_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize("first", range(0, 256, 8))
def test_a_header_s_length_is_not_taken_for_another_format(tmp_path, first):
    """0x80 begins a pickle, and 0x50 a zip."""
    text = json.dumps(GOOD).encode()
    text += b" " * (512 + first - len(text))
    assert len(text) % 256 == first
    (tmp_path / "x").write_bytes(broken(text))
    assert open_weights(tmp_path / "x").tensors["a"].load().shape == (2, 3)


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    opened = open_weights(path).tensors["a"]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(OSError, match=r"x\.safetensors: ends in the middle"):
        [one.load() for one in (opened, opened)]


@pytest.mark.parametrize(("data", "told"), [
    (b"", "is empty; fetch it again"), (b"hello, this is no model", "neither a file of torch"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    (b"<!DOCTYPE html><html>", "neither a file of torch"), (b"PK\x05\x06" + b"\0" * 18, "neither a file of torch")])
def test_what_is_no_model_at_all(tmp_path, data, told):
    (tmp_path / "checkpoint.pth").write_bytes(data)
    with pytest.raises(ValueError, match=rf"checkpoint\.pth: .*{told}" if not told.startswith("is") else told):
        open_weights(tmp_path / "checkpoint.pth")


def test_no_file_no_tensors_no_model_in_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: no such file; give"):
        open_weights(tmp_path / "gone.pth")
    with pytest.raises(ValueError, match=r"no model in this folder \(none of model\.safetensors\.index\.json"):
        open_weights(tmp_path)
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="no tensors at the top or under `model`, only epoch, optimizer"):
        open_weights(tmp_path / "x.pth")
    torch.save({"model": {"a": torch.ones(1), "note": "hello"}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="these of its `model` are no tensors: note"):
        open_weights(tmp_path / "x.pth")


def hub_folder(folder: Path, kind: str) -> Path:
    """A sharded Hugging Face folder, with files linked out of it as the hub's cache does."""
    folder.mkdir()
    (folder.parent / "blobs").mkdir(exist_ok=True)
    name = "model-0000{}-of-00002.safetensors" if kind == "safetensors" else "pytorch_model-0000{}-of-00002.bin"
    placed = {}
    for number, names in ((1, ("a",)), (2, ("b", "c"))):
        shard, blob = name.format(number), folder.parent / "blobs" / f"{kind}{number}"
        held = {one: TENSORS[one] for one in names}
        if kind == "safetensors":
            save_file(held, blob)
        else:
            torch.save(held, blob)
        (folder / shard).symlink_to(blob)
        placed |= dict.fromkeys(names, shard)
    index = "model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json"
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    (folder / "config.json").write_text('{"num_attention_heads": 2}')
    return folder


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_sharded_folder(tmp_path, kind):
    folder = hub_folder(tmp_path / "model", kind)
    opened = open_weights(folder)
    same(opened.tensors, TENSORS)
    assert opened.params == {"num_attention_heads": 2}
    index = next(folder.glob("*.index.json"))
    placed = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {**placed, "d": placed["c"]}}))
    with pytest.raises(ValueError, match=r"1 tensors of .* are in no shard: d; fetch"):
        open_weights(folder)
    index.write_text(json.dumps({"weight_map": {name: placed[name] for name in ("a", "b")}}))
    with pytest.raises(ValueError, match="does not place there: c"):
        open_weights(folder)
    index.write_text(json.dumps({"weight_map": {**placed, "d": "third.bin"}}))
    with pytest.raises(FileNotFoundError, match=r"third\.bin: a shard that .* names is not there"):
        open_weights(folder)
    shutil.copy(folder / placed["a"], folder / "copy")
    index.write_text(json.dumps({"weight_map": {**placed, "d": "copy"}}))
    with pytest.raises(ValueError, match=r"tensors that (another shard holds too|.* does not place there): a"):
        open_weights(folder)
    for bad in ("[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', "{"):
        index.write_text(bad)
        with pytest.raises(ValueError, match=r"index\.json: "):
            open_weights(folder)


@pytest.mark.parametrize("outside", ["../../etc/passwd", "/etc/passwd", "..", "a/x.bin", "..\\x.bin", "", "C:\\x.bin"])
def test_an_index_cannot_reach_out_of_its_folder(tmp_path, outside):
    (tmp_path / "model").mkdir()
    save_file(TENSORS, tmp_path / "x.bin")
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": outside}}))
    with pytest.raises(ValueError, match=r"index\.json: points at .*, outside of its folder; nothing of it was read"):
        open_weights(tmp_path / "model")


META = {"tok_embeddings.weight": torch.randn(10, 8).half(), "output.weight": torch.randn(10, 8).half(),
        "norm.weight": torch.randn(8).half(), "rope.freqs": torch.randn(2),
        "layers.0.attention_norm.weight": torch.randn(8).half(),
        **{f"layers.0.attention.w{one}.weight": torch.randn(8, 8).half() for one in "qkvo"},
        "layers.0.feed_forward.w1.weight": torch.randn(12, 8).half(),
        "layers.0.feed_forward.w2.weight": torch.randn(8, 12).half(),
        "layers.0.feed_forward.w3.weight": torch.randn(12, 8).half()}
ALONG = {"tok_embeddings": 1, "output": 0, "wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0}


def meta_folder(folder: Path, pieces: int, **params) -> Path:
    folder.mkdir()
    for piece in range(pieces):
        held = {}
        for name, tensor in META.items():
            axis = ALONG.get(name.split(".")[-2])
            held[name] = tensor if axis is None else tensor.chunk(pieces, axis)[piece].clone()
        torch.save(held, folder / f"consolidated.{piece:02d}.pth")
    (folder / "params.json").write_text(json.dumps({"dim": 8, "n_heads": 2, "n_layers": 1, "norm_eps": 1e-5, **params}))
    return folder


@pytest.mark.parametrize("pieces", [1, 2])
def test_meta_s_folder_in_one_piece_and_in_more(tmp_path, pieces):
    opened = open_weights(meta_folder(tmp_path / "7B", pieces))
    same(opened.tensors, META)
    assert opened.params["n_heads"] == 2


def test_meta_s_folder_with_something_wrong(tmp_path):
    folder = meta_folder(tmp_path / "13B", 2)
    (folder / "consolidated.00.pth").rename(folder / "aside")
    with pytest.raises(FileNotFoundError, match=r"holds consolidated\.01\.pth, and not consolidated\.00\.pth; fetch"):
        open_weights(folder)
    (folder / "consolidated.01.pth").rename(folder / "consolidated.00.pth")  # a half taken for the whole
    with pytest.raises(ValueError, match=r"params\.json says dim 8, but 1 pieces of tok_embeddings make \[10, 4\]"):
        open_weights(folder)
    torch.save({"norm.weight": torch.ones(8)}, folder / "consolidated.01.pth")
    with pytest.raises(ValueError, match=r"consolidated\.01\.pth: holds other tensors than consolidated\.00\.pth: la"):
        open_weights(folder)
    (folder / "params.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"params\.json: not there; Meta's LLaMA has it"):
        open_weights(folder)
