"""A dataset's card: what `datasets` and the Hub read (YAML), and what a person does.

All of it follows from stats.json, the rows and the log of takedowns: no time, no machine. There is no Croissant file:
the Hub derives one for whatever its viewer opens, with the columns, at /api/datasets/REPO/croissant, and a second one
beside it would only be able to contradict that.
"""
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Literal

import yaml
from datasets import Features

from manifests import outcomes, shards, storage
from pipelines import caveats
from pipelines.version import together, versions
from pipelines.write import DATASETS, Shard
from training.sources import SPLITS, Sources

Files = Mapping[str, list[dict]]  # by split: {"path", "rows", "bytes"}

_SOURCES = {"sample": "synthesised by the project itself; their tempo, key and instruments are known",
            "folder": "files of whoever made this build",
            "audioset": "videos of AudioSet's lists, or of lists in that form, fetched with yt-dlp"}
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
_LICENCES = {"sample": "synthesised-sample-corpus", "folder": "media-of-whoever-made-this-build",
             "audioset": "media-of-third-parties"}
_PITCHES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_AGAIN = """\
```python
lines = set()
for split in rows.values():
    for row in split.select_columns([name for name in COLUMNS if name in split.column_names]):
        clips = row["id"].partition("@")[0].split("~")  # of MUEdit's pairs both
        for clip, side in zip(clips, ("", "target_")):
            source = row[f"{side}source_id"]
            start = int(clip.removeprefix(source)[1:] or 0) / 1000  # a whole track's clip has the video's id
            end = start + min(row[f"{side}duration"], 600)
            lines.add(f'{source},{start:.3f},{end:.3f},"/m/04rlf"')
open("segments.csv", "w").write("\\n".join(sorted(lines)))
```"""


def card(out: str, dataset: str, planned: Sequence[Shard], stats: dict) -> str:
    """README.md of a dataset. Shards are named one by one: a glob would mix in those of a build in flight."""
    stats = json.loads(json.dumps(stats, sort_keys=True))  # as it will be read: the card is the same of either
    files: dict[str, list[dict]] = {}
    for shard in planned:
        files.setdefault(shard.split, []).append({"path": f"{shard.split}/{shard.name}", "rows": len(shard.rows),
                                                  "bytes": storage.size(shard.url(out))})
    maker = DATASETS[dataset]
    config, info = _config(dataset, files, "media")
    head = _head(maker.TITLE, [dataset], stats["made"]["source"], _rows(files)) | {
        "configs": [config | {"default": True}], "dataset_info": info}
    return _page(head, maker.TITLE, [maker.ABOUT, *_sections([dataset], stats, "media", None, _log(out))])


def repository(out: str, datasets: Sequence[str], embed: Literal["none", "media"], files: Mapping[str, Files],
               repo: str | None = None) -> str:
    """README.md of one repository of the Hub with a config per dataset.

    `files`: {dataset: {split: [{"path", "rows", "bytes"}]}}, paths as in the repository; `repo`: its name, "org/name".
    All rows are read, for their version. ValueError for a dataset that stats.json does not tell of.
    """
    stats = storage.read_json(storage.join(out, "stats.json"))
    if unknown := [name for name in datasets if name not in stats["datasets"]]:
        raise ValueError(f"{out}/stats.json tells nothing of {', '.join(unknown)}: an earlier build made "
                         f"{'it' if len(unknown) == 1 else 'them'}; build what is to be published together")
    title = repo.rpartition("/")[2] if repo else "M²UGen datasets"
    head = _head(title, datasets, stats["made"]["source"], sum(_rows(files[name]) for name in datasets), repo)
    made = [_config(name, files[name], embed) for name in datasets]
    head |= {"configs": [config | {"default": True} if place == 0 else config
                         for place, (config, _) in enumerate(made)], "dataset_info": [info for _, info in made]}
    version, numbers = versions(out, datasets), stats["datasets"]
    about = _table(("config", *SPLITS, "hours of music", "sources", "version"), [
        (f"`{name}`", *(_rows({split: files[name].get(split, [])}) for split in SPLITS),
         f"{numbers[name]['hours']:.2f}", numbers[name]["source_videos"], f"`{version[name]}`") for name in datasets])
    what = "\n".join(f"- `{name}`: {DATASETS[name].ABOUT}" for name in datasets)
    told = f"Version `{together(version)}`, a hash of all rows:"
    return _page(head, title, [what, told, about, *_sections(datasets, stats, embed, repo or "ORG/NAME", _log(out),
                                                             _writers(out, datasets))])


