"""python -m training train | check-reference | inspect | convert.

Exit codes: 0 done, or it agrees; 1 it does not agree, or training could not go on; 2 wrong arguments or input.
"""
import argparse
import logging
import os
import signal
import sys


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training", description="M²UGen and MU-LLaMA.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check-reference", allow_abbrev=False, help="compare with the outputs of a public implementation",
        description="Loads the weights in each file, computes what the file says they gave, and prints the largest "
                    "difference of each quantity. Exit codes: 0 all agree, 1 some do not, 2 a file is not of the "
                    "format.")
    check.add_argument("files", metavar="FILE.safetensors", nargs="+",
                       help="weights, inputs and outputs of M²UGen or MU-LLaMA, of any size")
    looking = commands.add_parser("inspect", allow_abbrev=False,
                                  help="what a checkpoint is, and whether it can hear; nothing in it is executed")
    looking.add_argument("source", metavar="CHECKPOINT", help="a file or folder, as published or of ours")
    converting = commands.add_parser("convert", allow_abbrev=False, help="a published checkpoint to ours, or back",
                                     description="A folder of ours becomes a published file (.pth, .safetensors); "
                                                 "anything else that is published becomes a folder of ours.")
    converting.add_argument("source", metavar="SOURCE")
    converting.add_argument("target", metavar="TARGET", help="is made; it must not be there")
    converting.add_argument("--llama", help="the LLaMA-2 below it, where SOURCE does not hold it (MU-LLaMA, ours); "
                                                  "where it does, it must be the same one")
    converting.add_argument("--base", metavar="ID@REVISION", help="leave the LLaMA out (encoders and decoder too), "
                                                                  "and name it so")
    commands.add_parser("train", add_help=False, help="one of the three stages, or what is left of it")
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["train"]:
        return _train(arguments[1:])
    values = parser.parse_args(arguments)
    if values.command == "check-reference":
        from training import check_reference  # imports torch and transformers: not for --help
        return check_reference.main(values.files)
    from training import checkpoint
    try:
        if values.command == "inspect":
            print(checkpoint.inspect(values.source))
        else:
            name, _, revision = (values.base or "").partition("@")
            if values.base and not (name and revision):
                converting.error(f"--base: like meta-llama/Llama-2-7b@REVISION, not {values.base}")
            print(checkpoint.convert(values.source, values.target, llama=values.llama,
                                     base={"id": name, "revision": revision} if values.base else None))
    except (OSError, ValueError) as error:
        print(f"python -m training {values.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _train(arguments: list[str]) -> int:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it tells what it lacks
    from training import settings, train
    from training.step import Stopped
    parser = argparse.ArgumentParser(prog="python -m training train", allow_abbrev=False,
                                     usage="python -m training train --stage 1 --out OUT [--option ...]",
                                     description="One of the three stages, or what is left of it.")
    settings.add_arguments(parser)
    chosen = settings.parse(parser, parser.parse_args(arguments))
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if "WORLD_SIZE" not in os.environ:  # of several, one that waits for the others would not hear it
        signal.signal(signal.SIGTERM, interrupt)  # what schedulers send
    try:
        train.train(chosen)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except Stopped as error:
        print(f"stage {chosen.stage.number} stopped: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"python -m training train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
