"""A stage's mixture, made ready once: every row of its datasets as a stored sample, and an account of all the others.

Rows are streamed, in an order that is the same for everyone; their media stay where they are. What cannot be used is in
`lost.jsonl`, a line a sample, and is counted by reason. `data.json`, written last, says that all is there and of what
it was made: as long as that is the same, nothing is made again.
"""
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from manifests import checked, splits, storage
from manifests.messages import shown
from training import examples, rows, samples
from training.examples import Samples
from training.features import Features, Missing, media_key, text_key
from training.rows import Part
from training.samples import Sample, Texts, Unusable
from training.sources import Sources
from training.stages import Stage
from training.tokenizer import Tokenizer

VERSION = 1  # of what is written here and of how `samples` writes rows; data of another one is prepared again
FILES = {splits.TRAIN: "train.arrow", splits.EVAL: "eval.arrow"}
LOST, DATA = "lost.jsonl", "data.json"
_SHOWN = 3  # names of lost samples in a summary


@dataclass(frozen=True)
class Prepared:
    """`about`, which is `data.json`: `counts` (dataset → split → samples), `shortened` (samples), `lost` (dataset →
    reason → count and first names), `notes` (what stands in for what, what is left out), `weights`, `digest` (of what
    it was made of) and `content` (of the samples themselves: a run goes on with the same ones alone).
    """
    folder: str
    train: Samples
    eval: Samples
    about: dict

    def told(self) -> str:
        """For the start of a run: on how many rows of what, what was lost, what stands in."""
        about = self.about
        lines = [f"stage {about['stage']}: {len(self.train):,} samples of {int(self.train.lengths.sum()):,} tokens; "
                 f"{len(self.eval):,} for validation"]
        for name in self.train.datasets:
            counts, weight = about["counts"][name], about["weights"][name]
            often = "" if weight == 1 else f", each {weight:g} times an epoch"
            lines.append(f"  {name}: {counts[splits.TRAIN]:,} (validation {counts[splits.EVAL]:,}){often}")
        if about["shortened"]:
            lines.append(f"  {about['shortened']:,} were shortened to {about['longest']} tokens")
        for name, reasons in about["lost"].items():
            told = ", ".join(
                f"{one['count']:,} {reason} ({', '.join(map(shown, one['first']))}{', ...' * (one['count'] > _SHOWN)})"
                for reason, one in reasons.items())
            lines.append(f"  lost of {name}: {told}; all are in {storage.join(self.folder, LOST)}")
        return "\n".join([*lines, *(f"  note: {note}" for note in about["notes"])])


def prepare(folder: str | Path, stage: Stage, sources: Sources, tokenizer: Tokenizer, longest: int,
            features: Mapping[str, Features]) -> Prepared:
    """Make a stage's samples of at most `longest` tokens ready in a local folder, or take those that are there.

    Of our datasets the splits are their own; of published ones 1 % is for evaluation, by a hash of the medium's file
    (of Alpaca of the instruction). Where `features` (by modality, and "text") were precomputed, each sample knows their
    rows. For one process; the others use `opened` afterwards.

    Raises ValueError or OSError, naming file and row, where nothing of the mixture is there or usable, for shards and
    published files that cannot be read, and where the features were computed before a row was there.
    """
    folder = str(folder)
    parts, notes = rows.parts(stage, sources)
    _covered(parts, stage, features)
    asked = {"version": VERSION, "stage": stage.number, "weights": dict(stage.data), "longest": longest}
    digest = _digest([asked, _tokens(tokenizer),
                      [[kind, features[kind].digest] for kind in sorted(features)],
                      [[part.name, part.dataset, rows.files(part)] for part in parts]])
    if found := _found(folder, digest):
        return found
    storage.remove(storage.join(folder, DATA))  # first: it must not speak for files of two times
    storage.sweep(folder)
    names = [name for name in stage.data if any(part.name == name for part in parts)]
    with storage.create(storage.join(folder, LOST)) as file, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)  # published files tell so which of their rows are empty
        making = _Making(stage.number, tokenizer, longest, features, file,
                         {name: dict.fromkeys(FILES, 0) for name in names})
        for split, name in FILES.items():
            examples.write(storage.join(folder, name), making.rows(parts, split))
    if not any(counts[splits.TRAIN] for counts in making.counts.values()):
        raise ValueError(f"stage {stage.number} has nothing to learn from: no row of {', '.join(names)} can be used; "
                         f"{storage.join(folder, LOST)} tells why")
    storage.write_json(storage.join(folder, DATA), {
        **asked, "digest": digest, "content": _content(folder), "datasets": names, "counts": making.counts,
        "shortened": making.shortened, "lost": making.lost, "notes": notes + [str(one.message) for one in warned],
        "bytes": {name: storage.size(storage.join(folder, name)) for name in FILES.values()}})
    return opened(folder)


