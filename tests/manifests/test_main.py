"""python -m manifests."""
import subprocess
import sys

import pytest

from manifests.__main__ import main
from tests.manifests.lists import OFFICIAL, ROOT, ROWS, write_list


def _command(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "manifests", *arguments], capture_output=True, text=True, cwd=ROOT,
                          **options)


def test_the_command_prints_rows_and_their_number(tmp_path, ontology):
    one = write_list(tmp_path, OFFICIAL, "1.csv")
    two = write_list(tmp_path, 'talk,0.25,10,"/m/talk,/m/04rlf"\n', "2.csv")
    done = _command("segments", "--segments", f"{one},{two}", "--ontology", ontology, "--exclude", "none")
    assert done.stdout.splitlines() == ["--PJHxphWEs\t30.000\t40.000\tMusic|Cowbell",
                                        "-0DLPzsiXXE\t0.000\t10.000\tSinging|Carol",
                                        "talk\t0.250\t10.000\tMale speech, man speaking|Music"]
    assert done.stderr == "3 segments of music\n"
    assert done.returncode == 0


def test_the_command_takes_several_classes_to_exclude(tmp_path, ontology, capsys):
    given = ["segments", "--segments", write_list(tmp_path, ROWS), "--ontology", ontology]
    for exclude, count in ([], "5"), (["--exclude", "Speech, Crying, sobbing", "--exclude", "/m/xmas"], "5"), (
            ["--exclude", "none"], "8"), (["--exclude", "Human voice"], "5"), (["--exclude", "Animal"], "7"):
        assert main([*given, *exclude]) == 0
        assert capsys.readouterr().err == f"{count} segments of music\n"


@pytest.mark.parametrize("arguments", [
    ["--segments", "nosuch.csv", "--ontology", "ONTOLOGY"], ["--segments", "LIST", "--ontology", "nosuch.json"],
    ["--segments", "LIST", "--ontology", "LIST"], ["--segments", "ONTOLOGY", "--ontology", "ONTOLOGY"],
    ["--segments", "LIST", "--ontology", "ONTOLOGY", "--exclude", "Speach"],
], ids=["no-list", "no-ontology", "ontology-kind", "list-kind", "class"])
def test_the_command_says_in_one_line_what_is_wrong(tmp_path, ontology, arguments, capsys):
    given = {"LIST": write_list(tmp_path, ROWS), "ONTOLOGY": ontology}
    assert main(["segments", *(given.get(one, one) for one in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m manifests: ") and err.count("\n") == 1


def test_lists_and_ontology_go_together(ontology, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["segments", "--ontology", ontology])
    assert "--segments and --ontology go together" in capsys.readouterr().err


def test_a_reader_that_stops_early_gets_no_trace(tmp_path, ontology):
    url = write_list(tmp_path, "".join(f'video{index:06d}, 30, 40, "/m/04rlf"\n' for index in range(20000)))
    with subprocess.Popen([sys.executable, "-m", "manifests", "segments", "--segments", url, "--ontology", ontology],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"video000000\t30.000\t40.000\tMusic\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_the_command_loads_nothing_heavy():
    code = "import manifests.__main__, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"torch", "apache_beam", "datasets", "numpy", "pyarrow", "av"} & set(loaded.split())
