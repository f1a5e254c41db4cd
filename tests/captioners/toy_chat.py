"""A small MPT-7B-chat whose weights are written by hand: a grammar, so that its answers hold (captioners.answers).

One layer. Its attention's heads each look for the latest of a few words of the prompt (what is asked for, by how much),
its feed-forward part has one unit for each rule "after this word, if these were seen, one of those", and a mean over
the prompt sways which. `mosaicml/mpt-7b-chat` is laid out as here: a config with `auto_map` and
`use_cache` false, bfloat16 in two `.bin` shards with an index and without `lm_head`, GPT-NeoX's byte-level BPE with the
marks at its end, and more rows than tokens.
"""
import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from manifests import prompts
from tests.captioners.hub import repository

NAME = "mosaicml/mpt-7b-chat"
START, END = "<|im_start|>", "<|im_end|>"

_HEADS, _WIDTH = 16, 192  # 12 a head
_FLAVOURS = 8
# What a head looks for. ALiBi makes head n prefer the near by 2 ** -((n + 1) / 2) a token.
_SEEN = {"number": (0, (" 1", " 2", " 5", " 30", " 50")), "item": (1, ("1)", "2)", "3)", "4)", "5)")),
         "way": (2, (" up", " down", " slower", " faster")), "edit": (13, (" multiplied", " shifted")),
         "noun": (14, ("Image", "Video")), "kind": (15, (" input", "Generate", "Here", " inferred", " relating"))}
_TASTE = 12
_MOODS, _SOUNDS, _PLAYED = ((" slow", " calm", " bright", " lively"), (" warm", " gentle", " happy", " sad"),
                            (" guitar", " piano", " strings", " drums"))
_ITEMS = {"1)": (" tempo", " speed"), "2)": (" mood", " feeling"), "3)": (" style", " genre"),
          "4)": (" rhythm", " beat"), "5)": (" sound", " texture")}
_PAIR, _TEMPO, _PITCH = ({"kind": " input", "edit": edit} for edit in ("", " multiplied", " shifted"))
_ASK, _GIVE, _CLOSED, _OPEN = ({"kind": kind} for kind in ("Generate", "Here", " inferred", " relating"))
# After this word, where these were seen ("" is none of them): one of those.
_RULES = [
    ("\n", _ASK, ["Generate"]), ("Generate", {}, [" a"]), (" a", {}, [" music"]), (" music", _ASK, [" for"]),
    (" for", {}, [" the"]), (" the", {"noun": "Image"}, [" image"]), (" the", {"noun": "Video"}, [" video"]),
    (" image", {}, [" that"]), (" video", {}, [" that"]), (" that", {}, [" is"]),
    ("\n", _GIVE, ["Here"]), ("Here", {}, ["'s"]), ("'s", {}, [" a"]), (" music", _GIVE, [" that"]),
    (" is", {}, _MOODS), *((mood, {}, [" and"]) for mood in _MOODS), (" and", {}, _SOUNDS),
    *((sound, {}, [" with"]) for sound in _SOUNDS), (" with", {}, _PLAYED),
    *((played, {}, [".", " throughout"]) for played in _PLAYED), (" throughout", {}, ["."]),
    *((".", kind, [END]) for kind in (_ASK, _GIVE, {"kind": " input"})),
    ("\n", _PAIR, ["Make", "Change", "Turn"]), ("Make", {}, [" it"]), ("Change", {}, [" this"]),
    ("Turn", {}, [" this"]), (" this", {}, [" into"]), (" into", {}, [" something"]), (" something", {}, _MOODS),
    (" it", _PAIR, _MOODS),
    ("\n", _TEMPO, ["Make", "Play"]), ("Play", {}, [" it"]),
    *((" it", {**_TEMPO, "number": number}, [number]) for number in (" 30", " 50")),
    (" 30", {}, ["%"]), (" 50", {}, ["%"]), *(("%", {"way": way}, [way]) for way in (" slower", " faster")),
    (" slower", {}, [".", " please"]), (" faster", {}, [".", " please"]), (" please", {}, ["."]),
    ("\n", _PITCH, ["Shift", "Move"]), ("Shift", {}, [" it"]), ("Move", {}, [" it"]),
    *((" it", {**_PITCH, "way": way}, [way]) for way in (" up", " down")), (" up", {}, [" by"]), (" down", {}, [" by"]),
    *((" by", {"number": number}, [number]) for number in (" 1", " 2", " 5")),
    (" 1", {}, [" semitone"]), (" 2", {}, [" semitones"]), (" 5", {}, [" semitones"]),
    (" semitone", {}, [".", " please"]), (" semitones", {}, [".", " please"]),
    *(("\n", {**kind, "item": before}, [after]) for kind, last in ((_CLOSED, 4), (_OPEN, 5))
      for before, after in list(zip(["", *_ITEMS], _ITEMS, strict=False))[:last]),
    *((".", {**kind, "item": item}, [END if place == last else "\n"]) for kind, last in ((_CLOSED, 4), (_OPEN, 5))
      for place, item in enumerate(_ITEMS, 1) if place <= last),
    *((item, _CLOSED, [" This", " It"]) for item in _ITEMS), (" This", _CLOSED, [" music", " song", " audio"]),
    *((one, {}, [" is"]) for one in (" It", " song", " audio")), (" music", _CLOSED, [" is"]),
    *((item, _OPEN, [" What"]) for item in _ITEMS),
    *((" What", {"item": item}, nouns) for item, nouns in _ITEMS.items()),
    *((noun, {}, [" does"]) for nouns in _ITEMS.values() for noun in nouns), (" does", {}, [" it"]),
    (" it", _OPEN, [" have"]), (" have", {}, ["?"]), ("?", {}, [" This"]), (" This", _OPEN, [" is"]),
]


