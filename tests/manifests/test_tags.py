"""MusicCaps, MagnaTagATune and MTG-Jamendo: small tables in the published formats, and the real MusicCaps."""
import ast
import csv

import fsspec
import pytest

from manifests import tags
from manifests.tags import Description, MusicCap, Tagged

CAPS_HEADER = ",".join(tags.MUSICCAPS)
CAPS = f'''{CAPS_HEADER}
-0Gj8-vB1q4,30,40,"/m/0140xf,/m/04rlf","['low quality', ""children's song"", 'a \\'b\\' \\\\ \\xe9']","A ballad, sad
and soulful.",4,False,True
-vB1q4-0Gj8,0,10,/m/04rlf,[],"Plain.",6,True,False
'''
MTT = ('"clip_id"\t"no voice"\t"hard rock"\t"guitar"\t"mp3_path"\n"2"\t"1"\t"0"\t"1"\t"f/american-30-59.mp3"\n'
       '"6"\t"0"\t"0"\t"0"\t"f/b.mp3"\n')
MTG = ("TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
       "track_0000214\tartist_000014\talbum_000031\t14/214.mp3\t124.6\tgenre---punkrock\tinstrument---guitar\n"
       "track_0000215\tartist_000014\talbum_000031\t15/215.mp3\t151.4\tmood/theme---happy\n")


def write(tmp_path, data: str | bytes) -> str:
    path = tmp_path / "table.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def test_musiccaps(tmp_path):
    assert list(tags.musiccaps(write(tmp_path, CAPS))) == [
        MusicCap("-0Gj8-vB1q4", 30.0, 40.0, ("/m/0140xf", "/m/04rlf"), ("low quality", "children's song", "a 'b' \\ é"),
                 "A ballad, sad and soulful.", 4, False, True),
        MusicCap("-vB1q4-0Gj8", 0.0, 10.0, ("/m/04rlf",), (), "Plain.", 6, True, False)]


def test_magnatagatune_and_jamendo(tmp_path):
    assert list(tags.magnatagatune(write(tmp_path, MTT))) == [
        Tagged("f/american-30-59.mp3", ("no voice", "guitar"), ("", "")), Tagged("f/b.mp3", (), ())]
    assert list(tags.jamendo(write(tmp_path, MTG))) == [
        Tagged("14/214.mp3", ("punkrock", "guitar"), ("genre", "instrument")),
        Tagged("15/215.mp3", ("happy",), ("mood/theme",))]


@pytest.mark.parametrize("change", [
    lambda text: text, lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n"), lambda text: text[:-1],
], ids=["plain", "bom", "crlf", "no-last-newline"])
def test_descriptions_tell_the_tables_apart_by_their_headers(tmp_path, change):
    found = tags.descriptions(write(tmp_path, change(CAPS)))
    assert found["-vB1q4-0Gj8"] == Description("Plain.", (), "musiccaps", start=0.0)
    assert found["-0Gj8-vB1q4"].tags == ("low quality", "children's song", "a 'b' \\ é")
    assert tags.descriptions(write(tmp_path, change(MTG))) == {
        "14/214.mp3": Description(None, ("punkrock", "guitar"), "jamendo", ("genre", "instrument")),
        "15/215.mp3": Description(None, ("happy",), "jamendo", ("mood/theme",))}
    with pytest.warns(UserWarning, match=r"left out .* 1 of 2 rows: f/b\.mp3"):
        assert tags.descriptions(write(tmp_path, change(MTT))) == {
            "f/american-30-59.mp3": Description(None, ("no voice", "guitar"), "magnatagatune")}


@pytest.mark.parametrize("header", ["", "a,b,c\n1,2,3\n", "YTID,start\n", "clip_id\tmp3_path\n",
                                    MTG.replace("TAGS", "TAG")])
def test_an_unknown_header_is_an_error_that_lists_what_is_known(tmp_path, header):
    with pytest.raises(ValueError, match=r"header is none that is known.*MusicCaps.*MagnaTagATune.*MTG-Jamendo"):
        tags.descriptions(write(tmp_path, header))


def _row(**change):
    fields = dict(zip(tags.MUSICCAPS, ("-0Gj8-vB1q4", "30", "40", "/m/04rlf", "[]", "Plain.", "4", "False", "True"),
                      strict=True)) | change
    return CAPS_HEADER + "\n" + ",".join('"' + value.replace('"', '""') + '"' for value in fields.values()) + "\n"


