"""A stage's samples as prepared: all of them, in order, each once; every other row by name; made again when need be."""
import dataclasses
import gc
import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from manifests import published as files
from manifests import shards, storage
from tests.training.test_rows import ALPACA, COCO, MUSICQA_JSON, dataset, published, row
from tests.training.test_samples import LOUD, WORDS
from training import features, mixture, samples, stages
from training.features import Features, Missing, media_key, text_key
from training.mixture import Prepared
from training.samples import Medium, Sample
from training.sources import Sources
from training.stages import Stage

LONGEST = 300


def _build(tmp_path: Path) -> Sources:
    """A build with a few rows of everything, in two shards each, and the published datasets."""
    for name in ("mucaps", "muimage", "muvideo", "musicqa", "muedit"):
        dataset(tmp_path, name, "train", [row(name, f"{name} {number}") for number in (2, 0)],
                [row(name, f"{name} 1", caption="A fast piece.")])
        dataset(tmp_path, name, "eval", [row(name, f"{name} held")])
    return Sources(str(tmp_path), published(tmp_path / "c.json", COCO), published(tmp_path / "a.json", ALPACA),
                   published(tmp_path / "m.json", MUSICQA_JSON))


def _prepared(folder: Path, stage: int | Stage, sources: Sources, longest: int = LONGEST,
              given: dict[str, Features] | None = None) -> Prepared:
    return mixture.prepare(folder, stages.STAGES[stage] if isinstance(stage, int) else stage, sources, WORDS, longest,
                           given or {})


def _expected(stage: int, split: str, sources: Sources) -> Iterator[tuple[str, Sample]]:
    """By reading everything, one dataset after the other."""
    for name in stages.STAGES[stage].data:
        for url in sources.shards(name, split):
            for one in shards.read(url):
                for texts in samples.exchanges(stage, name, one):
                    yield name, samples.sample(texts, WORDS, LONGEST)
        if split == "train" and name in ("coco", "alpaca", "musicqa"):  # none of these few is drawn for evaluation
            for number, one in enumerate(getattr(files, name)(getattr(sources, name))):
                for texts in samples.exchanges(stage, name, one, number):
                    yield name, samples.sample(texts, WORDS, LONGEST)


