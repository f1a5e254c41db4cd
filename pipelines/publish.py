"""Publishing: what is sent of a build, or of a trained model, to the Hub. One repository, one commit.

A build's repository holds a card, a folder of Parquet files for each dataset, and a small manifest that tells which
files are ours: those that a later publication no longer has are deleted with it, and nothing else ever is.
"""
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from manifests import storage
from manifests.messages import one_line
from pipelines import ending, hub, parquet, verify
from pipelines.hub import HubError
from pipelines.parquet import Embed

MANIFEST = ".m2ugen.json"  # in the repository: kind, version, embed, datasets, files
_FORMAT = 1
_TEMPORARY = f"{storage.TEMPORARY}publish-"
_EMPTY = {".gitattributes", "README.md"}  # what the Hub itself may put into a new repository
# What a publication of ours may hold, and so what a manifest may have us delete.
_OURS = re.compile(r"README\.md|config\.json|[a-z0-9]+/(train|eval)-\d{5}-of-\d{5}\.parquet|[a-z0-9-]+\.safetensors")


@dataclass(frozen=True)
class File:
    path: str          # in the repository
    rows: int | None   # of a Parquet file
    bytes: int


def publish(out: str, repo: str, datasets: Sequence[str] | None = None, embed: Embed | None = None,
            private: bool = False, dry_run: bool = False, message: str | None = None,
            told: Callable[[str], None] = print) -> str | None:
    """Publish a build's datasets (None: all it made) as one repository in one commit; returns the commit's URL.

    `embed`: "none" leaves media columns out; None: as the repository was published last, else "none". `told` gets
    lines for a person. Holds OUT's lock while it reads, and finishes a takedown that was cut short before. With
    `dry_run` there is no network, and None is returned. SIGINT and SIGTERM end the process at once.
    Raises verify.Unsound, hub.HubError, OSError; nothing is published then.
    """
    from pipelines import card, forget, version
    hub.check_name(repo)
    verify.ended(out)  # before a lock makes a folder of what may be a slip of the pen
    seen, before = (None, None) if dry_run else _before(repo, "dataset")
    embed = embed or (before or {}).get("embed") or "none"
    with storage.lock(out):
        if not all(entry["done"] for entry in forget.log(out)):
            told("a takedown was cut short here: finishing it first")
            forget.finish(out)
        with _folder(out) as folder:
            found = verify.verify(out, datasets)
            rows = {dataset: sum(shard.rows for held in by_split.values() for shard in held)
                    for dataset, by_split in found.items()}
            told("verified: " + ", ".join(f"{dataset} {count} rows" for dataset, count in rows.items()))
            names = [dataset for dataset, count in rows.items() if count]
            if not names:
                raise verify.Unsound(f"{out}: none of its datasets holds a row; there is nothing to publish")
            made = version.version(out, names)
            files: dict[str, dict[str, list[File]]] = {}
            for dataset in names:
                files[dataset] = {split: _converted(folder, dataset, split, held, embed)
                                  for split, held in found[dataset].items()}
            listed = [one for by_split in files.values() for held in by_split.values() for one in held]
            add: dict[str, Path | bytes] = {one.path: folder / one.path for one in listed}
            try:
                add["README.md"] = card.repository(out, names, embed, {
                    dataset: {split: [vars(one) for one in held] for split, held in by_split.items()}
                    for dataset, by_split in files.items()}, repo).encode()
            except (LookupError, TypeError, AttributeError) as error:
                raise verify.Unsound(f"{out}/stats.json: lacks what a card tells ({one_line(error)}), as an older "
                                     "version's may; run `make datasets` again") from error
            add[MANIFEST] = _manifest("dataset", add, version=made, embed=embed, datasets=names)
            message = message or (f"{', '.join(names)}: {sum(rows.values())} rows "
                                  f"{'with' if embed == 'media' else 'without'} media, version {made}")
            return _sent(repo, "dataset", add, {one.path: one.rows for one in listed}, seen, before, message, private,
                         dry_run, told)


def publish_model(run: str, repo: str, private: bool = False, dry_run: bool = False, message: str | None = None,
                  told: Callable[[str], None] = print) -> str | None:
    """Publish a model that was trained or converted here: RUN itself, RUN/model or RUN/stage3/model.

    Its config, its card and the safetensors files that its config names are sent, and nothing else of the folder.
    Raises ValueError where it does not open, and as `publish` does.
    """
    from training import checkpoint
    hub.check_name(repo)
    folder = next((one for one in (Path(run), Path(run, "model"), Path(run, "stage3", "model"))
                   if checkpoint.is_ours(one)), None)
    if folder is None:
        raise ValueError(f"{run}: no trained model here, nor in model or stage3/model below it; name a run (RUN=), as "
                         "`make train-stage3` leaves one")
    config, _, _, about = checkpoint.opened(folder)
    add: dict[str, Path | bytes] = {name: folder / name for name in ("README.md", "config.json", *about["files"])}
    if odd := [name for name in add if not _OURS.fullmatch(name)]:
        raise ValueError(f"{folder}: {odd[0]} is no safetensors file; save the model again")
    if missing := [name for name, path in add.items() if not path.is_file()]:
        raise ValueError(f"{folder}: {missing[0]} is missing; save the model again")
    if left := sorted({path.name for path in folder.iterdir()} - set(add)):
        told(f"left out, as no part of the model: {', '.join(map(ascii, left))}")
    if any(name.startswith(("base", "frozen")) for name in about["files"]):
        told("the folder holds its LLaMA too, or other models' weights: their licences must allow this")
    add[MANIFEST] = _manifest("model", add)
    seen, before = (None, None) if dry_run else _before(repo, "model")
    with ending.sudden(lambda why: None, what="publishing"):
        return _sent(repo, "model", add, {}, seen, before,
                     message or f"{config.name}, {config.layers} layers of {config.dim}", private, dry_run, told)