def features(dataset: str, embed: Literal["none", "media"]) -> Features:
    """Columns of a dataset as it is published."""
    return Features({name: kind for name, kind in DATASETS[dataset].features().items()
                     if embed == "media" or not hasattr(kind, "decode")})


def _head(title: str, datasets: Sequence[str], source: str, rows: int, repo: str | None = None) -> dict:
    tags = ["music", "audio", *(kind for kind in ("image", "video") if f"mu{kind}" in datasets), "m2ugen"]
    link = {"license_link": f"https://huggingface.co/datasets/{repo}#rights-and-takedown"} if repo else {}
    return {"pretty_name": title, "license": "other", "license_name": _LICENCES[source], **link,
            "language": ["en"], "annotations_creators": ["machine-generated"],
            "language_creators": ["machine-generated"],
            "size_categories": [next((size for most, size in _SIZES.items() if rows < most), "10M<n<100M")],
            "task_categories": list(dict.fromkeys(DATASETS[name].TASK for name in datasets)), "tags": tags}


def _config(dataset: str, files: Files, embed: Literal["none", "media"]) -> tuple[dict, dict]:
    """A dataset's entries in `configs` and in `dataset_info`."""
    sizes = {split: sum(one["bytes"] for one in some) for split, some in files.items()}
    return ({"config_name": dataset,
             "data_files": [{"split": split, "path": [one["path"] for one in some]} for split, some in files.items()]},
            {"config_name": dataset, "features": features(dataset, embed)._to_yaml_list(),
             "splits": [{"name": split, "num_examples": _rows({split: some}), "num_bytes": sizes[split]}
                        for split, some in files.items()],
             "download_size": sum(sizes.values()), "dataset_size": sum(sizes.values())})


def _page(head: dict, title: str, parts: Sequence[str]) -> str:
    return (f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"
            + "\n\n".join([f"# {title}", *parts]) + "\n")


def _sections(datasets: Sequence[str], stats: dict, embed: str, repo: str | None, log: list[dict],
              writers: str = "") -> Iterator[str]:
    """What follows the head; `repo` is None for a dataset in a folder."""
    made = stats["made"]
    yield "## How it was made"
    yield _made(datasets, stats)
    if writers:
        yield writers
    yield "## What is in it"
    for name in datasets:
        if repo:
            yield f"### {DATASETS[name].TITLE}"
        yield from _numbers(stats["datasets"][name])
    yield "## Splits"
    yield caveats.leakage(made)
    yield "## Limitations"
    yield "\n".join(f"- {one}" for one in caveats.limitations(datasets, made))
    yield "## Rights and takedown"
    yield caveats.rights(made["source"], embed, repo)
    yield "## Changes"
    yield "\n".join(_change(one, repo) for one in log) or "No takedown so far."
    yield "## Load it"
    yield from _load(datasets, stats, embed, repo)


