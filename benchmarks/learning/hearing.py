"""What a trained model says of held-out clips, and whether it is because it heard and saw them.

A caption or an answer is read back by the vocabulary that the captions were written with. How often an attribute is
named rightly is counted three times: with the clip's own medium, with another clip's, and with noise (the control of
OpenMU, arXiv 2410.15573). Chance is what the same words score when the truths are dealt out anew among the clips that
have one: where the count lies within 95 % of those, nothing of the medium is in the words.
"""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from captioners import vocabulary
from training.features import Features, media_key, text_key
from training.generate import Generated, generate
from training.m2ugen import M2UGen
from training.samples import Medium, Texts, prompt, sample
from training.tokenizer import Tokenizer

DEALS = 1000
CANDIDATES = 32
_AT_ONCE = 96
_LONGEST = 160  # tokens of an answer
_LONGEST_SAMPLE = 512
_MUSIC = ("pace", "loudness", "dynamics", "brightness", "percussiveness", "density", "register")
_SIGHT = ("brightness", "contrast", "saturation", "sharpness", "motion", "cuts", "light", "change")
Truth = Mapping[str, str]


@dataclass(frozen=True)
class Count:
    """Of one attribute: in how many texts it was named of those whose truth is known, in how many rightly, and within
    what that lies by chance."""
    named: int
    right: int
    low: int
    high: int


def music(said: Mapping) -> dict[str, str]:
    """Attributes of music, of `vocabulary.facts` or `vocabulary.claims`."""
    found = {name: said[name] for name in _MUSIC if name in said}
    if "pace" not in found and "term" in said:  # every Italian term lies within one pace
        low = next(low for low, names in vocabulary.BANDS["term"][1] if names[0] == said["term"])
        found["pace"] = vocabulary.word("pace", low)
    if said.get("tonality") == "sure":
        found["mode"] = said["key"].split()[1]
    return found


def sight(said: Mapping) -> dict[str, str]:
    """Attributes of a picture or film, of `seen.claims`."""
    found = {name: said[name] for name in _SIGHT if name in said}
    return found | ({"colour": said["colours"][0]} if "colours" in said else {})


def count(said: Sequence[Truth], truths: Sequence[Truth], clips: Sequence[str] | None = None,
          seed: int = 0) -> dict[str, Count]:
    """By attribute, for texts and the truths of what they speak of, in the same order. `clips`: of which clip each text
    is, where there are several of one; their truth is one, and is dealt to all of them."""
    deal, found = np.random.default_rng(seed), {}
    _, owners = np.unique(np.arange(len(said)) if clips is None else np.array(clips), return_inverse=True)
    for name in sorted({name for truth in truths for name in truth}):
        known = [place for place in range(len(said)) if name in truths[place]]
        words = np.array([said[place].get(name, "") for place in known])
        truth = np.array([truths[place][name] for place in known])
        _, first, owner = np.unique(owners[known], return_index=True, return_inverse=True)
        dealt = [np.count_nonzero(words == deal.permutation(truth[first])[owner]) for _ in range(DEALS)]
        low, high = np.quantile(dealt, (0.025, 0.975))
        found[name] = Count(int(np.count_nonzero(words != "")), int(np.count_nonzero(words == truth)),
                            int(np.floor(low)), int(np.ceil(high)))
    return found


def as_dict(counts: Mapping[str, Count]) -> dict[str, dict[str, int]]:
    return {name: asdict(one) for name, one in counts.items()}


@dataclass(frozen=True)
class Listener:
    """A model that is asked about the clips of a build."""
    model: M2UGen
    tokenizer: Tokenizer
    features: Mapping[str, Features]

    def medium(self, kind: str, dataset: str, ids: Sequence[str]) -> Tensor:
        """[n, tokens, width]: what the encoder made of each."""
        places = [self.features[kind].place(media_key(Medium(dataset, one))) for one in ids]
        return torch.stack([self.features[kind].read(place).float() for place in places])

    def target(self, captions: Sequence[str]) -> Tensor:
        """[n, queries, out]: what the music decoder's own encoder makes of each."""
        return torch.stack([self.features["text"].read(self.features["text"].place(text_key(one))).float()
                            for one in captions])

    def ask(self, instructions: Sequence[str | None], heard: Mapping[str, Tensor] | None = None) -> list[Generated]:
        """The likeliest answers. None: no instruction, as in stage 1, where the medium is described."""
        prompts = [prompt(self.tokenizer, one) for one in instructions]
        found = []
        for start in range(0, len(prompts), _AT_ONCE):
            some = {kind: each[start:start + _AT_ONCE] for kind, each in (heard or {}).items()}
            found += generate(self.model, prompts[start:start + _AT_ONCE], some or None, temperature=0,
                              max_new=_LONGEST)
        return found

    def say(self, instructions: Sequence[str | None], heard: Mapping[str, Tensor] | None = None) -> list[str]:
        return [self.tokenizer.decode(one.tokens) for one in self.ask(instructions, heard)]


