"""Whether a writer's answer can be stored: one line of English, of the asked form, that echoes no prompt.

Rules, not models: each names what it found, so that a loss tells a person what to mend.
"""
import re
import unicodedata
from collections.abc import Mapping

from captioners.changes import contradiction
from captioners.vocabulary import claims
from manifests import prompts

LONGEST = 2500  # characters: two captions as long as MU-LLaMA writes them
MIN_WORDS = 3


class Unfit(Exception):
    """An answer that cannot be stored, and why."""


# What a model side or a generation instruction must begin with: the paper's form, with the slips that models make.
_MUSIC = r"(?:(?:a|an|the|some|a piece of|some piece of) )?music"
_FORMS = {
    "model": re.compile(rf"(?:here is|here's|here’s) {_MUSIC},? that \w+", re.IGNORECASE),
    **{dataset: re.compile(rf"(?:please )?generate {_MUSIC} for (?:the|this|an|a) (?:{noun}),? that \w+", re.IGNORECASE)
       for dataset, noun in (("muimage", "image|picture|photo"), ("muvideo", "video|clip"))},
}
_ASKED = {"model": f"{prompts.MODEL_SIDE} ...",
          **{dataset: f"{form} ..." for dataset, form in prompts.HUMAN_SIDE.items()}}

# A verb in the imperative, at the start of a sentence or clause, or after a word that leads one in.
_CHANGES = re.compile(
    r"(?:^|[,;:.!] |\b(?:please|to|you|and|then|now|also|let's|just|instead|either|first|next|finally|simply) )(?:to )?"
    r"(?:add|adjust|alter|amplif|apply|arrange|boost|brighten|bring|calm|change|convert|cut|darken|decrease|deepen|double|"
    r"drop|edit|enhance|even|exchange|fade|give|go|halve|have|increase|incorporate|insert|introduce|keep|lay|let|level|"
    r"lift|lighten|lower|make|mix|modify|modulate|morph|move|mute|narrow|pitch|play|push|put|quicken|raise|rearrange|"
    r"recast|redo|reduce|remix|remove|render|replace|reshape|rework|rewrite|set|shift|shorten|slow|soften|speed|start|"
    r"stretch|strip|sustain|swap|switch|take|thin|tone|transform|transpose|trim|turn|use|vary|widen|write|create|"
    r"generate|produce|accelerate|decelerate|drag|rais|bump|pull|tune|multipl)\w*\b", re.IGNORECASE)

_LABEL = re.compile(r"(?:^|[.!?\"'”] ?|\n)\s*(?:input|target|music|image|video|instruction|answer|response|caption|"
                    r"system|user|assistant|human|change to ask for|tags)\s*:", re.IGNORECASE)
_MARK = re.compile(r"<\|[^|>]*\|>|<</?SYS>>|\[/?INST\]|</?s>|###|<built-in function|\{\w*\}")
_STOP = re.compile(r"(?:\s*(?:<\|im_end\|>|<\|endoftext\|>|</s>))+\s*$")
_ELLIPSIS = re.compile(r"\.{3,}|…|\.\s\.\s\.")
_REFUSAL = re.compile(
    r"\bas an? (?:\w+ )?(?:ai|artificial intelligence|language model)\b|\b(?:ai|language) (?:language )?model\b|"
    r"\bi(?:'|’)?\s?a?m (?:sorry|unable|not able|afraid)\b|\bsorry, but\b|\bi (?:cannot|can(?:'|’)t|can not|could not|"
    r"couldn(?:'|’)t|do not have|don(?:'|’)t have|am just)\b|\b(?:unable|not able|impossible) to (?:generate|provide|"
    r"listen|hear|create|answer|determine)\b|\b(?:i|we) (?:don(?:'|’)t|do not) know\b|\bno (?:caption|description|"
    r"tags?) (?:was|were|is) (?:given|provided)\b|\bnot enough information\b|\bsure[,!] here\b", re.IGNORECASE)

# Words that each language cannot do without and English does not have; and English's own, without those that
# neighbours share ("in", "a", "is", "was", "on", "no", "so", "as", "we").
_ENGLISH = """the and of with to that this it its by for from at are be an has have his her their there which
  while being into but or not can you all over other like some very more than who when where one two
  should would does what playing plays sounds sound music song tempo slow fast melody voice male
  female instruments make change generate here keep give is in a
  upbeat happy sad mellow calm bright dark loud quiet these described following words heard
  soft drums guitar strings vocals lively energetic"""