def _lost(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "lost.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_all_that_a_stage_learns_from(tmp_path, stage: int) -> None:
    sources, folder = _build(tmp_path), tmp_path / "run" / "data"
    made = _prepared(folder, stage, sources)
    total = {"train": {}, "eval": {}}
    for split, found in (("train", made.train), ("eval", made.eval)):
        wanted = list(_expected(stage, split, sources))
        assert len(found) == len(wanted) > 0 and found.datasets == tuple(stages.STAGES[stage].data)
        for number, (name, one) in enumerate(wanted):
            got = found[number]
            assert (got.id, got.dataset, got.hears, got.music, got.places) == (one.id, name, one.hears, one.music, {})
            assert got.tokens.tolist() == list(one.tokens) and got.labels.tolist() == list(one.labels)
            assert found.lengths[number] == len(one.tokens) and found.datasets[found.dataset_of[number]] == name
            total[split][name] = total[split].get(name, 0) + 1
    assert made.about["counts"] == {name: {split: total[split].get(name, 0) for split in total}
                                    for name in stages.STAGES[stage].data}
    assert (made.about["lost"], made.about["notes"], made.about["shortened"], _lost(folder)) == ({}, [], 0, [])
    assert sorted(os.listdir(folder)) == ["data.json", "eval.arrow", "lost.jsonl", "train.arrow"]
    if stage == 3:  # two questions in each row of ours, three published ones, beside each other
        assert made.about["counts"]["musicqa"] == {"train": 9, "eval": 2}
        heard = [one.hears["audio"].dataset for one in map(made.train.__getitem__, range(2, 11))]
        assert heard == ["musicqa"] * 6 + ["musicqa-published"] * 3


def test_the_others_open_what_one_process_prepared(tmp_path) -> None:
    made = _prepared(tmp_path / "data", 2, _build(tmp_path))
    found = mixture.opened(tmp_path / "data")
    assert found.about == made.about and found.told() == made.told()
    assert [one.id for one in found.train] == ["mucaps 2", "mucaps 0", "mucaps 1"]
    assert [one.tokens.tolist() for one in found.train] == [one.tokens.tolist() for one in made.train]


def test_what_is_told(tmp_path) -> None:
    dataset(tmp_path, "mucaps", "train", [row("mucaps", key) for key in "abc"],
            [row("mucaps", key, caption=None) for key in "defg"] + [row("mucaps", "h", caption="loud " * 400)])
    dataset(tmp_path, "mucaps", "eval", [row("mucaps", "e")])
    dataset(tmp_path, "muimage", "train", [row("muimage", "i")])
    stage = dataclasses.replace(stages.STAGES[1], data={"mucaps": 2.5, "coco": 1.0, "muvideo": 1.0})
    made = _prepared(tmp_path / "data", stage, Sources(str(tmp_path)), 60)
    tokens = sum(len(one.tokens) for one in made.train)
    assert tokens == made.train.lengths.sum() and made.train.lengths.max() == 60
    assert made.told().splitlines() == [
        f"stage 1: 5 samples of {tokens} tokens; 1 for validation",
        "  mucaps: 4 (validation 1), each 2.5 times an epoch",
        "  coco: 1 (validation 0)",
        "  1 were shortened to 60 tokens",
        f"  lost of mucaps: 4 empty ('d', 'e', 'f', ...); all are in {tmp_path}/data/lost.jsonl",
        "  note: no published file of coco was given: the captions of muimage's pictures stand in",
        f"  note: muvideo is left out: there is no {tmp_path}/datasets/muvideo"]
    stood_in = made.train[4]
    assert (stood_in.id, stood_in.dataset, stood_in.hears) == ("i", "coco", {"image": Medium("muimage", "i")})


def _turns(row: dict, place: int, **other: object) -> list[dict | None]:
    turns = [dict(turn) for turn in row["conversation"]]
    turns[place] |= other
    return turns


EDIT, QA = row("muedit", "x"), row("musicqa", "x")
BAD = [  # stage, dataset, row, lost under which id, reason, of how many samples
    (1, "mucaps", row("mucaps", "x", caption=None), "x", "empty"),
    (1, "mucaps", row("mucaps", "x", caption=" \n"), "x", "empty"),
    (1, "muvideo", row("muvideo", "x", video_caption=""), "x", "empty"),
    (2, "mucaps", row("mucaps", None), "row 2 of data-00000.arrow", "malformed"),
    (2, "mucaps", row("mucaps", ""), "row 2 of data-00000.arrow", "malformed"),
    (3, "muimage", row("muimage", "x", conversation=None), "x", "malformed"),
    (3, "muimage", row("muimage", "x", conversation=[]), "x", "malformed"),
    (3, "muimage", row("muimage", "x", conversation=[None, None]), "x", "malformed"),
    (3, "muedit", row("muedit", "x", conversation=EDIT["conversation"][:1]), "x", "malformed"),
    (3, "muedit", row("muedit", "x", conversation=_turns(EDIT, 0, input_modality="smell")), "x", "malformed"),
    (3, "muedit", row("muedit", "x", conversation=_turns(EDIT, 1, output_modality=None)), "x", "malformed"),
    (3, "muedit", row("muedit", "x", conversation=_turns(EDIT, 1, caption=None)), "x", "empty"),
    (3, "muedit", row("muedit", "x", conversation=_turns(EDIT, 1, value=None)), "x", "empty"),
    (3, "musicqa", row("musicqa", "x", conversation=_turns(QA, 2, value="")), "x#2", "empty")]


@pytest.mark.parametrize(("stage", "name", "bad", "key", "reason"), BAD)
def test_a_bad_row_is_named_and_costs_the_others_nothing(tmp_path, stage, name, bad, key, reason) -> None:
    good = [row(name, "a"), row(name, "z")]
    for place, some in (("with", [good[0], bad, good[1]]), ("without", good)):
        dataset(tmp_path / place, name, "train", some)
    only = dataclasses.replace(stages.STAGES[stage], data={name: 1.0})
    made, sound = (_prepared(tmp_path / place / "data", only, Sources(str(tmp_path / place)))
                   for place in ("with", "without"))
    told, = _lost(tmp_path / "with" / "data")
    assert (told["dataset"], told["id"], told["reason"]) == (name, key, reason) and told["detail"]
    assert made.about["lost"] == {name: {reason: {"count": 1, "first": [key]}}}
    kept = [one.id for one in made.train]
    if name == "musicqa":
        assert kept == ["a#1", "a#2", "x#1", "z#1", "z#2"]
    else:
        assert kept == [one.id for one in sound.train] == ["a", "z"]
    assert made.about["counts"][name]["train"] == len(kept)


def test_nothing_usable(tmp_path) -> None:
    dataset(tmp_path, "mucaps", "train", [row("mucaps", "a", caption="")])
    dataset(tmp_path, "mucaps", "eval", [row("mucaps", "e")])
    for longest, reason in ((LONGEST, "empty"), (10, "too_long")):
        with pytest.raises(ValueError, match=r"no row of mucaps can be used; .*lost\.jsonl tells why"):
            _prepared(tmp_path / "data", 2, Sources(str(tmp_path)), longest)
        assert reason in [one["reason"] for one in _lost(tmp_path / "data")]
        with pytest.raises(FileNotFoundError, match=r"data\.json: no such file"):
            mixture.opened(tmp_path / "data")
    with pytest.raises(ValueError, match="nothing to learn from: mucaps is left out"):
        _prepared(tmp_path / "data", 2, Sources(str(tmp_path / "other")))


def test_published_rows_without_text_are_told_bad_ones_end_it(tmp_path) -> None:
    path = tmp_path / "a.json"
    published(path, [*ALPACA, {"instruction": "One", "input": "", "output": None}])
    made = _prepared(tmp_path / "data", 3, Sources(str(tmp_path), alpaca=str(path)))
    assert f"  note: {path}: left out what has nothing to learn from" in made.told() and "row 3" in made.told()
    published(path, [*ALPACA, {"instruction": "One", "output": 3}])
    with pytest.raises(ValueError, match=r"a\.json: 1 bad row \(row 3: output is no text: '3'\)"):
        _prepared(tmp_path / "data", 3, Sources(str(tmp_path), alpaca=str(path)))
    assert sorted(os.listdir(tmp_path / "data")) == ["eval.arrow", "lost.jsonl", "train.arrow"]  # those of before
    with pytest.raises(FileNotFoundError, match=r"data\.json: no such file"):
        mixture.opened(tmp_path / "data")


def _times(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_ino for name in ("train.arrow", "eval.arrow", "data.json")}


def _touch(tmp_path: Path, name: str) -> None:
    os.utime(next((tmp_path / "datasets").glob(name)), ns=(1, 10**18))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def _grow(tmp_path: Path) -> None:
    dataset(tmp_path, "mucaps", "eval", [row("mucaps", "e"), row("mucaps", "new")])


def _older(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 0}))


