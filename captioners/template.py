"""The embedded writer: conversations from a grammar, grounded in the captions alone.

It answers the same prompts as a language model, from what the prompts were made of (`Prompt.given`): what a measured
caption claims, or a free caption's own sentences. It says nothing that these, or the stated edit, do not say.
"""
import random
from collections.abc import Sequence
from dataclasses import dataclass

from captioners import edits, questions
from captioners.wording import bare, chance, finished, lowered, measured, pick, predicate, quoted, relative

NAME = "template"
VERSION = 2

_SHOULD = ("The music should be", "Let the music be", "The music for it should be", "The music has to be",
           "The music to go with it should be", "The fitting music is", "Make sure that the music is",
           "The music that goes with it is to be")
_LIKE = ("The music should fit this description:", "The music should be like this:",
         "This is what the music should be:", "Let the music be of this kind:", "The music that goes with it is this:")
_ALSO = ("{seen}", "{seen}", "This is what the {noun} is like: {small}", "As for the {noun}: {small}",
         "The {noun} in question is like this: {small}", "It is meant for this {noun}: {small}")


@dataclass(frozen=True)
class Template:
    """The writer, for `captioners.instructions`."""

    name: str = NAME
    revision: str = str(VERSION)

    def __call__(self, prompts: Sequence, seeds: Sequence[int]) -> list[str]:
        """An answer for each prompt: a line, or for MusicQA numbered lines. The same arguments give the same text."""
        return [write(prompt.dataset, prompt.side, prompt.given, seed)
                for prompt, seed in zip(prompts, seeds, strict=True)]


def write(dataset: str, side: str, given, seed: int) -> str:
    """One answer. `given` as for `manifests.prompts.user`."""
    rng = random.Random(seed)
    if dataset == "musicqa":
        return (questions.closed if side == "closed" else questions.opened)(rng, given)
    if side == "model":
        return _answer(rng, given["target" if dataset == "muedit" else "music"])
    if dataset == "muedit":
        return edits.instruction(rng, given)
    noun = dataset.removeprefix("mu")
    return _request(rng, noun, given[noun], given["music"])


def _answer(rng, caption) -> str:
    """"Here is a music that is ..." from the music's caption."""
    if said := measured(caption):
        return finished(f"Here is a music that is {predicate(rng, said)}")
    first, *others = quoted(rng, caption)
    said = relative(first, "music")
    if not said:
        said = f"is {pick(rng, ('of this kind', 'like this', 'best described like this'))}: {bare(first)}"
    elif not said.startswith("is ") and chance(rng, 0.6):
        said = f"is a {pick(rng, ('piece', 'recording', 'track', 'piece of music'))} that {said}"
    return " ".join([finished(f"Here is a music that {said}"), *others])


def _request(rng, noun, seen, heard) -> str:
    """"Generate a music for the image that is ...": what is seen, and the music that is asked for."""
    form = f"Generate a music for the {noun} that"
    first, *others = quoted(rng, seen)
    music = measured(heard)
    if music and chance(rng, 0.45):  # the music first, as the paper's form may also be read
        also = pick(rng, _ALSO).format(seen=first, noun=noun, small=bare(first))
        return " ".join([finished(f"{form} is {predicate(rng, music)}"), finished(also), *others])
    picture = relative(first, noun) or f"shows the following: {bare(first)}"
    if music:
        asked = f"{pick(rng, _SHOULD)} {predicate(rng, music)}"
        return " ".join([finished(f"{form} {picture}"), *others, finished(asked)])
    start, *rest = quoted(rng, heard)
    wanted = relative(start, "music")
    if wanted.startswith("is ") and chance(rng, 0.7):
        asked = f"{pick(rng, _SHOULD)} {wanted.removeprefix('is ')}"
    elif wanted and chance(rng, 0.7):
        asked = f"{pick(rng, _SHOULD)} one that {wanted}"
    else:
        asked = f"{pick(rng, _LIKE)} {lowered(start)}"
    return " ".join([finished(f"{form} {picture}"), *others, finished(asked), *rest])
