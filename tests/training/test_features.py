"""Precomputed outputs on disk: what was written comes back, and what is not whole is told."""
import json
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from manifests import records, shards, storage
from manifests.outcomes import DONE
from training import features
from training.samples import Medium

SHAPE = (3, 5)


def _values(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).bfloat16()


def _shard(path: Path, seeds: list[int | None], shape: tuple[int, ...] = SHAPE) -> None:
    """A row for each seed; None is a lost one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shards.write(str(path), records.FEATURE, [
        {"id": f"{seed}", "outcome": "too_short", "detail": "0.1 s", "values": None} if seed is None else
        {"id": f"{seed}", "outcome": DONE, "detail": "",
         "values": _values(seed).view(torch.uint8).numpy().tobytes()} for seed in seeds])


def _key(place: int | str) -> str:
    return features.media_key(Medium("mucaps", f"clip-{place}"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two shards, of 120 rows (three batches) and of 4, and an index that goes to and fro between them."""
    _shard(tmp_path / "stages/features-audio/v1/a.0.arrow", [*range(50), None, *range(51, 120)])
    _shard(tmp_path / "stages/features-audio/v1/b.0.arrow", list(range(200, 204)))
    entries = [(_key(place), "stages/features-audio/v1/a.0.arrow", place, DONE, "") for place in (119, 7, 49, 51, 0)]
    entries.insert(2, (_key(203), "stages/features-audio/v1/b.0.arrow", 3, DONE, ""))
    entries += [(_key("same"), "stages/features-audio/v1/b.0.arrow", 3, DONE, ""),
                (_key("short"), None, -1, "too_short", "0.1 s"), (_key("bad"), None, -1, "decode_error", "zeros")]
    features.publish(str(tmp_path), "audio", {"model": "a"}, SHAPE, entries)
    return tmp_path


def test_what_was_written_comes_back(out: Path) -> None:
    found = features.opened(str(out))
    assert list(found) == ["audio"]
    audio = found["audio"]
    assert (audio.about, audio.shape, len(audio)) == ({"model": "a"}, SHAPE, 9)
    for place in (119, 7, 203, 49, 51, 0):
        read = audio.read(audio.place(_key(place)))
        assert read.dtype == torch.bfloat16 and read.shape == SHAPE and torch.equal(read, _values(place)), place
    assert audio.place(_key("same")) == audio.place(_key(203))
    kept = audio.read(audio.place(_key(7)))
    again = features.opened(str(out))["audio"]
    kept.zero_()  # a view of a map of this process's own
    assert torch.equal(again.read(again.place(_key(7))), _values(7))


def test_values_are_views_of_the_mapped_file(out: Path) -> None:
    """Two reads of one row lie in the same place."""
    audio = features.opened(str(out))["audio"]
    place = audio.place(_key(7))
    assert audio.read(place).data_ptr() == audio.read(place).data_ptr()
    assert audio.read(audio.place(_key(0))).untyped_storage().nbytes() == (
        out / "stages/features-audio/v1/a.0.arrow").stat().st_size


def test_what_is_missing_says_why(out: Path) -> None:
    audio = features.opened(str(out))["audio"]
    for key, reason, detail in ((_key("short"), "too_short", "0.1 s"), (_key("bad"), "decode_error", "zeros"),
                                (_key("never"), "not_encoded", "")):
        with pytest.raises(features.Missing) as raised:
            audio.place(key)
        assert (raised.value.key, raised.value.reason, raised.value.detail) == (key, reason, detail)
        assert isinstance(raised.value, KeyError) and reason in str(raised.value)


def test_equal_entries_give_equal_bytes(out: Path, tmp_path: Path) -> None:
    def files() -> list[bytes]:
        return [(out / "features" / name).read_bytes() for name in ("audio.json", "audio.arrow")]
    before, digest = files(), features.opened(str(out))["audio"].digest
    shard = "stages/features-audio/v1/b.0.arrow"

    def publish(about: dict, row: int) -> str:
        features.publish(str(out), "audio", about, SHAPE, [(_key(1), shard, row, DONE, "")])
        return features.opened(str(out))["audio"].digest
    digests = [digest, publish({"model": "a"}, 0), publish({"model": "b"}, 0), publish({"model": "a"}, 1)]
    assert len(set(digests)) == 4 and publish({"model": "a"}, 0) == digests[1]
    assert files() != before