def published(repo: str, kind: hub.Kind = "dataset") -> dict | None:
    """The manifest of our publication that is in a repository now: "kind", "version", "embed", "datasets", "files".
    None where there is none; HubError where it is not as we write them."""
    data = hub.read(repo, kind, MANIFEST)
    if data is None:
        return None
    try:
        found = json.loads(data)
        sound = (found["m2ugen"] == _FORMAT and found["kind"] == kind and found.get("embed") in (None, "none", "media")
                 and all(isinstance(held, list) and all(isinstance(one, str) for one in held)
                         for held in (found["files"], found["datasets"] if kind == "dataset" else [])))
    except (ValueError, LookupError, TypeError):
        sound = False
    if not sound:
        raise HubError(f"{repo}: its {MANIFEST} is not what a publication of ours has; choose another name")
    return found


def _before(repo: str, kind: hub.Kind) -> tuple[hub.Found | None, dict | None]:
    """What is there now, and the publication of it that this one follows. HubError where there is something else."""
    hub.signed_in(repo)
    found = hub.look(repo, kind)
    if found is None or (MANIFEST not in found.files and found.files <= _EMPTY):
        return found, None
    manifest = published(repo, kind) if MANIFEST in found.files else None
    if manifest is None:
        others = ", ".join(ascii(name) for name in sorted(found.files - _EMPTY)[:3])
        raise HubError(f"{repo}: the name is taken: what it holds ({others}, ...) was not published from here; choose "
                       "another name")
    return found, manifest


@contextmanager
def _folder(out: str) -> Iterator[Path]:
    """Where Parquet files lie until they are sent: beside the build, which has room. What a killed publication left
    goes; whoever calls holds OUT's lock."""
    local = storage.local_path(out)
    for name in storage.names(out) if local else ():
        if name.startswith(_TEMPORARY):
            storage.remove(storage.join(out, name))
    with (tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=local) as folder,
          ending.sudden(lambda why: shutil.rmtree(folder, ignore_errors=True), what="publishing")):
        yield Path(folder)


def _converted(folder: Path, dataset: str, split: str, held: Sequence[verify.Shard], embed: Embed) -> list[File]:
    files = []
    groups = parquet.plan(held, embed)
    (folder / dataset).mkdir(exist_ok=True)
    for number, group in enumerate(groups):
        path = f"{dataset}/{split}-{number:05d}-of-{len(groups):05d}.parquet"
        try:
            rows = parquet.write(folder / path, [shard.url for shard in group], embed)
        except OSError as error:
            raise OSError(f"{folder / path}: cannot be written ({one_line(error)}); publishing needs as much room "
                          "there as it sends") from error
        files.append(File(path, rows, (folder / path).stat().st_size))
    return files


def _manifest(kind: hub.Kind, add: Mapping[str, Path | bytes], **about) -> bytes:
    told = {"m2ugen": _FORMAT, "kind": kind, **about, "files": sorted(add)}
    return (json.dumps(told, indent=1, sort_keys=True) + "\n").encode()


def _sent(repo: str, kind: hub.Kind, add: Mapping[str, Path | bytes], rows: Mapping[str, int],
          seen: hub.Found | None, before: dict | None, message: str, private: bool, dry_run: bool,
          told: Callable[[str], None]) -> str | None:
    old = [path for path in (before or {}).get("files", ()) if path not in add and _OURS.fullmatch(path)]
    sizes = {path: len(what) if isinstance(what, bytes) else what.stat().st_size for path, what in add.items()}
    for path, size in sorted(sizes.items()):
        told(f"  {path:<44}{size:>14,} bytes" + (f"{rows[path]:>10,} rows" if path in rows else ""))
    told(f"{len(add)} files, {sum(sizes.values()):,} bytes, to the {kind} {repo}{', private,' * private} as one "
         f"commit: {message}")
    if old:
        told(f"deleted by the same commit, as of the publication before: {', '.join(old)}")
    if dry_run:
        told("dry run: nothing was sent")
        return None
    url = hub.commit(repo, kind, add, old, message, private, told, seen)
    told(f"published: {url}")
    return url