def save(cache: Path) -> None:
    """The repository, in a Hub cache."""
    folder = repository(cache, NAME)
    tokenizer = _tokenizer(folder)
    rows = -(-tokenizer.get_vocab_size() // 64) * 64
    told = {token for text in _prompts() for token in tokenizer.encode(text).ids}
    weights = {f"transformer.{name}": tensor.bfloat16()
               for name, tensor in _weights(tokenizer.get_vocab(), told, rows).items()}
    names, files = list(weights), [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    placed = {name: files[place >= len(names) // 2] for place, name in enumerate(names)}
    for file in files:
        torch.save({name: weights[name] for name in names if placed[name] == file}, folder / file)
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    for name, told in (("pytorch_model.bin.index.json", {"metadata": {"total_size": size}, "weight_map": placed}),
                       ("config.json", _config(rows)),
                       ("generation_config.json", {"_from_model_config": True, "eos_token_id": 0, "use_cache": False})):
        (folder / name).write_text(json.dumps(told, indent=2))


def _config(rows: int) -> dict:
    return {
        "architectures": ["MPTForCausalLM"],
        "attn_config": {"alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "attn_pdrop": 0,
                        "attn_type": "multihead_attention", "attn_uses_sequence_id": False, "clip_qkv": None,
                        "prefix_lm": False, "qk_ln": False, "softmax_scale": None},
        "auto_map": {"AutoConfig": "configuration_mpt.MPTConfig",
                     "AutoModelForCausalLM": "modeling_mpt.MPTForCausalLM"},
        "d_model": _WIDTH, "emb_pdrop": 0, "embedding_fraction": 1.0, "expansion_ratio": 4, "init_device": "cpu",
        "learned_pos_emb": True, "logit_scale": None, "max_seq_len": 2048, "model_type": "mpt", "n_heads": _HEADS,
        "n_layers": 1, "no_bias": True, "norm_type": "low_precision_layernorm", "resid_pdrop": 0,
        "tokenizer_name": "EleutherAI/gpt-neox-20b", "torch_dtype": "bfloat16", "use_cache": False, "verbose": 0,
        "vocab_size": rows}


def _words() -> list[str]:
    """Every word of the grammar, each once; tokens of their own, as whole words are in real vocabularies."""
    told = [word for after, _, nexts in _RULES for word in (after, *nexts)]
    return list(dict.fromkeys([*told, *(word for _, words in _SEEN.values() for word in words)]))


def _prompts() -> list[str]:
    texts = {"source": "", "target": "", "amount": 1.3, "music": "", "image": "", "video": ""}
    return [text for dataset, sides in prompts.SIDES.items() for side in sides for edit in ("tempo", "pitch")
            for given in [{**texts, "edit": edit}] for text in (
                "system\nuser\nassistant", prompts.system(dataset, side, given), prompts.user(dataset, side, given))]


def _tokenizer(folder: Path) -> Tokenizer:
    """Byte-level BPE in which the words of the grammar and of the prompts are whole."""
    bytewise, letters = pre_tokenizers.ByteLevel(add_prefix_space=False), sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate(["<|endoftext|>", "<|padding|>", *letters])}
    merges = []
    for text in (*(word for word in _words() if word not in (END, *_ITEMS)), *_prompts()):
        for (made, *others), _ in bytewise.pre_tokenize_str(text):
            for letter in others:
                if made + letter not in vocabulary:
                    merges.append((made, letter))
                    vocabulary[made + letter] = len(vocabulary)
                made += letter
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = bytewise
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|padding|>"])
    tokenizer.add_tokens([AddedToken(text, normalized=True) for text in ("    ", "   ", "  ", *_ITEMS)])
    tokenizer.add_special_tokens([START, END])
    tokenizer.save(str(folder / "tokenizer.json"))
    plain = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    (folder / "special_tokens_map.json").write_text(json.dumps(plain))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        **plain, "add_prefix_space": False, "clean_up_tokenization_spaces": True, "model_max_length": 2048,
        "tokenizer_class": "GPTNeoXTokenizer"}))
    return tokenizer