@pytest.mark.parametrize("change", [
    lambda tmp: _touch(tmp, "mucaps/train/data-00001.arrow"), _grow, lambda tmp: published(tmp / "c.json", {"a": "b"}),
    lambda tmp: _cut(tmp / "data" / "eval.arrow"), lambda tmp: (tmp / "data" / "train.arrow").unlink(),
    lambda tmp: (tmp / "data" / "eval.arrow").write_bytes((tmp / "data" / "train.arrow").read_bytes()),
    lambda tmp: _cut(tmp / "data" / "data.json"), lambda tmp: _older(tmp / "data" / "data.json"),
    lambda tmp: (tmp / "data" / "data.json").write_text("[]")])
def test_made_again_when_it_is_not_the_same(tmp_path, change: Callable) -> None:
    sources, folder = _build(tmp_path), tmp_path / "data"
    made = _prepared(folder, 1, sources)
    before = _times(folder)
    assert _prepared(folder, 1, sources).about == made.about and _times(folder) == before
    _touch(tmp_path, "muedit/train/data-00000.arrow")  # which stage 1 does not read
    assert _prepared(folder, 1, sources).about == made.about and _times(folder) == before
    change(tmp_path)
    again = _prepared(folder, 1, sources)
    assert _times(folder)["train.arrow"] != before["train.arrow"]
    expected = _prepared(tmp_path / "other", 1, sources)
    assert again.about == expected.about and [one.id for one in again.eval] == [one.id for one in expected.eval]


