"""Publishing builds and models to a Hub on loopback, by the real client, and reading them back with `load_dataset`."""
import contextlib
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from manifests import shards, storage
from pipelines import __main__ as cli
from pipelines import forget, hub, publish, verify
from tests.pipelines import hubserver, whole
from tests.pipelines.hubserver import Failure
from tests.pipelines.test_build import build
from tests.training import toys
from training import checkpoint

ALL = ("mucaps", "muedit", "muimage", "muvideo", "musicqa")
REPO, KEY = "org/music", ("dataset", "org/music")
# What a stranger does, in a process that knows nothing but the endpoint: rows of every config and split, media by hash.
_READ = """
import hashlib, json, sys
from datasets import Audio, Image, Video, get_dataset_config_names, load_dataset
repo, found = sys.argv[1], {}
for config in get_dataset_config_names(repo):
    for split, table in load_dataset(repo, config).items():
        kinds = {name: type(kind).__name__ for name, kind in table.features.items()
                 if isinstance(kind, (Audio, Image, Video))}
        for name in kinds:
            table = table.cast_column(name, type(table.features[name])(decode=False))
        rows = [row | {name: [hashlib.sha256(row[name]["bytes"]).hexdigest(), row[name]["path"]] for name in kinds}
                for row in table]
        found[f"{config}/{split}"] = [kinds, rows]
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return whole.build(tmp_path_factory.mktemp("whole") / "out")


@pytest.fixture
def server(monkeypatch, tmp_path):
    with hubserver.serving() as found:
        hubserver.here(monkeypatch, found.url, tmp_path / "home")
        yield found


def run(*arguments: str) -> tuple[int, str, str]:
    """The command's exit code, stdout and stderr."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = cli.main([*map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


def read_back(server, home: Path) -> dict[str, list]:
    done = subprocess.run([sys.executable, "-c", _READ, REPO], capture_output=True, text=True, timeout=300, check=False,
                          env=os.environ | hubserver.environment(server, home, None))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def expected(out: Path, embed: str) -> dict[str, list]:
    """The same, of the build's own shards."""
    found = {}
    for folder in sorted((out / "datasets").glob("*/*/")):
        rows, kinds = [], {}
        for path in sorted(folder.glob("*.arrow")):
            kinds = verify.kinds(next(shards.batches(str(path))).schema)
            for row in shards.read(str(path)):
                held = {name: [hashlib.sha256(row[name]["bytes"]).hexdigest(), row[name]["path"]] for name in kinds}
                rows.append({name: held.get(name, value) for name, value in row.items()
                             if embed == "media" or name not in kinds})
        found[f"{folder.parent.name}/{folder.name}"] = [kinds if embed == "media" else {}, rows]
    return json.loads(json.dumps(found))


