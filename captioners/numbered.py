"""Numbered answers, as language models write them, read strictly: MusicQA's four answers and five question pairs.

Numbers may be written in many ways and lines may run on, but the count and the order must be right: an answer that
slipped to another question's place would be a wrong label.
"""
import re

from captioners.answers import Unfit
from manifests.prompts import QUESTIONS

# The four questions as they may be repeated after their number, longest first.
_ASKED = [[QUESTIONS[0], "Describe the music"], [QUESTIONS[1], "Describe the music in detail"],
          [QUESTIONS[2], "What do you hear in the music"], [QUESTIONS[3], "What can be inferred from the music"]]
_WRAP = r"[*_#>`\s]*"
_LINE = re.compile(
    rf"^{_WRAP}[(\[]?(?P<label>question|q|answer|ans|a)?\.?\s*#?(?P<number>\d{{1,2}})(?:\s*{_WRAP}[.):\]]+|\s+[-–—]\s)(?!\d){_WRAP}"
    r"(?P<rest>.*)$", re.IGNORECASE)
_ANSWER = re.compile(rf"(?:^|(?<=[\s?.*_])){_WRAP}\b(?:answer|ans|response|a)\s*(?:\d{{1,2}})?\s*{_WRAP}:{_WRAP}",
                     re.IGNORECASE)
_QUESTION = re.compile(rf"^{_WRAP}(?:question|q)\s*(?:\d{{1,2}})?\s*{_WRAP}[:.]{_WRAP}", re.IGNORECASE)
_PLEASANTRY = re.compile(r"^(?:i hope|hope (?:this|that)|let me know|feel free|please let me know|is there anything)\b",
                         re.IGNORECASE)
# Without a question mark these alone are taken for questions.
_ASKS = re.compile(r"^(?:what|which|who|whose|where|when|why|how|does|do|is|are|can|describe|explain|name|list|"
                   r"identify|tell|summari[sz]e|give|characteri[sz]e|discuss)\b", re.IGNORECASE)


def closed(text: str) -> list[str]:
    """The four answers to MusicQA's stored questions, one line each. Raises Unfit."""
    found = []
    for number, item in enumerate(_items(text, len(QUESTIONS)), start=1):
        answer = _unlabelled(_unasked(item, number))
        if not answer:
            raise Unfit(f"answer {number} is empty, or only repeats its question")
        found.append(answer)
    return found


def opened(text: str) -> list[tuple[str, str]]:
    """The five questions that a writer thought of, each with its answer. Raises Unfit."""
    found = []
    for number, item in enumerate(_items(text, 5), start=1):
        question, answer = _split(item, number)
        if not question.endswith("?") and not _ASKS.match(question):
            raise Unfit(f"question {number} is no question: {question[:60]!r}")
        if _same(question, answer):
            raise Unfit(f"answer {number} repeats its question")
        if any(_same(question, other) for other, _ in found):
            raise Unfit(f"question {number} was asked before")
        found.append((question, answer))
    return found


def _items(text, wanted) -> list[str]:
    """The numbered items of a text, 1 to `wanted` in order; what comes before the first is a preamble."""
    items, opener = [], ""
    lines = text.strip().splitlines()
    if sum(bool(_LINE.match(line)) for line in lines) == 1:
        lines = [part for line in lines for part in _inline(line)]
    for line in lines:
        found = _LINE.match(line)
        label, number = ((found["label"] or "").lower()[:1], int(found["number"])) if found else ("", 0)
        if label == "a" and number == len(items) and opener == "q":  # "A1:" below "Q1:"
            items[-1] += f"\nAnswer: {found['rest']}"
            opener = "qa"
        elif found and number <= 20:  # a longer number opens no item: "92. " ends a sentence about the tempo
            if number != len(items) + 1:
                raise Unfit(f"number {number} where {len(items) + 1} was expected")
            if number > wanted:
                raise Unfit(f"more than {wanted} numbered answers")
            items.append(found["rest"])
            opener = label
        elif items:
            items[-1] += f"\n{line}"
    if len(items) != wanted:
        raise Unfit(f"{len(items)} numbered answers where {wanted} were asked for")
    return [_closing(item) for item in items]


def _inline(line) -> list[str]:
    """"1. Slow. 2. Slow and dark." on one line, cut at the numbers as they follow each other."""
    parts = [line]
    for number in range(2, 10):
        found = re.search(rf"(?<=\s){number}[.)]\s+(?=\S)", parts[-1])
        if not found:
            break
        parts[-1:] = [parts[-1][:found.start()], parts[-1][found.start():]]
    return parts


def _closing(item) -> str:
    """An item without the chat's good wishes after a blank line."""
    paragraphs = re.split(r"\n\s*\n", item.strip())
    if len(paragraphs) > 1 and _PLEASANTRY.match(paragraphs[-1].strip()):
        paragraphs.pop()
    return "\n".join(paragraphs)


def _unasked(item, number) -> str:
    """An item of the four without its question, where it repeats it. Raises Unfit where it repeats another one's."""
    bare = _QUESTION.sub("", item)
    known = sorted(((asked, place) for place, several in enumerate(_ASKED, start=1) for asked in several),
                   key=lambda pair: -len(pair[0]))
    for asked, place in known:
        pattern = r"\W+".join(map(re.escape, asked.rstrip("?").split()))
        if found := re.match(rf"[\W_]*{pattern}(?P<end>[\s?:.*_\"')–—-]*)", bare, re.IGNORECASE):
            if found.end() < len(bare) and not re.search(r"[?:.\n*–—\"-]", found["end"]):
                continue  # a sentence that starts like a question
            if place != number:
                raise Unfit(f"answer {number} is to question {place}: the answers are out of order")
            return bare[found.end():]
    return bare


def _unlabelled(text) -> str:
    return _tidy(re.sub(rf"^{_WRAP}[-–—]?{_ANSWER.pattern}", "", f"\n{text}".lstrip("\n"), flags=re.IGNORECASE))


def _split(item, number) -> tuple[str, str]:
    item = _QUESTION.sub("", item)
    label = _ANSWER.search(item, 1) if item else None
    if label:
        question, answer = item[:label.start()], item[label.end():]
    elif found := re.search(r"\?[*_\"”')]*(?=\s|$)", item):
        question, answer = item[:found.end()], item[found.end():]
    elif "\n" in item:
        question, answer = item.split("\n", 1)
    else:
        question, answer = item, ""
    question, answer = _tidy(question), _tidy(answer)
    if not question:
        raise Unfit(f"question {number} is empty")
    if not answer:
        raise Unfit(f"question {number} has no answer: {question[:60]!r}")
    return question, answer


def _tidy(text) -> str:
    """One line without marks of emphasis and lists at its edges."""
    text = re.sub(r"\*\*|__", "", " ".join(text.split()))
    return re.sub(r"^[\s*_#>–—-]+|[\s*_#>–—-]+$", "", text)


def _same(one, other) -> bool:
    return re.sub(r"\W+", " ", one).strip().casefold() == re.sub(r"\W+", " ", other).strip().casefold()