def test_files_of_two_times_are_not_taken_together(tmp_path) -> None:
    sources = _build(tmp_path)
    made, other = _prepared(tmp_path / "data", 2, sources), _prepared(tmp_path / "short", 2, sources, 42)
    assert len(made.train) == len(other.train)
    (tmp_path / "data" / "train.arrow").write_bytes((tmp_path / "short" / "train.arrow").read_bytes())
    with pytest.raises(ValueError, match=r"train\.arrow: \d+ bytes and 3 samples, which is not what data\.json says"):
        mixture.opened(tmp_path / "data")
    assert _prepared(tmp_path / "data", 2, sources).about == made.about


def test_made_again_for_other_settings(tmp_path) -> None:
    sources, folder, seen = _build(tmp_path), tmp_path / "data", set()
    plain = stages.STAGES[2]
    bare = dataclasses.replace(WORDS, encode=lambda text: WORDS.encode(text.replace("loud", "quiet").replace("a", "b")))
    for stage, longest, words, given in (
            (plain, LONGEST, WORDS, {}), (plain, LONGEST - 1, WORDS, {}),
            (dataclasses.replace(plain, data={"mucaps": 2.0}), LONGEST, WORDS, {}), (plain, LONGEST, bare, {}),
            (stages.STAGES[1], LONGEST, WORDS, {}), (plain, LONGEST, WORDS, {"text": _Known("one")}),
            (plain, LONGEST, WORDS, {"text": _Known("two")})):
        made = mixture.prepare(folder, stage, sources, words, longest, given)
        assert made.about["digest"] not in seen
        seen.add(made.about["digest"])
    values = dataclasses.replace(plain, epochs=1, rate=1.0)  # these change no sample
    assert mixture.prepare(folder, values, sources, WORDS, LONGEST, {"text": _Known("two")}).about == made.about


class _Known(Features):
    """Every key in one row."""

    def __init__(self, digest: str) -> None:
        self.digest, self.covers = digest, None

    def place(self, key: str) -> int:
        return 0


