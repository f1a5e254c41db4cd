"""A real web server on loopback that serves media well, or badly in every way that servers do.

As a program, `python -m tests.pipelines.server FOLDER` serves FOLDER/ID.* as /ID and prints the URL template.
"""
import argparse
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TYPES = {"mp4": "video/mp4", "webm": "video/webm", "mkv": "video/x-matroska", "mp3": "audio/mpeg", "m4a": "audio/mp4",
         "opus": "audio/ogg", "ogg": "audio/ogg", "weba": "audio/webm", "wav": "audio/x-wav", "flac": "audio/flac",
         "m3u8": "application/vnd.apple.mpegurl", "ts": "video/mp2t", "html": "text/html", "txt": "text/plain",
         "png": "image/png", "jpg": "image/jpeg"}
_BLOCK = 16384


@dataclass(frozen=True)
class Reply:
    """How a path is answered. By default as a good server would."""
    body: bytes = b""
    type: str | None = "application/octet-stream"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True         # whether Range is understood
    length: bool = True         # whether Content-Length is told; else the body is chunked
    framed: bool = True         # False: neither length nor chunks, the end of the connection is the end
    broken_at: int | None = None   # the connection ends here, an offset into the body, whatever was promised
    stalled_at: int | None = None  # nothing comes after this offset, and the connection stays
    pause: float = 0.0          # s between blocks of 16 KiB
    reset: bool = False         # the connection is reset without an answer


class Server:
    """Routes are paths without the leading slash, to a reply or to what gives one for the n-th request, from 0.

    `sent` and `asked` count body bytes and GET requests by path,
    `heads` HEAD requests, `proxied` what it was asked for as a proxy, by host."""

    def __init__(self, routes: dict[str, "Reply | Callable[[int], Reply]"], folder: Path | None = None, port: int = 0):
        self.routes, self.folder = dict(routes), folder
        self.sent, self.asked, self.heads, self.proxied = Counter(), Counter(), Counter(), Counter()
        self.headers: dict[str, dict[str, str]] = {}  # of the last request, lower case
        self.closing, self._lock = threading.Event(), threading.Lock()
        self._server = Http(("127.0.0.1", port), _Handler)
        self._server.owner = self

    @property
    def template(self) -> str:
        """The URL of a path, as a template with {id}."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{{id}}"

    def url(self, path: str) -> str:
        return self.template.replace("{id}", path)

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def find(self, path: str, number: int) -> Reply:
        if path in self.routes:
            route = self.routes[path]
            return route(number) if callable(route) else route
        if self.folder and re.fullmatch(r"[A-Za-z0-9_-]+", path):
            for file in sorted(self.folder.glob(f"{path}.*")):
                ending = file.name.rpartition(".")[2]
                if re.fullmatch(r"[45]\d\d", ending):  # ID.404: a file that says what it is answered with
                    return Reply(status=int(ending))
                return Reply(file.read_bytes(), TYPES.get(ending, "application/octet-stream"))
        return Reply(status=404)

    def count(self, counter: Counter, path: str, amount: int = 1) -> int:
        """The count before this one."""
        with self._lock:
            counter[path] += amount
            return counter[path] - amount


@contextmanager
def serving(routes: dict[str, Reply | Callable[[int], Reply]], folder: Path | None = None) -> Iterator[Server]:
    server = Server(routes, folder)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


class Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    owner: object

    def handle_error(self, request, client_address):
        """Connections that end early are what is tested here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Http

    def setup(self):
        super().setup()
        # Little is in flight, so that what was sent is about what was fetched.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _BLOCK)

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        owner = self.server.owner
        url = urllib.parse.urlsplit(self.path)  # a whole one where we are asked as a proxy
        path = urllib.parse.unquote(url.path.lstrip("/"))
        if url.netloc:
            owner.count(owner.proxied, url.hostname)
        number = owner.count(owner.asked if body else owner.heads, path)
        owner.headers[path] = {name.lower(): value for name, value in self.headers.items()}
        reply = owner.find(path, number)
        if reply.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        status, start, stop, size = reply.status, 0, len(reply.body), len(reply.body)
        if status != 200:
            start = stop = 0
        elif reply.ranges and (asked := self._range(size)):
            start, stop = asked
            status = 206 if start < stop else 416
        self.send_response(status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.type and status in (200, 206):
            self.send_header("Content-Type", reply.type)
        if status in (200, 206) and reply.ranges:
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", '"1"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        if status == 416:
            self.send_header("Content-Range", f"bytes */{size}")
        chunked = status == 200 and not reply.length and reply.framed
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif reply.framed or status != 200:
            self.send_header("Content-Length", str(stop - start))
        else:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self._send(path, reply, start, stop, chunked)

    def _range(self, size: int) -> tuple[int, int] | None:
        """The half-open range that is asked for; empty where there is none such."""
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not match or match[0] == "bytes=-" or self.headers.get("If-Range", '"1"') != '"1"':
            return None
        if not match[1]:
            return max(0, size - int(match[2])), size
        return int(match[1]), min(size, int(match[2]) + 1) if match[2] else size

    def _send(self, path: str, reply: Reply, start: int, stop: int, chunked: bool) -> None:
        owner = self.server.owner
        for at in range(start, stop, _BLOCK):
            end = min(at + _BLOCK, stop, *(limit for limit in (reply.broken_at, reply.stalled_at) if limit is not None))
            if block := reply.body[at:end]:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
                owner.count(owner.sent, path, len(block))
            if end < min(at + _BLOCK, stop):
                if reply.stalled_at is not None:
                    owner.closing.wait()
                self.close_connection = True
                return
            if reply.pause:
                time.sleep(reply.pause)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    chosen = parser.parse_args()
    program = Server({}, chosen.folder, chosen.port)
    print(program.template, flush=True)
    program.serve()
