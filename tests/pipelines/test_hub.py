"""The real client against a Hub on loopback: one commit or none, and a clear message where it is none."""
import hashlib
import re
import socket

import pytest

from pipelines import hub
from tests.pipelines import hubserver
from tests.pipelines.hubserver import Failure

REPO, KEY = "org/music", ("dataset", "org/music")
CARD = b"---\nlanguage: [en]\n---\n# A card\n"


@pytest.fixture
def server(monkeypatch, tmp_path):
    with hubserver.serving() as found:
        hubserver.here(monkeypatch, found.url, tmp_path)
        yield found


@pytest.fixture
def files(tmp_path) -> dict:
    """Two large files, and two small ones."""
    for name, size in (("a", 30_000), ("b", 50_000)):
        (tmp_path / f"{name}.parquet").write_bytes(hashlib.shake_128(name.encode()).digest(size))
    return {"x/a.parquet": tmp_path / "a.parquet", "x/b.parquet": tmp_path / "b.parquet", "README.md": CARD,
            ".m2ugen.json": b"{}\n"}


def content(files: dict) -> dict[str, bytes]:
    return {path: what if isinstance(what, bytes) else what.read_bytes() for path, what in files.items()}


def held(server) -> dict[str, bytes]:
    return {path: data for path, data in server.files(*KEY).items() if path != ".gitattributes"}


@pytest.mark.parametrize("piece", [None, 20_000])
def test_all_files_in_one_commit_and_read_back(server, files, piece):
    server.piece = piece
    told = []
    url = hub.commit(REPO, "dataset", files, [], "first", told=told.append)
    repo = server.repos[KEY]
    assert held(server) == content(files) and not repo.private
    assert [one.title for one in repo.commits] == ["initial commit", "first"]
    assert url == f"{server.url}/datasets/{REPO}/commit/{repo.commits[-1].oid}"
    assert told == ["2 files of 80,000 bytes; there already: 0 of 0 bytes; to send: 80,000 bytes"]
    assert server.sent == 80_000 and bool(server.parts) == bool(piece)
    assert {path: hub.read(REPO, "dataset", path) for path in files} == content(files)
    assert hub.read(REPO, "dataset", "x/none") is None and hub.read("org/none", "dataset", "x") is None
    assert hub.read(REPO, "model", "README.md") is None
    assert hub.look(REPO, "dataset") == hub.Found(repo.commits[-1].oid, False, frozenset({*files, ".gitattributes"}))
    # Everything was there before the commit was asked for.
    sent = [place for place, one in enumerate(server.seen) if one.startswith("PUT /lfs/")]
    assert sent and max(sent) < server.seen.index(f"POST /api/datasets/{REPO}/commit/main")


def test_what_is_there_is_not_sent_again_and_nothing_new_is_no_commit(server, files):
    hub.commit(REPO, "dataset", files, [], "first")
    told = []
    url = hub.commit(REPO, "dataset", files, [], "again", told=told.append)
    assert url.endswith(server.repos[KEY].commits[-1].oid) and len(server.repos[KEY].commits) == 2
    assert told == ["2 files of 80,000 bytes; there already: 2 of 80,000 bytes; to send: 0 bytes",
                    "all of this is in the repository already: there is nothing to commit"]
    files["x/c.parquet"] = files.pop("x/b.parquet")  # the same bytes under another name
    hub.commit(REPO, "dataset", files, ["x/b.parquet", "x/never.parquet"], "moved")
    assert held(server) == content(files)
    assert [one.title for one in server.repos[KEY].commits] == ["initial commit", "first", "moved"]
    assert server.sent == 80_000


def test_private_stays_private_and_public_is_not_taken_for_it(server, files):
    hub.commit("org/secret", "dataset", files, [], "first", private=True)
    assert server.repos["dataset", "org/secret"].private
    assert hub.commit("org/secret", "dataset", files | {"more": b"1"}, [], "second")
    assert server.repos["dataset", "org/secret"].private
    hub.commit(REPO, "dataset", files, [], "first")
    with pytest.raises(hub.HubError, match=r"is public, and a private repository was asked for.*Nothing was published"):
        hub.commit(REPO, "dataset", files | {"more": b"1"}, [], "second", private=True)
    assert len(server.repos[KEY].commits) == 2


def test_a_squashed_history_is_one_commit_of_what_there_is(server, files):
    hub.commit(REPO, "dataset", files, [], "first")
    hub.commit(REPO, "dataset", {"README.md": CARD + b"more"}, ["x/a.parquet"], "second")
    before = held(server)
    hub.squash(REPO, "dataset", "takedown: all before is gone")
    assert [one.title for one in server.repos[KEY].commits] == ["takedown: all before is gone"]
    assert held(server) == before
    with pytest.raises(hub.HubError, match=r"not found"):
        hub.squash("org/none", "dataset", "nothing")


