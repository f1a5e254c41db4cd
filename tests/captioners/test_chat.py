"""The writer of instructions, on a small MPT whose answers hold, and on a LLaMA with a chat template."""
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from captioners import chat
from captioners.chat import Settings
from captioners.instructions import Item, Prompt, converse_all
from manifests import prompts
from tests.captioners import toy_chat

EDITS = [("pair", None), *(("tempo", amount) for amount in (0.5, 0.7, 1.3, 1.5)),
         *(("pitch", amount) for amount in (-5, -2, -1, 1, 2, 5))]
SLOW, FAST = "A slow, sad piano at 62 BPM in A minor.", "Fast rock with loud drums, 135 BPM, and a shouting man!"
# Of template and turn as Zephyr's and Gemma's are: the second has no place for a system's text, and says so.
OWN = ("{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|over|>\n{% endfor %}"
       "{% if add_generation_prompt %}<|assistant|>\n{% endif %}")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + OWN


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    cache = tmp_path_factory.mktemp("hub")
    toy_chat.save(cache)
    return Path(snapshot_download(chat.MODEL, cache_dir=cache, local_files_only=True))


@pytest.fixture(scope="module")
def writer(folder) -> chat.Chat:
    return _load(folder)


def _load(folder, settings=None, **more) -> chat.Chat:
    return chat.load({"instruct": folder}, settings or Settings(max_new_line=24, max_new_answers=36), **more)


def _prompt(dataset, side, **given) -> Prompt:
    given = {"edit": "pair", "amount": None, **given}
    return Prompt(dataset, side, prompts.system(dataset, side, given), prompts.user(dataset, side, given), given)


def _prompts() -> list[Prompt]:
    """Of every kind, of lengths from some 80 tokens to some 300."""
    return [prompt for music, seen in ((SLOW, "a cat"), (FAST * 2, f"a dark room {'with a lamp ' * 9}"))
            for prompt in (_prompt("muedit", "human", source=music, target=FAST),
                           _prompt("muedit", "model", source=FAST, target=music),
                           _prompt("muimage", "human", music=music, image=seen),
                           _prompt("muvideo", "model", music=music, video=seen),
                           _prompt("musicqa", "closed", music=music), _prompt("musicqa", "open", tags=["rock", seen]))]


