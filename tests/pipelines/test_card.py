"""Cards: that the libraries of the Hub read them, and that what they say is so."""
import json
import logging
import platform
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Audio, Dataset, Image, load_dataset, load_from_disk
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

from captioners.vocabulary import HEDGED
from manifests import audioset
from pipelines import card, report, version
from pipelines.audioset import SPANS, Source, _row
from pipelines.download import Settings
from tests.pipelines.test_build import build

NAMES = ("mucaps", "muimage", "musicqa")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    build(out, "--limit", "12", "--datasets", ",".join(NAMES))
    return out


@pytest.fixture
def parquet(made, tmp_path):
    """A repository's files as Parquet, with its card; called with `embed`."""
    def written(embed: str, **more) -> Path:
        folder, files = tmp_path / embed, {}
        for name in NAMES:
            for split, rows in load_from_disk(str(made / "datasets" / name)).items():
                path = folder / name / f"{split}-00000-of-00001.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                columns = card.features(name, embed)
                pq.write_table(rows.data.table.select(list(columns)).cast(columns.arrow_schema), path)
                files.setdefault(name, {})[split] = [{"path": f"{name}/{path.name}", "rows": len(rows),
                                                      "bytes": path.stat().st_size}]
        (folder / "README.md").write_text(card.repository(str(made), NAMES, embed, files, **more))
        return folder
    return written


def stats(out: Path) -> dict:
    return json.loads((out / "stats.json").read_text())


def section(text: str, title: str) -> str:
    return re.search(rf"^#+ {re.escape(title)}\n\n(.*?)(?=\n#+ |\Z)", text, re.DOTALL | re.MULTILINE)[1]


