"""What a build says at its end, and whenever it is asked: numbers, a table, the ledger."""
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import numpy as np
import psutil

from captioners import measured, template
from captioners.model import MODULES, Spec
from captioners.vocabulary import HEDGED
from manifests import outcomes, shards, splits, storage
from manifests.outcomes import DONE
from pipelines.columns import AGREEMENT
from pipelines.lines import Line
from pipelines.marks import Entry
from pipelines.work import Work

_COLUMNS = ["id", "outcome", "duration", "tempo", "tempo_confidence", "key", "mode", "key_confidence",
            "loudness"]
_STALE = 30.0  # s without a sign of life: the run is dead
TEMPO_BINS = (0, 60, 76, 108, 120, 156, 176)  # BPM, lower edges: the usual bands of tempo words


def statistics(lines: Mapping[str, list[Line]], work: Work) -> dict:
    """What does not depend on time or machine: counts, hours, distributions, and what it was made with."""
    options = work.options
    return {
        "datasets": numbers(lines, work.index, work.split, {key: row["source_id"]
                                                            for key, row in work.segments.items()}),
        "made": {"source": options.source, "assignment": options.assignment, "seed": options.seed,
                 "captioners": {kind: _who(options.models.get(kind), kind) for kind in MODULES},
                 "audioset": options.audioset and {
                     "mucaps_span": options.audioset.mucaps_span, "exclude": list(options.audioset.exclude)},
                 "thresholds": asdict(options.thresholds), "tagger": options.tagger,
                 "pairing": options.pairing and asdict(options.pairing) | {"both_directions": options.both_directions},
                 "edits": {"tempo": options.tempo_edits, "pitch": options.pitch_edits},
                 "descriptions": options.descriptions and options.descriptions.rpartition("/")[2],
                 "stages": {name: stage.tag for name, stage in work.stages.items()}},
    }


def numbers(lines: Mapping[str, list[Line]], index: Mapping[str, Mapping[str, Entry]], split: Mapping[str, str],
            source: Mapping[str, str]) -> dict[str, dict]:
    """Of each dataset. `split` and `source` have those of each clip; of a done line's parts the checks are needed."""
    done = {dataset: [line for line in found if line.outcome == DONE] for dataset, found in lines.items()}
    used = {key for found in done.values() for line in found for key in (line.clip, line.target) if key}
    measured = _rows(index["measure"], used, _COLUMNS)
    captions = _rows(index["caption"], used, ["id", "outcome", "caption"])
    checks = {stage: _rows(index[stage], set(index[stage]), ["id", "outcome", *AGREEMENT])
              for stage in ("check", "edit-check") if stage in index}
    return {dataset: counted(found, split) | _dataset(done[dataset], source, measured, captions, checks)
            | _instructed(done[dataset], index.get(f"instruct-{dataset}", {})) for dataset, found in lines.items()}


def counted(lines: list[Line], split: Mapping[str, str]) -> dict:
    """requested = done + lost; and the done rows of each split."""
    kept = [line for line in lines if line.outcome == DONE]
    return {
        "requested": len(lines), "done": len(kept),
        "lost": dict(sorted(Counter(line.outcome for line in lines if line.outcome != DONE).items())),
        "splits": {name: sum(split[line.clip] == name for line in kept) for name in (splits.TRAIN, splits.EVAL)}}


def _who(spec: Spec | None, kind: str) -> str:
    """What writes texts of a kind, as a card tells it."""
    if spec is not None:
        return f"{spec.name}@{spec.revision}"
    return template.NAME if kind == "instruct" else measured.NAME


def _dataset(kept: list[Line], source: Mapping[str, str], measured: Mapping[str, dict],
             captions: Mapping[str, dict], checks: Mapping[str, Mapping[str, dict]]) -> dict:
    keys = sorted({key for line in kept for key in (line.clip, line.target) if key})
    judged = {line.parts[name] for line in kept for name in ("check", "target_check") if name in line.parts}
    clips = [measured[key] for key in keys]
    texts = [captions[key]["caption"] for key in keys]
    tempi = [clip["tempo"] for clip in clips if clip["tempo"] is not None and clip["tempo_confidence"] >= HEDGED]
    return {
        "clips": len(keys), "source_videos": len({source[key] for key in keys}),
        "hours": round(sum(clip["duration"] for clip in clips) / 3600, 4),  # of clips, however many rows hold them
        "duration": _spread([clip["duration"] for clip in clips]),
        # What the captions do not dare to say is not counted either.
        "tempo": _spread(tempi), "tempo_histogram": _histogram(tempi),
        "loudness": _spread([clip["loudness"] for clip in clips]),
        "keys": dict(sorted(Counter(f"{clip['key']} {clip['mode']}" for clip in clips
                                    if clip["key"] and clip["key_confidence"] >= HEDGED).items())),
        "captions": _texts(texts),
        "agreement": {facet: dict(sorted(Counter(checks[stage][key][facet] for stage, key in judged
                                                 if checks[stage][key][facet]).items())) for facet in AGREEMENT},
    }


def _instructed(kept: list[Line], entries: Mapping[str, Entry]) -> dict:
    """Of conversations, and of edits: what kinds there are."""
    if not entries:
        return {}
    said: dict[str, list[str]] = {"human": [], "gpt": []}
    for row in _rows(entries, {line.id for line in kept}, ["id", "outcome", "conversation"]).values():
        for turn in row["conversation"]:
            said[turn["from"]].append(turn["value"])
    edits = Counter(line.given["edit"] for line in kept if "edit" in line.given)
    return {"instructions": {side: _texts(found) for side, found in said.items()},
            **({"edits": dict(sorted(edits.items()))} if edits else {})}


