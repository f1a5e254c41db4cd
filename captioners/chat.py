"""MPT-7B-chat, or any chat model of the Hub, as a writer of instructions (captioners.instructions).

Prompts are asked in batches, padded on the left, and sampled with each row's own seed: an answer depends on its prompt,
its seed and the weights, not on what is asked beside it.
"""
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from captioners.batches import answered
from captioners.instructions import Prompt
from manifests import prompts
from manifests.messages import one_line
from training.loading import quiet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = 1
MODEL = "mosaicml/mpt-7b-chat"
ROLES = {"instruct": MODEL}
SIZE = 64  # of prompts and answers of some 400 tokens: 13 GB of keys and values beside MPT-7B's 13 GB of weights

_START, _END = "<|im_start|>", "<|im_end|>"
# What templates ask of their caller: the day, which no answer may depend on, and that nothing is thought aloud.
_TEMPLATE = {"add_generation_prompt": True, "date_string": "26 Jul 2024", "enable_thinking": False}
_SCORES = 2**28  # of attention in a batch, which grow with the square of the prompts: 1 GiB in float32, some times over
_LEAST = 0.9   # of a model's rows, which are rounded up, a vocabulary fills at least
_PROBES = "Pi9a", "Pi9b"


@dataclass(frozen=True)
class Settings:
    """As the authors of M²UGen sampled. `temperature` None is theirs for each dataset and side; 0 is greedy."""
    temperature: float | None = None
    top_k: int = prompts.SAMPLING["top_k"]
    top_p: float = prompts.SAMPLING["top_p"]
    max_new_line: int = 128
    max_new_answers: int = 768  # MusicQA's, of four or ten parts


