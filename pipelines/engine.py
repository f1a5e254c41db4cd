"""Where a command's work is done, by processes here or by another Beam runner; and what a file may cost to decode."""
import argparse
import math
import os
import shlex
import sys
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from pipelines.sandbox import Limits

_LOCAL = "FnApiRunner"


@dataclass(frozen=True)
class Engine:
    workers: int
    runner: str
    flags: tuple[str, ...]  # the runner's own
    timeout: float          # s until another runner's workers must have answered

    @property
    def local(self) -> bool:
        return self.runner == _LOCAL

    def processes(self, small: bool = False, least: int = 0, most: int = 0) -> int:
        """How many to work with here; 1 is this one. `small`: what is done before others would have started.

        `least`: so many at least, for work that waits more than it computes; `most`: and at most, for work that needs
        what there are so many of.
        """
        return 1 if small else min(max(self.workers, least), most or math.inf)

    def pipeline(self, processes: int = 0) -> beam.Pipeline:
        """An empty pipeline on the chosen runner; here, with so many processes (0: `workers`)."""
        if not self.local:
            return beam.Pipeline(options=PipelineOptions([f"--runner={self.runner}", *self.flags]))
        # Named explicitly: DirectRunner would try to download Prism first.
        processes = processes or self.workers
        command = f"exec {shlex.quote(sys.executable)} -m pipelines.worker"
        where = SubprocessSDKEnvironment.from_command_string(command) if processes > 1 else None
        return beam.Pipeline(FnApiRunner(where), PipelineOptions([f"--direct_num_workers={processes}"]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=count, default=os.cpu_count(), help="processes (default: all cores)")
    parser.add_argument("--max-file-seconds", type=float, default=Limits.seconds,
                        help=f"to fetch or decode one file (default: {Limits.seconds:g})")
    parser.add_argument("--max-file-memory", type=count, default=Limits.memory,
                        help=f"bytes, to decode one file (default: {Limits.memory})")
    parser.add_argument("--runner", default=_LOCAL,
                        help="a Beam runner; flags that are not listed here are passed on to it")
    parser.add_argument("--worker-timeout", type=float, default=900.0,
                        help="seconds until a worker of another runner must have answered, and loaded each model once "
                             "(default: 900)")


def parse(parser: argparse.ArgumentParser, values: argparse.Namespace, rest: list[str]) -> tuple[Engine, Limits]:
    """What was asked for, or the parser's error (exit 2) that says what to do. `rest`: what it does not know."""
    for name in ("max_file_seconds", "worker_timeout"):
        if not 0 < getattr(values, name) < math.inf:
            parser.error(f"--{name.replace('_', '-')}: must be more than 0")
    if "dask" in values.runner.lower():
        parser.error("--runner: Beam's DaskRunner loses data silently; use FnApiRunner here, or Flink, Spark, Dataflow")
    if rest and values.runner == _LOCAL:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return (Engine(values.workers, values.runner, tuple(rest), values.worker_timeout),
            Limits(values.max_file_seconds, values.max_file_memory))


def count(text: str) -> int:
    """An option's number of things."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value