def opened(folder: str | Path) -> Prepared:
    """What `prepare` made ready. Raises ValueError, naming the file, where it did not, or not wholly."""
    folder = str(folder)
    place = storage.join(folder, DATA)
    about = checked.read_json(place, "what was prepared to train on")
    try:
        if about["version"] != VERSION:
            raise ValueError(f"{place}: of version {about['version']}, not {VERSION}; remove it to have it made again")
        found = []
        for split, name in FILES.items():
            whole = storage.join(folder, name)
            found.append(Samples(whole, about["datasets"]))
            if (size := storage.size(whole)) != about["bytes"][name] or len(found[-1]) != sum(
                    counts[split] for counts in about["counts"].values()):
                raise ValueError(f"{whole}: {size} bytes and {len(found[-1])} samples, which is not what {DATA} says; "
                                 "remove it to have it made again")
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{place}: does not tell what was prepared; remove it to have it made again") from None
    return Prepared(folder, *found, about)


@dataclass
class _Making:
    """Rows on their way to the files, and what became of those so far."""
    stage: int
    tokenizer: Tokenizer
    longest: int
    features: Mapping[str, Features]
    file: BinaryIO  # for what is lost
    counts: dict[str, dict[str, int]]
    shortened: int = 0
    lost: dict[str, dict[str, dict]] = field(default_factory=dict)
    aside: dict[str, list[Texts]] = field(default_factory=dict)  # of published files, for evaluation

    def rows(self, parts: Iterable[Part], split: str) -> Iterator[dict]:
        """Of one split, as `examples.write` takes them; that for training goes first."""
        place = {name: number for number, name in enumerate(self.counts)}
        for part in parts:
            for texts in rows.texts(part, split, self.stage, partial(self.lose, part.name), self.aside):
                try:
                    sample = samples.sample(texts, self.tokenizer, self.longest)
                    places = self.places(sample)
                except Unusable as error:
                    self.lose(part.name, error)
                    continue
                self.counts[part.name][split] += 1
                self.shortened += sample.shortened > 0
                yield examples.row(sample, place[part.name], places)

    def places(self, sample: Sample) -> dict[str, int]:
        """In which row the features of each modality are, and under "text" those of the music's caption."""
        keys = {modality: media_key(medium) for modality, medium in sample.hears.items()}
        if sample.music is not None:
            keys["text"] = text_key(sample.music)
        found = {}
        for kind in [kind for kind in keys if kind in self.features]:
            try:
                found[kind] = self.features[kind].place(keys[kind])
            except Missing as missing:
                if missing.reason == "not_encoded":
                    raise ValueError(f"{sample.dataset} {shown(sample.id)}: its {kind} is not among the precomputed "
                                     "features; run `make features` again, with the same COCO and MUSICQA, or train "
                                     "without them (remove OUT/features)") from None
                raise Unusable(sample.dataset, sample.id, missing.reason,
                               f"its {kind} could not be encoded: {missing.detail}") from None
        return found

    def lose(self, name: str, error: Unusable) -> None:
        told = {"dataset": error.dataset, "id": error.id, "reason": error.reason, "detail": error.detail}
        self.file.write(json.dumps(told).encode() + b"\n")
        one = self.lost.setdefault(name, {}).setdefault(error.reason, {"count": 0, "first": []})
        one["count"] += 1
        if len(one["first"]) < _SHOWN:
            one["first"].append(error.id)


def _covered(parts: Iterable[Part], stage: Stage, features: Mapping[str, Features]) -> None:
    """Raises ValueError for a shard whose media was not encoded, or was other media then: names of rows do not tell."""
    for part in parts:
        for kind in samples.kinds(stage.number, part.name) & set(features) - {"text"}:
            covers = features[kind].covers
            for split, url in ((split, url) for split, urls in part.shards.items() for url in urls):
                name = url.rpartition("/")[2]
                if covers is not None and covers.get(f"{part.dataset}/{split}/{name}") != storage.size(url):
                    raise ValueError(f"{url}: was not there, or another one, when features of {kind} were made; run "
                                     "`make features` again, or train without them (remove OUT/features)")


def _tokens(tokenizer: Tokenizer) -> str:
    """What a tokenizer makes of texts, as a hash: what each id reads, and a text in pieces."""
    ids = range(tokenizer.audio_ids.start)
    return _digest([tokenizer.size, tokenizer.bos, tokenizer.eos, [tokenizer.text([one]) for one in ids],
                    tokenizer.encode(samples.BEFORE + samples.AFTER)])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _content(folder: str) -> str:
    found = hashlib.sha256()
    for name in FILES.values():
        with open(storage.join(folder, name), "rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def _found(folder: str, digest: str) -> Prepared | None:
    """What is there, if it is of the same."""
    try:
        found = opened(folder)
    except (OSError, ValueError):
        return None
    return found if found.about.get("digest") == digest else None