def test_whoever_prepares_it_the_same_bytes(tmp_path) -> None:
    made = [_prepared(tmp_path / name, 3, _build(tmp_path)) for name in ("a", "b")]
    assert made[0].about["content"] == made[1].about["content"]
    for name in ("train.arrow", "eval.arrow"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    dataset(tmp_path, "mucaps", "eval", [row("mucaps", "e", caption="other")])
    assert len({_prepared(tmp_path / "c", stage, Sources(str(tmp_path))).about["content"] for stage in (1, 2, 3)}) == 3


def test_a_shard_that_vanished(tmp_path) -> None:
    sources = _build(tmp_path)
    _prepared(tmp_path / "data", 2, sources)
    (tmp_path / "datasets" / "mucaps" / "train" / "data-00001.arrow").unlink()
    with pytest.raises(FileNotFoundError, match=r"mucaps/train/data-00001\.arrow: no such file; build its dataset"):
        _prepared(tmp_path / "data", 2, sources)
    assert len(mixture.opened(tmp_path / "data").train) == 3  # what was prepared is intact


class _Killed(Exception):
    pass


def test_what_was_broken_off_is_made_again(tmp_path) -> None:
    sources, folder = _build(tmp_path), tmp_path / "data"
    _prepared(folder, 1, sources)

    class Breaks(_Known):
        def place(self, key: str) -> int:
            if key.startswith("muvideo"):
                raise _Killed
            return 0

    (folder / ".tmp-of-a-killed-one").write_bytes(b"half")
    with pytest.raises(_Killed):
        _prepared(folder, 1, sources, given={"video": Breaks("x")})
    with pytest.raises(FileNotFoundError, match=r"data\.json: no such file"):
        mixture.opened(folder)
    assert len(_prepared(folder, 1, sources).train) == 9
    assert sorted(os.listdir(folder)) == ["data.json", "eval.arrow", "lost.jsonl", "train.arrow"]


@pytest.mark.parametrize(("said", "told"), [
    ("{}", "does not tell what was prepared"), ("3", "does not tell"), ('{"version": 1, "datasets": []}', "does not"),
    ('{"version": 9}', "of version 9, not 1; remove it"), ("{", "not valid JSON")])
def test_what_speaks_for_nothing(tmp_path, said: str, told: str) -> None:
    _prepared(tmp_path / "data", 2, _build(tmp_path))
    (tmp_path / "data" / "data.json").write_text(said)
    with pytest.raises(ValueError, match=rf"data\.json: {told}"):
        mixture.opened(tmp_path / "data")


def _encoded(out: Path, kind: str, keys: dict[str, str], covers: dict[str, int] | None = None) -> None:
    """An index of features: by key its outcome."""
    from manifests import records
    done = [key for key, outcome in keys.items() if outcome == "done"]
    shards.write(str(out / "stages" / f"{kind}.arrow"), records.FEATURE, [
        {"id": key, "outcome": "done", "detail": "", "values": b"1234"} for key in done])
    features.publish(str(out), kind, {}, (2,), [
        (key, f"stages/{kind}.arrow", done.index(key), "done", "") if outcome == "done" else
        (key, None, -1, outcome, "the file is empty") for key, outcome in keys.items()], covers)


def test_where_its_features_are(tmp_path) -> None:
    sources = _build(tmp_path)
    image = {media_key(Medium("muimage", f"muimage {name}")): "done" for name in ("held", "1", "0")}
    _encoded(tmp_path, "image", {"coco/a.jpg": "done", **image, media_key(Medium("muimage", "muimage 2")): "no_video"})
    _encoded(tmp_path, "text", {text_key("A fast piece."): "done", text_key(LOUD): "done"})
    given = features.opened(str(tmp_path))
    only = dataclasses.replace(stages.STAGES[3], data={"muimage": 1.0, "muedit": 1.0, "alpaca": 1.0})
    made, loud = _prepared(tmp_path / "data", only, sources, given=given), given["text"].place(text_key(LOUD))
    assert [(one.id, one.places) for one in made.train] == [
        ("muimage 0", {"image": given["image"].place("muimage/muimage 0"), "text": loud}),
        ("muimage 1", {"image": given["image"].place("muimage/muimage 1"), "text": loud}),
        *[(f"muedit {number}", {"text": loud}) for number in (2, 0, 1)],
        ("0", {}), ("1", {})]
    told, = _lost(tmp_path / "data")
    assert told == {"dataset": "muimage", "id": "muimage 2", "reason": "no_video",
                    "detail": "its image could not be encoded: the file is empty"}
    assert made.about["lost"]["muimage"]["no_video"]["count"] == 1


def test_features_of_before_a_row_was_there(tmp_path) -> None:
    sources = _build(tmp_path)
    _encoded(tmp_path, "text", {text_key(LOUD): "done"})
    with pytest.raises(ValueError, match=r"mucaps 'mucaps 1': its text is not among the precomputed .*make features"):
        _prepared(tmp_path / "data", 2, sources, given=features.opened(str(tmp_path)))


@pytest.mark.parametrize(("stage", "name"), [(3, "muimage"), (1, "coco")])  # where muimage stands in
def test_media_that_took_the_place_of_others_are_refused(tmp_path, stage: int, name: str) -> None:
    """Rows and keys are the same; the shards tell that what was encoded is something else."""
    for split, keys in (("train", "ab"), ("eval", "c")):
        dataset(tmp_path, "muimage", split, *([row("muimage", key)] for key in keys))
    only, sources = dataclasses.replace(stages.STAGES[stage], data={name: 1.0}), Sources(str(tmp_path))
    sizes = {f"muimage/{split}/{Path(url).name}": storage.size(url)
             for split in ("train", "eval") for url in sources.shards("muimage", split)}
    assert len(sizes) == 3

    def prepared(covers: dict[str, int] | None) -> Prepared:
        _encoded(tmp_path, "image", {f"muimage/{key}": "done" for key in "abc"}, covers)
        return _prepared(tmp_path / "data", only, sources, given=features.opened(str(tmp_path)))
    for covers in (None, sizes, sizes | {"muimage/train/of-another-time.arrow": 5}):
        assert len(prepared(covers).train) == 2
    for gone in sizes:
        path = tmp_path / "datasets" / gone
        with pytest.raises(ValueError, match=rf"{path}: was not there, or another one, when features of image were"):
            prepared({one: size for one, size in sizes.items() if one != gone})
        with pytest.raises(ValueError, match=rf"{path}: was not there, .*; run `make features` again, or train"):
            prepared(sizes | {gone: sizes[gone] - 1})
    _encoded(tmp_path, "audio", {}, {})  # of a kind that the stage does not hear
    assert len(prepared(sizes).train) == 2


def test_a_lost_text_loses_its_row(tmp_path) -> None:
    sources = _build(tmp_path)
    _encoded(tmp_path, "text", {text_key(LOUD): "done", text_key("A fast piece."): "failed"})
    made = _prepared(tmp_path / "data", 2, sources, given=features.opened(str(tmp_path)))
    assert [one.id for one in made.train] == ["mucaps 2", "mucaps 0"]
    assert [(one["id"], one["reason"]) for one in _lost(tmp_path / "data")] == [("mucaps 1", "failed")]
    assert issubclass(Missing, KeyError)  # and yet none of them was taken for a bug in a mapping


def test_an_empty_split_is_none(tmp_path) -> None:
    dataset(tmp_path, "mucaps", "train", [row("mucaps", "a")])
    made = _prepared(tmp_path / "data", 2, Sources(str(tmp_path)))
    assert (len(made.train), len(made.eval)) == (1, 0) and "0 for validation" in made.told()


def _peak(tmp_path: Path, rows: int) -> int:
    """Bytes that Python and Arrow held at most while `rows` rows were prepared, opened and some of them read."""
    for name in ("mucaps", "muedit"):
        dataset(tmp_path, name, "train", (row(name, f"{number}") for number in range(rows // 2)))
    assert storage.size(str(tmp_path / "datasets/muedit/train/data-00000.arrow")) > 1200 * rows // 2  # with media
    only = dataclasses.replace(stages.STAGES[3], data={"muedit": 1.0})
    pool, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    gc.collect()
    tracemalloc.start()
    try:
        for stage in (stages.STAGES[2], only):
            made = _prepared(tmp_path / "data", stage, Sources(str(tmp_path)))
            assert len(made.train) == rows // 2 and not made.about["lost"]
            assert all(one.music == LOUD for one in map(made.train.__getitem__, range(0, rows // 2, 100)))
        return tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


def test_memory_is_flat(tmp_path) -> None:
    """A sample's tokens alone have 400 bytes on disk, and its media a thousand."""
    _peak(tmp_path / "warm", 100)
    few, many = (_peak(tmp_path / f"{rows}", rows) for rows in (400, 4000))
    assert many - few < 30 * 1800
