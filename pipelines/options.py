"""What a build can be asked for: the command line, checked once, here."""
import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

import apache_beam as beam

from captioners import arguments
from captioners.model import Spec
from manifests import outcomes, splits, storage, tags
from manifests.audioset import EXCLUDED
from manifests.official import official
from pairing import edits, match
from pipelines import audioset, download, engine, sample
from pipelines.engine import Engine, count
from pipelines.filter import Thresholds
from pipelines.sandbox import Limits

SOURCES = ("sample", "folder", "audioset")
_ASSIGNMENT = {"sample": "shared", "folder": "shared", "audioset": "disjoint"}
# What may end otherwise when it is asked again. The rest follows from measurements, and from thresholds.
_RETRIED = tuple(reason for reason in outcomes.PERMANENT
                 if reason not in ("duplicate", "silent", "too_quiet", "clipped", "speech", "not_music",
                                    "no_pair", "not_described", "unconfirmed", "contradicted", "taken_down"))
# What each dataset asks models for, besides captions of music.
_MODELS = {"muedit": ("instruct",), "muimage": ("image", "instruct"), "muvideo": ("video", "instruct"),
           "musicqa": ("instruct",)}
_FETCHERS, _MAX_DURATION = 4, 3600.0  # s
_YOUTUBE_RATE = 300.0  # videos an hour: about what a session may ask for before it is stopped, by yt-dlp's users


@dataclass(frozen=True)
class Options:
    source: str
    out: str
    media: str | None
    limit: int | None
    datasets: tuple[str, ...]
    workers: int
    models: Mapping[str, Spec]  # by kind, those that caption and instruct; what has none is told by what was measured
    seed: int
    assignment: str
    max_bytes: int
    audioset: audioset.Source | None
    limits: Limits
    retry: tuple[str, ...]
    tagger: tuple[str, str] | None  # name and revision
    thresholds: Thresholds
    pairing: match.Settings | None  # None: no pairs
    both_directions: bool
    tempo_edits: int
    pitch_edits: int
    descriptions: str | None
    drop_contradictions: bool
    runner: str
    flags: tuple[str, ...]  # the runner's own
    worker_timeout: float

    @property
    def where(self) -> Engine:
        return Engine(self.workers, self.runner, self.flags, self.worker_timeout)

    def processes(self, small: bool = False, least: int = 0, most: int = 0) -> int:
        return self.where.processes(small, least, most)

    def pipeline(self, processes: int = 0) -> beam.Pipeline:
        return self.where.pipeline(processes)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", choices=SOURCES, default="sample", help="where clips come from (default: sample)")
    parser.add_argument("--out", required=True, help="the build's folder, or an fsspec URL")
    parser.add_argument("--media", help="folder: the directory (or URL) of audio and video files")
    parser.add_argument("--limit", type=count, help="at most so many clips (sample: exactly; default there: 80)")
    parser.add_argument("--datasets", default=",".join(splits.SIZES),
                        help=f"comma-separated, of: {', '.join(splits.SIZES)} (default: all)")
    parser.add_argument("--captions", choices=("measured", "models"), default="measured",
                        help="who writes captions and instructions: what was measured, in words; or the models below "
                             "(default: measured, but for what a model is named for)")
    parser.add_argument("--seed", type=int, default=0, help="of the captions' wording and the sample corpus")
    parser.add_argument("--assignment", choices=splits.ASSIGNMENTS,
                        help="one evaluation fraction for all datasets, or each video in one dataset (default: "
                             + ", ".join(f"{source}: {name}" for source, name in _ASSIGNMENT.items()) + ")")
    parser.add_argument("--max-bytes", type=count, default=2**30, help="larger files are lost (default: 1 GiB)")
    parser.add_argument("--retry", action="append", default=[], metavar="REASON",
                        help="ask again for what was lost for this reason for good (may be given several times)")
    asked = parser.add_argument_group("source audioset")
    asked.add_argument("--segments", help="comma-separated segment lists (default: the official three)")
    asked.add_argument("--ontology", help="AudioSet's ontology.json (default: the official one)")
    asked.add_argument("--exclude", action="append", metavar="CLASS",
                       help="a class whose segments are left out, with all below it; none = leave nothing out (may be "
                            "given several times; default: speech and sounds that are no music)")
    asked.add_argument("--url", help=f"with {{id}} (default: {download.YOUTUBE})")
    asked.add_argument("--mucaps-span", choices=audioset.SPANS,
                       help="what of a video MUCaps takes: its whole sound track, or the labelled segment (default: "
                            f"{audioset.SPANS[0]})")
    asked.add_argument("--rate", type=float, help="videos an hour, over all fetchers; 0 = as fast as it goes (default: "
                                                  f"{_YOUTUBE_RATE:g} for YouTube, else 0)")
    asked.add_argument("--fetchers", type=count, help="how many videos are fetched at a time (default: 4)")
    asked.add_argument("--max-duration", type=float, help="s; longer tracks are lost as too_long (default: 3600)")
    asked.add_argument("--cookies", help="a cookies.txt for yt-dlp")
    asked.add_argument("--proxy", help="a proxy's URL for yt-dlp")
    asked.add_argument("--user-agent", help="for yt-dlp")
    asked.add_argument("--format", help="a format selector of yt-dlp's, in place of ours")
    editing = parser.add_argument_group("dataset muedit")
    defaults = match.Settings()
    editing.add_argument("--max-pairs-per-clip", type=_number, default=defaults.max_pairs_per_clip,
                         help=f"0 = no pairs (default: {defaults.max_pairs_per_clip})")
    editing.add_argument("--pair-threshold", type=float, default=defaults.threshold,
                         help=f"largest distance of a pair (pairing.match; default: {defaults.threshold:g})")
    editing.add_argument("--half-double", action="store_true", help="half and double tempo are the same tempo")
    editing.add_argument("--min-tempo-confidence", type=float, default=defaults.min_tempo_confidence,
                         help=f"of clips that may be paired (default: {defaults.min_tempo_confidence:g})")
    editing.add_argument("--both-directions", action="store_true", help="each pair makes two rows")
    editing.add_argument("--tempo-edits", type=_number, default=1,
                         help=f"of each clip, of {len(edits.TEMPI)} (default: 1)")
    editing.add_argument("--pitch-edits", type=_number, default=1,
                         help=f"of each clip, of {len(edits.SHIFTS)} (default: 1)")
    parser.add_argument("--descriptions", metavar="FILE",
                        help="musicqa: what others wrote about the clips: MusicCaps' CSV, MagnaTagATune's or "
                             "MTG-Jamendo's tags (default: our captions)")
    parser.add_argument("--drop-contradictions", action="store_true",
                        help="clips are lost whose captions contradict the measured tempo, key, mode or percussion")
    parser.add_argument("--tagger", help="an AST audio tagger (Hub id or directory) that tells what is music")
    for threshold in fields(Thresholds):
        parser.add_argument(f"--{threshold.name.replace('_', '-')}", type=float, default=threshold.default,
                            help=f"{threshold.metadata['help']} (default: {threshold.default:g})")
    arguments.add(parser)
    engine.add_arguments(parser)