def test_a_dry_run_needs_neither_token_nor_network_and_lists_what_would_be_sent(made, monkeypatch, tmp_path):
    hubserver.here(monkeypatch, "http://127.0.0.1:9", tmp_path / "home", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = sorted(made.iterdir())
    code, out, err = run("publish", "--out", made, "--repo", REPO, "--dry-run", "--datasets", "mucaps,muedit")
    assert (code, err) == (0, "") and sorted(made.iterdir()) == sorted({*before, made / "lock"})
    listed = re.findall(r"^  (\S+) +([\d,]+) bytes(?: +([\d,]+) rows)?$", out, re.MULTILINE)
    assert {path: rows for path, _, rows in listed} == {
        ".m2ugen.json": "", "README.md": "",
        **{f"{name}/{split}-00000-of-00001.parquet": rows for name in ("mucaps", "muedit")
           for split, rows in (("train", "10"), ("eval", "2"))}}
    assert re.search(r"^6 files, [\d,]+ bytes, to the dataset org/music as one commit: mucaps, muedit: 24 rows without "
                     r"media, version [0-9a-f]{12}$", out, re.MULTILINE)
    assert out.endswith("dry run: nothing was sent\n")
    _, with_media, _ = run("publish", "--out", made, "--repo", REPO, "--dry-run", "--embed", "media", "--message", "Hi")
    sizes = {path: int(size.replace(",", "")) for path, size, _ in re.findall(
        r"^  (\S+) +([\d,]+) bytes(.*)$", with_media, re.MULTILINE)}
    assert sizes["muedit/train-00000-of-00001.parquet"] > sum(
        len(row[name]["bytes"]) for row in whole.rows("muedit") for name in ("audio", "target_audio")
        if row["source_id"] not in whole.EVAL) * 0.9
    assert "as one commit: Hi\n" in with_media


def test_a_build_in_a_bucket_is_sent_as_one_in_a_folder(made, bucket):
    import s3fs
    s3fs.S3FileSystem().put(str(made), f"{bucket}/out", recursive=True)
    said: dict[str, list[str]] = {f"{bucket}/out": [], str(made): []}
    for out, lines in said.items():
        publish.publish(out, REPO, embed="media", dry_run=True, told=lines.append)
    assert said[f"{bucket}/out"] == said[str(made)] and len(said[str(made)]) == 15


@pytest.mark.parametrize("embed", ["none", "media"])
def test_what_is_loaded_from_the_hub_is_what_was_built(made, server, tmp_path, embed):
    code, out, err = run("publish", "--out", made, "--repo", REPO, "--embed", embed)
    assert (code, err) == (0, "")
    repo = server.repos[KEY]
    assert [one.title for one in repo.commits] == ["initial commit", re.search("as one commit: (.*)", out)[1]]
    assert out.endswith(f"published: {server.url}/datasets/{REPO}/commit/{repo.commits[-1].oid}\n")
    assert hubserver.TOKEN not in out
    found, wanted = read_back(server, tmp_path / "stranger"), expected(made, embed)
    assert set(found) == set(wanted) == {f"{name}/{split}" for name in ALL for split in ("train", "eval")}
    for name in wanted:
        assert found[name] == wanted[name], name
    files = server.files(*KEY)
    head = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert [one["config_name"] for one in head["configs"]] == sorted(ALL)
    manifest = json.loads(files[".m2ugen.json"])
    assert manifest == publish.published(REPO) and manifest["embed"] == embed
    assert {*manifest["files"], ".m2ugen.json", ".gitattributes"} == set(files)
    if embed == "none":
        media = [row[name]["bytes"] for dataset in ALL for row in whole.rows(dataset)
                 for name in ("audio", "target_audio", "image", "video") if name in row]
        for path, data in files.items():
            assert not any(one[-100:] in data for one in media), path


@pytest.mark.slow
def test_a_build_as_make_datasets_leaves_it(server, tmp_path):
    out = tmp_path / "out"
    build(out, "--datasets", ",".join(ALL), "--limit", "8")
    for embed in ("none", "media"):
        assert run("publish", "--out", out, "--repo", REPO, "--embed", embed)[::2] == (0, "")
        found, wanted = read_back(server, tmp_path / embed), expected(out, embed)
        assert {name.partition("/")[0] for name in wanted} == set(ALL) and found == wanted
    assert len(server.repos[KEY].commits) == 3


def test_a_later_publication_deletes_ours_and_leaves_theirs(made, server):
    publish.publish(str(made), REPO, embed="media", told=lambda line: None)
    repo = server.repos[KEY]
    repo.push("a note", repo.commits[-1].files | {"NOTES.md": hubserver.Blob(b"mine", False),
                                                  "extra/x.parquet": hubserver.Blob(b"mine too", True)})
    told = []
    publish.publish(str(made), REPO, ["mucaps"], told=told.append)  # as it was: with media
    assert len(repo.commits) == 4 and publish.published(REPO)["embed"] == "media"
    assert set(server.files(*KEY)) == {".gitattributes", ".m2ugen.json", "NOTES.md", "README.md", "extra/x.parquet",
                                       "mucaps/train-00000-of-00001.parquet", "mucaps/eval-00000-of-00001.parquet"}
    assert any(line.startswith("deleted by the same commit") and "muvideo/eval-00000" in line for line in told)
    publish.publish(str(made), REPO, ["mucaps"], told=told.append)
    assert len(repo.commits) == 4 and told[-2:][0].startswith("all of this is in the repository already")


def test_a_manifest_can_have_nothing_else_deleted(made, server):
    publish.publish(str(made), REPO, ["mucaps"], told=lambda line: None)
    repo = server.repos[KEY]
    files = dict(repo.commits[-1].files)
    manifest = json.loads(files[".m2ugen.json"].data)
    manifest["files"] += ["NOTES.md", "../../other/README.md", "extra/x.parquet", ".gitattributes"]
    extra = {"NOTES.md": hubserver.Blob(b"1", False), "extra/x.parquet": hubserver.Blob(b"2", True),
             ".m2ugen.json": hubserver.Blob(json.dumps(manifest).encode(), False)}
    repo.push("a trap", files | extra)
    publish.publish(str(made), REPO, ["musicqa"], told=lambda line: None)
    assert {"NOTES.md", "extra/x.parquet", ".gitattributes"} < set(server.files(*KEY))
    assert not any(path.startswith("mucaps/") for path in server.files(*KEY))
    for data in (b"no JSON", b"[]", b'{"m2ugen": 1, "kind": "model", "files": []}', b'{"m2ugen": 1, "files": [1]}',
                 b'{"m2ugen": 1, "kind": "dataset", "files": []}'):
        repo.push("a trap", repo.commits[-1].files | {".m2ugen.json": hubserver.Blob(data, False)})
        with pytest.raises(hub.HubError, match=r"its \.m2ugen\.json is not what a publication of ours has"):
            publish.publish(str(made), REPO, ["musicqa"])


def test_a_repository_that_others_filled_is_not_written_over(made, server):
    repo = server.repos[KEY] = hubserver.Repo("dataset", REPO, False)
    repo.push("theirs", {"README.md": hubserver.Blob(b"# Theirs", False), "train.csv": hubserver.Blob(b"1", False)})
    code, _, err = run("publish", "--out", made, "--repo", REPO)
    assert code == 1 and "the name is taken: what it holds ('train.csv', ...) was not published from here" in err
    assert len(repo.commits) == 1 and not server.large
    repo.push("emptied", {"README.md": hubserver.Blob(b"# Made on the site", False)})
    assert run("publish", "--out", made, "--repo", REPO)[0] == 0


def test_nothing_is_asked_of_the_hub_for_a_build_that_is_not_sound(made, server, tmp_path):
    out = shutil.copytree(made, tmp_path / "out")
    whole.rewrite(whole.shard(out, "muvideo"), lambda rows: rows[1:])
    code, _, err = run("publish", "--out", out, "--repo", REPO, "--embed", "media")
    assert code == 1 and err.startswith("not published: ") and "not fit to be published" in err
    assert not server.repos and server.asked("^(POST|PUT)") == 0
    assert not [path for path in out.iterdir() if path.name.startswith(".tmp-")]
    assert run("publish", "--out", tmp_path / "nowhere", "--repo", REPO)[0] == 1
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(("pattern", "failure", "message"), [
    ("whoami", Failure(401, "Invalid username or password."), "the Hub does not take the token"),
    ("POST /api/repos/create", Failure(403, "You don't have the rights"), "the token may not write to org"),
    ("POST /api/repos/create", Failure(409, "Taken"), "the name is taken"),
    ("objects/batch", Failure(403, "storage limit reached"), "there is no room for it"),
    ("PUT /lfs", Failure(413, "Too large"), "there is no room for it"),
    ("commit/main", Failure(403, "Forbidden"), "the token may not write to org"),
    ("commit/main", Failure(412, "A commit has happened since"), "somebody else changed the repository meanwhile"),
])
def test_each_error_is_one_line_and_nothing_is_published(made, server, pattern, failure, message):
    server.fail(pattern, failure, times=99)
    code, _, err = run("publish", "--out", made, "--repo", REPO, "--datasets", "mucaps")
    assert code == 1 and err.count("\n") == 1 and message in err and hubserver.TOKEN not in err
    assert all(len(repo.commits) == 1 for repo in server.repos.values())
    assert not [path for path in made.iterdir() if path.name.startswith(".tmp-")]


def test_who_publishes_meanwhile_is_not_mixed_with_ours(made, server):
    """What is to be deleted was decided by the publication before theirs."""
    publish.publish(str(made), REPO, ["mucaps"], told=lambda line: None)

    def meanwhile(line: str) -> None:
        if line.startswith("verified: muedit"):
            publish.publish(str(made.parent / "other"), REPO, ["muimage"], told=lambda line: None)
    shutil.copytree(made, made.parent / "other")
    with pytest.raises(hub.HubError, match=r"somebody else changed the repository meanwhile.*Nothing was published"):
        publish.publish(str(made), REPO, ["muedit"], told=meanwhile)
    assert publish.published(REPO)["datasets"] == ["muimage"] and len(server.repos[KEY].commits) == 3
    publish.publish(str(made), REPO, ["muedit"], told=lambda line: None)
    assert {path.partition("/")[0] for path in server.files(*KEY) if "/" in path} == {"muedit"}


def test_datasets_one_at_a_time_then_all(made, server):
    for names in (["mucaps"], ["musicqa", "muvideo"], None):
        publish.publish(str(made), REPO, names, told=lambda line: None)
        files, wanted = server.files(*KEY), set(names or ALL)
        head = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
        assert {one["config_name"] for one in head["configs"]} == wanted == set(publish.published(REPO)["datasets"])
        listed = {path for one in head["configs"] for split in one["data_files"] for path in split["path"]}
        assert listed == {path for path in files if path.endswith(".parquet")} and len(listed) == 2 * len(wanted)
    assert len(server.repos[KEY].commits) == 4


@pytest.mark.slow
def test_one_row_no_eval_and_texts_of_every_kind(server, tmp_path):
    said = "---\nlicense: mit\n---\n# | ` </script> \x1b[2J \u202e \U0001f3b5 {} \n" + "very " * 100_000 + "long"
    out = whole.build(tmp_path / "out", lambda dataset, rows: [rows[0] | {"caption": said}])
    publish.publish(str(out), REPO, ["mucaps", "muvideo"], embed="media", told=lambda line: None)
    found, wanted = read_back(server, tmp_path / "stranger"), expected(out, "media")
    assert set(found) == {"mucaps/train", "muvideo/train"} and found == {name: wanted[name] for name in found}
    assert all(rows[0]["caption"] == said for _, rows in found.values())
    assert yaml.safe_load(server.files(*KEY)["README.md"].decode().split("---\n")[1])["license"] == "other"


def test_a_takedown_that_was_cut_short_is_finished_first(made, server, tmp_path):
    out = shutil.copytree(made, tmp_path / "out")
    forget.note(str(out), [{"date": "2031-02-03", "ids": [forget.hashed("clip-1"), forget.hashed("clip-2")], "rows": 10,
                            "datasets": dict.fromkeys(ALL, 2), "squashed": [], "done": False}])
    code, said, err = run("publish", "--out", out, "--repo", REPO)
    assert (code, err) == (0, "") and said.startswith("a takedown was cut short here: finishing it first\nverified: ")
    assert forget.log(str(out))[0]["done"]
    files = server.files(*KEY)
    sent = {row["source_id"] for path, data in files.items() if path.endswith(".parquet")
            for row in pq.read_table(pa.BufferReader(data), columns=["source_id"]).to_pylist()}
    assert sent == {f"clip-{number}" for number in range(whole.CLIPS)} - {"clip-1", "clip-2"}
    assert not any(b"clip-1\x00" in data or b"clip-1." in data for data in files.values())
    assert "2031-02-03: 10 rows taken down" in files["README.md"].decode()


def test_numbers_of_an_older_version_and_a_full_disk_are_told(made, tmp_path):
    out = shutil.copytree(made, tmp_path / "out")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, usual[1]))
    try:
        code, _, err = run("publish", "--out", out, "--repo", REPO, "--dry-run", "--embed", "media")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert code == 1 and re.search(r"\.parquet: cannot be written \(.*File too large.*needs as much room", err)
    whole.edit_json(out / "stats.json", lambda stats: [one.pop("hours") for one in stats["datasets"].values()])
    code, _, err = run("publish", "--out", out, "--repo", REPO, "--dry-run")
    assert code == 1 and re.search(r"stats.json: lacks what a card tells \('hours'\).*run `make datasets` again", err)
    assert not [path for path in out.iterdir() if path.name.startswith(".tmp-")]


