import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from tests.captioners.hub import repository
from training.pinned import Pinned, folder, pin

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"the same", "tf_model.h5": b"tf",
         "modeling.py": b"raise SystemExit", "tokenizer.json": b"words"}


class Hub:
    """As much of the Hub as fetching needs: repositories of files by commit, branches, and doors that are shut."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []

    def push(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        commit = hashlib.sha1(json.dumps([name, sorted(map(str, files.items()))]).encode()).hexdigest()
        self.commits.setdefault(name, {})[commit] = files
        self.branches.setdefault(name, {})[branch] = commit
        return commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        path = path.partition("?")[0]
        api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name, (verb, revision, *rest) = "/".join(parts[:2]), [*parts[2:], "", ""][:max(2, len(parts) - 2)]
        commit = self.branches.get(name, {}).get(revision or "main", revision)
        files = self.commits.get(name, {}).get(commit)
        if name not in self.commits or (name in self.gated and verb == "resolve"):
            code = "GatedRepo" if name in self.gated else "RepoNotFound"
            return 403 if name in self.gated else 404, {"X-Error-Code": code, "X-Error-Message": f"{code}: ask"}, b""
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if api and verb == "tree":
            found = [{"type": "file", "path": file, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                     for file, body in files.items()]
            return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()
        if api:
            found = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()
        body = files["/".join(rest)]
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}, body


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """A Hub on loopback, and an empty cache."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    at = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", at)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", at + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def offline(monkeypatch, tmp_path) -> Path:
    """An empty cache and no network; the cache's path."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def names(pinned: Pinned) -> set[str]:
    return {file.name for file in folder(pinned).iterdir()}


def test_a_hub_id_is_its_commit_and_only_what_is_read_is_fetched(hub):
    commit = hub.push("org/model", FILES)
    pinned = pin("org/model")
    assert pinned == Pinned("org/model", commit) and pinned.title == "org/model"
    assert names(pinned) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert (folder(pinned) / "model.safetensors").read_bytes() == b"weights"


def test_pickled_weights_are_fetched_where_there_are_no_others(hub):
    hub.push("org/old", {name: FILES[name] for name in ("config.json", "pytorch_model.bin", "tf_model.h5")})
    assert names(pin("org/old")) == {"config.json", "pytorch_model.bin"}


def test_a_revision_can_be_asked_for(hub):
    first = hub.push("org/model", FILES)
    branch = hub.push("org/model", FILES | {"config.json": b"branch"}, "v2")
    second = hub.push("org/model", FILES | {"config.json": b"new"})
    revisions = [pin(f"org/model{at}").revision for at in ("", "@main", f"@{first}", "@v2")]
    assert revisions == [second, second, first, branch]
    assert (folder(pin(f"org/model@{first}")) / "config.json").read_bytes() == b"{}"
    assert (folder(Pinned("org/model", second)) / "config.json").read_bytes() == b"new"
    with pytest.raises(ValueError, match=r"org/model@v9: there is no such directory, and it cannot be fetched"):
        pin("org/model@v9")


def test_what_is_pinned_stays_while_the_hub_moves_on(hub):
    hub.push("org/model", FILES)
    pinned = pin("org/model")
    hub.push("org/model", FILES | {"config.json": b"new"})
    asked = len(hub.asked)
    assert (folder(pinned) / "config.json").read_bytes() == b"{}"
    assert len(hub.asked) == asked  # nor is the network needed for what is here whole
    assert pin("org/model") != pinned


@pytest.mark.parametrize("at", ["", "@main", "@COMMIT"])
def test_what_was_fetched_serves_without_a_network(hub, monkeypatch, at):
    commit = hub.push("org/model", FILES)
    pinned = pin("org/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pin("org/model" + at.replace("COMMIT", commit)) == pinned
    assert names(pinned) == {"config.json", "model.safetensors", "tokenizer.json"}


def test_what_was_fetched_serves_while_the_hub_is_down(hub, monkeypatch):
    hub.push("org/model", FILES)
    pinned = pin("org/model")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert pin("org/model") == pinned and names(pinned)
    with pytest.raises(ValueError, match=r"org/other: .* cannot be fetched .*[Cc]onnection"):
        pin("org/other")


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_fetch_that_broke_off_is_completed(hub, weights):
    hub.push("org/model", {name: FILES[name] for name in ("config.json", weights)})
    pinned = pin("org/model")
    (folder(pinned) / weights).unlink()
    assert names(pinned) == {"config.json", weights}


def test_a_hand_made_cache_loads_offline(offline):
    snapshot = repository(offline, "org/toy")
    (snapshot / "config.json").write_text("{}")
    pinned = pin("org/toy")
    assert pinned == Pinned("org/toy", snapshot.name) and folder(pinned) == snapshot.resolve()
    assert pin(f"org/toy@{snapshot.name}") == pinned


def test_an_id_of_one_word(offline):
    repository(offline, "gpt2")
    assert pin("gpt2").title == "gpt2"


@pytest.mark.parametrize("name", ["org/nowhere", "org/nowhere@main", "org/nowhere@" + 40 * "a"])
def test_nothing_in_the_cache_and_no_network(offline, name):
    with pytest.raises(ValueError, match=f"^{name}: there is no such directory, and it cannot be fetched from the Hub "
                                         r"\(.*\); check the name and the network, log in .* or give a directory"):
        pin(name)


def test_no_such_repository_and_one_that_is_gated(hub):
    hub.push("org/gated", FILES)
    hub.gated.add("org/gated")
    for name, code in (("org/nowhere", "404"), ("org/gated", "403")):
        with pytest.raises(ValueError, match=rf"{name}: .* cannot be fetched .*{code}.* log in \(`hf auth login`\)"):
            pin(name)


@pytest.mark.parametrize("name", ["./no", "../no", "/no/such", "a/b/c", "a/b@", "a b", "", "-a/b", "a--b/c", "a/b."])
def test_what_is_neither_a_path_nor_an_id(offline, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no such file or directory, and no Hub id|holds no model|no such directory"):
        pin(name)


def test_a_directory_is_the_hash_of_its_files(tmp_path):
    model = tmp_path / "mine"
    (model / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "1_Pooling/config.json"):
        (model / name).write_bytes(name.encode())
    pinned = pin(str(model))
    assert pinned.name == str(model) and pinned.title == "mine" and folder(pinned) == model
    told = "".join(f"{name}\0{hashlib.sha256(name.encode()).hexdigest()}\n"
                   for name in ("1_Pooling/config.json", "config.json", "model.safetensors"))
    assert pinned.revision == hashlib.sha256(told.encode()).hexdigest()[:40]
    (model / "README.md").write_text("not read")
    (model / "notes.py").write_text("not run")
    assert pin(f"{model}/") == pinned


@pytest.mark.parametrize("change", ["byte", "name", "new", "gone", "swapped"])
def test_a_directory_changed_by_one_byte_is_another(tmp_path, change):
    for name, body in (("config.json", b"abc"), ("model.safetensors", b"x" * 100_000), ("vocab.txt", b"abd")):
        (tmp_path / name).write_bytes(body)
    before = pin(str(tmp_path))
    assert pin(str(tmp_path)) == before
    if change == "byte":
        with (tmp_path / "model.safetensors").open("r+b") as file:
            file.seek(99_999)
            file.write(b"y")
    elif change == "name":
        (tmp_path / "vocab.txt").rename(tmp_path / "vocabulary.txt")
    elif change == "new":
        (tmp_path / "added.json").write_bytes(b"")
    elif change == "gone":
        (tmp_path / "vocab.txt").unlink()
    else:
        (tmp_path / "config.json").write_bytes(b"abd")
        (tmp_path / "vocab.txt").write_bytes(b"abc")
    assert pin(str(tmp_path)).revision != before.revision


def test_a_directory_elsewhere_with_the_same_files_is_the_same_revision(tmp_path):
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "config.json").write_text("{}")
    one, other = pin(str(tmp_path / "one")), pin(str(tmp_path / "other"))
    assert one.revision == other.revision and one.name != other.name


def test_a_directory_is_preferred_to_an_id_of_its_name(tmp_path, monkeypatch, offline):
    (repository(offline, "org/model") / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert pin("org/model").name == "org/model"
    (tmp_path / "org" / "model").mkdir(parents=True)
    (tmp_path / "org" / "model" / "config.json").write_text("{}")
    assert pin("org/model").name == str(tmp_path / "org" / "model")


def test_a_file_is_a_model_too(tmp_path):
    (tmp_path / "checkpoint.pth").write_bytes(b"weights")
    pinned = pin(str(tmp_path / "checkpoint.pth"))
    assert pinned.title == tmp_path.name and folder(pinned) == tmp_path / "checkpoint.pth"
    (tmp_path / "checkpoint.pth").write_bytes(b"Weights")
    assert pin(pinned.name).revision != pinned.revision


def test_home_and_relative_paths(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert pin("~/model") == pin("./model") == pin("model") == pin(str(tmp_path / "model"))


def test_an_empty_directory_and_one_that_went_away(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: holds no model: no file that ends in .json"):
        pin(str(tmp_path / "empty"))
    (tmp_path / "empty" / "config.json").write_text("{}")
    pinned = pin(str(tmp_path / "empty"))
    (tmp_path / "empty").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="empty: is not there; a directory must be the same on every machine"):
        folder(pinned)
