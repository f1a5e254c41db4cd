"""`make learn`, whole, on few clips and for a few steps: what it would find out wants more of both."""
import json

import pytest

from benchmarks import learn


@pytest.mark.slow
def test_all_of_it_runs_and_says_what_it_found(tmp_path, monkeypatch, capsys) -> None:
    short = {stage: [*given, "--epochs", "1"] for stage, given in learn.STAGES.items()}
    monkeypatch.setattr(learn, "STAGES", short)
    monkeypatch.setattr("sys.argv", ["learn.py", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to"),
                                     "--limit", "60", "--words", "3", "--sounds", "2", "--films", "2", "--seeds", "0"])
    learn.main()
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "to" / "learn.json").read_text())
    assert set(found["runs"]) == {"seed 0", "seed 0, gates shut"} and found["limit"] == 60
    assert set(found["models"]) == {"llama", "mert", "vivit"}
    for kind, folder in (("audio", "mert"), ("video", "vivit")):
        written = json.loads((tmp_path / "out" / "features" / f"{kind}.json").read_text())
        assert written["about"]["model"] == folder
    run = found["runs"]["seed 0"]
    held_out = found["held out"]
    assert held_out > 3 and {one["asked"] for one in run["retrieval"].values()} == {held_out}
    for stage, kinds in ((1, ("audio", "image", "video")), (3, ("audio",))):
        for kind in kinds:
            assert set(run[f"captions after stage {stage}"][kind]) == {"own", "other", "noise"}
    assert run["music"]["text: request"]["asked"] == run["music"]["image: to describe"]["asked"] == held_out
    # Nothing is heard through gates that are shut: whatever the medium, the words are the same.
    shut = found["runs"]["seed 0, gates shut"]["captions after stage 1"]
    assert all(one["own"] == one["other"] == one["noise"] for one in shut.values())
    assert (tmp_path / "to" / "learn.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "to" / "learn.md").read_text()
    assert table == said.split(" s\n")[-1].removesuffix("\n") and "gates shut" in table
    # What is there was made with other steps than are asked for now.
    monkeypatch.setattr("sys.argv", ["learn.py", "--out", str(tmp_path / "out"), "--limit", "60", "--words", "4"])
    with pytest.raises(SystemExit, match=r"out was begun with .*'words': 3.* give another folder"):
        learn.main()
