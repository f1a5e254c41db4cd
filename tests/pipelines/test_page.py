"""What goes on the page of a build, and that nothing in it can become anything but text. In a browser:
test_page_browser.py."""
import base64
import hashlib
import io
import re
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from manifests import shards, splits
from manifests.outcomes import Loss
from pipelines import __main__ as cli
from pipelines import page
from pipelines.page import plots, rows
from pipelines.shrink import PEAKS, shrink
from pipelines.write import DATASETS
from tests.conftest import encode, tone
from tests.pipelines import pages
from tests.pipelines.test_build import build


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[page.Page, str, dict]:
    """The page, its text and its data, of a build whose captions are hostile."""
    found = page.report(str(pages.build(tmp_path_factory.mktemp("page") / "out")))
    text = Path(found.url).read_text()
    return found, text, pages.data(text)


def test_every_row_is_there_as_the_dataset_has_it(made):
    found, _, data = made
    assert found.rows == dict.fromkeys(DATASETS, pages.CLIPS) and not found.unplayable
    for dataset in DATASETS:
        shown = {row["id"]: row for row in data["rows"] if row["dataset"] == dataset}
        for split, row in pages.rows(dataset):
            one = shown.pop(row["id"])
            clip = pages.clip(int(row["source_id"].removeprefix("clip-")))
            sure = clip["tempo_confidence"] >= 0.3
            assert (one["split"], one["source"]["caption"]) == (split, row["caption"])
            assert one["source"]["tempo"] == (clip["tempo"] if sure else None)
            assert one["source"]["key"] == f"{clip['key']} {clip['mode']}"
            assert one["source"]["loudness"] == clip["loudness"]  # measured, where the row itself does not hold it
            assert one["turns"] == [[turn["from"], turn["value"]] for turn in row["conversation"] or []] if (
                "conversation" in row) else one["turns"] == []
            if dataset == "muedit":
                assert (one["edit"], one["amount"], one["distance"]) == (row["edit"], row["amount"], row["distance"])
                assert one["target"]["tempo"] == (200.0 if sure else None)
                assert one["target"]["caption"] == row["target_caption"]
            else:
                assert one["target"] is None
        assert not shown


def test_media_lies_in_the_page_once_however_many_rows_show_it(made):
    _, text, data = made
    played = Counter(row["media"]["audio"] for row in data["rows"])
    assert set(played.values()) == {5}
    # 12 sounds, 12 targets, one frame and one film.
    assert len(data["media"]) == text.count('id="media-') == 2 * pages.CLIPS + 2
    assert Counter(one["type"] for one in data["media"]) == {
        "audio/mpeg": 2 * pages.CLIPS, "image/jpeg": 1, "video/mp4": 1}


def test_the_policy_lets_only_the_pages_own_script_run_and_nothing_be_fetched(made):
    _, text, _ = made
    policy = dict(part.strip().partition(" ")[::2] for part in
                  re.search(r'Security-Policy" content="([^"]*)"', text)[1].split(";"))
    assert policy.pop("default-src") == "'none'"
    for name, pattern in (("script-src", r"<script>(.*?)</script>"), ("style-src", r"<style>(.*?)</style>")):
        digest = base64.b64encode(hashlib.sha256(re.findall(pattern, text, re.S)[-1].encode()).digest()).decode()
        assert policy.pop(name) == f"'sha256-{digest}'"
    assert policy == {"img-src": "blob:", "media-src": "blob:", "base-uri": "'none'", "form-action": "'none'",
                      "require-trusted-types-for": "'script'"}
    assert not re.search(r'(src|href)="(?!#)', text)
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_a_caption_cannot_end_the_data(made):
    _, text, data = made
    assert pages.HOSTILE not in text
    # The data, the media and the script: no other element of that name opens or closes.
    assert text.count("</script>") == text.count("<script") == len(data["media"]) + 2
    assert "<img" not in text and "<!--" not in text


def test_the_same_build_gives_the_same_page_however_it_is_cut_into_shards(made, tmp_path):
    again = page.report(str(pages.build(tmp_path / "out", files=3)), to=str(tmp_path / "elsewhere.html"))
    first, second = made[2], pages.data(Path(again.url).read_text())
    for data in (first, second):
        for row in data["rows"]:
            row["media"] = sorted(row["media"])  # numbered as they are met
        del data["media"]
    assert first == second
    assert Path(page.report(str(tmp_path / "out")).url).read_bytes() == Path(again.url).read_bytes()


