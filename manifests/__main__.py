"""python -m manifests segments: the music in AudioSet's lists. Exit codes: 0 done, 2 wrong arguments or input."""
import argparse
import os
import sys

from manifests import audioset
from manifests.official import official


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m manifests", description="What the project's data is made from.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser(
        "segments", allow_abbrev=False, help="segments of AudioSet's lists that hold music",
        description="Prints a row for each segment of music: id, start and end in seconds, labels (their names, joined "
                    "by |), parted by tabs. How many there are goes to standard error.")
    listing.add_argument("--segments", metavar="CSV[,CSV]", help="segment lists, paths or URLs (default: AudioSet's "
                                                                 "three, downloaded once)")
    listing.add_argument("--ontology", metavar="JSON", help="goes with --segments (default: AudioSet's)")
    listing.add_argument("--exclude", metavar="CLASS", action="append",
                         help="leave out segments with this class or one below it: a name, an id, or several, such as "
                              "'Speech, Crying, sobbing, /m/0jbk'; may be given several times; none = leave nothing "
                              f"out (default: {', '.join(audioset.EXCLUDED.values())})")
    values = parser.parse_args(arguments)
    if (values.segments is None) != (values.ontology is None):
        listing.error("--segments and --ontology go together; without both, AudioSet's own are downloaded")
    try:
        count = _print(values)
    except BrokenPipeError:  # `segments ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError) as error:
        print(f"python -m manifests: {error}", file=sys.stderr)
        return 2
    print(f"{count} segments of music", file=sys.stderr)
    return 0


def _print(values: argparse.Namespace) -> int:
    given = values.segments is not None
    lists, ontology = (values.segments.split(","), values.ontology) if given else official()
    exclude = audioset.EXCLUDED if values.exclude is None else [name for name in values.exclude if name != "none"]
    sys.stdout.reconfigure(encoding="utf-8")
    count = 0
    try:
        for one in audioset.segments(lists, ontology, exclude):
            count += 1
            sys.stdout.write(f"{one.id}\t{one.start:.3f}\t{one.end:.3f}\t{'|'.join(one.labels)}\n")
    finally:
        sys.stdout.flush()  # here, where a closed pipe is expected
    return count


if __name__ == "__main__":
    sys.exit(main())