@pytest.mark.parametrize(("data", "words"), [
    (_row(ytid="../etc"), "line 2: ytid is no YouTube id: '../etc'"),
    (_row(start_s="x"), "line 2: start_s is no number of seconds: 'x'"),
    (_row(end_s="20"), "line 2: ends at 20 s, but starts at 30 s"),
    (_row(caption=" "), "line 2: the caption is empty"),
    (_row(author_id="me"), "author_id is no number"),
    (_row(is_audioset_eval="yes"), "is neither True nor False: 'yes'"),
    (_row(audioset_positive_labels="Music"), "no ids of classes"),
    (_row(aspect_list="[__import__('os').getcwd()]"), "aspect_list is no list of texts"),
    (_row(aspect_list="['a' 'b']"), "aspect_list is no list of texts"),
    (_row(aspect_list="['a', 1]"), "aspect_list is no list of texts"),
    (_row(aspect_list="['\\U99999999']"), "has no such character"),
    (_row(aspect_list="[" * 50000), "aspect_list is no list of texts"),
    (_row() + _row().partition("\n")[2], "line 3: '-0Gj8-vB1q4' is there twice"),
    (CAPS_HEADER + "\nx,y\n", "line 2: 2 fields, not 9"),
    (_row().encode().replace(b"Plain", b"Pl\xffin"), "line 2: caption is not UTF-8"),
    (CAPS + '"-0Gj8-vB1q4', "line 5: "),
    (CAPS_HEADER + "\n", "no rows in it"),
])
def test_bad_rows_of_musiccaps_are_told(tmp_path, data, words):
    url = write(tmp_path, data)
    with pytest.raises(ValueError) as caught:
        tags.descriptions(url)
    assert str(caught.value).startswith(f"{url}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(("data", "words"), [
    (MTT + '"7"\t"2"\t"0"\t"1"\t"f/c.mp3"\n', "line 4: a tag's value is neither 0 nor 1: '2'"),
    (MTT + '"7"\t"1"\t"f/c.mp3"\n', "line 4: 3 fields, where the header has 5"),
    (MTT + '"x"\t"1"\t"0"\t"1"\t"f/c.mp3"\n', "line 4: clip_id is no number"),
    (MTT + '"7"\t"1"\t"0"\t"1"\t"../c.mp3"\n', "line 4: mp3_path is no file name"),
    (MTT + '"7"\t"1"\t"0"\t"1"\t"f/b.mp3"\n', "line 4: 'f/b.mp3' is there twice"),
    (MTG + "track_1\ta\tb\tc.mp3\t1.0\n", "line 4: 5 fields, not 6 or more"),
    (MTG + "track_1\ta\tb\tc.mp3\t1.0\trock\n", "line 4: a tag is not like genre---rock: 'rock'"),
    (MTG + "track_1\ta\tb\tc.mp3\t0\tgenre---rock\n", "line 4: DURATION is not above 0"),
    (MTG + "1\ta\tb\tc.mp3\t1\tgenre---rock\n", "line 4: TRACK_ID is not like"),
])
def test_bad_rows_of_tables_of_tags_are_told(tmp_path, data, words):
    with pytest.raises(ValueError) as caught:
        tags.descriptions(write(tmp_path, data))
    assert words in str(caught.value)


def test_tables_may_lie_anywhere_and_are_streamed():
    with fsspec.open("memory://tags/a.tsv", "wb") as file:
        file.write(MTG.encode() + b"broken\n")
    rows = tags.jamendo("memory://tags/a.tsv")
    assert next(rows).path == "14/214.mp3"
    with pytest.raises(FileNotFoundError, match="no such file"):
        tags.descriptions("memory://tags/none.tsv")


def test_the_real_musiccaps_read_as_pythons_own_parser_reads_it(shared):
    url = shared / "musiccaps-public.csv"
    if not url.is_file():
        pytest.skip("no MusicCaps beside this checkout")
    with open(url, newline="") as file:
        rows = list(csv.DictReader(file))
    found = list(tags.musiccaps(str(url)))
    assert len(found) == len(rows) == 5521
    for row, cap in zip(rows, found, strict=True):
        assert cap.aspects == tuple(" ".join(aspect.split()) for aspect in ast.literal_eval(row["aspect_list"]))
        assert (cap.ytid, cap.start) == (row["ytid"], float(row["start_s"]))
        assert cap.caption == " ".join(row["caption"].split())
    assert sum(cap.evaluation for cap in found) == 2858
    assert len(tags.descriptions(str(url))) == 5521
