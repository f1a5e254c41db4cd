"""Repositories of the Hugging Face Hub: what is there, sending files and making one commit of them, squashing history.

Tokens are huggingface_hub's business (HF_TOKEN, or a login): nothing here sees one. What the Hub says is shown as a
line of plain text.
"""
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Literal

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    HfApi,
    ModelCard,
    get_token,
    hf_hub_url,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # the HTTP client's: what has an answer is a HfHubHTTPError, other than that connections failed
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.lfs import post_lfs_batch_info
from huggingface_hub.utils import (
    build_hf_headers,
    disable_progress_bars,
    hf_raise_for_status,
    http_backoff,
    validate_repo_id,
)

Kind = Literal["dataset", "model"]
BRANCH = "main"
_WAITS = (1, 2, 4, 8, 8)  # s, where the client itself does not ask again
_BUSY = (408, 429, 500, 502, 503, 504)
_FULL = ("storage limit", "quota", "storage space", "upgrade your plan", "exceeds the limit")  # in the Hub's words
_LARGE = (".parquet", ".safetensors")  # what the Hub keeps in its store of large files
_ASKED = 100  # files in one question
_LONGEST = 300  # letters of what a server says


class HubError(RuntimeError):
    """The Hub does not do what it was asked for; the message says why and what to do."""


class _Lost(HubError):
    """What became of a commit is not known."""


@dataclass(frozen=True)
class Found:
    """A repository as it is now."""
    sha: str
    private: bool
    files: frozenset[str]


def check_name(repo: str) -> None:
    """HubError where the Hub would not take it as a repository's name; `org/name` is needed."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise HubError(f"{repo!a} is no name of a repository ({_plain(str(error))}); give org/name (REPO=)"
                       ) from None
    if "/" not in repo:
        raise HubError(f"{repo}: whose repository? Give org/name (REPO=), with your own name for org")


def look(repo: str, kind: Kind) -> Found | None:
    """What is there, or None where there is no such repository, or none that the token may see."""
    check_name(repo)
    with suppress(RepositoryNotFoundError):
        info = _ask(repo, lambda: HfApi().repo_info(repo, repo_type=kind), absent=True)
        return Found(info.sha, bool(info.private), frozenset(one.rfilename for one in info.siblings or ()))
    return None


def read(repo: str, kind: Kind, path: str) -> bytes | None:
    """A file of the repository as it is now; None where the repository or the file is not there."""
    check_name(repo)

    def get() -> bytes:
        answer = http_backoff("GET", hf_hub_url(repo, path, repo_type=kind), headers=build_hf_headers(),
                              follow_redirects=True)
        hf_raise_for_status(answer)
        return answer.content
    with suppress(RepositoryNotFoundError, RemoteEntryNotFoundError):
        return _ask(repo, get, absent=True)
    return None


def commit(repo: str, kind: Kind, add: Mapping[str, Path | bytes], delete: Sequence[str], message: str,
           private: bool = False, told: Callable[[str], None] = print, seen: Found | EllipsisType | None = ...) -> str:
    """Send `add` (path in the repository → what to put there), then make one commit of it all; returns its URL.

    The repository is made where there is none. What of `delete` is not there is left out. What the Hub holds already,
    from an upload that was interrupted perhaps, is not sent again. HubError where something fails, or somebody else
    commits meanwhile (since `look` answered `seen`, if that is given); nothing is committed then, or the message says
    that this is not known.
    """
    try:
        return _commit(repo, kind, add, delete, message, private, told, seen)
    except _Lost:
        raise
    except HubError as error:
        raise HubError(f"{error}. Nothing was published") from None


def _commit(repo: str, kind: Kind, add: Mapping[str, Path | bytes], delete: Sequence[str], message: str, private: bool,
            told: Callable[[str], None], seen: Found | EllipsisType | None) -> str:
    api = HfApi()
    if not sys.stderr.isatty():
        disable_progress_bars()  # in a log they are noise
    signed_in(repo)
    if card := add.get("README.md"):
        _validate(repo, kind, card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8"))
    before = look(repo, kind)
    if seen is not ... and before != seen:
        raise HubError(f"{repo}: somebody else changed the repository meanwhile; run the same command again")
    before = before or _create(repo, kind, private)
    if private and not before.private:
        raise HubError(f"{repo}: is public, and a private repository was asked for; make it private on the Hub first, "
                       "or choose another name")
    additions = [CommitOperationAdd(path, what) for path, what in sorted(add.items())]
    told(_held(repo, kind, [one for one in additions if one.path_in_repo.endswith(_LARGE)]))
    _ask(repo, lambda: api.preupload_lfs_files(repo, additions, repo_type=kind, free_memory=False))
    operations = [*additions, *(CommitOperationDelete(path) for path in sorted(set(delete) & before.files))]

    def send() -> str:
        try:
            made = api.create_commit(repo, operations, commit_message=message, repo_type=kind,
                                     parent_commit=before.sha)
        except HTTPError as error:
            # The answer may be all that was lost: then the branch has moved, and by our commit.
            if url := _made(repo, kind, before, message):
                return url
            raise error
        if made.oid == before.sha:
            told("all of this is in the repository already: there is nothing to commit")
        return made.commit_url
    return _ask(repo, send)


def _made(repo: str, kind: Kind, before: Found, message: str) -> str | None:
    """The URL of a commit whose answer was lost, if it was made."""
    try:
        now = look(repo, kind)
        if now is None or now.sha == before.sha:
            return None
        newest = _ask(repo, lambda: HfApi().list_repo_commits(repo, repo_type=kind))[0]
    except HubError as error:
        raise _Lost(f"{error}. Whether the commit was made is not known: run the same command again, which makes it "
                    "only where it is missing") from None
    if (newest.commit_id, newest.title) != (now.sha, message.partition("\n")[0]):
        return None
    return f"{HfApi().endpoint}/{'datasets/' * (kind == 'dataset')}{repo}/commit/{now.sha}"


def squash(repo: str, kind: Kind, message: str) -> None:
    """Make one commit of the repository's history: what is in it now stays, what was before is gone."""
    signed_in(repo)
    _ask(repo, lambda: HfApi().super_squash_history(repo, branch=BRANCH, commit_message=message, repo_type=kind))


