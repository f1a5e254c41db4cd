"""python -m captioners music | image | video | instruct FILE... : captions, by models, without a build.

Exit codes: 0 done, 1 something could not be captioned (standard error says what), 2 wrong arguments or no model.
"""
import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from captioners import arguments, batches, instructions, model
from captioners.model import Spec
from manifests.messages import one_line
from manifests.outcomes import Loss

_ABOUT = {"music": "Caption audio files, or the sound of videos.", "image": "Caption pictures.",
          "video": "Caption videos by their pictures.",
          "instruct": "Write conversations: each line of FILE is a JSON object with `dataset` (muedit, muimage, "
                      "muvideo, musicqa) and the captions that it needs: source and target, edit (pair, tempo, pitch) "
                      "and amount; music and image; music and video; music, or tags."}


def main(arguments_given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m captioners", description="Captions and instructions by models.")
    commands = parser.add_subparsers(dest="kind", required=True)
    for kind, about in _ABOUT.items():
        command = commands.add_parser(kind, help=about.partition(":")[0], description=about, allow_abbrev=False)
        command.add_argument("files", metavar="FILE", nargs="+")
        command.add_argument("--seed", type=int, default=0, help="of what is sampled, with each file's content")
        command.add_argument("--json", action="store_true", help="one object a line, with what wrote it")
        arguments.add(command, kind)
    values = parser.parse_args(arguments_given)
    if not any(map(os.path.exists, values.files)):  # before a model of gigabytes is loaded
        print(f"python -m captioners {values.kind}: no such file: {', '.join(values.files)}", file=sys.stderr)
        return 2
    try:
        spec = arguments.chosen(values, values.kind)
        with model.asking(spec):
            pass  # it is there
    except KeyboardInterrupt:
        return 130
    except (ImportError, OSError, ValueError) as error:
        print(f"python -m captioners {values.kind}: {error}", file=sys.stderr)
        return 2
    lost = 0
    answers = _written(values.files, spec, values.seed) if values.kind == "instruct" else _captioned(
        values.files, spec, values.seed)
    try:
        for where, found in answers:
            if isinstance(found, Exception):
                lost += 1
                told = f"{found.reason}: {found.detail}" if isinstance(found, Loss) else one_line(found)
                print(f"{_printable(where)}: {told}", file=sys.stderr, flush=True)
            elif values.json or "caption" not in found:
                print(json.dumps({"file": where} | found), flush=True)
            else:
                print(f"{_printable(where)}\t{found['caption']}", flush=True)
    except BrokenPipeError:  # `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted; what was told above is whole", file=sys.stderr)
        return 130
    return 1 if lost else 0


def _captioned(files: Iterable[str], spec: Spec, seed: int) -> Iterator[tuple[str, dict | Exception]]:
    decode = model.decoder(spec)

    def ready(path: str) -> dict:
        with open(path, "rb") as file:
            own = _seed(hashlib.file_digest(file, "sha256").hexdigest(), seed)
            file.seek(0)
            return decode(file) | {"seed": own}

    def ask(inputs: list[dict]) -> list[dict | Loss]:
        with model.asking(spec) as captioner:
            return model.captions(spec, captioner, inputs, [one["seed"] for one in inputs])

    return _batched(((path, path) for path in files), ready, ask, spec.batch)


def _written(files: Iterable[str], spec: Spec, seed: int) -> Iterator[tuple[str, dict | Exception]]:
    def lines() -> Iterator[tuple[str, str | Exception]]:
        for path in files:
            try:
                with open(path, encoding="utf-8") as file:
                    yield from ((f"{path}:{number}", line) for number, line in enumerate(file, 1) if line.strip())
            except (OSError, UnicodeDecodeError) as error:
                yield path, error

    def ready(line: str | Exception) -> instructions.Item:
        if isinstance(line, Exception):
            raise ValueError(f"cannot be read as lines of JSON ({line})")
        try:
            given = json.loads(line)
        except ValueError as error:
            raise ValueError(f"no JSON object ({error})") from None
        if not isinstance(given, dict) or not isinstance(given.get("dataset"), str):
            raise ValueError("no JSON object with a `dataset`")
        own = _seed(hashlib.sha256(line.strip().encode()).hexdigest(), seed)
        return instructions.Item(given.pop("dataset"), given, own)

    def ask(items: list[instructions.Item]) -> list[dict | Exception]:
        with model.asking(spec) as writer:
            answers = instructions.rows(items, writer)
        return [found if isinstance(found, Exception) else {"dataset": item.dataset} | found
                for item, found in zip(items, answers, strict=True)]

    return _batched(lines(), ready, ask, spec.batch)


def _batched(asked: Iterator[tuple[str, object]], ready: Callable, ask: Callable,
             size: int) -> Iterator[tuple[str, dict | Exception]]:
    """What came of each, in order."""
    while some := list(islice(asked, size)):
        made = [_tried(ready, one) for _, one in some]
        answers = iter(batches.answered(ask, [one for one in made if not isinstance(one, Exception)]))
        yield from ((where, one if isinstance(one, Exception) else next(answers))
                    for (where, _), one in zip(some, made, strict=True))


def _tried(ready: Callable, one: object) -> object:
    try:
        return ready(one)
    except (Loss, OSError, RecursionError, ValueError) as error:
        return error


def _seed(content: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{content}".encode()).digest()[:4], "big")


def _printable(path: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in path)


if __name__ == "__main__":
    sys.exit(main())