def test_nothing_there_is_nothing(tmp_path: Path) -> None:
    assert features.opened(str(tmp_path)) == {}
    features.publish(str(tmp_path), "text", {}, SHAPE, [])
    (found,) = features.opened(str(tmp_path)).values()
    with pytest.raises(features.Missing, match="not_encoded"):
        found.place(features.text_key("A slow piece."))


def test_text_key() -> None:
    assert features.text_key("A") == "559aead08264d5795d3909718cdd05abd49572e84fe55590eef31a88a08fdffd"


def test_a_shard_that_vanished(out: Path) -> None:
    audio = features.opened(str(out))["audio"]
    place = audio.place(_key(203))
    gone = out / "stages/features-audio/v1/b.0.arrow"
    gone.unlink()
    with pytest.raises(ValueError, match=r"b\.0\.arrow: .*make features"):
        audio.read(place)
    with pytest.raises(ValueError, match=r"b\.0\.arrow: is not there.*make features"):
        features.opened(str(out))


@pytest.mark.parametrize("kept", [0, 3, 100, 0.3, 0.6, 0.9, 0.999])
def test_a_shard_that_was_cut(out: Path, kept: float) -> None:
    shard = out / "stages/features-audio/v1/a.0.arrow"
    data = shard.read_bytes()
    end = data.rindex(b"\xff\xff\xff\xff\0\0\0\0")  # what ends a stream: without it, all rows are still there
    shard.write_bytes(data[:int(kept if kept > 1 else kept * end)])
    audio = features.opened(str(out))["audio"]
    with pytest.raises(ValueError, match=r"a\.0\.arrow: .*make features"):
        audio.read(audio.place(_key(7)))


def test_another_shard_in_its_place(out: Path) -> None:
    shard = out / "stages/features-audio/v1/b.0.arrow"
    for seeds, shape in (([200, 201, 202], SHAPE), ([200, 201, 202, None], SHAPE)):
        _shard(shard, seeds, shape)
        audio = features.opened(str(out))["audio"]
        with pytest.raises(ValueError, match=r"b\.0\.arrow: .*make features"):
            audio.read(audio.place(_key(203)))
    told = json.loads((out / "features/audio.json").read_text())
    features.publish(str(out), "audio", told["about"], (3, 6), [(_key(7), "stages/features-audio/v1/a.0.arrow", 7,
                                                                DONE, "")])
    audio = features.opened(str(out))["audio"]
    with pytest.raises(ValueError, match=r"a\.0\.arrow: .*not of 36 bytes"):
        audio.read(audio.place(_key(7)))


def test_an_index_that_is_not_the_one_told_of(out: Path) -> None:
    """As when a run is killed between the two files, or one of them was copied alone."""
    index, told = out / "features/audio.arrow", out / "features/audio.json"
    kept, text = index.read_bytes(), told.read_text()
    index.write_bytes(kept[:-200] + bytes(200))
    with pytest.raises(ValueError, match=r"audio\.arrow: is not there, or not the one.*make features"):
        features.opened(str(out))
    index.unlink()
    with pytest.raises(ValueError, match=r"audio\.arrow: is not there.*make features"):
        features.opened(str(out))
    index.write_bytes(kept)
    for broken, said in (("{", "not valid JSON"), ("[]", "does not describe"), ("{}", "does not describe"),
                         (text.replace("stages/", "../stages/"), "no file name below")):
        told.write_text(broken)
        with pytest.raises(ValueError, match=rf"audio\.json: .*{said}"):
            features.opened(str(out))