def tables(text: str) -> list[list[list[str]]]:
    """Each table's rows, without the line below its head."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    parted = [[[cell.strip() for cell in line.strip("|").split("|")] for line in one.splitlines()] for one in found]
    assert all(len({len(line) for line in one}) == 1 and set(one[1]) == {"---"} for one in parted)
    return [[one[0], *one[2:]] for one in parted]


@pytest.mark.parametrize("embed", ["none", "media"])
def test_libraries_of_the_hub_read_a_repositorys(made, parquet, embed, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        folder = parquet(embed, repo="org/name")
        text = (folder / "README.md").read_text()
        data = DatasetCard(text).data
        configs, infos = MetadataConfigs.from_dataset_card_data(data), DatasetInfosDict.from_dataset_card_data(data)
    assert not caplog.records and isinstance(data, DatasetCardData)
    assert list(configs) == list(infos) == list(NAMES) and configs.get_default_config_name() == "mucaps"
    assert (data.license, data.license_name, data.size_categories) == ("other", "synthesised-sample-corpus", ["n<1K"])
    assert data.license_link == "https://huggingface.co/datasets/org/name#rights-and-takedown"
    assert "## Rights and takedown\n" in text
    for name in NAMES:
        read = load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))
        there = load_from_disk(str(made / "datasets" / name))
        assert set(read) == set(there) == {one.name for one in infos[name].splits.values()}
        for split, rows in there.items():
            assert len(read[split]) == len(rows) == infos[name].splits[split].num_examples
            assert read[split].features == infos[name].features == card.features(name, embed)
            assert read[split]["caption"] == rows["caption"]
        assert ("audio" in read["train"].features) == (embed == "media")
        path = next((folder / name).glob("train-*"))
        assert infos[name].splits["train"].num_bytes == path.stat().st_size
    assert f'load_dataset("org/name", "{NAMES[0]}")' in section(text, "Load it")
    assert ("decode=False" in text) == (embed == "media") and ("## Get the media" in text) == (embed == "none")
    if embed == "media":
        assert isinstance(read["train"].features["audio"], Audio)
        assert isinstance(infos["muimage"].features["image"], Image)


def test_libraries_of_the_hub_read_a_folders(made, caplog):
    for name in NAMES:
        with caplog.at_level(logging.WARNING):
            data = DatasetCard((made / "datasets" / name / "README.md").read_text()).data
            info = DatasetInfosDict.from_dataset_card_data(data)[name]
        assert not caplog.records
        assert {split: len(rows) for split, rows in load_from_disk(str(made / "datasets" / name)).items()} == {
            one.name: one.num_examples for one in info.splits.values()}


def test_its_numbers_are_those_of_ledger_and_rows(made, parquet):
    ledger = list(report.ledger(str(made)))
    whole = (parquet("none") / "README.md").read_text()
    for name, title in zip(NAMES, ("MUCaps", "MUImage", "MusicQA"), strict=True):
        local = (made / "datasets" / name / "README.md").read_text()
        rows = [one for split in load_from_disk(str(made / "datasets" / "mucaps")).values()
                for one in split.remove_columns("audio")]
        outcomes = Counter(one["outcome"] for one in ledger if one["dataset"] == name)
        splits = Counter(one["split"] for one in ledger if one["dataset"] == name and one["outcome"] == "done")
        for text in (section(local, "What is in it"), section(whole, title)):
            assert text.startswith(f"{sum(outcomes.values())} rows were requested, {outcomes['done']} are here (train "
                                   f"{splits['train']}, eval {splits['eval']}), "
                                   f"{sum(outcomes.values()) - outcomes['done']} were lost.")
            lost, spreads, tempi, keys = tables(text)
            assert {reason: int(count) for reason, count, _ in lost[1:]} == {
                reason: count for reason, count in outcomes.items() if reason != "done"}
            numbers = {line[0]: line[1:] for line in spreads}
            for label, column in (("duration, s", "duration"), ("loudness, LUFS", "loudness")):
                found = np.percentile([one[column] for one in rows], [0, 5, 50, 95, 100])
                assert [float(cell) for cell in numbers[label]] == pytest.approx(found, abs=0.006)
            sure = [one["tempo"] for one in rows if one["tempo"] and one["tempo_confidence"] >= HEDGED]
            edges = [int(re.match(r"\d+", cell)[0]) for cell in tempi[0][1:]]
            assert [int(cell) for cell in tempi[1][1:]] == [
                sum(low <= one < high for one in sure)
                for low, high in zip(edges, [*edges[1:], float("inf")], strict=True)]
            counted = {(key, line[0]): int(cell) for line in keys[1:] for key, cell in zip(keys[0][1:], line[1:],
                                                                                           strict=True)}
            assert len(counted) == 24 and Counter(counted) == Counter(
                (one["key"], one["mode"]) for one in rows if one["key"] and one["key_confidence"] >= HEDGED)
            agreed = Counter(facet for one in rows for facet, verdict in one["agreement"].items() if verdict)
            assert f"tempo 0 of {agreed['tempo']}" in text and f"key 0 of {agreed['key']}" in text
            hours = sum(one["duration"] for one in rows) / 3600
            assert f"{hours:.2f} hours of music from {len({one['source_id'] for one in rows})} sources" in text


def test_a_repositorys_tells_versions_and_who_wrote(made, parquet):
    text = (parquet("none") / "README.md").read_text()
    found = version.versions(str(made))
    assert f"Version `{version.together(found)}`" in text
    assert {line[0].strip("`"): line[-1].strip("`") for line in tables(text)[0][1:]} == found
    writers = tables(section(text, "How it was made"))[0][1:]
    expected = Counter()
    for name in NAMES:
        for rows in load_from_disk(str(made / "datasets" / name)).values():
            for column in ("captioner", "image_captioner", "instructor"):
                if column in rows.features:
                    expected.update((name, column, *by) for by in zip(rows[column], rows[f"{column}_revision"],
                                                                      strict=True))
    assert {tuple(cell.strip("`") for cell in line[:4]): int(line[4]) for line in writers} == expected
    assert len(expected) == 6


def test_only_content_decides(made, parquet, tmp_path):
    """No time, no machine, no place; and the card of what was built is that of what stats.json says."""
    text = (parquet("none") / "README.md").read_text()
    assert text == (parquet("none") / "README.md").read_text()
    for one in (text, *((made / "datasets" / name / "README.md").read_text() for name in NAMES)):
        assert platform.node() not in one and str(made) not in one and str(tmp_path) not in one
        assert not re.search(r"\b202\d-\d\d", one)
    head = yaml.safe_load((made / "datasets" / "mucaps" / "README.md").read_text().split("---\n")[1])
    planned = [card.Shard("mucaps", one["split"], path.rpartition("/")[2], ({},) * count, 0)
               for one in head["configs"][0]["data_files"] for path in one["path"]
               for count in [next(info["num_examples"] for info in head["dataset_info"]["splits"]
                                  if info["name"] == one["split"])]]
    assert card.card(str(made), "mucaps", planned, stats(made)) == (
        made / "datasets" / "mucaps" / "README.md").read_text()


def told(made: Path, names=NAMES, **changed) -> str:
    """Of a build that was made otherwise."""
    numbers = stats(made)
    numbers["made"] |= changed
    numbers["datasets"] |= {name: numbers["datasets"]["mucaps"] | {"edits": {"pair": 1}} for name in names
                            if name not in NAMES}
    return "\n\n".join(card._sections(names, numbers, "none", "org/name", []))


def test_limitations_are_of_what_was_done(made):
    measured = section(told(made), "Limitations")
    assert "No instrument, genre, mood or voice is named" in measured and "synthetic" in measured
    assert "by a grammar" in measured and "sirens" in measured and "MUEdit" not in measured and "videos" not in measured
    models = {"music": "a@1", "image": "b@2", "video": "c@3", "instruct": "d@4"}
    written = section(told(made, captioners=models, source="folder", tagger=["t", "5"]), "Limitations")
    assert "may name what is not there" in written and "from captions alone" in written and "unchecked" in written
    assert not any(said in written for said in ("synthetic", "grammar", "sirens", "No instrument"))
    assert "not one piece edited" in section(told(made, ("mucaps", "muedit")), "Limitations")
    assert "Conversations" not in section(told(made, ("mucaps",)), "Limitations")


def test_of_a_model_in_a_directory_the_name_alone_is_told(made):
    for where, name in (("/home/somebody/models/ast/", "ast"), ("~/ast", "ast"), ("org/ast", "org/ast")):
        text = told(made, tagger=[where, "5"])
        assert f", tagger {name} at 5." in text and "somebody" not in text


def test_a_cell_of_a_table_is_one_whatever_it_says():
    table = card._table(("a", "b"), [("x | y\n---\n# z", "<script>`"), (1, 2)])
    assert table.splitlines() == ["| a | b |", "| --- | --- |", "| x \\| y --- # z | &lt;script>` |", "| 1 | 2 |"]


def test_takedowns_are_told(made, parquet):
    assert section((parquet("none") / "README.md").read_text(), "Changes").strip() == "No takedown so far."
    log = made / "takedown" / "log.json"
    log.parent.mkdir()
    log.write_text(json.dumps([
        {"date": "2031-02-03", "rows": 5, "datasets": ["mucaps", "muedit"], "squashed": ["other/music"]},
        {"date": "2031-03-04", "rows": 1, "datasets": ["muedit"], "squashed": ["org/name", "other/music"]}]))
    try:
        text = section((parquet("none", repo="org/name") / "README.md").read_text(), "Changes")
    finally:
        log.unlink()
        log.parent.rmdir()
    assert text.splitlines()[:2] == [
        "- 2031-02-03: 5 rows taken down, of mucaps, muedit; revisions from before may still hold them.",
        "- 2031-03-04: 1 row taken down, of muedit; the history was squashed, so no revision holds them."]


def test_media_can_be_got_again_by_what_it_says(made, tmp_path):
    """The segments that the card's own lines write are those whose clips the rows name."""
    said = {"mucaps_span": "track", "exclude": []}
    text = told(made, ("mucaps", "muedit"), source="audioset", audioset=said, assignment="disjoint")
    lines, command = re.findall(r"```(?:python|bash)\n(.*?)```", section(text, "Get the media"), re.DOTALL)
    assert '--assignment disjoint --mucaps-span track' in command and "SEGMENTS=segments.csv" in command
    ids = ("a-_b_cdefgh", "_ijklmnopqr", "-tuvwxyz012")
    rows = {"train": Dataset.from_list([
        {"id": f"{ids[0]}_30000~{ids[1]}_1500", "source_id": ids[0], "target_source_id": ids[1], "duration": 10.0,
         "target_duration": 7.25},
        {"id": f"{ids[1]}_1500@tempo-0.7", "source_id": ids[1], "target_source_id": ids[1], "duration": 7.25,
         "target_duration": 10.4}]),
            "eval": Dataset.from_list([{"id": ids[2], "source_id": ids[2], "duration": 3000.0}])}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        exec(lines, {"rows": rows})
    (tmp_path / "ontology.json").write_text(json.dumps([
        {"id": "/m/04rlf", "name": "Music", "description": "", "citation_uri": "", "positive_examples": [],
         "child_ids": [], "restrictions": []}]))
    found = list(audioset.segments([str(tmp_path / "segments.csv")], str(tmp_path / "ontology.json"), ()))
    source = Source((), "", (), "track", Settings("https://example.org/{id}"), 1, 0)
    clips = {(_row(one, span, source, "shared")["id"], one.end - one.start) for one in found for span in SPANS}
    assert {(f"{ids[0]}_30000", 10.0), (f"{ids[1]}_1500", 7.25), (ids[2], 600.0)} <= clips and len(found) == 3
    assert f"make datasets DATASETS={','.join(NAMES)} SEED=0 LIMIT=12\n" in told(made)


def test_rights_are_whose_the_media_are(made):
    assert "third party" in section(told(made), "Rights and takedown")
    said = {"mucaps_span": "track", "exclude": []}
    for source, words in (("folder", "answers for the right"), ("audioset", "AudioSet's lists are Google's")):
        assert words in section(told(made, source=source, audioset=said), "Rights and takedown")
    assert "/org/name/discussions" in told(made)


def test_a_dataset_that_the_statistics_do_not_know_is_refused(made):
    with pytest.raises(ValueError, match="nothing of muvideo: an earlier build made it; build"):
        card.repository(str(made), ["mucaps", "muvideo"], "none", {"mucaps": {}, "muvideo": {}})