def parse(parser: argparse.ArgumentParser, values: argparse.Namespace, rest: list[str]) -> Options:
    """Options, or the parser's error (exit 2) that says what to do."""
    datasets = tuple(dict.fromkeys(name.strip() for name in values.datasets.split(",") if name.strip()))
    if unknown := [name for name in datasets if name not in splits.SIZES]:
        parser.error(f"--datasets: unknown {', '.join(unknown)}; known: {', '.join(splits.SIZES)}")
    if not datasets:
        parser.error(f"--datasets: none given; known: {', '.join(splits.SIZES)}")
    for name in ("out", "media", "descriptions", "cookies"):
        if (given := getattr(values, name)) == "":
            parser.error(f"--{name}: empty")
        if given and given.startswith("~"):  # in quotes, as make gives it, no shell has seen to that
            setattr(values, name, os.path.expanduser(given))
    if (path := storage.local_path(values.out)) and os.path.exists(path) and not os.path.isdir(path):
        parser.error(f"--out: a file is in the way: {values.out}")
    if (values.source == "folder") != (values.media is not None):
        parser.error("--source folder needs --media DIR" if values.source == "folder"
                     else "--media goes with --source folder")
    if values.media is not None and not storage.names(values.media):
        parser.error(f"--media: not a directory, or nothing in it: {values.media}")
    if values.source == "sample":
        try:
            sample.ids(values.seed, values.limit)
        except ValueError as error:
            parser.error(str(error))
    if unknown := [reason for reason in values.retry if reason not in _RETRIED]:
        parser.error(f"--retry: not {', '.join(unknown)}, but one of: {', '.join(_RETRIED)}")
    if values.max_duration is not None and not 0 < values.max_duration < float("inf"):
        parser.error("--max-duration: must be more than 0")
    for name, most in (("tempo_edits", len(edits.TEMPI)), ("pitch_edits", len(edits.SHIFTS))):
        if getattr(values, name) > most:
            parser.error(f"--{name.replace('_', '-')}: at most {most}")
    if "muedit" in datasets and not (values.max_pairs_per_clip or values.tempo_edits or values.pitch_edits):
        parser.error("--datasets muedit: with no pairs and no edits there is nothing to make")
    if values.descriptions is not None:
        if "musicqa" not in datasets:
            parser.error("--descriptions goes with --datasets musicqa")
        try:
            tags.kind(values.descriptions)
        except (OSError, ValueError) as error:
            parser.error(f"--descriptions: {error}")
    where, limits = engine.parse(parser, values, rest)
    for threshold in fields(Thresholds):
        value, low, high = getattr(values, threshold.name), *threshold.metadata["range"]
        if not low <= value <= high:
            parser.error(f"--{threshold.name.replace('_', '-')}: must be from {low:g} to {high:g}, not {value:g}")
    tagger = None
    if values.tagger:
        from pairing import tagging
        try:
            tagger = (values.tagger, tagging.revision(values.tagger))
        except ValueError as error:
            parser.error(str(error))
    thresholds = Thresholds(**{threshold.name: getattr(values, threshold.name) for threshold in fields(Thresholds)})
    # Models last: fetching them takes long, and other mistakes should be told before.
    audio, pairs = _audioset(parser, values), _pairing(parser, values)
    return Options(
        source=values.source, out=storage.absolute(values.out), media=values.media and storage.absolute(values.media),
        limit=values.limit, datasets=datasets, workers=where.workers,
        models=_models(parser, values, datasets), seed=values.seed,
        assignment=values.assignment or _ASSIGNMENT[values.source], max_bytes=values.max_bytes,
        audioset=audio, limits=limits,
        retry=tuple(values.retry), tagger=tagger, thresholds=thresholds,
        pairing=pairs,
        both_directions=values.both_directions, tempo_edits=values.tempo_edits, pitch_edits=values.pitch_edits,
        descriptions=values.descriptions and storage.absolute(values.descriptions),
        drop_contradictions=values.drop_contradictions, runner=where.runner, flags=where.flags,
        worker_timeout=where.timeout)