# German, French, Spanish, Italian, Portuguese, Dutch, Scandinavian, Malay; Turkish and Polish.
_FOREIGN = """der das und ist mit ein eine einer einem einen für von auf nicht dem den zu im des sich wird
  les est une dans avec pour du et qui sur au aux ce cette il elle
  los las una con que por para del su se como muy más
  di che per della nel gli sono molto lo
  os uma com não mais um dos
  het een van voor met dat niet zijn
  och som är att det till av ett på inte og er til med
  yang dengan dan dari untuk adalah ini itu
  bir ve ile için z na się jest nie"""
_KNOWN = [frozenset(words.split()) for words in (_ENGLISH, _FOREIGN)]
_WORDS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def line(dataset: str, side: str, text: str, given: Mapping) -> str:
    """One side of MUEdit, MUImage or MUVideo, as it is stored. Raises Unfit.

    `given` as for `manifests.prompts.user`: a derived edit's instruction is held against its amount.
    """
    said = prose(text, prompts.system(dataset, side, given))
    form = "model" if side == "model" else dataset
    if form in _FORMS:
        opening = _FORMS[form].match(said)
        if not opening:
            raise Unfit(f"not of the form '{_ASKED[form]}': {said[:60]!r}")
        _english(said[opening.end():])  # the opening is English in any case
    elif _FORMS["model"].match(said) or not _CHANGES.search(said):
        raise Unfit(f"no instruction to change the music: {said[:60]!r}")
    if dataset == "muedit" and side == "human" and given["edit"] != "pair":
        why = contradiction(said, given["edit"], given["amount"], claims(given["source"]).get("tempo"))
        if why:
            raise Unfit(f"{why}: {said[:80]!r}")
    return said


def prose(text: str, system: str, shortest: int = MIN_WORDS) -> str:
    """A line of English that is neither a refusal nor an echo of the prompt `system`. Raises Unfit."""
    said = _STOP.sub("", text).strip()
    if len(said) > 1 and (said[0], said[-1]) in (('"', '"'), ("'", "'"), ("“", "”")) and said[0] not in said[1:-1]:
        said = said[1:-1].strip()
    if not said:
        raise Unfit("empty")
    if len(said.splitlines()) > 1:
        raise Unfit(f"{len(said.splitlines())} lines where one was asked for")
    if any(unicodedata.category(letter) in ("Cc", "Co", "Cs", "Cn") or letter == "�" for letter in said):
        raise Unfit("control or undecodable characters")
    if mark := _MARK.search(said) or _LABEL.search(said):
        raise Unfit(f"a piece of the prompt: {mark[0].strip()!r}")
    lowered = " ".join(said.casefold().split())
    for told in system.splitlines():
        opening = " ".join(told.strip(" -").casefold().split()[:5])
        if told.startswith("- ") and opening in lowered:
            raise Unfit(f"an echo of the prompt: {opening!r}")
    if found := _REFUSAL.search(said):
        raise Unfit(f"a refusal or a remark of the model: {found[0]!r}")
    if _ELLIPSIS.search(said):
        raise Unfit("a gap left open, or a text broken off: '...'")
    if len(said) > LONGEST:
        raise Unfit(f"{len(said)} characters, over {LONGEST}")
    _english(said)
    if len(_WORDS.findall(said)) < shortest:
        raise Unfit(f"too short: {said!r}")
    return said


def _english(text) -> None:
    """Raise Unfit where the text is not English. Names and loan words do not hurt; short texts need only letters."""
    letters = [letter for letter in text if letter.isalpha()]
    other = sum(not unicodedata.name(letter, "").startswith(("LATIN", "MODIFIER", "FEMININE", "MASCULINE"))
                for letter in letters)
    if other > 0.05 * len(letters) + 2:
        raise Unfit(f"not in English: {other} of {len(letters)} letters are of another script")
    words = [word.lower() for word in _WORDS.findall(text)]
    english, foreign = (sum(word in known for word in words) for known in _KNOWN)
    accented = sum(not word.replace("’", "").isascii() for word in words)
    strange = len(words) >= 8 and english < 0.08 * len(words)
    if strange or foreign > english or accented > 0.2 * len(words) + 1:
        raise Unfit(f"not in English: {text[:60]!r}")