def signed_in(repo: str) -> None:
    """HubError where there is no token, or none that the Hub knows, or no Hub."""
    check_name(repo)
    if (token := get_token()) is None:
        raise HubError("no token for the Hub: set HF_TOKEN, or run `hf auth login`; it must be one that may write to "
                       f"{repo.partition('/')[0]} (huggingface.co/settings/tokens)")
    if not (token.isascii() and token.isprintable()):  # or the client says what it could not send
        raise HubError("the token for the Hub has letters that no token has; set another HF_TOKEN, or run "
                       "`hf auth login`")
    _ask(repo, HfApi().whoami, connections=False)


def _create(repo: str, kind: Kind, private: bool) -> Found:
    try:
        _ask(repo, lambda: HfApi().create_repo(repo, repo_type=kind, private=private))
    except HubError:
        if found := look(repo, kind):  # made, and only the answer was lost
            return found
        raise
    found = look(repo, kind)
    if found is None:
        raise HubError(f"{repo}: was made, and cannot be seen; may the token read what it writes?")
    return found


def _validate(repo: str, kind: Kind, text: str) -> None:
    try:
        _ask(repo, lambda: (DatasetCard if kind == "dataset" else ModelCard)(text).validate(repo_type=kind))
    except ValueError as error:
        raise HubError(f"{repo}: the Hub does not take the card ({_plain(str(error))})") from None


def _held(repo: str, kind: Kind, additions: Sequence[CommitOperationAdd]) -> str:
    """What of these the Hub holds already, for a person."""
    missing = set()
    for start in range(0, len(additions), _ASKED):
        infos = [one.upload_info for one in additions[start:start + _ASKED]]
        wanted, refused, _ = _ask(repo, lambda infos=infos: post_lfs_batch_info(infos, None, kind, repo))
        if refused:
            raise HubError(f"{repo}: the Hub refuses a file ({_plain(refused[0]['error']['message'])})")
        missing |= {one["oid"] for one in wanted if one.get("actions")}
    sizes = {one.upload_info.sha256.hex(): one.upload_info.size for one in additions}
    there = [size for oid, size in sizes.items() if oid not in missing]
    return (f"{len(sizes)} files of {sum(sizes.values()):,} bytes; there already: {len(there)} of {sum(there):,} "
            f"bytes; to send: {sum(sizes.values()) - sum(there):,} bytes")


def _ask(repo: str, call: Callable, connections: bool = True, absent: bool = False):
    """`call()`, again and again where the Hub is busy or, with `connections`, cannot be reached. Raises HubError; with
    `absent`, what is not there is the caller's."""
    for wait in (*_WAITS, None):
        try:
            return call()
        except HubError:
            raise
        except json.JSONDecodeError as error:
            raise HubError(f"{repo}: what answers at {HfApi().endpoint} is no Hub ({_plain(str(error))}); see to the "
                           "network, or to HF_ENDPOINT") from None
        except (HTTPError, ConnectionError, RuntimeError) as error:
            if absent and isinstance(error, (RepositoryNotFoundError, RemoteEntryNotFoundError)):
                raise
            # Of files sent side by side the client tells which failed, and has the why below.
            cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error
            if not isinstance(cause, (HTTPError, ConnectionError, RuntimeError)):
                raise cause from None  # this machine's: a file that cannot be read
        again = (cause.response.status_code in _BUSY if isinstance(cause, HfHubHTTPError)
                 else connections and isinstance(cause, HTTPError))
        if wait is None or not again:
            raise HubError(f"{repo}: {_why(repo, cause)}") from None
        time.sleep(wait)


def _why(repo: str, cause: BaseException) -> str:
    """What went wrong and what to do, from the Hub's answer or for want of one."""
    owner = repo.partition("/")[0]
    if not isinstance(cause, HfHubHTTPError):
        return (f"the Hub cannot be reached ({_plain(str(cause) or type(cause).__name__)}); see to the network, and "
                "run the same command again: what was sent is not sent again")
    status = cause.response.status_code
    said = _plain(cause.server_message or cause.response.headers.get("X-Error-Message") or str(cause))
    if status in (402, 413, 507) or (status in (400, 403) and any(word in said.lower() for word in _FULL)):
        return f"there is no room for it ({said}); make room, or have the quota of {owner} raised"
    if status in _BUSY:
        return (f"the Hub is busy or down (HTTP {status}: {said}); run the same command again later: what was sent is "
                "not sent again")
    return {401: f"the Hub does not take the token (HTTP 401: {said}); set another HF_TOKEN, or run `hf auth login`",
            403: f"the token may not write to {owner} (HTTP 403: {said}); use one that may",
            404: f"not found (HTTP 404: {said}); is {owner} the right name?",
            409: f"the name is taken, by what this token may not see perhaps (HTTP 409: {said}); choose another",
            412: f"somebody else changed the repository meanwhile (HTTP 412: {said}); run the same command again",
            }.get(status, f"the Hub answers HTTP {status} ({said})")


def _plain(text: str) -> str:
    """One line that any terminal takes, of what a server says. It may say our token back to us."""
    line = " ".join(text.replace(get_token() or "\0", "***").split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:_LONGEST].rstrip(".")
