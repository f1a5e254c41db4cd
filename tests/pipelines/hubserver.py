"""A Hub on loopback: the endpoints that huggingface_hub and `datasets` use, over repositories that are kept in memory.

Commits, trees, LFS (in one piece or several), quotas and rights behave as the Hub's do; `fail` has a request answered
otherwise, or cut. As a program, `python -m tests.pipelines.hubserver` prints its address and serves.
"""
import json
import re
import socket
import struct
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.pipelines.hubanswers import READER, TOKEN, Refused, Request
from tests.pipelines.hubrepos import Blob, Repo
from tests.pipelines.server import Http

__all__ = ["READER", "TOKEN", "Blob", "Failure", "Hub", "Repo", "environment", "here", "serving"]


@dataclass(frozen=True)
class Failure:
    """How a request is answered that the server was told to fail."""
    status: int = 500
    message: str = "something went wrong"
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None    # the connection is reset after so many bytes of the request's body were read
    after: bool = False       # the request is done first, and only its answer is lost
    text: str | None = None   # the answer, instead of JSON that has the message
    hold: bool = False        # it is not answered before `Hub.release` is set, and then as it should be


class Hub:
    """`repos`: by (kind, "org/name"). `large`: what LFS has by SHA-256, committed or not. `seen`: "METHOD path" of each
    request, and how many of them were `answered`, if only by a reset; `sent`: bytes of LFS that were put."""

    def __init__(self, quota: int | None = None, piece: int | None = None, port: int = 0):
        self.quota, self.piece = quota, piece  # bytes of LFS in all; bytes of a part, where uploads go in parts
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.seen: list[str] = []
        self.sent = self.answered = 0
        self.failures: list[list] = []
        self.lock, self.release = threading.RLock(), threading.Event()
        self._server = Http(("127.0.0.1", port), _Handler)
        self._server.owner = self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def elsewhere(self) -> str:
        """The same by another name: the client takes redirects to its own host for moved repositories."""
        return self.url.replace("127.0.0.1", "localhost")

    def fail(self, pattern: str, failure: Failure, times: int = 1, skip: int = 0) -> None:
        """Answer `times` requests whose "METHOD path" matches with this failure, but the next `skip`."""
        self.failures.append([re.compile(pattern), failure, times, skip])

    def failure(self, told: str) -> Failure | None:
        with self.lock:
            self.seen.append(told)
            for one in self.failures:
                if one[0].search(told) and one[3]:
                    one[3] -= 1
                elif one[0].search(told) and one[2]:
                    one[2] -= 1
                    return one[1]
        return None

    def asked(self, pattern: str) -> int:
        """How many requests there were of this kind."""
        return sum(bool(re.search(pattern, told)) for told in self.seen)

    def files(self, kind: str, name: str) -> dict[str, bytes]:
        """What is in a repository now."""
        return {path: blob.data for path, blob in self.repos[kind, name].commits[-1].files.items()}

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(**given) -> Iterator[Hub]:
    hub = Hub(**given)
    thread = threading.Thread(target=hub.serve, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.close()
        thread.join()


def environment(hub: Hub, home, token: str | None = TOKEN) -> dict[str, str]:
    """What a process needs in its environment to use this Hub, with all caches below `home` and nobody's own login."""
    return {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": token or ""}


def here(patch, url: str, home, token: str | None = TOKEN) -> None:
    """The same for this process, in which huggingface_hub has read its environment already; `patch`: monkeypatch."""
    from huggingface_hub import constants
    for name, value in (("ENDPOINT", url), ("HF_HUB_DISABLE_XET", True), ("HF_HUB_OFFLINE", False),
                        ("HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"),
                        ("HF_HUB_CACHE", f"{home}/hub"), ("HF_TOKEN_PATH", f"{home}/token"),
                        ("HF_STORED_TOKENS_PATH", f"{home}/stored")):
        patch.setattr(constants, name, value)
    patch.setenv("HF_TOKEN", token or "")
    patch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or an answer's body waits for its head to be acknowledged
    server: Http

    def log_message(self, *_):
        pass

    def _answer(self) -> None:
        try:
            self._answered()
        finally:
            with self.server.owner.lock:
                self.server.owner.answered += 1

    def _answered(self) -> None:
        owner = self.server.owner
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        failure = owner.failure(f"{self.command} {path}")
        if failure and failure.cut is not None and not failure.after:
            self.rfile.read(min(failure.cut, int(self.headers.get("Content-Length") or 0)))
            return self._reset()
        body = self._read()
        if failure and failure.hold:
            owner.release.wait()
            failure = None
        if failure and not failure.after:
            text = failure.text or json.dumps({"error": failure.message})
            return self._send(failure.status, text.encode(), {"X-Error-Message": failure.message, **failure.headers})
        try:
            with owner.lock:
                status, told, headers = Request(owner, self.command, path, dict(urllib.parse.parse_qsl(url.query)),
                                                self.headers, body).answer()
        except Refused as no:
            headers = {"X-Error-Message": no.message} | ({"X-Error-Code": no.code} if no.code else {})
            status, told = no.status, json.dumps(no.body or {"error": no.message}).encode()
        if failure:
            return self._reset() if failure.cut is not None else self._send(
                failure.status, json.dumps({"error": failure.message}).encode(), failure.headers)
        return self._send(status, told if isinstance(told, bytes) else json.dumps(told).encode(), headers)

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        if "Content-Type" not in headers:
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    program = Hub()
    print(program.url, flush=True)
    program.serve()