def _models(parser: argparse.ArgumentParser, values: argparse.Namespace,
            datasets: tuple[str, ...]) -> dict[str, Spec]:
    """Of what is needed, fetched and pinned."""
    needed = {"music", *(kind for dataset, kinds in _MODELS.items() if dataset in datasets for kind in kinds)}
    wanted = needed if values.captions == "models" else needed & arguments.named(values)
    how = ("dtype", "quantize", "batch", "lavis")
    if not wanted and (idle := [name for name in how if getattr(values, name)] + ["windows"] * (values.windows > 1)):
        parser.error(f"--{', --'.join(idle)}: goes with --captions models, or with a model")
    try:
        return {kind: arguments.chosen(values, kind) for kind in sorted(wanted)}
    except (ImportError, OSError, ValueError) as error:
        parser.error(f"--captions: {error}")


def _pairing(parser: argparse.ArgumentParser, values: argparse.Namespace) -> match.Settings | None:
    if not values.max_pairs_per_clip:
        return None
    if not 0 < values.pair_threshold <= 100:
        parser.error(f"--pair-threshold: must be more than 0, and at most 100, not {values.pair_threshold:g}")
    if not 0 <= values.min_tempo_confidence <= 1:
        parser.error(f"--min-tempo-confidence: must be from 0 to 1, not {values.min_tempo_confidence:g}")
    return match.Settings(threshold=values.pair_threshold, max_pairs_per_clip=values.max_pairs_per_clip,
                          half_double=values.half_double, min_tempo_confidence=values.min_tempo_confidence)


def _audioset(parser: argparse.ArgumentParser, values: argparse.Namespace) -> audioset.Source | None:
    if values.source != "audioset":
        names = ("segments", "ontology", "exclude", "url", "mucaps_span", "rate", "fetchers", "max_duration", "cookies",
                 "proxy", "user_agent", "format")
        if given := [f"--{name.replace('_', '-')}" for name in names if getattr(values, name) is not None]:
            parser.error(f"{', '.join(given)}: goes with --source audioset")
        return None
    if (values.segments is None) != (values.ontology is None):
        parser.error("--segments and --ontology go together; without both, the official files are fetched")
    url = values.url if values.url is not None else download.YOUTUBE
    if not re.fullmatch(r"https?://[^/\s{}]+/\S*\{id\}\S*", url):
        parser.error(f"--url: an http(s) address with {{id}} behind the host, not {url}")
    if values.cookies and not os.path.isfile(values.cookies):
        parser.error(f"--cookies: no such file: {values.cookies}")
    rate = values.rate if values.rate is not None else _YOUTUBE_RATE if download.youtube(url) else 0.0
    if not 0 <= rate < float("inf"):
        parser.error(f"--rate: must be 0 or more, not {rate}")
    settings = download.Settings(
        url=url, cookies=values.cookies and os.path.abspath(values.cookies), proxy=values.proxy,
        user_agent=values.user_agent, format=values.format, max_bytes=values.max_bytes,
        max_duration=values.max_duration or _MAX_DURATION)
    if missing := download.preflight(settings):
        parser.error(missing)
    try:
        lists, ontology = ((values.segments.split(","), values.ontology) if values.segments else official())
    except (OSError, ValueError) as error:
        parser.error(str(error))
    exclude = EXCLUDED if values.exclude is None else [name for name in values.exclude if name != "none"]
    return audioset.Source(tuple(map(storage.absolute, lists)), storage.absolute(ontology), tuple(exclude),
                           values.mucaps_span or audioset.SPANS[0], settings, values.fetchers or _FETCHERS, rate)


def _number(text: str) -> int:
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return value
