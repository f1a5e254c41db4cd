"""The official files, served by a real server on loopback."""
import base64
import hashlib
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from manifests import audioset, official
from tests.manifests.lists import OFFICIAL, ids_of


class Server:
    """Serves `files` {path: (body, headers)} on this machine and notes what was asked for."""

    def __init__(self):
        self.files, self.asked = {}, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append((self.path, self.headers["User-Agent"]))
                body, headers = server.files.get(self.path, (None, {}))
                self.send_response(404 if body is None else 200)
                for key, value in ({"Content-Length": str(len(body or b""))} | headers).items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def serve(self, path: str, body: bytes, **headers: str) -> None:
        self.files[path] = body, headers

    def official(self, *names: str):
        return official.official(names, f"{self.url}/csv", f"{self.url}/ontology.json")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """With an empty cache, and an official `eval` list of two rows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


SMALL = OFFICIAL.replace(b"=3", b"=2").replace(b'-0DLPzsiXXE, 0.000, 10.000, "/m/sing,/m/carol"\n', b"")


@pytest.fixture
def small(server, monkeypatch, ontology):
    data = Path(ontology).read_bytes()
    monkeypatch.setattr(official, "_ONTOLOGY_SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(official._OFFICIAL, "eval", (2, None))
    server.serve("/ontology.json", data)
    server.serve("/csv/eval_segments.csv", SMALL)
    return server


def _cache(tmp_path) -> list[str]:
    folder = tmp_path / "cache" / "m2ugen-factory" / "audioset"
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _official_form(path: Path) -> bytes:
    """A copy with a header row as the official file has it."""
    rows = path.read_text().splitlines()[1:]
    head = (f"# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids={len(rows)}, num_segs={len(rows)}, "
            "num_unique_labels=527, num_positive_labels=1\n# YTID, start_seconds, end_seconds, positive_labels\n")
    return (head + "".join(", ".join(row.split(",", 3)) + "\n" for row in rows)).encode()


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body).digest()).decode()


def test_official_lists_are_downloaded_once_checked_and_give_what_their_copies_give(shared, server, tmp_path):
    for name in ("balanced_train", "eval"):
        body = _official_form(shared / f"{name}_segments.csv")
        server.serve(f"/csv/{name}_segments.csv", body, **{"x-goog-hash": f"crc32c=AAAAAA==,md5={_md5(body)}"})
    server.serve("/ontology.json", (shared / "ontology.json").read_bytes())
    lists, ontology = server.official("balanced_train", "eval")
    assert [Path(one).name for one in lists] == ["balanced_train_segments.csv", "eval_segments.csv"]
    assert Path(ontology).parent == Path(lists[0]).parent == tmp_path / "cache" / "m2ugen-factory" / "audioset"
    copies = [str(shared / "balanced_train_segments.csv"), str(shared / "eval_segments.csv")]
    assert list(audioset.segments(lists, ontology)) == list(audioset.segments(copies, str(shared / "ontology.json")))
    assert len(server.asked) == 3 and all("m2ugen-factory" in agent for _, agent in server.asked)
    assert server.official("balanced_train", "eval") == (lists, ontology)
    assert len(server.asked) == 3


def test_a_changed_label_in_an_official_list_is_found(shared, server, tmp_path):
    body = _official_form(shared / "eval_segments.csv")
    assert body.count(b'-0RWZT-miFs, 420.000, 430.000, "/m/03v3yw,/m/0k4j"') == 1
    server.serve("/csv/eval_segments.csv", body.replace(b'"/m/03v3yw,/m/0k4j"', b'"/m/03v3yw"'))
    server.serve("/ontology.json", (shared / "ontology.json").read_bytes())
    with pytest.raises(ValueError, match=r"the SHA-256 of its segments is [0-9a-f]{64}, where the official list has "
                                         r"2cb4e906573c737c"):
        server.official("eval")
    assert _cache(tmp_path) == ["ontology.json", "ontology.json.json"]


@pytest.mark.parametrize(("body", "headers", "message"), [
    (SMALL + b'more, 0, 1, "/m/sing"\n', {}, "3 segments, where the official list has 2"),
    (SMALL.replace(b"num_segs=2", b"num_segs=5"), {}, "5 segments, where the official list has 2"),
    (SMALL.replace(b"num_ytids=2", b"num_ytids=1"), {}, "1 segments, where the official list has 2"),
    (SMALL.replace(b"30.000", b"-3.000"), {}, r"1 bad row, .*row 4: not a time in seconds: '-3\.000'"),
    (b"", {}, "no segments in it"),
    (b"<html>Sign in</html>", {}, "is this one of AudioSet's segment lists"),
    (SMALL, {"x-goog-hash": f"crc32c=AAAAAA==, md5={_md5(b'other')}"}, "where '.*' was announced"),
], ids=["rows", "segs", "ytids", "bad-row", "empty", "html", "md5"])
def test_a_list_that_is_not_the_official_one_is_removed(small, tmp_path, body, headers, message):
    small.serve("/csv/eval_segments.csv", body, **headers)
    with pytest.raises(ValueError, match=message):
        small.official("eval")
    assert _cache(tmp_path) == ["ontology.json", "ontology.json.json"]
    small.serve("/csv/eval_segments.csv", SMALL)
    assert Path(small.official("eval")[0][0]).read_bytes() == SMALL


def test_a_download_that_breaks_off_leaves_nothing(small, tmp_path):
    small.serve("/csv/eval_segments.csv", SMALL, **{"Content-Length": str(len(SMALL) + 1)})
    with pytest.raises(OSError, match=f"broke off after {len(SMALL)} of {len(SMALL) + 1} bytes"):
        small.official("eval")
    assert _cache(tmp_path) == ["ontology.json", "ontology.json.json"]


def test_another_ontology_is_removed(small, tmp_path):
    small.serve("/ontology.json", b"[]")
    with pytest.raises(ValueError, match=f"its SHA-256 is {hashlib.sha256(b'[]').hexdigest()}, where AudioSet's"):
        small.official("eval")
    assert _cache(tmp_path) == []


def test_a_cached_file_that_changed_is_removed_and_downloaded_again(small):
    path = Path(small.official("eval")[0][0])
    path.write_bytes(SMALL.replace(b"30.000", b"31.000"))
    with pytest.raises(ValueError, match=f"has {len(SMALL)} bytes with SHA-256 .*, where {len(SMALL)} with "):
        small.official("eval")
    assert not path.exists()
    small.official("eval")
    assert path.read_bytes() == SMALL
    assert [asked for asked, _ in small.asked].count("/csv/eval_segments.csv") == 2


def test_a_file_whose_check_was_never_noted_is_downloaded_again(small):
    path = Path(small.official("eval")[0][0])
    Path(f"{path}.json").unlink()
    path.write_bytes(b"half")
    small.official("eval")
    assert path.read_bytes() == SMALL


def test_a_mirrors_file_is_not_taken_for_the_official_one(small, monkeypatch):
    small.official("eval")
    small.serve("/other/eval_segments.csv", SMALL)
    official.official(["eval"], f"{small.url}/other", f"{small.url}/ontology.json")
    assert [asked for asked, _ in small.asked] == ["/ontology.json", "/csv/eval_segments.csv",
                                                   "/other/eval_segments.csv"]


def test_without_a_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OSError, match=r"cannot be downloaded \(.*refused.*\).* SEGMENTS= and ONTOLOGY="):
            official.official(base=url, ontology=f"{url}/ontology.json")
    assert _cache(tmp_path) == []


def test_a_missing_official_list_is_an_error(small):
    del small.files["/csv/eval_segments.csv"]
    with pytest.raises(OSError, match=r"eval_segments\.csv: cannot be downloaded \(HTTP Error 404"):
        small.official("eval")
    with pytest.raises(ValueError, match="no official list 'train'; there are balanced_train, unbalanced_train, eval"):
        small.official("train")


def test_a_list_may_be_an_http_address(small):
    lists = [f"{small.url}/csv/eval_segments.csv"]
    assert ids_of(lists, f"{small.url}/ontology.json") == ["--PJHxphWEs"]
    with pytest.raises(FileNotFoundError, match=r"nosuch\.csv: no such file"):
        ids_of([f"{small.url}/csv/nosuch.csv"], f"{small.url}/ontology.json")
