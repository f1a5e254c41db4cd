"""AudioSet's lists in every form that they come in, selected rightly, and refused where they are wrong."""
import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from manifests import audioset
from manifests import ontology as ontology_file
from tests.manifests.lists import EXPECTED, OFFICIAL, ROOT, ROWS, ids_of, write_list


@pytest.mark.parametrize("data", [
    OFFICIAL,
    b"\xef\xbb\xbf" + OFFICIAL,
    OFFICIAL.replace(b"\n", b"\r\n"),
    OFFICIAL.replace(b"\n", b"\n\n  \n"),
    OFFICIAL.rstrip(),
    OFFICIAL.replace(b", ", b","),
    OFFICIAL.replace(b",/m/", b", /m/"),
    b"YTID,start_seconds,end_seconds,positive_labels\n" + b"".join(OFFICIAL.splitlines(True)[3:]),
    b'\xef\xbb\xbf"YTID","start_seconds","end_seconds","positive_labels"\r\n"--PJHxphWEs","30","40","/m/04rlf,/m/cowbell"'
    b'\r\n--ZhevVpy1s,50,56.5,/m/sing\r\n-0DLPzsiXXE,0.0,10.0,"/m/sing,/m/carol"\r\n',
], ids=["official", "bom", "crlf", "blank-lines", "no-last-newline", "tight", "loose-labels", "header", "all-quoted"])
def test_every_form_of_a_list_gives_the_same_segments(tmp_path, ontology, data):
    assert list(audioset.segments([write_list(tmp_path, data)], ontology)) == EXPECTED


def test_lists_and_ontology_may_lie_on_any_file_system(tmp_path, ontology):
    with fsspec.open("memory://lists/a.csv", "wb") as file:
        file.write(OFFICIAL)
    with fsspec.open("memory://lists/ontology.json", "wb") as file:
        file.write(Path(ontology).read_bytes())
    assert list(audioset.segments(["memory://lists/a.csv"], "memory://lists/ontology.json")) == EXPECTED


def test_rows_are_cut_rightly_wherever_a_block_ends(tmp_path, ontology, monkeypatch):
    url = write_list(tmp_path, OFFICIAL)
    for size in range(1, 80):
        monkeypatch.setattr(audioset, "_BLOCK", size)
        assert list(audioset.segments([url], ontology)) == EXPECTED


# What is selected

@pytest.mark.parametrize(("exclude", "gone"), [
    ([], ""),
    (["Speech"], "talk"),
    (["speech"], "talk"),
    (["/m/09x0r"], "talk"),
    (["/m/talk"], "talk"),
    (["Crying, sobbing"], "cry"),
    (["crying,SOBBING"], "cry"),
    (["Speech", "Crying, sobbing"], "talk cry"),
    (["Speech, Crying, sobbing, /m/cow"], "talk cry cow"),
    (["Male speech, man speaking,Crying, sobbing"], "talk cry"),
    (["Human voice"], "talk sing cry"),
    (["Sounds of things"], "cow"),                        # its bells and cowbells are Music's as well
    (["Cattle"], "cow"),
    (["Christmas music"], "carol"),                       # a class of Music, by its own name
    (["Bell"], "bell cowbell cow"),
    (["Wind instrument, woodwind instrument"], "cry"),
    (["Music"], "music bell cowbell cow talk sing cry carol"),
])
def test_excluded_classes_take_what_is_below_them_but_no_music(tmp_path, ontology, exclude, gone):
    music = ["music", "bell", "cowbell", "cow", "talk", "sing", "cry", "carol"]
    assert ids_of([write_list(tmp_path, ROWS)], ontology, exclude) == [key for key in music if key not in gone.split()]


def test_by_default_speech_and_animals_are_excluded_and_what_the_ontology_lacks_is_no_error(tmp_path, ontology):
    assert ids_of([write_list(tmp_path, ROWS)], ontology) == ["music", "bell", "cowbell", "sing", "carol"]


@pytest.mark.parametrize(("name", "message"), [
    ("Speach", r"no class 'Speach' to exclude; is it one of these: Speech\?"),
    ("Crying, sobing", r"no class 'Crying' to exclude; is it one of these: Crying, sobbing\?"),
    ("Speech, Anima", "no class 'Anima' to exclude; is it one of these: Animal"),
    ("/m/nosuch", "no class '/m/nosuch' to exclude"),
    ("", "no class '' to exclude; names and ids are in "),
    ("\x1b[2J", r"no class '\\x1b\[2J' to exclude"),
])
def test_an_unknown_class_to_exclude_is_an_error_with_close_names(tmp_path, ontology, name, message):
    with pytest.raises(ValueError, match=message):
        audioset.segments([write_list(tmp_path, ROWS)], ontology, [name])