def _rows(index: Mapping[str, Entry], wanted: set[str], columns: list[str]) -> dict[str, dict]:
    urls = sorted({index[key].url for key in wanted if key in index})
    return {row["id"]: row for url in urls for row in shards.read(url, columns)
            if row["id"] in wanted and index[row["id"]].url == url and row["outcome"] == DONE}


def _texts(texts: list[str]) -> dict:
    return {"distinct": len(set(texts)), "words": _spread([len(text.split()) for text in texts])}


def _spread(values: list[float]) -> dict | None:
    if not values:
        return None
    low, middle, high = np.percentile(values, [5, 50, 95])
    return {"min": round(min(values), 2), "p5": round(float(low), 2), "median": round(float(middle), 2),
            "p95": round(float(high), 2), "max": round(max(values), 2)}


def _histogram(tempi: list[float]) -> dict[str, int]:
    counts, _ = np.histogram(tempi, [*TEMPO_BINS, np.inf])
    return {f"from {edge:03d} BPM": int(count) for edge, count in zip(TEMPO_BINS, counts, strict=True)}


def table(stats: dict, run: dict | None) -> str:
    """The result as a person reads it."""
    lines = []
    for dataset, numbers in stats["datasets"].items():
        share = f"{numbers['done'] / numbers['requested']:.0%}" if numbers["requested"] else "0%"
        lines += [f"{dataset}: {numbers['requested']} requested, {numbers['done']} done ({share}), "
                  f"{numbers['hours']:.2f} hours of music; "
                  + ", ".join(f"{split} {numbers['splits'][split]}" for split in (splits.TRAIN, splits.EVAL))
                  + (f" ({', '.join(f'{kind} {count}' for kind, count in numbers['edits'].items())})"
                     if "edits" in numbers else "")]
        lines += [f"  lost {count:>6}  {reason:<14} {outcomes.REASONS[reason]}"
                  + (" (asked again next time)" if reason in outcomes.TRANSIENT else "")
                  for reason, count in sorted(numbers["lost"].items(), key=lambda item: -item[1])]
    return "\n".join([*lines, *(timings(run) if run else [])])


def timings(run: dict) -> list[str]:
    """A line a stage: clips, the workers' seconds and CPU seconds added up, clips/s of one worker."""
    if run["state"] == "done" and not any(stage["clips"] for stage in run["stages"].values()):
        return ["nothing was left to do"]
    lines = [f"{'stage':<18}{'clips':>8}{'worker s':>10}{'CPU s':>9}{'clips/s per worker':>20}"]
    for name in run["order"]:
        stage = run["stages"][name]
        rate = f"{stage['clips'] / stage['seconds']:.1f}" if stage["seconds"] else "-"
        clips = str(stage["clips"])
        if run["state"] == "running" and "expected" in stage:
            clips += f"/{stage['expected']}"
        lines.append(f"{name:<18}{clips:>8}{stage['seconds']:>10.1f}{stage['cpu_seconds']:>9.1f}{rate:>20}")
    return [*lines, f"{run['seconds']:.1f} s in all, workers: {run['workers']}"]


def status(out: str) -> str:
    """Of a run in flight or ended, from its files alone."""
    if not storage.exists(storage.join(out, "run.json")):
        raise FileNotFoundError(f"{out}: no build here (there is no run.json); `make datasets OUT={out}` starts one")
    run = storage.read_json(storage.join(out, "run.json"))
    silent = time.time() - run["updated"]
    if run["state"] == "running":
        state = (f"running, {run['seconds']:.0f} s so far" if silent < _STALE and not _gone(run) else
                 f"stopped without an end, last seen {silent:.0f} s ago; run it again to go on")
    else:
        state = run["state"] + (f": {run['error']}" if "error" in run else "")
    head = [f"{out}: {state}"]
    if run["state"] == "done" and storage.exists(storage.join(out, "stats.json")):
        return "\n".join([*head, table(storage.read_json(storage.join(out, "stats.json")), run)])
    return "\n".join([*head, *timings(run)])


def _gone(run: dict) -> bool:
    """Whether the process is known to be gone: on this machine it can be asked for."""
    return run["machine"]["name"] == platform.node() and not psutil.pid_exists(run["machine"]["pid"])


def ledger(out: str) -> Iterator[dict]:
    """Every requested clip of every dataset: dataset, id, source_id, split, outcome, detail."""
    folder = storage.join(out, "ledger")
    found = [name for name in storage.names(folder) if name.endswith(".arrow")
             and not name.startswith(storage.TEMPORARY)]
    if not found:
        raise FileNotFoundError(f"{out}: no ledger here; a build writes it at its end")
    for name in found:
        yield from shards.read(storage.join(folder, name))


def print_ledger(out: str, as_json: bool) -> None:
    """As JSON, one object a line, every clip; for a person, why each lost one was lost."""
    lost = 0
    for row in ledger(out):
        lost += row["outcome"] != DONE
        if as_json:
            print(json.dumps(row, ensure_ascii=False))
        elif row["outcome"] != DONE:
            print("\t".join(row[name] for name in ("dataset", "id", "outcome", "detail", "uri")))
    if not lost:
        print("nothing was lost", file=sys.stderr)
