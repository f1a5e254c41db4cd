"""What a build can be asked for: the command line, checked once, here."""
import argparse
import os
import shlex
import sys
from dataclasses import dataclass, fields

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from manifests import splits, storage
from pipelines import sample
from pipelines.filter import Thresholds
from pipelines.write import DATASETS

SOURCES = ("sample", "folder")
_ASSIGNMENT = {"sample": "shared", "folder": "shared"}


@dataclass(frozen=True)
class Options:
    source: str
    out: str
    media: str | None
    limit: int | None
    datasets: tuple[str, ...]
    workers: int
    captions: str
    seed: int
    assignment: str
    max_bytes: int
    tagger: tuple[str, str] | None  # name and revision
    thresholds: Thresholds
    runner: str
    flags: tuple[str, ...]  # the runner's own

    def pipeline(self, small: bool = False) -> beam.Pipeline:
        """An empty pipeline on the chosen runner. `small`: done here before processes would have started."""
        if self.runner != "FnApiRunner":
            return beam.Pipeline(options=PipelineOptions([f"--runner={self.runner}", *self.flags]))
        # Named explicitly: DirectRunner would try to download Prism first. One worker is this process.
        command = f"exec {shlex.quote(sys.executable)} -m pipelines.worker"
        where = SubprocessSDKEnvironment.from_command_string(command) if self.workers > 1 and not small else None
        return beam.Pipeline(FnApiRunner(where),
                             PipelineOptions([f"--direct_num_workers={self.workers if where else 1}"]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", choices=SOURCES, default="sample", help="where clips come from (default: sample)")
    parser.add_argument("--out", required=True, help="the build's folder, or an fsspec URL")
    parser.add_argument("--media", help="folder: the directory (or URL) of audio and video files")
    parser.add_argument("--limit", type=_count, help="at most so many clips (sample: exactly; default there: 80)")
    parser.add_argument("--datasets", default="mucaps", help=f"comma-separated, of: {', '.join(DATASETS)}")
    parser.add_argument("--workers", type=_count, default=os.cpu_count(), help="processes (default: all cores)")
    parser.add_argument("--captions", choices=("measured",), default="measured", help="who writes captions")
    parser.add_argument("--seed", type=int, default=0, help="of the captions' wording and the sample corpus")
    parser.add_argument("--assignment", choices=splits.ASSIGNMENTS,
                        help="one evaluation fraction for all datasets, or each video in one dataset (default: "
                             + ", ".join(f"{source}: {name}" for source, name in _ASSIGNMENT.items()) + ")")
    parser.add_argument("--max-bytes", type=_count, default=2**31, help="larger files are lost (default: 2 GiB)")
    parser.add_argument("--tagger", help="an AST audio tagger (Hub id or directory) that tells what is music")
    for threshold in fields(Thresholds):
        parser.add_argument(f"--{threshold.name.replace('_', '-')}", type=float, default=threshold.default,
                            help=f"{threshold.metadata['help']} (default: {threshold.default:g})")
    parser.add_argument("--runner", default="FnApiRunner",
                        help="a Beam runner; flags that are not listed here are passed on to it")


def parse(parser: argparse.ArgumentParser, values: argparse.Namespace, rest: list[str]) -> Options:
    """Options, or the parser's error (exit 2) that says what to do."""
    datasets = tuple(dict.fromkeys(name.strip() for name in values.datasets.split(",") if name.strip()))
    if unknown := [name for name in datasets if name not in DATASETS]:
        parser.error(f"--datasets: unknown {', '.join(unknown)}; known: {', '.join(DATASETS)}")
    if not datasets:
        parser.error(f"--datasets: none given; known: {', '.join(DATASETS)}")
    for name in ("out", "media"):
        if getattr(values, name) == "":
            parser.error(f"--{name}: empty")
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
    if "dask" in values.runner.lower():
        parser.error("--runner: Beam's DaskRunner loses data silently; use FnApiRunner here, or Flink, Spark, Dataflow")
    if rest and values.runner == "FnApiRunner":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
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
    return Options(values.source, storage.absolute(values.out), values.media and storage.absolute(values.media),
                   values.limit, datasets, values.workers, values.captions, values.seed,
                   values.assignment or _ASSIGNMENT[values.source], values.max_bytes, tagger, thresholds,
                   values.runner, tuple(rest))


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value