def load(folders: Mapping[str, Path], settings: Settings, *, dtype: "torch.dtype | None" = None,
         device: "str | torch.device" = "cpu", quantize: str = "", name: str = "", revision: str = "",
         batch: int = SIZE) -> "Chat":
    """The writer, from the folder of `instruct`, which is called `name` in what it writes.

    `dtype` None is float32. `quantize`: "", "4bit" (nf4) or "8bit", by bitsandbytes. `batch`: prompts at a time, at
    most. Raises ValueError that names the folder or file.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    folder = Path(folders["instruct"])
    dtype = dtype or torch.float32
    if not (0 <= (settings.temperature or 0) < float("inf") and 0 < settings.top_p <= 1 and settings.top_k >= 0
            and min(settings.max_new_line, settings.max_new_answers, batch) >= 1):
        raise ValueError(f"{settings}, batch {batch}: temperature and top_k are 0 or more, top_p is above 0 and up to "
                         "1, and the others are 1 or more")
    made = {"": {}, "8bit": {"load_in_8bit": True}, "4bit": {
        "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}}
    if quantize not in made:
        raise ValueError(f"quantize is 4bit, 8bit or nothing, not {quantize!r}")
    own = {"quantization_config": BitsAndBytesConfig(**made[quantize]), "device_map": {"": device}} if quantize else {}
    with quiet():
        tokenizer = _tokenizer(folder)
        _weights(folder)
        try:
            model, found = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, trust_remote_code=False, local_files_only=True, output_loading_info=True,
                ignore_mismatched_sizes=True, **own)  # which _complete tells by name
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{folder}: is no language model that transformers can load: "
                             f"{one_line(error)[:300]}") from error
    _complete(folder, model, found, tokenizer)
    render, ends = _form(folder, model, tokenizer)
    return Chat(model if quantize else model.to(device), tokenizer, render, ends, settings, name or folder.name,
                revision, batch)


class _Row(NamedTuple):
    """A prompt that is to be answered."""
    place: int
    tokens: list[int]
    seed: int
    temperature: float
    most: int  # tokens of the answer


class Chat:
    """The writer. `tokens` counts what it has written, ends of turns among it, to tell its speed by."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase",
                 render: Callable[[str, str], str], ends: list[int], settings: Settings, name: str, revision: str,
                 batch: int) -> None:
        from transformers import GenerationConfig
        self.name, self.revision, self.tokens = name, revision, 0
        self._model, self._tokenizer, self._render, self._ends = model.eval(), tokenizer, render, ends
        self._settings, self._batch = settings, batch
        self._pad = next(one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if one is not None)
        config = model.config.get_text_config()
        self._positions = getattr(config, "max_seq_len", None) or getattr(config, "max_position_embeddings", None)
        # The repository's own settings, of penalties and beams, would be mixed into ours; MPT's has no cache.
        model.generation_config = GenerationConfig(do_sample=False, use_cache=True, eos_token_id=ends or None,
                                                   pad_token_id=self._pad)

    def __call__(self, asked: Sequence[Prompt], seeds: Sequence[int]) -> list[str | Exception]:
        """An answer to each prompt, "" where the model says nothing; in its place, what a prompt raises.

        An answer that its length cuts off is given as it is.
        """
        answers: list[str | Exception] = [""] * len(asked)
        rows = []
        for place, (prompt, seed) in enumerate(zip(asked, seeds, strict=True)):
            try:
                rows.append(self._row(place, prompt, seed))
            except ValueError as error:
                answers[place] = error
        heads = self._model.config.get_text_config().num_attention_heads
        for batch in _batches(rows, self._batch, heads):
            for row, answer in zip(batch, answered(self._write, batch), strict=True):
                answers[row.place] = answer
        return answers

    def _row(self, place: int, prompt: Prompt, seed: int) -> _Row:
        tokens = self._tokenizer(self._render(prompt.system, prompt.user), add_special_tokens=False)["input_ids"]
        most = self._settings.max_new_answers if prompt.dataset == "musicqa" else self._settings.max_new_line
        if self._positions:
            most = min(most, self._positions - len(tokens))
        if most < 1:
            raise ValueError(f"a prompt of {len(tokens)} tokens leaves no room in the model's {self._positions}")
        warmth = self._settings.temperature
        return _Row(place, tokens, seed, prompts.temperature(prompt.dataset, prompt.side) if warmth is None else warmth,
                    most)

    def _write(self, rows: Sequence[_Row]) -> list[str]:
        import torch

        from training.sampling import choose
        device, width = self._model.device, max(len(row.tokens) for row in rows)
        tokens = torch.full((len(rows), width), self._pad)
        mask = torch.zeros_like(tokens)
        for place, row in enumerate(rows):
            tokens[place, width - len(row.tokens):] = torch.tensor(row.tokens)
            mask[place, width - len(row.tokens):] = 1
        seeds, temperatures = [row.seed for row in rows], torch.tensor([row.temperature for row in rows], device=device)

        def drawn(before: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            """Greedy search takes what this leaves: the token that was drawn."""
            chosen = choose(logits.float(), seeds, before.shape[1] - width, temperatures, self._settings.top_p,
                            self._settings.top_k)
            return torch.full_like(logits, -torch.inf).scatter_(1, chosen[:, None], 0)

        with torch.inference_mode(), quiet():
            said = self._model.generate(tokens.to(device), attention_mask=mask.to(device), logits_processor=[drawn],
                                        max_new_tokens=max(row.most for row in rows))[:, width:].tolist()
        answers = []
        for line in said:
            length = next((place for place, token in enumerate(line) if token in self._ends), len(line))
            self.tokens += min(length + 1, len(line))
            answers.append(self._tokenizer.decode(line[:length], skip_special_tokens=True,
                                                  clean_up_tokenization_spaces=False).strip())
        return answers


def _batches(rows: Sequence[_Row], size: int, heads: int) -> Iterator[list[_Row]]:
    """Of one `most` and of like lengths. (So padding never takes a row beyond the model's positions: near them `most`
    is what is left, and only prompts of one length have the same.)"""
    batch: list[_Row] = []
    for row in sorted(rows, key=lambda row: (row.most, len(row.tokens), row.place)):
        scores = (len(batch) + 1) * heads * len(row.tokens) ** 2
        if batch and (len(batch) == size or row.most != batch[0].most or scores > _SCORES):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no config.json in it; give a chat model's Hub id, or the folder of one")
    for file in sorted(folder.glob("*.json")):
        try:
            json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:  # tokenizers would raise a bare Exception
            raise ValueError(f"{file}: is no JSON ({one_line(error)[:300]}); fetch it again") from error
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (AttributeError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: no tokenizer can be read from it: {one_line(error)[:300]}; fetch its tokenizer "
                         "files again") from error


def _weights(folder: Path) -> None:
    """Raise ValueError, with the file's name, where they are cut off, missing or hostile: of that, transformers tells
    neither the name nor what to do."""
    from training.weights import open_weights
    try:
        open_weights(folder)
    except OSError as error:
        raise ValueError(str(error)) from error


def _complete(folder: Path, model: "PreTrainedModel", found: Mapping, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise ValueError where something would have been made up, or ignored."""
    kind = model.config.model_type
    # transformers' MPT knows one of MPT's forms, with ALiBi and without biases, and leaves the tensors of others out.
    surplus = found["unexpected_keys"] if kind == "mpt" else ()
    for what, keys in (("lacks", found["missing_keys"]), ("has in another shape", found["mismatched_keys"]),
                       ("has, and this kind does not know,", surplus)):
        if keys:
            names = sorted(key if isinstance(key, str) else key[0] for key in keys)
            raise ValueError(f"{folder}: is no whole model of the kind {kind}: it {what} {', '.join(names[:5])}"
                             f"{' and more' if len(names) > 5 else ''}; fetch it again, or choose another model")
    rows = model.get_input_embeddings().weight.shape[0]
    if not _LEAST * rows <= len(tokenizer) <= rows:
        raise ValueError(f"{folder}: the wrong vocabulary: its tokenizer has {len(tokenizer)} tokens, the model "
                         f"{rows}; fetch the tokenizer of this model")


def _form(folder: Path, model: "PreTrainedModel",
          tokenizer: "PreTrainedTokenizerBase") -> tuple[Callable[[str, str], str], list[int]]:
    """How a system's and a user's text become a prompt, and the tokens that end an answer.

    MPT has the paper's form (its later templates leave the end of the system's turn away), and so has a model without
    a template that knows the marks; others have their template's.
    """
    bare = _bare(tokenizer)
    stated = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])}
    marks = [tokenizer.get_vocab().get(mark) for mark in (_START, _END)]
    if None not in marks and (tokenizer.chat_template is None or model.config.model_type == "mpt"):
        if (ids := tokenizer(_START + _END, add_special_tokens=False)["input_ids"]) != marks:
            raise ValueError(f"{folder}: the wrong vocabulary: its tokenizer cuts {_START}{_END} into {len(ids)} "
                             "tokens, not 2; fetch its tokenizer files again")
        return lambda system, user: prompts.chat(bare(system), bare(user)), sorted({*ends, marks[1]} - {None})
    if model.config.model_type == "mpt":
        raise ValueError(f"{folder}: the wrong vocabulary: {_START} and {_END} are not in it; is this {MODEL}?")
    if tokenizer.chat_template is None:
        raise ValueError(f"{folder}: its tokenizer has no chat template, so nobody knows how to ask it; choose a "
                         "model that is made for conversation")
    render = _template(folder, tokenizer)
    return lambda system, user: render(bare(system), bare(user)), sorted({*ends, *_turn(tokenizer)} - {None})


def _template(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> Callable[[str, str], str]:
    """The tokenizer's own. Where it has no place for the system's text, that goes in front of the user's."""
    def own(system: str, user: str) -> str:
        return tokenizer.apply_chat_template([{"role": "system", "content": system}, {"role": "user", "content": user}],
                                             tokenize=False, **_TEMPLATE)

    def joined(system: str, user: str) -> str:
        return tokenizer.apply_chat_template([{"role": "user", "content": f"{system}\n\n{user}"}], tokenize=False,
                                             **_TEMPLATE)

    from jinja2 import TemplateError
    why = "it leaves out what it is given"
    for render in (own, joined):
        try:
            if all(probe in render(*_PROBES) for probe in _PROBES):
                return render
        except (TemplateError, TypeError, ValueError) as error:
            why = one_line(error)[:300]
    raise ValueError(f"{folder}: its chat template takes neither a system's text nor a user's alone: {why}; choose "
                     "another model")


def _turn(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The special token that the template puts behind an answer."""
    from jinja2 import TemplateError
    try:
        told = tokenizer.apply_chat_template([{"role": "user", "content": _PROBES[0]},
                                              {"role": "assistant", "content": _PROBES[1]}], tokenize=False)
    except (TemplateError, TypeError, ValueError):
        return []
    after = tokenizer(told.rpartition(_PROBES[1])[2].lstrip(), add_special_tokens=False)["input_ids"][:1]
    return [token for token in after if token in tokenizer.added_tokens_decoder]


def _bare(tokenizer: "PreTrainedTokenizerBase") -> Callable[[str], str]:
    """Takes the vocabulary's marks out of texts, whatever is left of others when one is gone: only ours count.

    Added tokens that are words or spaces are no marks.
    """
    marks = sorted((one.content for one in tokenizer.added_tokens_decoder.values()
                    if one.content.strip() and (one.special or one.content.strip()[0] in "<[|")), key=len, reverse=True)

    def bare(text: str) -> str:
        before = None
        while before != text:
            before = text
            for mark in marks:
                text = text.replace(mark, "")
        return text
    return bare