@pytest.mark.parametrize(("repo", "token", "message"), [
    (REPO, None, "no token for the Hub: set HF_TOKEN, or run `hf auth login`"),
    (REPO, "hf_wrong", "the Hub does not take the token (HTTP 401"),
    (REPO, hubserver.READER, "the token may not write to org (HTTP 403: You don't have the rights to create a dataset"),
    ("other/music", hubserver.TOKEN, "the token may not write to other (HTTP 403"),
    ("music", hubserver.TOKEN, "music: whose repository? Give org/name"),
    ("org//music", hubserver.TOKEN, "'org//music' is no name of a repository"),
    ("", hubserver.TOKEN, "'' is no name of a repository"),
    ("org/mu\x1bsic", hubserver.TOKEN, r"'org/mu\x1bsic' is no name of a repository"),
])
def test_who_may_not(server, files, monkeypatch, tmp_path, repo, token, message):
    hubserver.here(monkeypatch, server.url, tmp_path, token)
    with pytest.raises(hub.HubError, match=re.escape(message)) as told:
        hub.commit(repo, "dataset", files, [], "first")
    assert "Nothing was published" in str(told.value) and "\x1b" not in str(told.value)
    assert "hf_w" not in str(told.value) and "hf_r" not in str(told.value)
    assert not server.repos and not server.large


@pytest.mark.parametrize("token", ["hf_secr\xe9t", "hf_sec\x01ret"])
def test_a_token_that_is_none_is_not_shown(server, files, monkeypatch, tmp_path, token):
    hubserver.here(monkeypatch, server.url, tmp_path, token)
    with pytest.raises(hub.HubError, match=r"the token for the Hub has letters that no token has; set another") as told:
        hub.commit(REPO, "dataset", files, [], "first")
    assert "hf_sec" not in str(told.value) and not server.seen


def test_a_server_that_says_the_token_back(server, files):
    server.fail("whoami", Failure(401, f"what is {hubserver.TOKEN}?"))
    with pytest.raises(hub.HubError, match=r"HTTP 401: what is \*\*\*\?") as told:
        hub.commit(REPO, "dataset", files, [], "first")
    assert hubserver.TOKEN not in str(told.value)


def test_what_answers_is_no_hub(server, files):
    server.fail("whoami", Failure(200, text="<html>Please log in to this network</html>"))
    with pytest.raises(hub.HubError, match=r"what answers at http\S+ is no Hub \(.*or to HF_ENDPOINT"):
        hub.commit(REPO, "dataset", files, [], "first")


def test_a_repository_of_others_that_may_be_read(server, files, monkeypatch, tmp_path):
    hub.commit(REPO, "dataset", files, [], "first")
    hubserver.here(monkeypatch, server.url, tmp_path, hubserver.READER)
    with pytest.raises(hub.HubError, match=r"may not write to org"):
        hub.commit(REPO, "dataset", files | {"more": b"1"}, [], "second")
    assert len(server.repos[KEY].commits) == 2


def test_a_name_that_is_taken_by_what_may_not_be_seen(server, files):
    server.fail("POST /api/repos/create", Failure(409, "You already created this model repo"))
    with pytest.raises(hub.HubError, match=r"org/music: the name is taken.*already created this model repo"):
        hub.commit(REPO, "dataset", files, [], "first")
    assert not server.repos


def test_a_repository_whose_making_was_not_answered_is_ours(server, files):
    server.fail("POST /api/repos/create", Failure(504, "timeout", after=True))
    hub.commit(REPO, "dataset", files, [], "first")
    assert held(server) == content(files)


@pytest.mark.parametrize(("pattern", "failure"), [
    ("objects/batch", Failure(403, "Private repository storage limit reached, please upgrade your plan")),
    ("PUT /lfs/upload", Failure(507, "Insufficient storage")),
    ("POST .*/commit/", Failure(413, "Payload too large: quota")),
])
def test_a_full_quota(server, files, pattern, failure):
    server.fail(pattern, failure, times=9)
    with pytest.raises(hub.HubError, match=r"there is no room for it \(.*have the quota of org raised\. Nothing was"):
        hub.commit(REPO, "dataset", files, [], "first")
    assert [one.title for one in server.repos[KEY].commits] == ["initial commit"]


def test_a_quota_that_the_files_pass(server, files):
    server.quota = 40_000
    with pytest.raises(hub.HubError, match=r"no room for it .Private repository storage limit reached"):
        hub.commit(REPO, "dataset", files, [], "first")
    assert not held(server) and not server.large


def test_a_card_that_the_hub_does_not_take_is_told_before_anything_is_sent(server, files):
    with pytest.raises(hub.HubError, match=r"does not take the card .*configs"):
        hub.commit(REPO, "dataset", files | {"README.md": b"---\nconfigs: [{data_files: [x]}]\n---\n"}, [], "first")
    assert not server.repos and not server.large