def _made(datasets: Sequence[str], stats: dict) -> str:
    made = stats["made"]
    who = made["captioners"]
    seen = "".join(f", of {kind}s by `{who[kind]}`" for kind in ("image", "video") if f"mu{kind}" in datasets)
    told = [f"Clips: {_SOURCES[made['source']]}.", f"Captions: of music by `{who['music']}`{seen}, with seed "
                                                   f"{made['seed']}."]
    if any("instructions" in stats["datasets"][name] for name in datasets):
        rests = f" (MusicQA's on {made['descriptions']})" if "musicqa" in datasets and made["descriptions"] else ""
        told.append(f"Conversations: by `{who['instruct']}` on the paper's prompts{rests}, checked; see `instructor`, "
                    "`prompt_version`, `instruction_seed`.")
    if "muedit" in datasets:
        pairs = ", ".join(f"{name} {value}" for name, value in (made["pairing"] or {}).items()) or "none"
        told.append(f"Pairs: {pairs}; edits of each clip: tempo {made['edits']['tempo']}, "
                    f"pitch {made['edits']['pitch']}.")
    thresholds = ", ".join(f"{name} {value:g}" for name, value in made["thresholds"].items())
    tagger, revision = made["tagger"] or ("", "")
    told.append(f"Kept: {thresholds}" + f", tagger {_titled(tagger)} at {revision}" * bool(tagger) + ".")
    used = {"fetch", "measure", "filter", "caption", "check", *(one for name in datasets
                                                                for one in DATASETS[name].STAGES)}
    told.append("Versions of the stages: "
                + ", ".join(f"{name} {tag}" for name, tag in made["stages"].items() if name in used) + ".")
    return "\n".join(f"- {one}" for one in told)


def _writers(out: str, datasets: Sequence[str]) -> str:
    """Who wrote the texts, as the rows say it."""
    counts: Counter = Counter()
    for dataset in datasets:
        names = [name for name in DATASETS[dataset].features() if name.endswith(("captioner", "instructor"))]
        for split in SPLITS:
            for url in Sources(out).shards(dataset, split):
                for batch in shards.batches(url, [one for name in names for one in (name, f"{name}_revision")]):
                    for name in names:
                        counts.update((dataset, name, *by) for by in zip(
                            batch[name].to_pylist(), batch[f"{name}_revision"].to_pylist(), strict=True))
    return _table(("config", "column", "by", "revision", "rows"),
                  [(dataset, f"`{name}`", f"`{by}`", f"`{revision}`", count)
                   for (dataset, name, by, revision), count in sorted(counts.items())])


def _numbers(numbers: dict) -> Iterator[str]:
    """Of one dataset: counts, losses, distributions, checks."""
    rows = ", ".join(f"{split} {numbers['splits'][split]}" for split in SPLITS)
    edits = (" Rows by kind of edit: " + ", ".join(f"{kind} {count}" for kind, count in numbers["edits"].items()) + "."
             if "edits" in numbers else "")
    yield (f"{numbers['requested']} rows were requested, {numbers['done']} are here ({rows}), "
           f"{sum(numbers['lost'].values())} were lost. They are of {numbers['clips']} clips: {numbers['hours']:.2f} "
           f"hours of music from {numbers['source_videos']} sources.{edits}")
    yield _table(("lost because", "rows", "meaning"),
                 [(reason, count, outcomes.REASONS[reason]) for reason, count in sorted(numbers["lost"].items())]
                 or [("none", 0, "")])
    said = numbers.get("instructions", {})
    spreads = {"duration, s": numbers["duration"], "tempo, BPM": numbers["tempo"],
               "loudness, LUFS": numbers["loudness"], "words of a caption": numbers["captions"]["words"],
               **{f"words of a {name}": said[side]["words"] for side, name in (("human", "request"), ("gpt", "reply"))
                  if side in said}}
    yield _table(("", "least", "5 %", "median", "95 %", "most"),
                 [(name, *(f"{spread[place]:g}" for place in ("min", "p5", "median", "p95", "max")))
                  for name, spread in spreads.items() if spread])
    if tempi := numbers["tempo_histogram"]:
        lows = [int(name.split()[1]) for name in tempi]
        bands = [f"{low}–{high}" for low, high in itertools.pairwise(lows)] + [f"{lows[-1]} and more"]
        yield _table(("BPM", *bands), [("clips", *tempi.values())])
    if keys := numbers["keys"]:
        yield _table(("key", *_PITCHES), [(mode, *(keys.get(f"{pitch} {mode}", 0) for pitch in _PITCHES))
                                          for mode in ("major", "minor")])
        yield f"Clips whose tempo or key is not sure enough to be said are not counted: of {numbers['clips']}, " \
              f"{sum(tempi.values())} have a tempo and {sum(keys.values())} a key."
    judged = ", ".join(f"{facet} {counts.get('contradicts', 0)} of {sum(counts.values())}"
                       for facet, counts in numbers["agreement"].items() if counts) or "nothing could be judged"
    yield (f"{numbers['captions']['distinct']} distinct captions of music. Of those that speak of it, so many "
           f"contradict what was measured: {judged}.")