def test_a_repetition_is_given_once_as_the_first_list_has_it(tmp_path, ontology):
    one = write_list(tmp_path, 'a, 0, 10, "/m/04rlf"\nb, 0, 10, "/m/04rlf"\na, 0.000, 10, "/m/bell"\n', "1.csv")
    two = write_list(tmp_path, 'b, 0, 9, "/m/bell"\na, 10, 20, "/m/bell"\nc, 5, 15, "/m/04rlf"\n', "2.csv")
    given = [(one.id, one.start, one.end, one.labels) for one in audioset.segments([one, two, one], ontology)]
    assert given == [("a", 0.0, 10.0, ("Music",)), ("b", 0.0, 10.0, ("Music",)), ("a", 10.0, 20.0, ("Bell",)),
                     ("c", 5.0, 15.0, ("Music",))]


def test_repetitions_are_told_among_more_segments_than_the_first_table_holds(tmp_path, ontology):
    rows = "".join(f'video-{index % 60000}, {index // 60000 % 2}, 9, "/m/04rlf"\n' for index in range(240000))
    assert Counter(ids_of([write_list(tmp_path, rows)], ontology)) == {f"video-{index}": 2 for index in range(60000)}


# Hostile rows

def _bad(tmp_path, ontology, row: bytes) -> str:
    """The error of a list with one bad row, its third."""
    url = write_list(tmp_path, b'a,0,10,"/m/04rlf"\n# no row\n' + row + b'\nb,0,10,"/m/04rlf"\n')
    with pytest.raises(ValueError) as caught:
        list(audioset.segments([url], ontology))
    message = str(caught.value)
    assert message.startswith(f"{url}: 1 bad row, ")
    assert message.isascii() and message.isprintable() and len(message) < 500
    return message


@pytest.mark.parametrize(("row", "words"), [
    (b'../../etc/passwd,0,10,"/m/04rlf"', "row 3: not an id of letters, digits, - and _: '../../etc/passwd'"),
    (b'..,0,10,"/m/04rlf"', "row 3: not an id of letters, digits, - and _: '..'"),
    (b'a/b,0,10,"/m/04rlf"', "not an id of letters, digits, - and _: 'a/b'"),
    (b'a\\b,0,10,"/m/04rlf"', "not an id of letters, digits, - and _: 'a\\\\b'"),
    (b'a b,0,10,"/m/04rlf"', "not an id of letters, digits, - and _: 'a b'"),
    (b'\x1b]0;owned\x07,0,10,"/m/04rlf"', "not an id of letters, digits, - and _: '\\x1b]0;owned\\x07'"),
    (b'a\x00b,0,10,"/m/04rlf"', "row 3: "),
    ('é,0,10,"/m/04rlf"'.encode(), "not an id of letters, digits, - and _: '\\xe9'"),
    (b',0,10,"/m/04rlf"', "not an id of letters, digits, - and _: ''"),
    (b"a" * 65 + b',0,10,"/m/04rlf"', f"'{'a' * 40}'..."),
    (b'a,nan,10,"/m/04rlf"', "not a time in seconds: 'nan'"),
    (b'a,0,inf,"/m/04rlf"', "not a time in seconds: 'inf'"),
    (b'a,0,1e400,"/m/04rlf"', "not a time in seconds: '1e400'"),
    (b'a,-1,10,"/m/04rlf"', "not a time in seconds: '-1'"),
    (b'a,,10,"/m/04rlf"', "not a time in seconds: ''"),
    (b'a,1_0,20,"/m/04rlf"', "not a time in seconds: '1_0'"),
    ('a,٣,20,"/m/04rlf"'.encode(), "not a time in seconds: '\\u0663'"),
    (b"a," + b"9" * 5000 + b',10,"/m/04rlf"', "not a time in seconds: '" + "9" * 40 + "'..."),
    (b'a,10,10,"/m/04rlf"', "not longer than 0 and at most 600 s: from 10 to 10"),
    (b'a,20,10,"/m/04rlf"', "not longer than 0 and at most 600 s: from 20 to 10"),
    (b'a,0,600.001,"/m/04rlf"', "not longer than 0 and at most 600 s: from 0 to 600.001"),
    (b'a,0,10,"/m/04rlf,/m/nosuch"', "not a class of the ontology: '/m/nosuch'"),
    (b'a,0,10,"/m/04rlf,"', "not a class of the ontology: ''"),
    (b'a,0,10,""', "not a class of the ontology: ''"),
    (b"a,0,10,", "not a class of the ontology: ''"),
    (b"a,0,10,Music", "not a class of the ontology: 'Music'"),
    (b"a,0,10", "3 fields, not 4: 'a,0,10'"),
    (b"a,0,10,/m/04rlf,/m/bell", "5 fields, not 4: "),
    (b"a", "1 fields, not 4: 'a'"),
    (b'a;0;10;"/m/04rlf"', "1 fields, not 4: "),
    (b'\xff\xfea,0,10,"/m/04rlf"', "not UTF-8: "),
    (b'a,0,10,"/m/04rlf', "quotes or line ends that do not fit (unexpected end of data): "),
    (b'"a,0,10,/m/04rlf', "quotes or line ends that do not fit (unexpected end of data): "),
    (b'a,0,10,"/m/04rlf"x', "quotes or line ends that do not fit ("),
    (b'a,0,10,"/m/04rlf"\rb,0,10,"/m/04rlf"', "row 3: "),
    (b'a,0,10,"/m/04rlf' + b",/m/bell" * 10000 + b'"', "longer than 65536 bytes: "),
    (b"x" * 3_000_000, "longer than 65536 bytes: "),
], ids=range(37))
def test_a_bad_row_is_named_with_what_is_wrong_and_nothing_after_it_is_swallowed(tmp_path, ontology, row, words):
    assert words in _bad(tmp_path, ontology, row)


