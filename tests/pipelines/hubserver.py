"""A Hub on loopback: the endpoints that huggingface_hub and `datasets` use, over repositories that are kept in memory.

Commits, trees, LFS (in one piece or several), quotas and rights behave as the Hub's do; `fail` has a request answered
otherwise, or cut. As a program, `python -m tests.pipelines.hubserver` prints its address and serves.
"""
import base64
import hashlib
import json
import re
import socket
import struct
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_writer"      # may write as "maker" and for "org"
READER = "hf_reader"     # may read what is public
_LFS = (".parquet", ".safetensors", ".arrow", ".bin")
_PAGE = 50               # entries of a tree in one answer


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


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """git's; of LFS it is the pointer's."""
        data = self.data if not self.lfs else (f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n"
                                               f"size {len(self.data)}\n").encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, Blob]


@dataclass
class Repo:
    kind: str
    name: str
    private: bool
    commits: list[Commit] = field(default_factory=list)  # oldest first

    def push(self, title: str, files: dict[str, Blob]) -> Commit:
        told = json.dumps([self.name, title, len(self.commits), {path: blob.oid for path, blob in files.items()}],
                          sort_keys=True)
        self.commits.append(Commit(hashlib.sha1(told.encode()).hexdigest(), title, files))
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        return self.commits[-1] if revision in ("main", "HEAD") else next(
            (one for one in self.commits if one.oid == revision), None)


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
        self._server = _Http(("127.0.0.1", port), _Handler)
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


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    owner: Hub

    def handle_error(self, request, client_address):
        """Connections that end early are what is tested here."""


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, body: dict | None = None):
        self.status, self.message, self.code, self.body = status, message, code, body


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or an answer's body waits for its head to be acknowledged
    server: _Http

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
        self.query = dict(urllib.parse.parse_qsl(url.query))
        path = urllib.parse.unquote(url.path)
        failure = owner.failure(f"{self.command} {path}")
        if failure and failure.cut is not None and not failure.after:
            self.rfile.read(min(failure.cut, int(self.headers.get("Content-Length") or 0)))
            return self._reset()
        self.body = self._read()
        if failure and failure.hold:
            owner.release.wait()
            failure = None
        if failure and not failure.after:
            body = failure.text or json.dumps({"error": failure.message})
            return self._send(failure.status, body.encode(), {"X-Error-Message": failure.message, **failure.headers})
        try:
            with owner.lock:
                status, body, headers = self._route(path)
        except _Refused as no:
            headers = {"X-Error-Message": no.message} | ({"X-Error-Code": no.code} if no.code else {})
            status, body = no.status, json.dumps(no.body or {"error": no.message}).encode()
        if failure:
            return self._reset() if failure.cut is not None else self._send(
                failure.status, json.dumps({"error": failure.message}).encode(), failure.headers)
        return self._send(status, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)

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

    def _route(self, path: str):
        for pattern, method, handler in _ROUTES:
            match = pattern.fullmatch(path)
            if match and self.command in method:
                return handler(self, **match.groupdict())
        raise _Refused(404, f"no such endpoint: {self.command} {path}")

    # Who asks, and what for.

    def _who(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in (TOKEN, READER):
            raise _Refused(401, "Invalid credentials in Authorization header")
        return token or None

    def _repo(self, kind: str, name: str, write: bool = False) -> Repo:
        who, repo = self._who(), self.server.owner.repos.get((kind, name))
        mine = who == TOKEN and name.partition("/")[0] in ("maker", "org")
        if repo is None or (repo.private and not mine):
            raise _Refused(404 if who else 401, "Repository not found", "RepoNotFound")
        if write and not mine:
            raise _Refused(403, f"You don't have the rights to write to {name}")
        return repo

    def _commit(self, repo: Repo, revision: str) -> Commit:
        if found := repo.at(revision):
            return found
        raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    # The endpoints.

    def whoami(self):
        if (who := self._who()) is None:
            raise _Refused(401, "Invalid username or password.")
        return 200, {"type": "user", "name": "maker" if who == TOKEN else "reader", "orgs": [{"name": "org"}],
                     "auth": {"type": "access_token"}}, {}

    def create(self):
        asked, owner = json.loads(self.body), self.server.owner
        who = self._who()
        name = f"{asked.get('organization') or 'maker'}/{asked['name']}"
        if who != TOKEN or name.partition("/")[0] not in ("maker", "org"):
            raise _Refused(403, f'You don\'t have the rights to create a {asked.get("type", "model")} under the '
                                f'namespace "{name.partition("/")[0]}"')
        kind = asked.get("type", "model")
        url = f"{owner.url}/{'datasets/' * (kind == 'dataset')}{name}"
        if (kind, name) in owner.repos:
            raise _Refused(409, f"You already created this {kind} repo", body={
                "error": f"You already created this {kind} repo: {name}", "url": url})
        repo = owner.repos[kind, name] = Repo(kind, name, asked.get("visibility") == "private")
        repo.push("initial commit", {".gitattributes": Blob(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n", False)})
        return 200, {"url": url, "name": name, "id": name}, {}

    def validate(self):
        """YAML that is none is refused; so are configs whose shape the Hub does not take."""
        text = json.loads(self.body)["content"]
        errors = []
        try:
            head = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else {}
            if not isinstance(head, dict):
                errors.append("the metadata is no mapping")
            for config in head.get("configs", []) if isinstance(head, dict) else []:
                for one in config.get("data_files", []):
                    if not isinstance(one, dict) or not one.get("split") or not one.get("path"):
                        errors.append('"configs[0].data_files" must be splits and paths')
        except yaml.YAMLError as error:
            errors.append(f"YAML: {error}")
        if errors:
            raise _Refused(400, errors[0], body={"errors": [{"message": one} for one in errors], "warnings": []})
        return 200, {"errors": [], "warnings": []}, {}

    def preupload(self, kind: str, name: str, rev: str):
        repo = self._repo(kind, name, write=True)
        there = self._commit(repo, rev).files
        return 200, {"files": [{"path": one["path"], "shouldIgnore": False,
                                "uploadMode": "lfs" if one["path"].endswith(_LFS) else "regular",
                                "oid": _identity(there.get(one["path"]))}
                               for one in json.loads(self.body)["files"]], "commitOid": repo.commits[-1].oid}, {}

    def batch(self, kind: str, name: str):
        owner, answers = self.server.owner, []
        self._repo(kind, name, write=True)
        asked = json.loads(self.body)
        new = sum(one["size"] for one in asked["objects"] if one["oid"] not in owner.large)
        if owner.quota is not None and new + sum(map(len, owner.large.values())) > owner.quota:
            raise _Refused(403, "Private repository storage limit reached, please upgrade your plan to increase your "
                                "private storage limit.")
        for one in asked["objects"]:
            answer = {"oid": one["oid"], "size": one["size"], "authenticated": True}
            if one["oid"] not in owner.large:
                verify = {"href": f"{owner.url}/lfs/verify", "header": {}}
                if owner.piece and one["size"] > owner.piece:
                    count = -(-one["size"] // owner.piece)
                    parts = {f"{number + 1:05d}": f"{owner.url}/lfs/part/{one['oid']}/{number}"
                             for number in range(count)}
                    upload = {"href": f"{owner.url}/lfs/complete/{one['oid']}",
                              "header": {"chunk_size": str(owner.piece), **parts}}
                else:
                    upload = {"href": f"{owner.url}/lfs/upload/{one['oid']}", "header": {}}
                answer["actions"] = {"upload": upload, "verify": verify}
            answers.append(answer)
        return 200, {"transfer": "multipart" if owner.piece else "basic", "objects": answers}, {}

    def put(self, oid: str):
        self._store(oid, self.body)
        self.server.owner.sent += len(self.body)
        return 200, b"", {}

    def part(self, oid: str, number: str):
        self.server.owner.parts[oid, int(number)] = self.body
        self.server.owner.sent += len(self.body)
        return 200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}

    def complete(self, oid: str):
        parts, data = json.loads(self.body)["parts"], b""
        for place, one in enumerate(parts):
            piece = self.server.owner.parts[oid, place]
            if one["etag"].strip('"') != hashlib.md5(piece).hexdigest():
                raise _Refused(400, "wrong ETag")
            data += piece
        self._store(oid, data)
        return 200, {"success": True}, {}

    def _store(self, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise _Refused(400, "the content's SHA-256 is another")
        self.server.owner.large[oid] = data

    def verify(self):
        asked = json.loads(self.body)
        if len(self.server.owner.large.get(asked["oid"], b"")) != asked["size"]:
            raise _Refused(404, "no such object")
        return 200, {}, {}

    def commit(self, kind: str, name: str, rev: str):
        owner, repo = self.server.owner, self._repo(kind, name, write=True)
        now = repo.commits[-1]
        files, title = dict(now.files), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, now.oid):
                    raise _Refused(412, "A commit has happened since. Please refresh and try again.")
            elif operation["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif operation["key"] == "lfsFile":
                if value["oid"] not in owner.large:
                    raise _Refused(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = Blob(owner.large[value["oid"]], True)
            elif operation["key"] == "deletedFile":
                if value["path"] not in files:
                    raise _Refused(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
                del files[value["path"]]
            else:
                raise _Refused(400, f"unknown operation {operation['key']}")
        made = repo.push(title, files)
        return 200, {"commitUrl": f"{owner.url}/{'datasets/' * (kind == 'dataset')}{name}/commit/{made.oid}",
                     "commitOid": made.oid, "hookOutput": "", "success": True}, {}

    def squash(self, kind: str, name: str, rev: str):
        repo = self._repo(kind, name, write=True)
        last = self._commit(repo, rev)
        repo.commits.clear()
        repo.push(json.loads(self.body)["message"], last.files)
        return 200, {}, {}

    def info(self, kind: str, name: str, rev: str | None = None):
        repo = self._repo(kind, name)
        commit = self._commit(repo, rev or "main")
        return 200, {"id": name, "_id": name, "sha": commit.oid, "private": repo.private, "author": name.split("/")[0],
                     "disabled": False, "gated": False, "tags": [], "downloads": 0, "likes": 0,
                     "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
                     "siblings": [{"rfilename": path} for path in sorted(commit.files)]}, {}

    def history(self, kind: str, name: str, rev: str):
        repo = self._repo(kind, name)
        self._commit(repo, rev)
        return 200, [{"id": one.oid, "title": one.title, "message": "", "authors": [{"user": "maker"}],
                      "date": "2026-01-01T00:00:00.000Z"} for one in reversed(repo.commits)], {}

    def refs(self, kind: str, name: str):
        repo = self._repo(kind, name)
        return 200, {"branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": repo.commits[-1].oid}],
                     "tags": [], "converts": []}, {}

    def tree(self, kind: str, name: str, rev: str, folder: str | None = None):
        owner = self.server.owner
        files = self._commit(self._repo(kind, name), rev).files
        top = f"{folder.strip('/')}/" if folder and folder.strip("/") else ""
        below = {path: blob for path, blob in files.items() if path.startswith(top)}
        if top and not below:
            raise _Refused(404, f"{folder} does not exist", "EntryNotFound")
        entries = {}
        for path, blob in below.items():
            parts = path[len(top):].split("/")
            for depth in range(1, len(parts)):
                if depth == 1 or self.query.get("recursive") in ("true", "True", "1"):
                    inner = top + "/".join(parts[:depth])
                    entries[inner] = {"type": "directory", "oid": hashlib.sha1(inner.encode()).hexdigest(), "size": 0,
                                      "path": inner}
            if len(parts) == 1 or self.query.get("recursive") in ("true", "True", "1"):
                entries[path] = _entry(path, blob)
        ordered = [entries[path] for path in sorted(entries)]
        start = int(self.query.get("cursor", 0))
        headers = {}
        if start + _PAGE < len(ordered):
            query = urllib.parse.urlencode({**self.query, "cursor": start + _PAGE})
            headers["Link"] = f'<{owner.url}{urllib.parse.urlsplit(self.path).path}?{query}>; rel="next"'
        return 200, ordered[start:start + _PAGE], headers

    def paths(self, kind: str, name: str, rev: str):
        files = self._commit(self._repo(kind, name), rev).files
        asked = (json.loads(self.body) if self.headers.get("Content-Type", "").startswith("application/json")
                 else {"paths": urllib.parse.parse_qs(self.body.decode()).get("paths", [])})
        found = []
        for path in asked["paths"]:
            if path in files:
                found.append(_entry(path, files[path]))
            elif any(one.startswith(f"{path.strip('/')}/") for one in files):
                found.append({"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0,
                              "path": path})
        return 200, found, {}

    def resolve(self, name: str, rev: str, path: str, kind: str = "model"):
        """A regular file as it is; a large one by a redirect to where it lies, as with the Hub's CDN."""
        commit = self._commit(self._repo(kind, name), rev)
        if path not in commit.files:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if blob.lfs:
            return 302, b"", headers | {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data)),
                                        "ETag": f'"{blob.oid}"', "Location":
                                        f"{self.server.owner.elsewhere}/lfs/object/{blob.sha256}"}
        return self._ranged(blob.data, headers | {"ETag": f'"{blob.oid}"'})

    def large(self, oid: str):
        return self._ranged(self.server.owner.large[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _ranged(self, data: bytes, headers: dict[str, str]):
        headers = headers | {"Content-Type": "application/octet-stream"}
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            start = int(match[1]) if match[1] else len(data) - int(match[2])
            stop = min(int(match[2]) + 1, len(data)) if match[1] and match[2] else len(data)
            if start >= len(data):
                return 416, b"", headers | {"Content-Range": f"bytes */{len(data)}"}
            return 206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        if self.command == "HEAD":
            return 200, b"", headers | {"Content-Length": str(len(data))}
        return 200, data, headers


def _entry(path: str, blob: Blob) -> dict:
    entry = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": path}
    return entry | ({"lfs": {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 132}} if blob.lfs else {})


def _identity(blob: Blob | None) -> str | None:
    """What the client compares a file with, to leave out what has not changed."""
    return blob and (blob.sha256 if blob.lfs else blob.oid)


def _kinded(handler):
    return lambda self, kind, **given: handler(self, kind=kind.removesuffix("s"), **given)


def _of(kind: str, handler):
    return lambda self, **given: handler(self, kind=kind, **given)


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_API = rf"/api/(?P<kind>models|datasets)/{_NAME}"
_ROUTES = [(re.compile(pattern), method, handler) for pattern, method, handler in (
    ("/api/whoami-v2", ("GET",), _Handler.whoami),
    ("/api/repos/create", ("POST",), _Handler.create),
    ("/api/validate-yaml", ("POST",), _Handler.validate),
    (rf"{_API}/preupload/(?P<rev>[^/]+)", ("POST",), _kinded(_Handler.preupload)),
    (rf"{_API}/commit/(?P<rev>[^/]+)", ("POST",), _kinded(_Handler.commit)),
    (rf"{_API}/super-squash/(?P<rev>[^/]+)", ("POST",), _kinded(_Handler.squash)),
    (rf"{_API}/commits/(?P<rev>[^/]+)", ("GET",), _kinded(_Handler.history)),
    (rf"{_API}/refs", ("GET",), _kinded(_Handler.refs)),
    (rf"{_API}/tree/(?P<rev>[^/]+)(/(?P<folder>.*))?", ("GET",), _kinded(_Handler.tree)),
    (rf"{_API}/paths-info/(?P<rev>[^/]+)", ("POST",), _kinded(_Handler.paths)),
    (rf"{_API}(/revision/(?P<rev>[^/]+))?", ("GET",), _kinded(_Handler.info)),
    (rf"/datasets/{_NAME}\.git/info/lfs/objects/batch", ("POST",), _of("dataset", _Handler.batch)),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", ("POST",), _of("model", _Handler.batch)),
    (r"/lfs/upload/(?P<oid>\w+)", ("PUT",), _Handler.put),
    (r"/lfs/part/(?P<oid>\w+)/(?P<number>\d+)", ("PUT",), _Handler.part),
    (r"/lfs/complete/(?P<oid>\w+)", ("POST",), _Handler.complete),
    ("/lfs/verify", ("POST",), _Handler.verify),
    (r"/lfs/object/(?P<oid>\w+)", ("GET", "HEAD"), _Handler.large),
    (rf"/datasets/{_NAME}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", ("GET", "HEAD"), _of("dataset", _Handler.resolve)),
    (rf"/{_NAME}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", ("GET", "HEAD"), _Handler.resolve),
)]


if __name__ == "__main__":
    program = Hub()
    print(program.url, flush=True)
    program.serve()
