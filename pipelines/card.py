"""The dataset's card: what `datasets` and the Hub read (YAML), and what a person does."""
import yaml

from manifests import outcomes, storage
from pipelines.write import DATASETS, Shard

_SOURCES = {"sample": "synthesised by the project itself; their tempo, key and instruments are known",
            "folder": "files of whoever made this build",
            "audioset": "videos of AudioSet's lists, or of lists in that form, fetched with yt-dlp"}


def card(out: str, dataset: str, planned: list[Shard], stats: dict) -> str:
    """README.md of a dataset. Shards are named one by one: a glob would mix in those of a build in flight."""
    maker, numbers, made = DATASETS[dataset], stats["datasets"][dataset], stats["made"]
    split_names = list(dict.fromkeys(shard.split for shard in planned))
    files = [{"split": split, "path": [f"{split}/{shard.name}" for shard in planned if shard.split == split]}
             for split in split_names]
    media = {name: type(kind).__name__ for name, kind in maker.features().items() if hasattr(kind, "decode")}
    casts = "\n".join(f'rows = rows.cast_column("{name}", {kind}(decode=False))' for name, kind in media.items())
    sizes = {split: sum(storage.size(shard.url(out)) for shard in planned if shard.split == split)
             for split in split_names}
    head = {"pretty_name": maker.TITLE, "language": ["en"], "tags": ["music", "audio", "m2ugen"],
            "task_categories": [maker.TASK],
            "configs": [{"config_name": dataset, "default": True, "data_files": files}],
            "dataset_info": {"config_name": dataset, "features": maker.features()._to_yaml_list(),
                             "splits": [{"name": split, "num_examples": numbers["splits"][split],
                                         "num_bytes": sizes[split]} for split in split_names],
                             "download_size": sum(sizes.values()), "dataset_size": sum(sizes.values())}}
    lost = "\n".join(f"| {reason} | {count} | {outcomes.REASONS[reason]} |"
                     for reason, count in sorted(numbers["lost"].items())) or "| none | 0 | |"
    edits = ("\nRows by kind of edit: " + ", ".join(f"{kind} {count}" for kind, count in numbers["edits"].items()) + "."
             if "edits" in numbers else "")
    rows = ", ".join(f"{split} {numbers['splits'][split]}" for split in split_names)
    rests = f", on {made['descriptions']}" if dataset == "musicqa" and made["descriptions"] else ""
    instructed = (f"\n- Conversations: by `{made['captioners']['instruct']}` on the paper's prompts{rests}, checked; "
                  "see `instructor`, `prompt_version`, `instruction_seed`." if "instructions" in numbers else "")
    seen = "".join(f", of {kind}s by `{made['captioners'][kind]}`" for kind in ("image", "video")
                   if dataset == f"mu{kind}")
    pairs = ", ".join(f"{name} {value}" for name, value in (made["pairing"] or {}).items()) or "none"
    paired = (f"\n- Pairs: {pairs}; edits of each clip: tempo {made['edits']['tempo']}, pitch {made['edits']['pitch']}."
              if dataset == "muedit" else "")
    used = {"fetch", "measure", "filter", "caption", "check", *maker.STAGES}
    judged = ", ".join(f"{facet} {counts.get('contradicts', 0)} of {sum(counts.values())}"
                       for facet, counts in numbers["agreement"].items() if counts) or "nothing could be judged"
    thresholds = ", ".join(f"{name} {value:g}" for name, value in made["thresholds"].items())
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---
# {maker.TITLE}

{maker.ABOUT}

## How it was made

- Clips: {_SOURCES.get(made['source'], made['source'])}.
- Captions: of music by `{made['captioners']['music']}`{seen}, with seed {made['seed']}.{instructed}{paired}
- Captions of music that contradict the measurements, of those that speak of it: {judged}.
- Kept: {thresholds}{f", tagger {made['tagger'][0]} at {made['tagger'][1]}" if made['tagger'] else ""}.
- Versions of the stages: {", ".join(f"{name} {tag}" for name, tag in made['stages'].items() if name in used)}.

## What is in it

{numbers['requested']} rows were requested, {numbers['done']} are here ({rows}), of {numbers['clips']} clips: \
{numbers['hours']:.2f} hours of music from {numbers['source_videos']} sources. A source belongs to one split in every
dataset (assignment: {made['assignment']}), and no recording is in both splits.{edits}

| lost because | rows | meaning |
|---|---|---|
{lost}

## Load it

```python
from datasets import {", ".join(sorted({*media.values(), "load_dataset"}))}
rows = load_dataset("DIRECTORY")
# Media as bytes; with torchcodec installed it can be decoded by `datasets`, and this be left out.
{casts}
```
"""
