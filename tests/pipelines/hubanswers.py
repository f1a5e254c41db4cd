"""What a Hub answers: the endpoints that huggingface_hub and `datasets` use, over repositories kept in memory."""
import base64
import hashlib
import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from tests.pipelines.hubrepos import Blob, Commit, Repo, entry, identity

if TYPE_CHECKING:
    from tests.pipelines.hubserver import Hub

TOKEN = "hf_writer"      # may write as "maker" and for "org"
READER = "hf_reader"     # may read what is public
_LFS = (".parquet", ".safetensors", ".arrow", ".bin")
_PAGE = 50               # entries of a tree in one answer


class Refused(Exception):
    """An answer that is none."""
    def __init__(self, status: int, message: str, code: str | None = None, body: dict | None = None):
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class Request:
    """`path` is unquoted and without its query. Whoever asks for the answer holds the hub's lock."""
    hub: "Hub"
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def answer(self) -> tuple[int, object, dict[str, str]]:
        for pattern, methods, endpoint in _ROUTES:
            match = pattern.fullmatch(self.path)
            if match and self.method in methods:
                return endpoint(self, **match.groupdict())
        raise Refused(404, f"no such endpoint: {self.method} {self.path}")

    # Who asks, and what for.

    def _who(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in (TOKEN, READER):
            raise Refused(401, "Invalid credentials in Authorization header")
        return token or None

    def _repo(self, kind: str, name: str, write: bool = False) -> Repo:
        who, repo = self._who(), self.hub.repos.get((kind, name))
        mine = who == TOKEN and name.partition("/")[0] in ("maker", "org")
        if repo is None or (repo.private and not mine):
            raise Refused(404 if who else 401, "Repository not found", "RepoNotFound")
        if write and not mine:
            raise Refused(403, f"You don't have the rights to write to {name}")
        return repo

    def _commit(self, repo: Repo, revision: str) -> Commit:
        if found := repo.at(revision):
            return found
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    # The endpoints.

    def whoami(self):
        if (who := self._who()) is None:
            raise Refused(401, "Invalid username or password.")
        return 200, {"type": "user", "name": "maker" if who == TOKEN else "reader", "orgs": [{"name": "org"}],
                     "auth": {"type": "access_token"}}, {}

    def create(self):
        asked, owner = json.loads(self.body), self.hub
        who = self._who()
        name = f"{asked.get('organization') or 'maker'}/{asked['name']}"
        if who != TOKEN or name.partition("/")[0] not in ("maker", "org"):
            raise Refused(403, f'You don\'t have the rights to create a {asked.get("type", "model")} under the '
                                f'namespace "{name.partition("/")[0]}"')
        kind = asked.get("type", "model")
        url = f"{owner.url}/{'datasets/' * (kind == 'dataset')}{name}"
        if (kind, name) in owner.repos:
            raise Refused(409, f"You already created this {kind} repo", body={
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
            raise Refused(400, errors[0], body={"errors": [{"message": one} for one in errors], "warnings": []})
        return 200, {"errors": [], "warnings": []}, {}

    def preupload(self, kind: str, name: str, rev: str):
        repo = self._repo(kind, name, write=True)
        there = self._commit(repo, rev).files
        return 200, {"files": [{"path": one["path"], "shouldIgnore": False,
                                "uploadMode": "lfs" if one["path"].endswith(_LFS) else "regular",
                                "oid": identity(there.get(one["path"]))}
                               for one in json.loads(self.body)["files"]], "commitOid": repo.commits[-1].oid}, {}

    def batch(self, kind: str, name: str):
        owner, answers = self.hub, []
        self._repo(kind, name, write=True)
        asked = json.loads(self.body)
        new = sum(one["size"] for one in asked["objects"] if one["oid"] not in owner.large)
        if owner.quota is not None and new + sum(map(len, owner.large.values())) > owner.quota:
            raise Refused(403, "Private repository storage limit reached, please upgrade your plan to increase your "
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
        self.hub.sent += len(self.body)
        return 200, b"", {}

    def part(self, oid: str, number: str):
        self.hub.parts[oid, int(number)] = self.body
        self.hub.sent += len(self.body)
        return 200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}

    def complete(self, oid: str):
        parts, data = json.loads(self.body)["parts"], b""
        for place, one in enumerate(parts):
            piece = self.hub.parts[oid, place]
            if one["etag"].strip('"') != hashlib.md5(piece).hexdigest():
                raise Refused(400, "wrong ETag")
            data += piece
        self._store(oid, data)
        return 200, {"success": True}, {}

    def _store(self, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refused(400, "the content's SHA-256 is another")
        self.hub.large[oid] = data

    def verify(self):
        asked = json.loads(self.body)
        if len(self.hub.large.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "no such object")
        return 200, {}, {}

    def commit(self, kind: str, name: str, rev: str):
        owner, repo = self.hub, self._repo(kind, name, write=True)
        now = repo.commits[-1]
        files, title = dict(now.files), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, now.oid):
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
            elif operation["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif operation["key"] == "lfsFile":
                if value["oid"] not in owner.large:
                    raise Refused(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = Blob(owner.large[value["oid"]], True)
            elif operation["key"] == "deletedFile":
                if value["path"] not in files:
                    raise Refused(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
                del files[value["path"]]
            else:
                raise Refused(400, f"unknown operation {operation['key']}")
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
        owner = self.hub
        files = self._commit(self._repo(kind, name), rev).files
        top = f"{folder.strip('/')}/" if folder and folder.strip("/") else ""
        below = {path: blob for path, blob in files.items() if path.startswith(top)}
        if top and not below:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound")
        entries = {}
        for path, blob in below.items():
            parts = path[len(top):].split("/")
            for depth in range(1, len(parts)):
                if depth == 1 or self.query.get("recursive") in ("true", "True", "1"):
                    inner = top + "/".join(parts[:depth])
                    entries[inner] = {"type": "directory", "oid": hashlib.sha1(inner.encode()).hexdigest(), "size": 0,
                                      "path": inner}
            if len(parts) == 1 or self.query.get("recursive") in ("true", "True", "1"):
                entries[path] = entry(path, blob)
        ordered = [entries[path] for path in sorted(entries)]
        start = int(self.query.get("cursor", 0))
        headers = {}
        if start + _PAGE < len(ordered):
            query = urllib.parse.urlencode({**self.query, "cursor": start + _PAGE})
            headers["Link"] = f'<{owner.url}{urllib.parse.quote(self.path)}?{query}>; rel="next"'
        return 200, ordered[start:start + _PAGE], headers

    def paths(self, kind: str, name: str, rev: str):
        files = self._commit(self._repo(kind, name), rev).files
        asked = (json.loads(self.body) if self.headers.get("Content-Type", "").startswith("application/json")
                 else {"paths": urllib.parse.parse_qs(self.body.decode()).get("paths", [])})
        found = []
        for path in asked["paths"]:
            if path in files:
                found.append(entry(path, files[path]))
            elif any(one.startswith(f"{path.strip('/')}/") for one in files):
                found.append({"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0,
                              "path": path})
        return 200, found, {}

    def resolve(self, name: str, rev: str, path: str, kind: str = "model"):
        """A regular file as it is; a large one by a redirect to where it lies, as with the Hub's CDN."""
        commit = self._commit(self._repo(kind, name), rev)
        if path not in commit.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        blob = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if blob.lfs:
            return 302, b"", headers | {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data)),
                                        "ETag": f'"{blob.oid}"', "Location":
                                        f"{self.hub.elsewhere}/lfs/object/{blob.sha256}"}
        return self._ranged(blob.data, headers | {"ETag": f'"{blob.oid}"'})

    def large(self, oid: str):
        return self._ranged(self.hub.large[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _ranged(self, data: bytes, headers: dict[str, str]):
        headers = headers | {"Content-Type": "application/octet-stream"}
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            start = int(match[1]) if match[1] else len(data) - int(match[2])
            stop = min(int(match[2]) + 1, len(data)) if match[1] and match[2] else len(data)
            if start >= len(data):
                return 416, b"", headers | {"Content-Range": f"bytes */{len(data)}"}
            return 206, data[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        if self.method == "HEAD":
            return 200, b"", headers | {"Content-Length": str(len(data))}
        return 200, data, headers


def _kinded(handler):
    return lambda self, kind, **given: handler(self, kind=kind.removesuffix("s"), **given)


def _of(kind: str, handler):
    return lambda self, **given: handler(self, kind=kind, **given)


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_API = rf"/api/(?P<kind>models|datasets)/{_NAME}"
_ROUTES = [(re.compile(pattern), method, handler) for pattern, method, handler in (
    ("/api/whoami-v2", ("GET",), Request.whoami),
    ("/api/repos/create", ("POST",), Request.create),
    ("/api/validate-yaml", ("POST",), Request.validate),
    (rf"{_API}/preupload/(?P<rev>[^/]+)", ("POST",), _kinded(Request.preupload)),
    (rf"{_API}/commit/(?P<rev>[^/]+)", ("POST",), _kinded(Request.commit)),
    (rf"{_API}/super-squash/(?P<rev>[^/]+)", ("POST",), _kinded(Request.squash)),
    (rf"{_API}/commits/(?P<rev>[^/]+)", ("GET",), _kinded(Request.history)),
    (rf"{_API}/refs", ("GET",), _kinded(Request.refs)),
    (rf"{_API}/tree/(?P<rev>[^/]+)(/(?P<folder>.*))?", ("GET",), _kinded(Request.tree)),
    (rf"{_API}/paths-info/(?P<rev>[^/]+)", ("POST",), _kinded(Request.paths)),
    (rf"{_API}(/revision/(?P<rev>[^/]+))?", ("GET",), _kinded(Request.info)),
    (rf"/datasets/{_NAME}\.git/info/lfs/objects/batch", ("POST",), _of("dataset", Request.batch)),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", ("POST",), _of("model", Request.batch)),
    (r"/lfs/upload/(?P<oid>\w+)", ("PUT",), Request.put),
    (r"/lfs/part/(?P<oid>\w+)/(?P<number>\d+)", ("PUT",), Request.part),
    (r"/lfs/complete/(?P<oid>\w+)", ("POST",), Request.complete),
    ("/lfs/verify", ("POST",), Request.verify),
    (r"/lfs/object/(?P<oid>\w+)", ("GET", "HEAD"), Request.large),
    (rf"/datasets/{_NAME}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", ("GET", "HEAD"), _of("dataset", Request.resolve)),
    (rf"/{_NAME}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", ("GET", "HEAD"), Request.resolve),
)]
