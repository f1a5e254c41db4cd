import argparse
import collections
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from training import torchfile
from training.weights import open_weights

WEIGHTS = collections.OrderedDict(a=torch.arange(6.).reshape(2, 3), b=torch.tensor([1, 2]).to(torch.bfloat16),
                                  turned=torch.arange(12.).reshape(3, 4).t(), part=torch.arange(10.)[4:7],
                                  scalar=torch.tensor(2.5), empty=torch.zeros(0, 4))
both = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Runs:
    """Pickled, a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def save(path: Path, value, zipped: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


@both
def test_everything_of_a_training_checkpoint_is_read(tmp_path, zipped):
    shared = torch.arange(8.)
    more = {"parameter": torch.nn.Parameter(torch.ones(2)), "one": shared[:4], "other": shared[2:]}
    value = {"model": {**WEIGHTS, **more},
             "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"betas": (0.9, 0.95)}]},
             "epoch": 4, "scaler": {"scale": 65536.0}, "args": argparse.Namespace(lr=1e-4, name="m2ugen", gpu=None)}
    read = torchfile.read(str(save(tmp_path / "checkpoint.pth", value, zipped)))
    assert list(read["model"]) == list(value["model"])
    for name, tensor in value["model"].items():
        assert read["model"][name].dtype == tensor.dtype and read["model"][name].shape == tuple(tensor.shape)
        assert torch.equal(read["model"][name].load(), tensor), name
        assert read["model"][name].load().is_contiguous()
    assert read["args"] == {"lr": 1e-4, "name": "m2ugen", "gpu": None} and read["epoch"] == 4
    assert torch.equal(read["optimizer"]["state"][0]["exp_avg"].load(), torch.ones(3))
    opened = open_weights(tmp_path / "checkpoint.pth")
    assert set(opened.tensors) == set(value["model"]) and opened.extra["args"]["lr"] == 1e-4


@both
def test_what_was_read_is_what_torch_reads(tmp_path, zipped):
    path = save(tmp_path / "x.pth", dict(WEIGHTS), zipped)
    assert {name: one.load().tolist() for name, one in open_weights(path).tensors.items()} == {
        name: one.tolist() for name, one in torch.load(path, weights_only=True).items()}


@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"model": {"w": evil}},
                                  lambda evil: {"model": WEIGHTS, "args": argparse.Namespace(x=evil)},
                                  lambda evil: {"model": WEIGHTS, "optimizer": [evil]}],
                         ids=["bare", "model", "args", "optimizer"])
@both
def test_a_pickle_that_runs_code_runs_nothing(tmp_path, zipped, wrap):
    proof = tmp_path / "it ran"
    path = save(tmp_path / "evil.pth", wrap(Runs(os.system, f"touch '{proof}'")), zipped)
    with pytest.raises(ValueError, match=r"evil\.pth: asks for '(posix|os)\.system' to be run.*nothing was run"):
        open_weights(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the file was harmless: the test shows nothing"


@pytest.mark.parametrize(("function", "arguments"), [
    (eval, ("open({!r}, 'w').close()",)), (exec, ("open({!r}, 'w').close()",)), (subprocess.Popen, (["touch", "{}"],)),
    (Path.touch, (Path("{}"),)), (getattr, ({}, "keys")), (pickle.loads, (b"N.",)), (io.open, ("{}", "w"))])
@both
def test_no_other_global_is_let_in(tmp_path, zipped, function, arguments):
    proof = tmp_path / "it ran"
    filled = [one.format(str(proof)) if isinstance(one, str) else [str(proof) if x == "{}" else x for x in one]
              if isinstance(one, list) else proof if isinstance(one, Path) else one for one in arguments]
    with pytest.raises(ValueError, match="nothing was run"):
        open_weights(save(tmp_path / "evil.pth", {"model": {"w": Runs(function, *filled)}}, zipped))
    assert not proof.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_is_not_loaded(tmp_path, protocol):
    proof = tmp_path / "it ran"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"w": Runs(os.system, f"touch '{proof}'")}, protocol))
    with pytest.raises(ValueError, match=r"evil\.pkl: (is a pickle, but none|neither a file of torch)"):
        open_weights(tmp_path / "evil.pkl")
    assert not proof.exists()


def test_what_the_process_trusts_otherwise_is_not_trusted_here(tmp_path):
    path = save(tmp_path / "x.pth", {"model": {"w": Runs(os.path.join, "a", "b")}}, True)
    with torch.serialization.safe_globals([os.path.join]):
        assert torch.load(path, weights_only=True)["model"]["w"] == "a/b"
        with pytest.raises(ValueError, match=r"posixpath\.join"):
            open_weights(path)
        assert os.path.join in torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([argparse.Namespace]):  # trusted before: and after, too
        open_weights(save(tmp_path / "y.pth", {"model": {"w": torch.ones(1)}, "args": argparse.Namespace(a=1)}, True))
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def test_a_saved_module_is_no_state_dict(tmp_path):
    with pytest.raises(ValueError, match=r"'torch\.nn\.modules\.linear\.Linear' to be run"):
        open_weights(save(tmp_path / "x.pth", torch.nn.Linear(2, 2), True))
    with pytest.raises(ValueError, match="holds a list and not a dictionary"):
        open_weights(save(tmp_path / "x.pth", [torch.ones(2)], True))
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(ValueError, match=r"script\.pt: is a TorchScript program"):
        open_weights(tmp_path / "script.pt")


@both
def test_every_cut_is_noticed_before_a_tensor_is_used(tmp_path, zipped):
    data = save(tmp_path / "whole.pth", {"model": WEIGHTS}, zipped).read_bytes()
    for length in {*range(1, 40), *range(40, len(data), 61), len(data) - 1}:
        (tmp_path / "cut.pth").write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut\.pth: "):
            open_weights(tmp_path / "cut.pth")


def test_a_tensor_may_not_claim_more_than_its_elements(tmp_path):
    """Sizes in the pickle are the file's own claim: with one changed, a tensor would read what lies behind."""
    path = save(tmp_path / "x.pth", {"w": torch.zeros(3, 5)}, True)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(one for one in entries if one.endswith("data.pkl"))
    size = b"K\x03K\x05\x86"  # the tuple (3, 5)
    assert entries[name].count(size) == 1
    entries[name] = entries[name].replace(size, b"K\x7fK\x05\x86")
    with zipfile.ZipFile(path, "w") as archive:
        for one, data in entries.items():
            archive.writestr(one, data)
    with pytest.raises(ValueError, match=r"x\.pth: .*\[127, 5\] that its elements do not fill"):
        open_weights(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for one, data in entries.items():
            archive.writestr(one, data)
    with pytest.raises(ValueError, match="compressed by another tool"):
        open_weights(path)


@both
def test_values_within_themselves_are_refused(tmp_path, zipped):
    within = []
    within.append(within)
    with pytest.raises(ValueError, match=r"x\.pth: a torch file with values in one another without end"):
        open_weights(save(tmp_path / "x.pth", {"model": {"w": torch.ones(2)}, "optimizer": within}, zipped))


def pickled(path: Path, data: bytes) -> Path:
    """A file as torch.save makes it, around a pickle made by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, held in (("data.pkl", data), ("byteorder", b"little"), ("version", b"3\n"), ("data/0", b"\0" * 16)):
            archive.writestr(f"archive/{name}", held)
    return path


PEAK = """
import re, sys
from training.weights import open_weights
try:
    open_weights(sys.argv[1])
except ValueError as error:
    print(error)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.parametrize("name", ["builtins\nbytearray", "torch\nTensor", "torch\nFloatTensor",
                                  "torch.storage\nUntypedStorage", "torch.storage\nTypedStorage"])
def test_nothing_is_allocated_because_a_file_asks_for_it(tmp_path, name):
    size = b"\x8a\x05" + (3 << 28).to_bytes(5, "little")
    path = pickled(tmp_path / "x.pth", b"\x80\x02c" + name.encode() + b"\n" + size + b"\x85R.")
    assert path.stat().st_size < 700
    if name == "builtins\nbytearray":
        done = subprocess.run([sys.executable, "-c", PEAK, path], cwd=Path(__file__).resolve().parents[2], text=True,
                              capture_output=True, check=True)
        told, peak = done.stdout.splitlines()
        assert "asks for 'builtins.bytearray' to be run" in told and int(peak) < 600
    with pytest.raises(ValueError, match=rf"x\.pth: asks for '{name.replace(chr(10), '[.]')}' to be run"):
        open_weights(path)


@both
def test_lists_of_lists_twice_over_are_read_once(tmp_path, zipped):
    laugh = [1]
    for _ in range(60):
        laugh = [laugh, laugh]
    value = {"model": {"w": torch.ones(2)}, "optimizer": laugh}
    assert list(open_weights(save(tmp_path / "x.pth", value, zipped)).tensors) == ["w"]
    read = torchfile.read(str(tmp_path / "x.pth"))["optimizer"]
    assert read[0] is read[1]
    for key in ("args", "epoch"):
        with pytest.raises(ValueError, match=r"x\.pth: its `epoch` or `args` hold more than 100,000 values"):
            open_weights(save(tmp_path / "x.pth", {"model": {"w": torch.ones(2)}, key: laugh}, zipped))


def test_a_key_that_takes_for_ever_to_hash_is_refused(tmp_path):
    twice = b"".join(b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(60))
    path = pickled(tmp_path / "x.pth", b"\x80\x02}K\x01\x85q\x00" + twice + b"K\x01s.")
    with pytest.raises(ValueError, match=r"x\.pth: .*tuples in one another without end"):
        open_weights(path)


def test_a_sparse_tensor_leaves_nothing_behind_in_torch(tmp_path):
    with pytest.raises(ValueError, match="_rebuild_sparse_tensor"):
        open_weights(save(tmp_path / "x.pth", {"w": torch.eye(4).to_sparse()}, True))
    assert torch.load(save(tmp_path / "y.pth", {"w": torch.ones(2)}, True))["w"].tolist() == [1, 1]


def test_expanded_and_sparse_tensors_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\[1000000, 4\] that its elements do not fill"):
        open_weights(save(tmp_path / "x.pth", {"w": torch.ones(4).expand(1000000, 4)}, True))
    with pytest.raises(ValueError, match=r"x\.pth: "):
        open_weights(save(tmp_path / "x.pth", {"w": torch.eye(4).to_sparse()}, True))


def test_big_endian_files_are_refused(tmp_path):
    path = save(tmp_path / "x.pth", {"w": torch.ones(3)}, True)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for one, data in entries.items():
            archive.writestr(one, b"big" if one.endswith("byteorder") else data)
    with pytest.raises(ValueError, match="'big' byte order"):
        open_weights(path)