def test_no_two_at_one_build(made, server):
    with storage.lock(str(made)):
        code, _, err = run("publish", "--out", made, "--repo", REPO)
    assert code == 1 and "another build is at work here" in err and not server.repos


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_while_sending_it_ends_at_once(made, server, tmp_path, number):
    server.fail("PUT /lfs", Failure(hold=True), times=99, skip=4)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "publish", "--out", str(made), "--repo", REPO, "--embed", "media"],
        env=os.environ | hubserver.environment(server, tmp_path / "home"), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE)
    while server.asked("PUT /lfs") < 6:
        assert process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)  # what is held is not waited for
    assert process.returncode == 128 + number and not server.release.is_set()
    assert err.strip() == (f"publishing ended: {number.name}\nWhat was done is kept, and the same command goes on from "
                           "there.")
    assert not [path for path in made.iterdir() if path.name.startswith(".tmp-")] and hubserver.TOKEN not in out
    assert [one.title for one in server.repos[KEY].commits] == ["initial commit"]


@pytest.mark.slow
def test_killed_while_sending_the_same_command_sends_the_rest(made, server, tmp_path):
    out = shutil.copytree(made, tmp_path / "out")
    server.fail("PUT /lfs", Failure(hold=True), times=99, skip=4)
    command = [sys.executable, "-m", "pipelines", "publish", "--out", str(out), "--repo", REPO, "--embed", "media"]
    environment = os.environ | hubserver.environment(server, tmp_path / "home")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while server.asked("POST /lfs/verify") < 4 or server.asked("PUT /lfs") < 6:
        assert process.poll() is None, process.stderr.read().decode()[-3000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert len(server.large) == 4 and [one.title for one in server.repos[KEY].commits] == ["initial commit"]
    assert [path for path in out.iterdir() if path.name.startswith(".tmp-publish-")]
    server.failures.clear()
    server.release.set()
    while server.answered < len(server.seen):
        time.sleep(0.05)
    held, sent = set(server.large), server.sent  # what was on its way when it was killed may have come whole
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = re.search(r"10 files of ([\d,]+) bytes; there already: (\d+) of [\d,]+ bytes; to send: ([\d,]+) bytes",
                     done.stdout)
    assert int(told[2]) == len(held) >= 4 and int(told[3].replace(",", "")) == server.sent - sent > 0
    assert len(server.large) == 10 and len(server.repos[KEY].commits) == 2
    assert not [path for path in out.iterdir() if path.name.startswith(".tmp-")]
    assert hubserver.TOKEN not in done.stdout + done.stderr


def test_an_empty_dataset_is_left_out_and_none_at_all_is_refused(server, tmp_path):
    out = whole.build(tmp_path / "out", lambda dataset, rows: rows if dataset == "mucaps" else rows[:1])
    for dataset in ALL[1:]:
        shutil.rmtree(out / "datasets" / dataset)
        url = str(out / "ledger" / f"{dataset}.arrow")
        lines = list(shards.read(url))
        shards.write(url, next(shards.batches(url)).schema, [line | {"outcome": "silent"} for line in lines])

    def emptied(stats: dict) -> None:
        for name in ALL[1:]:
            stats["datasets"][name] |= {"done": 0, "lost": {"silent": 2}, "splits": {"train": 0, "eval": 0}}
    whole.edit_json(out / "stats.json", emptied)
    publish.publish(str(out), REPO, told=lambda line: None)
    assert publish.published(REPO)["datasets"] == ["mucaps"]
    with pytest.raises(verify.Unsound, match="none of its datasets holds a row"):
        publish.publish(str(out), REPO, ["musicqa"])
    with pytest.raises(verify.Unsound, match="none of its datasets holds a row"):
        publish.publish(str(out), REPO, [])
    assert len(server.repos[KEY].commits) == 2


def test_a_model_is_published_whole_and_nothing_but_it(server, tmp_path):
    from safetensors import safe_open

    from tests.training.test_checkpoint import ours
    folder = tmp_path / "runs" / "stage3" / "model"
    checkpoint.save(folder, toys.M2UGEN, ours(toys.checkpoint(toys.M2UGEN), toys.M2UGEN), base=None)
    (folder / "optimizer.pt").write_bytes(b"state")
    code, out, err = run("publish-model", "--run", tmp_path / "runs", "--repo", "org/model", "--private")
    assert (code, err) == (0, "") and "left out, as no part of the model: 'optimizer.pt'" in out
    repo = server.repos["model", "org/model"]
    assert repo.private and len(repo.commits) == 2
    files = server.files("model", "org/model")
    sent = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "optimizer.pt"}
    assert files == sent | {name: files[name] for name in (".m2ugen.json", ".gitattributes")}
    # What was sent opens, and is the model.
    back = tmp_path / "back"
    back.mkdir()
    for name, data in files.items():
        (back / name).write_bytes(data)
    assert set(checkpoint.opened(back)[1]) == set(checkpoint.opened(folder)[1])
    with safe_open(back / "lora.safetensors", "pt") as file:
        assert file.keys()
    dry = run("publish-model", "--run", folder, "--repo", "org/model", "--dry-run")
    assert dry[0] == 0 and "lora.safetensors" in dry[1]


def test_models_that_do_not_open_are_refused(server, tmp_path):
    from tests.training.test_checkpoint import ours
    folder = tmp_path / "model"
    checkpoint.save(folder, toys.M2UGEN, ours(toys.checkpoint(toys.M2UGEN), toys.M2UGEN), base=None)
    assert "no trained model here" in run("publish-model", "--run", tmp_path / "none", "--repo", "org/m")[2]
    (folder / "lora.safetensors").write_bytes(b"cut")
    assert "lora.safetensors" in run("publish-model", "--run", tmp_path, "--repo", "org/m")[2]
    (folder / "lora.safetensors").unlink()
    assert "lora.safetensors" in run("publish-model", "--run", tmp_path, "--repo", "org/m")[2]
    assert not server.repos and not server.seen