def _weights(vocabulary: dict[str, int], told: set[int], rows: int) -> dict[str, torch.Tensor]:
    """Each word has a dimension, and so has each thing that a head may have seen. Layer norms are as they begin.

    `told`: the tokens of the prompts, whatever they are about.
    """
    random, words = torch.Generator().manual_seed(7), _words()
    ids = {word: vocabulary[word.replace(" ", "Ġ").replace("\n", "Ċ")] for word in [*words, START]}
    word = {one: place for place, one in enumerate(ids)}
    seen = {(head, cue): len(word) + place for place, (head, cue) in enumerate(
        (head, cue) for head, (_, cues) in _SEEN.items() for cue in ("", *cues))}
    always = len(word) + len(seen)
    taste = range(always + 1, always + 1 + _FLAVOURS)
    other = taste.stop
    assert other < _WIDTH, "the words need a wider model"

    wte = torch.zeros(rows, _WIDTH)
    wte[:, always] = 1
    wte[:, taste.start:taste.stop] = 0.35 * (torch.randint(2, (rows, _FLAVOURS), generator=random) * 2 - 1)
    # What is in every prompt has none; nor have cues, which layer norm must treat alike: only their distance counts.
    wte[[*told, ids[START], *(ids[cue] for _, cues in _SEEN.values() for cue in cues)], taste.start:taste.stop] = 0
    wte[:, other] = 1
    for one, place in word.items():
        wte[ids[one], [other, place]] = torch.tensor([0.0, 1.0])
    unit = torch.nn.functional.layer_norm(wte[ids[START]], (_WIDTH,))[always]  # what 1 is once it is normed

    size = _WIDTH // _HEADS
    query, key, value, output = (torch.zeros(_WIDTH, _WIDTH) for _ in range(4))
    for head, (number, cues) in _SEEN.items():
        first = number * size
        query[first, always] = 1 / unit
        key[first, word[START]] = 40 * size ** 0.5 / unit  # looked at where there is none
        for slot, cue in enumerate(("", *cues)):
            key[first, word[cue or START]] = (90 if cue else 40) * size ** 0.5 / unit
            value[first + slot, word[cue or START]] = 1 / unit
            output[seen[head, cue], first + slot] = 1
    for slot, place in enumerate(taste):
        value[_TASTE * size + slot, place] = 1 / unit
        output[place, _TASTE * size + slot] = 12

    up, down = torch.zeros(4 * _WIDTH, _WIDTH), torch.zeros(_WIDTH, 4 * _WIDTH)
    for unit_, (after, needs, nexts) in enumerate(_RULES):
        places = [word[after], *(seen[head, cue] for head, cue in needs.items())]
        up[unit_, places] = 2
        up[unit_, always] = -2 * (len(places) - 0.5)
        down[[word[one] for one in nexts], unit_] = 4
    return {"wte.weight": wte, "blocks.0.norm_1.weight": torch.ones(_WIDTH),
            "blocks.0.attn.Wqkv.weight": torch.cat([query, key, value]), "blocks.0.attn.out_proj.weight": output,
            "blocks.0.norm_2.weight": torch.ones(_WIDTH), "blocks.0.ffn.up_proj.weight": up,
            "blocks.0.ffn.down_proj.weight": down, "norm_f.weight": torch.ones(_WIDTH)}