def test_publish_refuses_what_does_not_hold(out: Path) -> None:
    shard = "stages/features-audio/v1/b.0.arrow"
    before = features.opened(str(out))["audio"].digest
    for entries, said in (([(_key(1), shard, 0, DONE, ""), (_key(1), shard, 1, DONE, "")], "twice"),
                          ([(_key(1), shard, 4, DONE, "")], "has 4 rows, but row 4"),
                          ([(_key(1), None, -1, DONE, "")], "outcome is 'done'"),
                          ([(_key(1), "stages/none.arrow", 0, DONE, "")], "none.arrow")):
        with pytest.raises(ValueError, match=said):
            features.publish(str(out), "audio", {}, SHAPE, entries)
        assert features.opened(str(out))["audio"].digest == before  # and what was there still is


def test_more_shards_than_descriptors(tmp_path: Path) -> None:
    """In a process that may have 60 files open."""
    for number in range(100):
        _shard(tmp_path / f"s/{number}.arrow", [number])
    features.publish(str(tmp_path), "audio", {}, SHAPE,
                     [(_key(number), f"s/{number}.arrow", 0, DONE, "") for number in range(100)])
    code = ("import resource, sys\n"
            "from training import features\n"
            "audio = features.opened(sys.argv[1])['audio']\n"
            "import torch\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))\n"
            "rows = [audio.read(audio.place(f'mucaps/clip-{number}')) for number in range(100)]\n"
            "print(sum(row.float().sum().item() for row in rows))\n")
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 60
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    assert float(said.stdout) == pytest.approx(sum(_values(seed).float().sum().item() for seed in range(100)))


def test_memory_is_some_bytes_a_key(tmp_path: Path) -> None:
    """100 000 keys, with names of 40 letters; more than one batch of the index, some lost ones among them."""
    _shard(tmp_path / "s.arrow", [0])
    count = 100_000
    features.publish(str(tmp_path), "audio", {}, SHAPE, (
        (f"{number:040}", None, -1, "too_short", f"{number}") if number % 1000 == 3 else
        (f"{number:040}", "s.arrow", 0, DONE, "") for number in range(count)))
    tracemalloc.start()
    audio = features.opened(str(tmp_path))["audio"]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 25 * count and len(audio) == count
    generator = np.random.default_rng(0)
    for number in (0, 65535, 65536, count - 1, *generator.integers(0, count, 50)):
        if number % 1000 != 3:
            assert audio.place(f"{number:040}") == 0
    for number in (3, 65003, 66003, 99003):
        with pytest.raises(features.Missing) as raised:
            audio.place(f"{number:040}")
        assert (raised.value.reason, raised.value.detail) == ("too_short", str(number))


def test_a_shard_that_is_not_whole_is_told_before_it_is_met(out: Path) -> None:
    audio, shard = features.opened(str(out))["audio"], out / "stages/features-audio/v1/b.0.arrow"
    audio.check()
    whole = shard.read_bytes()
    shard.unlink()  # and what was looked at stays
    assert torch.equal(audio.read(audio.place(_key(203))), _values(203))
    shard.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"b\.0\.arrow: not a whole shard of features .*run `make features` again"):
        features.opened(str(out))["audio"].check()


def test_what_they_cover_is_told(tmp_path: Path) -> None:
    for covers in (None, {}, {"mucaps/train/a.arrow": 7}):
        features.publish(str(tmp_path), "audio", {}, SHAPE, [(_key(0), None, -1, "too_short", "")], covers)
        found = features.opened(str(tmp_path))["audio"]
        assert found.covers == covers
    told = tmp_path / "features" / "audio.json"
    said = json.loads(told.read_text())
    for changed in ({name: said[name] for name in said if name != "covers"}, said | {"covers": {}}):
        told.write_text(json.dumps(changed))  # of an earlier version, or changed by hand
        with pytest.raises(ValueError, match=r"audio\.(json|arrow): .*run `make features` again"):
            features.opened(str(tmp_path))


def test_features_elsewhere_are_none() -> None:
    """A bucket's cannot be mapped: what is trained from it encodes everything itself."""
    url = "memory://build-with-features"
    shards.write(f"{url}/s.arrow", records.FEATURE, [{"id": "0", "outcome": DONE, "detail": "", "values": b"0" * 30}])
    features.publish(url, "audio", {}, SHAPE, [(_key(0), "s.arrow", 0, DONE, "")])
    assert storage.exists(f"{url}/features/audio.json") and features.opened(url) == {}