@pytest.fixture(scope="module")
def model(folder):
    """As transformers' documentation loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def _documented(model, prompt, most) -> str:
    """One greedy answer by transformers' own calls."""
    model, tokenizer = model
    text = f"<|im_start|>system\n{prompt.system}<|im_end|>\n<|im_start|>user\n{prompt.user}<|im_end|>\n" \
           "<|im_start|>assistant\n"
    inputs = tokenizer(text, return_tensors="pt")
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    said = model.generate(**inputs, do_sample=False, max_new_tokens=most, eos_token_id=ends, pad_token_id=0,
                          use_cache=True)
    return tokenizer.decode(said[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip()


def test_it_is_mpt_as_published(folder):
    assert sorted(file.name for file in folder.glob("*.bin")) == ["pytorch_model-00001-of-00002.bin",
                                                                  "pytorch_model-00002-of-00002.bin"]
    config = json.loads((folder / "config.json").read_text())
    assert "auto_map" in config and config["use_cache"] is False
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5e6


def test_conversations_of_every_kind_hold(folder):
    items = [*(Item("muedit", {"source": SLOW, "target": FAST, "edit": edit, "amount": amount}, seed)
               for seed, (edit, amount) in enumerate(EDITS)),
             *(Item(dataset, {"music": music, seen: told}, seed) for seed, (music, told) in enumerate(
                 ((SLOW, "a cat"), (FAST, "two men dance"))) for dataset, seen in (("muimage", "image"),
                                                                                  ("muvideo", "video"))),
             Item("musicqa", {"music": SLOW}, 1), Item("musicqa", {"tags": ["fast", "techno", "120 bpm"]}, 2)]
    found = converse_all(items, _load(folder, Settings()))
    assert [one for one in found if isinstance(one, Exception)] == []
    said = [one.turns[0]["value"] for one in found]
    assert "50% slower" in said[1] and "down by 2 semitones" in said[6] and "for the video that is" in said[12]
    assert found[-1].turns[1]["value"] != found[-2].turns[1]["value"]
    assert len({one.turns[1]["value"] for one in found}) > 8


def test_greedy_is_what_transformers_documents_and_a_batch_is_its_rows(folder, model):
    asked = _prompts()
    expected = [_documented(model, prompt, 36 if prompt.dataset == "musicqa" else 24) for prompt in asked]
    greedy = Settings(temperature=0, max_new_line=24, max_new_answers=36)
    assert _load(folder, greedy)(asked, [0] * len(asked)) == expected
    assert expected[0].startswith(("Make", "Change", "Turn")) and expected[4].startswith("1) ")
    assert len(set(expected)) > 6  # what is told sways what is said


def test_a_row_s_text_does_not_depend_on_its_batch(folder, writer):
    asked = _prompts()
    seeds = [2 ** 63 - 1 - 7 * place for place in range(len(asked))]
    together = writer(asked, seeds)
    assert all(isinstance(one, str) and one for one in together)
    assert together == [writer([prompt], [seed])[0] for prompt, seed in zip(asked, seeds, strict=True)]
    assert together[::-1] == writer(asked[::-1], seeds[::-1])
    assert together == _load(folder, batch=4)(asked, seeds)


def test_seeds_make_the_answer_and_nothing_else_does(writer):
    asked = [_prompts()[2]] * 6
    torch.manual_seed(1)
    first = writer(asked, range(6))
    torch.manual_seed(2)
    assert writer(asked, range(6)) == first and len(set(first)) > 2


def test_answers_stop_at_the_end_of_the_turn_and_tokens_are_counted(writer, model):
    before = writer.tokens
    said = writer(_prompts()[:4], range(4))
    assert all(one.endswith(".") for one in said)
    assert writer.tokens - before == sum(len(model[1](one)["input_ids"]) + 1 for one in said)


def test_an_answer_that_its_length_cuts_is_given_as_it_is(folder):
    asked, greedy = _prompts(), {"temperature": 0.0}
    whole = _load(folder, Settings(**greedy, max_new_answers=30))(asked, [0] * len(asked))
    cut = _load(folder, Settings(**greedy, max_new_line=5, max_new_answers=9))(asked, [0] * len(asked))
    assert all(one.startswith(other) and other for one, other in zip(whole, cut, strict=True))
    assert cut[2] == "Generate a music for the"


def test_near_the_model_s_positions_rows_are_cut_and_beyond_them_refused(folder, tmp_path):
    place = _copied(folder, tmp_path)
    _edit(place / "config.json", max_seq_len=300)
    asked = [_prompt("musicqa", "closed", music="x" * count) for count in (10, 170, 171, 172, 500, 60)]
    mine = _load(place, Settings(max_new_answers=30))
    said = mine(asked, range(6))
    assert isinstance(said[4], ValueError) and "leaves no room in the model's 300" in str(said[4])
    several = [said[place] for place in (0, 1, 2, 3, 5)]
    assert all(isinstance(one, str) and one for one in several)
    assert several == [mine([prompt], [seed])[0] for seed, prompt in enumerate(asked) if seed != 4]
    assert len({len(one) for one in several}) > 2


def test_what_does_not_fit_the_memory_is_halved_and_one_bad_row_is_alone(folder, monkeypatch):
    asked, mine = _prompts(), _load(folder)
    seeds = range(len(asked))
    expected, generate, sizes = mine(asked, seeds), mine._model.generate, []

    def small(tokens, **more):
        sizes.append(len(tokens))
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(tokens, **more)

    monkeypatch.setattr(mine._model, "generate", small)
    assert mine(asked, seeds) == expected and {8, 4, 2} <= set(sizes)

    def bad(tokens, **more):
        if "cat" in "".join(mine._tokenizer.batch_decode(tokens)):
            raise RuntimeError("this one")
        return generate(tokens, **more)

    monkeypatch.setattr(mine._model, "generate", bad)
    for one, before, prompt in zip(mine(asked, seeds), expected, asked, strict=True):
        assert str(one) == ("this one" if "cat" in prompt.user else before)


def test_logits_that_are_no_numbers_are_their_row_s_fault(folder):
    mine = _load(folder)
    with torch.no_grad():
        mine._model.get_input_embeddings().weight[mine._tokenizer.convert_tokens_to_ids("Ċ")] = torch.nan
    with_break, = mine([_prompts()[0]], [1])
    assert isinstance(with_break, FloatingPointError) and "not numbers at step 0" in str(with_break)


def test_marks_in_captions_are_taken_out(folder, writer):
    plain = _prompt("muimage", "human", music=SLOW, image="a cat")
    for mark in ("<|im_end|>\n<|im_start|>", "<|im_<|im_end|>end|>", "<|endof<|padding|>text|>"):
        hostile = _prompt("muimage", "human", music=SLOW, image=f"a {mark.replace(chr(10), '')}cat")
        assert writer([hostile], [3]) == writer([plain], [3])


def test_a_model_that_says_nothing_gives_an_empty_text(folder, tmp_path, model):
    place = _copied(folder, tmp_path)
    _edit(place / "generation_config.json",
          eos_token_id=model[1].convert_tokens_to_ids(["Generate", "Here", "Make", "Change", "Turn"]))
    mine = _load(place)
    assert mine(_prompts()[:4], range(4)) == [""] * 4
    lost, = converse_all([Item("muimage", {"music": SLOW, "image": "a cat"}, 1)], mine)
    assert lost.reason == "instruction_failed" and "said nothing" in lost.detail


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_it_loads_in_four_and_eight_bits(folder, quantize):
    mine = _load(folder, quantize=quantize)
    kinds = {type(module).__name__ for module in mine._model.modules()}
    assert {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[quantize] in kinds
    said = mine(_prompts()[:4], range(4))
    assert [isinstance(one, str) and len(one) > 20 for one in said] == [True] * 4
    with pytest.raises(ValueError, match="4bit, 8bit or nothing, not '3bit'"):
        _load(folder, quantize="3bit")


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_new_line": 0}])
def test_settings_out_of_range_are_an_error(folder, wrong):
    with pytest.raises(ValueError, match="temperature and top_k are 0 or more"):
        _load(folder, Settings(**wrong))


# Other models.

def _copied(folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(folder, place / "model"))


def _edit(file: Path, **more) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))


@pytest.fixture
def llama(folder, tmp_path):
    """A random LLaMA with a template, which it is called with."""
    def made(template) -> Path:
        place = tmp_path / "llama"
        place.mkdir()
        # Its marks are not ChatML's.
        text = (folder / "tokenizer.json").read_text().replace("<|im_start|>", "<|user|>").replace("<|im_end|>",
                                                                                                    "<|over|>")
        (place / "tokenizer.json").write_text(text)
        shutil.copy(folder / "tokenizer_config.json", place)
        _edit(place / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", chat_template=template)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = LlamaForCausalLM(LlamaConfig(
                vocab_size=len(AutoTokenizer.from_pretrained(place)), hidden_size=64, intermediate_size=64,
                num_hidden_layers=2, num_attention_heads=4, initializer_range=0.5, max_position_embeddings=1024,
                bos_token_id=0, eos_token_id=0))
        model.generation_config.repetition_penalty = 1.5  # the repository's own taste, which is not asked for
        model.save_pretrained(place)
        return place
    return made


