"""python -m pipelines build | features | status | ledger | report | diff | version | publish | publish-model |
takedown.

Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 nothing usable came out; of diff 0 the same, 1 different, 2 failed.
"""
import argparse
import logging
import os
import sys


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description="Datasets of music, captions and edits.")
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="make datasets, or go on where a killed run ended",
                                   allow_abbrev=False, usage="python -m pipelines build --out OUT [--option ...]; "
                                                             "--help lists all")
    encoding = commands.add_parser("features", help="what the frozen models say of a build's media, for the trainer",
                                   allow_abbrev=False, usage="python -m pipelines features --out OUT [--option ...]; "
                                                             "--help lists all")
    commands.add_parser("status", help="of a build in flight or ended").add_argument("out")
    telling = commands.add_parser("ledger", help="why each lost clip was lost")
    telling.add_argument("out")
    telling.add_argument("--json", action="store_true", help="every clip, one object a line")
    showing = commands.add_parser("report", help="a build as one HTML page: numbers, plots, rows to see and to hear")
    showing.add_argument("--out", required=True, help="the build's folder or URL")
    showing.add_argument("--rows", type=int, help="of each dataset, at most (default: 24)")
    showing.add_argument("--to", metavar="FILE", help="where to write it (default: OUT/report.html)")

    comparing = commands.add_parser("diff", help="rows added, removed and changed from one build to another; exits 0 "
                                                 "where there are none, 1 where there are, 2 on errors")
    comparing.add_argument("a", metavar="A", help="a build's folder or URL")
    comparing.add_argument("b", metavar="B", help="another one's")
    comparing.add_argument("--json", action="store_true", help="every row, one object a line")
    commands.add_parser("version", help="of a build and of its datasets: hashes of all rows").add_argument("out")
    publishing = commands.add_parser("publish", help="a build's datasets, to the Hugging Face Hub")
    publishing.add_argument("--out", required=True, help="the build's folder or URL")
    publishing.add_argument("--datasets", help="comma-separated; default: all that the build made")
    publishing.add_argument("--embed", choices=("none", "media"), default="none",
                            help="none: ids, times and texts (default); media: audio, pictures and films too")
    model = commands.add_parser("publish-model", help="a trained model, to the Hugging Face Hub")
    model.add_argument("--run", required=True, help="the model's folder, or the run that holds it")
    for sending in (publishing, model):
        sending.add_argument("--repo", required=True, help="org/name")
        sending.add_argument("--private", action="store_true", help="for those only who may see it")
        sending.add_argument("--dry-run", action="store_true", help="list what would be sent; no token, no network")
        sending.add_argument("--message", help="of the commit")
    removing = commands.add_parser("takedown", help="have source videos leave a build for good, and the Hub after it",
                                   allow_abbrev=False)
    removing.add_argument("--out", required=True, help="the build's folder or URL")
    removing.add_argument("--ids", required=True, metavar="FILE", help="a source video's id a line; # begins a comment")
    removing.add_argument("--repo", help="org/name, where the build is published: one commit takes them down there too")
    removing.add_argument("--squash", action="store_true", help="and its history becomes one commit")

    # Beam speaks of optional clients that nobody here uses, and logs what it raises as well.
    logging.disable(logging.WARNING)
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    given = sys.argv[1:] if arguments is None else arguments
    if "build" in given[:1]:  # the imports of these two take seconds that the others need not wait
        from pipelines import options
        options.add_arguments(building)
        return _build(options.parse(building, *parser.parse_known_args(given)))
    if "features" in given[:1]:
        from pipelines import features
        features.add_arguments(encoding)
        return _features(features.parse(encoding, *parser.parse_known_args(given)))
    values, rest = parser.parse_known_args(given)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    from pipelines import report
    try:
        if values.command == "status":
            print(report.status(values.out))
        elif values.command == "report":
            if values.rows is not None and values.rows < 0:
                parser.error(f"--rows: must be at least 0, not {values.rows}")
            return _report(values.out, values.rows, values.to)
        elif values.command == "diff":
            return _diff(values.a, values.b, values.json)
        elif values.command == "version":
            return _version(values.out)
        elif values.command in ("publish", "publish-model"):
            return _publish(values)
        elif values.command == "takedown":
            if values.squash and not values.repo:
                parser.error("--squash goes with --repo (REPO=)")
            if not values.ids:
                parser.error("--ids: which file? A source video's id a line (IDS=)")
            return _takedown(values)
        else:
            report.print_ledger(values.out, values.json)
    except FileNotFoundError as error:
        parser.error(str(error))
    except BrokenPipeError:  # `ledger OUT | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(values.command == "diff")  # there was something to tell
    return 0