def test_a_segment_of_the_longest_length_and_of_the_longest_id_are_no_errors(tmp_path, ontology):
    rows = b'a,0,600,"/m/04rlf"\n' + b"-" * 64 + b',0.5,0.75,/m/04rlf\n'
    assert list(audioset.segments([write_list(tmp_path, rows)], ontology)) == [
        ("a", 0.0, 600.0, ("Music",)), ("-" * 64, 0.5, 0.75, ("Music",))]


def test_bad_rows_are_counted_the_first_ten_are_told_and_nothing_is_given_after_them(tmp_path, ontology):
    url = write_list(tmp_path, 'a,0,10,"/m/04rlf"\n' + 25 * "bad,0,0,/m/04rlf\n" + 'b,0,10,"/m/04rlf"\n')
    given = audioset.segments([url], ontology)
    assert next(given).id == "a"
    with pytest.raises(ValueError, match="25 bad rows, ") as caught:
        next(given)
    message = str(caught.value)
    assert "row 2: " in message and "row 11: " in message and "row 12: " not in message
    assert "; and 15 more)" in message and "mend or remove these" in message


@pytest.mark.parametrize("data", ["", "\n\n", "# Segments csv\n", "YTID,start_seconds,end_seconds,positive_labels\n"])
def test_a_list_without_rows_is_an_error(tmp_path, ontology, data):
    with pytest.raises(ValueError, match=r"list\.csv: no segments in it"):
        list(audioset.segments([write_list(tmp_path, data)], ontology))


@pytest.mark.parametrize("data", [b"index,mid,display_name\n0,/m/04rlf,Music\n", b"PK\x03\x04" + bytes(range(256)) * 50,
                                  b"<html>\n<p>Sign in to the network</p>\n", '"a"\n'.encode("utf-16")])
def test_a_file_of_another_kind_is_an_error(tmp_path, ontology, data):
    with pytest.raises(ValueError, match=r"list\.csv: .*is this one of AudioSet's segment lists\?"):
        list(audioset.segments([write_list(tmp_path, data)], ontology))


def test_files_that_cannot_be_read_are_errors_before_the_first_segment(tmp_path, ontology):
    url = write_list(tmp_path, ROWS)
    with pytest.raises(FileNotFoundError, match=r"nosuch\.csv: no such file"):
        audioset.segments([url, str(tmp_path / "nosuch.csv")], ontology)
    with pytest.raises(FileNotFoundError, match=r"nosuch\.json: no such file"):
        audioset.segments([url], str(tmp_path / "nosuch.json"))
    with pytest.raises(OSError, match="nosuch://lists/a: cannot be read"):
        audioset.segments(["nosuch://lists/a"], ontology)
    with pytest.raises(OSError, match="cannot be read"):
        list(audioset.segments([str(tmp_path)], ontology))
    with pytest.raises(ValueError, match="no segment lists"):
        audioset.segments([], ontology)