def test_a_sample_has_of_every_split_and_edit(tmp_path):
    data = pages.data(Path(page.report(str(pages.build(tmp_path / "out")), 6).url).read_text())
    kinds = {(row["split"], row["edit"]) for row in data["rows"] if row["dataset"] == "muedit"}
    assert kinds == {(split, edit) for split in ("train", "eval") for edit in ("pair", "tempo", "pitch")}
    shown = {dataset: [row["id"] for row in data["rows"] if row["dataset"] == dataset] for dataset in DATASETS}
    assert {len(ids) for ids in shown.values()} == {6}
    assert shown["mucaps"] == shown["muimage"] == shown["muvideo"] == shown["musicqa"]
    expected = [sorted((split for _, split in found), key=lambda key: splits.fraction(key, "page"))[:3]
                for name in ("train", "eval") if (found := [(where, row["id"]) for where, row in pages.rows("mucaps")
                                                            if where == name])]
    assert set(shown["mucaps"]) == {key for ids in expected for key in ids}


def test_bars_count_what_a_count_of_the_rows_gives(made):
    _, _, data = made
    found = {plot["title"]: plot for plot in data["datasets"]["muedit"]["plots"]}
    tempi = [clip["tempo"] for clip in map(pages.clip, range(pages.CLIPS)) if clip["tempo_confidence"] >= 0.3]
    bars = found["Tempo"]["bars"]
    lows = [float(label.split()[0]) for label, *_ in bars]
    assert [count for _, count, _ in bars] == np.histogram(tempi, [*lows, lows[-1] + 5])[0].tolist()
    assert sum(count for _, count, _ in bars) == pages.CLIPS - 1
    assert {label: count for label, count, _ in found["Loudness"]["bars"] if count} == {
        f"{-10 - number} to {-9 - number} LUFS": 1 for number in range(pages.CLIPS)}
    assert [bar for bar in found["Duration"]["bars"] if bar[1]] == [["5–8", 12, "5–8"]]
    assert [bar for bar in found["Distance of pairs"]["bars"] if bar[1]] == [["0.4 to 0.45", 4, "0.4"]]
    assert [bar[:2] for bar in found["Edits"]["bars"]] == [
        ["pair", 4], ["pitch -2 semitones", 4], ["tempo × 0.5", 4]]
    assert {label: count for label, count, _ in found["Key"]["bars"] if count} == {
        "C major": 4, "A minor": 4, "F# minor": 4}
    assert data["datasets"]["mucaps"]["agreement"] == [["tempo", 12, 0], ["key", 0, 12]]


def test_rows_without_a_tempo_show_the_statistics_bands(made):
    tempo = made[2]["datasets"]["muimage"]["plots"][0]
    assert [bar[:2] for bar in tempo["bars"]] == [["0 to 60 BPM", 0], ["60 to 120 BPM", 5], ["120 BPM and more", 7]]


def test_counting_takes_the_memory_of_the_bars():
    counts, sample = plots.Counts(), rows.Sample(5)
    for number in range(2000):
        row = {"id": f"{number}", "source_id": f"{number % 7}", "duration": number / 10,
               "caption": "a " * (number % 40), "tempo": 60 + number % 100, "tempo_confidence": 1.0, "loudness": -20.0}
        counts.add(row)
        sample.add("train", "one.arrow", row)
    assert sum(map(len, counts._bars.values())) < 100
    assert len(sample.chosen()) == 5 and sum(map(len, sample._kept.values())) == 5
    lowest = sorted((splits.fraction(f"{number % 7}", "page"), splits.fraction(f"{number}", "page"), f"{number}")
                    for number in range(2000))[:5]
    assert [key for key, *_ in sample.chosen()] == [key for *_, key in lowest]


def test_what_cannot_be_decoded_any_more_is_told_and_the_rest_is_shown(tmp_path, capsys):
    def changed(dataset: str, row: dict) -> dict:
        return row | {"audio": {"bytes": b"no sound", "path": "x"}} if row["id"] == "clip-03" else row
    out = pages.build(tmp_path / "out", changed=changed)
    assert cli.main(["report", "--out", str(out), "--rows", "12", "--to", str(tmp_path / "there.html")]) == 0
    said = capsys.readouterr()
    assert said.err.count("not shown: ") == 4 and "mucaps, clip-03, audio: decode_error" in said.err
    size = (tmp_path / "there.html").stat().st_size
    assert f"{tmp_path}/there.html: {size / 1e6:.1f} MB, of mucaps 12 rows, muedit 12 rows" in said.out
    data = pages.data((tmp_path / "there.html").read_text())
    assert [one["lost"].partition(":")[0] for one in data["media"] if "lost" in one] == ["decode_error"]