def controls(medium: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """A medium, that of another clip in its place, and noise of the same mean and spread, number by number."""
    noise = torch.randn(medium.shape, generator=torch.Generator().manual_seed(seed))
    return {"own": medium, "other": medium.roll(1, 0), "noise": medium.mean(0) + noise * medium.std(0)}


def captions(listener: Listener, kind: str, dataset: str, ids: Sequence[str], truths: Sequence[Truth],
             read: Callable[[str], Truth]) -> dict[str, dict]:
    """How often captions name each attribute rightly, with each of `controls`."""
    return {control: as_dict(count([read(text) for text in listener.say([None] * len(ids), {kind: heard})], truths))
            for control, heard in controls(listener.medium(kind, dataset, ids)).items()}


def answers(listener: Listener, ids: Sequence[str], questions: Sequence[str],
            truths: Sequence[Truth]) -> dict[str, dict]:
    """The same of answers to questions about music: clip, question and truth belong together."""
    # Those of a clip stand together: one further on would be the same clip's.
    own = listener.medium("audio", "musicqa", ids)
    distinct = list(dict.fromkeys(ids))
    other = dict(zip(distinct, [*distinct[1:], distinct[0]], strict=True))
    media = {"own": own, "other": listener.medium("audio", "musicqa", [other[one] for one in ids])}
    said = {control: listener.say(questions, {"audio": heard}) for control, heard in media.items()}
    found = {}
    for control, texts in said.items():
        named = [music(vocabulary.claims(text)) for text in texts]
        # What is named follows from the question, and what is asked from the truth: only who answered is dealt to.
        known = [{name: truth[name] for name in one if name in truth} for one, truth in zip(named, truths, strict=True)]
        found[control] = as_dict(count(named, known, ids))
    return found


def retrieval(listener: Listener, captions: Sequence[str]) -> dict[str, float]:
    """`nearest` of what comes out for captions, and of what the music decoder's own encoder makes of them.

    As stage 2 has it: behind a caption and its copy. Whether music comes out at all is asked by `music_comes`.
    """
    emitted, ids, model = [], listener.tokenizer.audio_ids, listener.model
    for caption in captions:
        tokens = sample(Texts("", "mucaps", caption, caption, {}, caption), listener.tokenizer, _LONGEST_SAMPLE).tokens
        first = tokens.index(ids[0]) - 1  # each state predicts the next token
        with torch.no_grad():
            hidden = model(torch.tensor([tokens])).hidden
            emitted.append(model.conditions(hidden[:, first:first + len(ids)]).flatten())
    return nearest(torch.stack(emitted), listener.target(captions).flatten(1))


def nearest(emitted: Tensor, targets: Tensor, seed: int = 0) -> dict[str, float]:
    """Of how many rows [n, numbers] the target is nearer than those of CANDIDATES - 1 others (cosine; the mean over all
    is taken off both), within what 95 % of that lie by chance, and the mean reciprocal rank."""
    near = (functional.normalize(emitted - emitted.mean(0), dim=1)
            @ functional.normalize(targets - targets.mean(0), dim=1).T)
    deal, ranks, some = np.random.default_rng(seed), [], min(CANDIDATES, len(near))
    for place in range(len(near)):
        others = deal.permutation([at for at in range(len(near)) if at != place])[:some - 1]
        ranks.append(1 + int((near[place, others] >= near[place, place]).sum()))
    found = np.array(ranks)
    low, high = np.quantile(deal.binomial(len(ranks), 1 / some, 10_000), (0.025, 0.975))
    return {"asked": len(ranks), "candidates": some, "first": int((found == 1).sum()), "low": int(low),
            "high": int(high), "reciprocal rank": float((1 / found).mean())}


def music_comes(listener: Listener, instructions: Sequence[str | None], heard: Mapping[str, Tensor] | None) -> dict:
    """In how many answers the audio tokens come, whole and in order, and in how many any of them does."""
    said = listener.ask(instructions, heard)
    some = sum(any(token in listener.tokenizer.audio_ids for token in one.tokens) for one in said)
    return {"asked": len(said), "music": sum(one.condition is not None for one in said), "any": some}