def _change(one: dict, repo: str | None) -> str:
    kept = ("the history was squashed, so no revision holds them" if repo in one["squashed"]
            else "revisions from before may still hold them")
    rows = "1 row" if one["rows"] == 1 else f"{one['rows']} rows"
    return f"- {one['date']}: {rows} taken down, of {', '.join(one['datasets']) or 'no dataset'}; {kept}."


def _log(out: str) -> list[dict]:
    """What pipelines.takedown noted: {"date", "rows", "datasets", "squashed"} each."""
    with suppress(FileNotFoundError):
        return storage.read_json(storage.join(out, "takedown", "log.json"))
    return []


def _load(datasets: Sequence[str], stats: dict, embed: str, repo: str | None) -> Iterator[str]:
    media = {name: type(kind).__name__ for dataset in datasets[:1]
             for name, kind in features(dataset, embed).items() if hasattr(kind, "decode")}
    place = f'"{repo}", "{datasets[0]}"' if repo else '"DIRECTORY"'
    lines = [f"from datasets import {', '.join(sorted({*media.values(), 'load_dataset'}))}",
             f"rows = load_dataset({place})" + "  # or streaming=True, or another config" * bool(repo)]
    if media:
        lines += ["# Media as bytes; with torchcodec installed it can be decoded by `datasets`, and this be left out.",
                  *(f'rows = rows.cast_column("{name}", {kind}(decode=False))' for name, kind in media.items())]
    yield "\n".join(["```python", *lines, "```"])
    if embed == "none":
        yield "## Get the media"
        yield from _again(datasets, stats)


def _again(datasets: Sequence[str], stats: dict) -> Iterator[str]:
    """How to come by media that are not here."""
    made, names = stats["made"], ",".join(datasets)
    seed = f"SEED={made['seed']}"
    if made["source"] == "sample":
        clips = [numbers["requested"] for name, numbers in stats["datasets"].items() if name != "muedit"]
        limit = f" LIMIT={clips[0]}" if clips else ""
        yield ("The clips are made anew, and all that rests on them, by the project that made them:\n\n"
               f"```bash\nmake datasets DATASETS={names} {seed}{limit}\n```")
    elif made["source"] == "folder":
        yield "The clips are files of whoever made this dataset: `id` is a file's path below their folder, made safe."
    else:
        span = made["audioset"]["mucaps_span"]
        yield "Rows name the video (`source_id`) and, in `id`, the start in milliseconds. A list of the segments:"
        yield _AGAIN.replace("COLUMNS", '("id", "source_id", "target_source_id", "duration", "target_duration")')
        yield ("and the build of it, which fetches what its owners still show:\n\n```bash\n"
               f'make datasets SOURCE=audioset SEGMENTS=segments.csv DATASETS={names} {seed} \\\n'
               f'    ARGS="--assignment {made["assignment"]} --mucaps-span {span} --exclude none"\n```')


def _rows(files: Files) -> int:
    return sum(one["rows"] for some in files.values() for one in some)


def _titled(model: str) -> str:
    """Of a model in a directory that one's name: the rest is nobody's business (training.pinned)."""
    return model.rstrip("/").rpartition("/")[2] if model.startswith(("/", ".", "~")) else model


def _table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (head, ["---"] * len(head), *rows))


def _cell(value: object) -> str:
    """What it says, whatever that is, in one cell."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