def test_a_shard_that_is_gone_or_no_build_at_all_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", "--out", str(tmp_path / "nothing")])
    assert ended.value.code == 2 and "make datasets OUT=" in capsys.readouterr().err
    out = pages.build(tmp_path / "out")
    broken = out / "datasets/muimage/train/data-0.arrow"
    broken.write_bytes(broken.read_bytes()[:2000])
    assert cli.main(["report", "--out", str(out)]) == 1
    assert str(broken) in capsys.readouterr().err
    assert not (out / "report.html").exists()


def test_a_build_in_a_bucket_gets_its_page_there(tmp_path, bucket):
    import s3fs
    out = pages.build(tmp_path / "out")
    s3fs.S3FileSystem().put(f"{out}/", f"{bucket}/out/", recursive=True)
    assert page.report(f"{bucket}/out", 2).url == f"{bucket}/out/report.html"
    here = Path(page.report(str(out), 2).url).read_bytes()
    assert s3fs.S3FileSystem().cat(f"{bucket}/out/report.html") == here


def test_sound_becomes_an_mp3_of_its_first_seconds_with_its_outline():
    silence = np.zeros((1, 22050 * 12), np.float32)
    data = encode(np.concatenate([silence, tone(18.0, hertz=440.0, amplitude=0.5)], axis=1), 22050, "wav", "pcm_s16le")
    small = shrink({"kind": "audio", "data": data})
    assert small["seconds"] == 20.0 and len(small["peaks"]) == PEAKS
    assert set(small["peaks"][:59]) == {0} and set(small["peaks"][61:]) <= {49, 50}  # half of 99
    with av.open(io.BytesIO(small["data"])) as container:
        stream = container.streams.audio[0]
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])
        assert stream.codec_context.codec.canonical_name == "mp3"
    assert abs(len(samples) / stream.rate - 20.0) < 0.1
    spectrum = np.abs(np.fft.rfft(samples[-4 * stream.rate:-stream.rate]))
    assert abs(np.argmax(spectrum) / 3 - 440.0) < 1.0
    assert shrink({"kind": "audio", "data": data}) == small


def test_a_film_keeps_its_length_and_loses_its_sound():
    small = shrink({"kind": "video", "data": pages.film()})  # 20 frames, ten a second, each a shade brighter
    with av.open(io.BytesIO(small["data"])) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        shades = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    assert len(shades) == 24
    assert shades == pytest.approx([place * 10 // 12 * 40 % 256 for place in range(24)], abs=6)


def test_a_picture_becomes_small(tmp_path):
    small = shrink({"kind": "image", "data": pages.frame()})
    with Image.open(io.BytesIO(small["data"])) as found:
        assert (found.format, found.size) == ("JPEG", (640, 360))
    for kind in ("audio", "image", "video"):
        with pytest.raises(Loss) as lost:
            shrink({"kind": kind, "data": b"nothing of the kind"})
        assert lost.value.reason == "decode_error"


@pytest.mark.slow
def test_the_sample_corpus_fits_into_a_page(tmp_path):
    build(tmp_path / "out", "--datasets", ",".join(DATASETS), "--limit", "30", workers=2)
    found = page.report(str(tmp_path / "out"))
    assert set(found.rows.values()) == {page.ROWS}, "as many rows as the page of 80 clips has, so that it is as large"
    assert not found.unplayable and found.bytes < 20e6
    held = {dataset: {row["id"]: row for split in ("train", "eval")
                      for path in (tmp_path / "out/datasets" / dataset / split).glob("*.arrow")
                      for row in shards.read(str(path), ["id", "caption"])} for dataset in DATASETS}
    measured = {row["id"]: row for split in ("train", "eval")
                for path in (tmp_path / "out/datasets/mucaps" / split).glob("*.arrow")
                for row in shards.read(str(path), ["id", "tempo", "loudness"])}
    for row in pages.data(Path(found.url).read_text())["rows"]:
        assert row["source"]["caption"] == held[row["dataset"]][row["id"]]["caption"]
        if row["dataset"] != "muedit":
            assert row["source"]["loudness"] == measured[row["id"]]["loudness"]