def test_a_busy_hub_is_asked_again(server, files):
    """By the client where it does so itself, here where it does not."""
    server.fail("whoami", Failure(429, "slow down"))
    server.fail("PUT /lfs/upload", Failure(503, "overloaded", {"Retry-After": "0"}))
    server.fail("POST .*/commit/main", Failure(502, "bad gateway"))
    hub.commit(REPO, "dataset", files, [], "first")
    assert held(server) == content(files) and len(server.repos[KEY].commits) == 2
    assert server.asked("POST .*/commit/main") == 2 and server.asked("PUT /lfs/upload") == 3


def test_connections_that_are_cut_while_sending_are_made_again(server, files):
    server.fail("PUT /lfs/upload", Failure(cut=10_000))
    hub.commit(REPO, "dataset", files, [], "first")
    assert held(server) == content(files)


def test_a_hub_that_stays_busy_and_a_connection_that_stays_cut(server, files, monkeypatch):
    monkeypatch.setattr(hub, "_WAITS", (0, 0))
    server.fail("POST .*/commit/main", Failure(503, "maintenance"), times=99)
    with pytest.raises(hub.HubError, match=r"busy or down \(HTTP 503: .*maintenance.*same command again later"):
        hub.commit(REPO, "dataset", files, [], "first")
    assert server.asked("POST .*/commit/main") == 3
    server.failures.clear()
    server.fail("POST .*/commit/main", Failure(cut=10), times=99)
    with pytest.raises(hub.HubError, match=r"the Hub cannot be reached .*Nothing was published"):
        hub.commit(REPO, "dataset", files, [], "first")
    assert not held(server) and server.sent == 80_000


@pytest.mark.parametrize("lost", [Failure(504, "timeout", after=True), Failure(cut=0, after=True)])
def test_an_answer_that_is_lost_is_no_second_commit(server, files, lost):
    server.fail("POST .*/commit/main", lost)
    url = hub.commit(REPO, "dataset", files, [], "first")
    repo = server.repos[KEY]
    assert [one.title for one in repo.commits] == ["initial commit", "first"]
    assert url == f"{server.url}/datasets/{REPO}/commit/{repo.commits[-1].oid}"


def test_where_nobody_can_tell_it_is_said_so(server, files, monkeypatch):
    monkeypatch.setattr(hub, "_WAITS", ())
    server.fail("POST .*/commit/main", Failure(cut=0, after=True))
    server.fail(f"GET /api/datasets/{REPO}$", Failure(503, "down"), times=99, skip=2)
    with pytest.raises(hub.HubError, match=r"Whether the commit was made is not known") as told:
        hub.commit(REPO, "dataset", files, [], "first")
    assert "Nothing was published" not in str(told.value)


def test_somebody_else_who_commits_meanwhile_is_not_overwritten(server, files):
    hub.commit(REPO, "dataset", files, [], "first")

    def meanwhile(_line: str) -> None:
        repo = server.repos[KEY]
        repo.push("theirs", repo.commits[-1].files | {"x/a.parquet": hubserver.Blob(b"theirs", False)})
    with pytest.raises(hub.HubError, match=r"somebody else changed the repository meanwhile.*Nothing was published"):
        hub.commit(REPO, "dataset", files | {"README.md": CARD + b"new"}, [], "second", told=meanwhile)
    assert [one.title for one in server.repos[KEY].commits] == ["initial commit", "first", "theirs"]


def test_what_was_decided_on_must_still_be_so(server, files):
    hub.commit(REPO, "dataset", files, [], "first", seen=None)
    seen = hub.look(REPO, "dataset")
    hub.commit(REPO, "dataset", files | {"more": b"1"}, [], "second", seen=seen)
    for old in (None, seen):
        with pytest.raises(hub.HubError, match=r"somebody else changed the repository meanwhile; run the same command"):
            hub.commit(REPO, "dataset", files | {"more": b"2"}, [], "third", seen=old)
    assert len(server.repos[KEY].commits) == 3


def test_no_network(monkeypatch, tmp_path, files):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        hubserver.here(monkeypatch, f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path)
        with pytest.raises(hub.HubError, match=r"cannot be reached .*see to the network.*Nothing was published"):
            hub.commit(REPO, "dataset", files, [], "first")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(hub.HubError, match=r"the Hub cannot be reached"):
        hub.commit(REPO, "dataset", files, [], "first")


def test_what_a_server_says_garbles_no_terminal(server, files):
    server.fail("POST .*/commit/", Failure(400, "bad\x1b[31m news " + "x" * 5000))
    with pytest.raises(hub.HubError) as told:
        hub.commit(REPO, "dataset", files, [], "first")
    assert str(told.value).isprintable() and len(str(told.value)) < 600