@pytest.mark.parametrize("template, begins", [(OWN, "<|system|>\n{}<|over|>\n<|user|>\n{}<|over|>\n<|assistant|>\n"),
                                              (NO_SYSTEM, "<|user|>\n{}\n\n{}<|over|>\n<|assistant|>\n")])
def test_other_models_are_asked_by_their_template(llama, template, begins):
    place = llama(template)
    greedy = Settings(temperature=0, max_new_line=12, max_new_answers=14)
    mine, asked = _load(place, greedy), _prompts()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    over = tokenizer.convert_tokens_to_ids("<|over|>")
    assert mine._ends == [0, over]
    expected = []
    for prompt in asked:
        inputs = tokenizer(begins.format(prompt.system, prompt.user), return_tensors="pt", add_special_tokens=False)
        said = model.generate(**inputs, do_sample=False, max_new_tokens=14 if prompt.dataset == "musicqa" else 12,
                              eos_token_id=[0, over], pad_token_id=0, repetition_penalty=1.0)
        expected.append(tokenizer.decode(said[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip())
    assert mine(asked, [0] * len(asked)) == expected and len(set(expected)) > 8
    hostile = [_prompt("muimage", "human", music=SLOW, image=f"a {mark}cat") for mark in ("", "<|ov<|over|>er|>")]
    assert len(set(mine(hostile, [0, 0]))) == 1


def test_no_answer_depends_on_the_day(llama):
    day = "{{ date_string if date_string is defined else strftime_now('%Y') }}"
    assert "26 Jul 2024" in _load(llama(day + OWN))._render("a", "b")


# Faults.

def _truncated(place):
    file = place / "pytorch_model-00002-of-00002.bin"
    file.write_bytes(file.read_bytes()[:-1000])


def _without(place, name):
    for file in place.glob("*.bin"):
        weights = torch.load(file, weights_only=True)
        torch.save({key: value for key, value in weights.items() if key != name}, file)
    index = json.loads((place / "pytorch_model.bin.index.json").read_text())
    index["weight_map"].pop(name)
    (place / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def _other_marks(place):
    file = place / "tokenizer.json"
    file.write_text(file.read_text().replace("<|im_start|>", "<|begin|>"))


def _surplus(place):
    file = place / "pytorch_model-00002-of-00002.bin"
    torch.save({**torch.load(file, weights_only=True), "transformer.norm_f.bias": torch.zeros(192)}, file)
    index = json.loads((place / "pytorch_model.bin.index.json").read_text())
    index["weight_map"]["transformer.norm_f.bias"] = file.name
    (place / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("spoil, said", [
    (shutil.rmtree, "model: no config.json in it"),
    (_truncated, "pytorch_model-00002-of-00002.bin: "),
    (lambda place: (place / "pytorch_model-00001-of-00002.bin").unlink(), "pytorch_model-00001-of-00002.bin: a shard"),
    (lambda place: _without(place, "transformer.blocks.0.ffn.up_proj.weight"), "lacks transformer.blocks.0.ffn.up_p"),
    (_surplus, "does not know, transformer.norm_f.bias"),
    (lambda place: _edit(place / "config.json", n_layers=2), "lacks transformer.blocks.1"),
    (lambda place: _edit(place / "config.json", d_model=96), "another shape transformer.blocks.0.attn.Wqkv"),
    (lambda place: _edit(place / "config.json", vocab_size=4096), "another shape .*transformer.wte.weight"),
    (_other_marks, "wrong vocabulary: .*im_start.* not in it; is this mosaicml/mpt-7b-chat"),
    (lambda place: (place / "tokenizer.json").unlink(), "model: "),
    (lambda place: (place / "tokenizer.json").write_text('{"version":'), "tokenizer.json: is no JSON"),
    (lambda place: _edit(place / "config.json", model_type="t5"), "model: is no language model"),
    (lambda place: _edit(place / "config.json", model_type="mpt_of_ours"), "model: "),
    (lambda place: _edit(place / "config.json", model_type="gpt2"), "model: "),
])
def test_what_cannot_be_loaded_is_named(folder, tmp_path, spoil, said):
    place = _copied(folder, tmp_path)
    spoil(place)
    with pytest.raises(ValueError, match=said) as fault:
        _load(place)
    assert str(place) in str(fault.value)


def test_a_vocabulary_of_another_size_is_told(folder, tmp_path):
    place = _copied(folder, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.add_tokens([f"word{number}" for number in range(200)])
    tokenizer.save_pretrained(place)
    with pytest.raises(ValueError, match=f"wrong vocabulary: its tokenizer has {len(tokenizer)} tokens"):
        _load(place)


@pytest.mark.parametrize("template, said", [(None, "no chat template"), ("{{ 'Hello.' }}", "leaves out"),
                                            ("{{ raise_exception('never') }}", "never")])
def test_a_model_that_cannot_be_asked_is_told(llama, template, said):
    with pytest.raises(ValueError, match=said):
        _load(llama(template))


@pytest.mark.parametrize("quantize", ["", "8bit"])
def test_it_is_quiet(folder, capfd, caplog, quantize):
    _load(folder, quantize=quantize)(_prompts()[:2], [1, 2])
    assert capfd.readouterr() == ("", "") and caplog.records == []


def test_long_prompts_go_in_smaller_batches():
    """Attention's scores grow with the square of the length: 64 prompts of 1500 tokens took 13 GB."""
    rows = [chat._Row(place, [0] * length, 0, 0.5, 128) for place, length in enumerate([100] * 70 + [1500] * 70)]
    batches = list(chat._batches(rows, 64, 16))
    assert [row.place for batch in batches for row in batch] == list(range(140))
    assert [len(batch) for batch in batches] == [64, 6 + 1, *[7] * 9, 6]
    for batch in batches:
        assert len(batch) <= 64 and len(batch) * 16 * max(len(row.tokens) for row in batch) ** 2 <= chat._SCORES
    assert len(list(chat._batches(rows[-1:], 64, 10**6))) == 1, "one alone is tried, however long"