def _failed(what: str, error: Exception, folder: str) -> int:
    # A worker's error comes with the traces of three processes; its last line is the one that says what happened.
    print(f"{what} failed: {(str(error).strip() or type(error).__name__).splitlines()[-1]}\n"
          "What was done is kept; when the cause is mended, the same command goes on from there. The whole error "
          f"is in {folder}/run.json, if that could be written.", file=sys.stderr)
    return 1


def _features(options) -> int:
    from manifests import storage
    from pipelines import features
    folder = storage.join(options.out, "features")
    try:
        told = features.run(options)
    except (RuntimeError, OSError, ValueError) as error:
        return _failed("encoding", error, folder)
    print(features.table(told, storage.read_json(storage.join(folder, "run.json"))))
    print(f"features: {folder}")
    if not any(one.wanted > one.lost.total() for one in told.values()):
        print("nothing usable came out", file=sys.stderr)
        return 3
    return 0


def _diff(a: str, b: str, as_json: bool) -> int:
    from pipelines import diff
    try:
        return diff.tell(a, b, as_json)
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


def _version(out: str) -> int:
    from pipelines import version
    try:
        found = version.versions(out)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join([version.together(found), *(f"  {name} {one}" for name, one in found.items())]))
    return 0


def _publish(values) -> int:
    from pipelines import publish
    try:
        if values.command == "publish":
            names = values.datasets and [name.strip() for name in values.datasets.split(",")]
            publish.publish(values.out, values.repo, names, values.embed, values.private, values.dry_run,
                            values.message)
        else:
            publish.publish_model(values.run, values.repo, values.private, values.dry_run, values.message)
    except BrokenPipeError:
        raise
    except (RuntimeError, OSError, ValueError) as error:
        print(f"not published: {error}", file=sys.stderr)
        return 1
    return 0


def _takedown(values) -> int:
    from pipelines import takedown
    try:
        ids = takedown.read(values.ids)
    except (OSError, ValueError) as error:
        print(f"nothing was taken down: {error}", file=sys.stderr)
        return 1
    try:
        print(takedown.told(takedown.takedown(values.out, ids), values.out), flush=True)
        if values.repo:
            takedown.follow(values.out, ids, values.repo, values.squash)
    except BrokenPipeError:
        raise
    except takedown.NoBuild as error:
        print(f"nothing was taken down: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, OSError, ValueError) as error:
        print(f"the takedown is not finished: {error}\nWhat was done is kept; the same command goes on from there.",
              file=sys.stderr)
        return 1
    return 0


def _report(out: str, rows: int | None, to: str | None) -> int:
    from pipelines import page
    try:
        made = page.report(out, page.ROWS if rows is None else rows, to)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        print(f"no report: {error}", file=sys.stderr)
        return 1
    for lost in made.unplayable:
        print(f"not shown: {lost}", file=sys.stderr)
    print(f"{made.url}: {made.bytes / 1e6:.1f} MB, of "
          + ", ".join(f"{dataset} {count} rows" for dataset, count in made.rows.items()))
    return 0


def _build(options) -> int:
    from manifests import storage
    from pipelines import build, report
    from pipelines.breaker import OPENS, Breaker
    try:
        stats = build.build(options)
    except (RuntimeError, OSError, ValueError) as error:
        return _failed("the build", error, options.out)
    print(report.table(stats, storage.read_json(storage.join(options.out, "run.json"))))
    print(f"datasets, ledger, stats.json: {options.out}")
    if any(numbers["lost"].keys() & {*OPENS, "not_asked"} for numbers in stats["datasets"].values()):
        print(Breaker(options.out).told() or "fetching had stopped; the same command goes on", file=sys.stderr)
        return 1
    if not any(numbers["done"] for numbers in stats["datasets"].values()):
        print(f"nothing usable came out: `python -m pipelines ledger {options.out}` says why", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