def _brute_force(list_: Path, ontology: Path, exclude: set[str]) -> list[tuple]:
    """The same selection, told in another way: upwards from each label."""
    classes = {one["id"]: one for one in json.loads(ontology.read_text())}
    parents = {mid: [one["id"] for one in classes.values() if mid in one["child_ids"]] for mid in classes}

    def above(mid):
        return {mid}.union(*(above(parent) for parent in parents[mid]))

    ancestors = {mid: above(mid) for mid in classes}
    music = {mid for mid in classes if "/m/04rlf" in ancestors[mid]}
    chosen = []
    with open(list_, newline="") as file:
        for row in csv.DictReader(file):
            labels = row["positive_labels"].split(",")
            if music & set(labels) and not any(ancestors[mid] & exclude for mid in labels if mid not in music):
                chosen.append((row["YTID"], float(row["start_seconds"]), float(row["end_seconds"]),
                               tuple(classes[mid]["name"] for mid in labels)))
    return chosen


@pytest.mark.parametrize("exclude", [(), ("Speech", "Vehicle", "Animal"), None], ids=["none", "some", "default"])
def test_the_real_lists_give_what_a_brute_force_finds(shared, exclude):
    ids = {one["name"]: one["id"] for one in json.loads((shared / "ontology.json").read_text())}
    exclude = audioset.EXCLUDED if exclude is None else exclude
    for name in ("balanced_train_segments.csv", "eval_segments.csv"):
        found = list(audioset.segments([str(shared / name)], str(shared / "ontology.json"), exclude))
        assert found == _brute_force(shared / name, shared / "ontology.json", {ids.get(one, one) for one in exclude})


def test_the_balanced_list_has_as_much_music_as_is_known(shared):
    given = str(shared / "balanced_train_segments.csv"), str(shared / "ontology.json")
    assert len(ids_of(given[:1], given[1], [])) == 8836
    assert len(ids_of(given[:1], given[1])) == 6165


def test_what_is_excluded_by_default_is_in_the_ontology_by_its_name_and_no_music(shared):
    names = {one["id"]: one["name"] for one in json.loads((shared / "ontology.json").read_text())}
    assert {mid: names[mid] for mid in audioset.EXCLUDED} == audioset.EXCLUDED
    classes = ontology_file.load(str(shared / "ontology.json"))
    excluded = {classes[one].name for mid in audioset.EXCLUDED for one in ontology_file.below(classes, mid)}
    assert not excluded & {"Singing", "Rapping", "Humming", "Whistling", "Applause", "Cheering", "Crowd", "Clapping",
                           "Reverberation", "Echo", "Inside, large room or hall", "Radio", "Gramophone record",
                           "Effects unit", "Electronic tuner", "Harmonic", "Distortion"}


# Not `getrusage`: its peak is that of the process which this one was forked from.
PEAK = """
import re, sys
from manifests import audioset
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before, count, error = peak(), 0, ""
try:
    for _ in audioset.segments(sys.argv[1:2], sys.argv[2]): count += 1
except ValueError as caught:
    error = caught
print(count, peak() - before, error)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="this system does not tell a process's peak memory")
@pytest.mark.parametrize(("row", "rows", "expected"), [
    ('video{:06d}, 30.000, 40.000, "' + ",".join(20 * ["/m/04rlf"]) + '"\n', 200000, (200000, "")),
    ('video{:06d}, 30.000, 40.000, "' + ",".join(20 * ["/m/04rlf"]), 200000, (0, "longer than 65536 bytes")),
], ids=["rows", "one-line"])
def test_a_long_list_is_streamed(tmp_path, ontology, row, rows, expected):
    url = write_list(tmp_path, "".join(map(row.format, range(rows))))
    done = subprocess.run([sys.executable, "-c", PEAK, url, ontology], capture_output=True, text=True, check=True,
                          cwd=ROOT)
    count, growth, error = done.stdout.split(maxsplit=2) if expected[1] else [*done.stdout.split(), ""]
    assert int(count) == expected[0] and expected[1] in error
    assert int(growth) * 1024 < 20e6 < os.path.getsize(url) / 2
