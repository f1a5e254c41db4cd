"""The ontology: wrong ones are named, classes are found by what people call them."""

import pytest

from manifests import audioset
from manifests import ontology as ontology_file
from tests.manifests.lists import CLASSES, ROWS, ids_of, write_list, write_ontology


def _but(mid: str, name=None, children=None) -> dict:
    old = CLASSES[mid]
    return CLASSES | {mid: (old[0] if name is None else name, old[1] if children is None else children)}


@pytest.mark.parametrize(("classes", "message"), [
    ({mid: one for mid, one in CLASSES.items() if mid not in ("/m/04rlf",)}, "no class Music"),
    (_but("/m/carol", children=["/m/xmas"]), "classes below themselves: .*/m/xmas"),
    (_but("/m/carol", children=["/m/carol"]), "classes below themselves: /m/carol"),
    (_but("/m/carol", children=["/m/nosuch"]), "/m/carol has the child '/m/nosuch', which is not there"),
    (_but("/m/carol", children=[1]), "class 6 needs id, name and child_ids"),
    (_but("/m/carol", children="/m/xmas"), "class 6 needs id, name and child_ids"),
    (_but("/m/carol", name="A\tB"), r"class 6: .*'A\\tB' is no id or no name"),
    (_but("/m/carol", name="A|B"), r"class 6: .*'A\|B' is no id or no name"),
    (CLASSES | {"/m/a,/m/b": ("A", [])}, "class 15: '/m/a,/m/b' or 'A' is no id or no name"),
], ids=["no-music", "cycle", "own-child", "missing-child", "child-number", "children-text", "tab", "bar", "comma"])
def test_a_wrong_ontology_is_named(tmp_path, classes, message):
    url = write_ontology(tmp_path, classes)
    with pytest.raises(ValueError, match=rf"ontology\.json: {message}"):
        audioset.segments([write_list(tmp_path, ROWS)], url)


@pytest.mark.parametrize(("data", "message"), [
    ("", "not valid JSON"), ("[{", "not valid JSON"), (b"\xff\xff", "not valid JSON"), ("[" * 100000, "not valid JSON"),
    ("{}", "no list of classes"), ("[]", "no class Music"), ("[1]", "class 0 needs id"),
    ('[{"id": "/m/04rlf", "name": "Music"}]', "class 0 needs id, name and child_ids"),
    (2 * '{"id": "/m/04rlf", "name": "Music", "child_ids": []},', "not valid JSON"),
    ("[" + ",".join(2 * ['{"id": "/m/04rlf", "name": "Music", "child_ids": []}']) + "]", "/m/04rlf is there twice"),
], ids=range(10))
def test_a_file_that_is_no_ontology_is_named(tmp_path, data, message):
    url = write_list(tmp_path, data, "ontology.json")
    with pytest.raises(ValueError, match=rf"ontology\.json: .*{message}"):
        audioset.segments([write_list(tmp_path, ROWS)], url)


def test_a_deep_ontology_is_no_problem(tmp_path):
    chain = {f"/m/{index}": (f"Class {index}", [f"/m/{index + 1}"]) for index in range(20000)}
    chain |= {"/m/20000": ("Last", []), "/m/04rlf": ("Music", ["/m/0"])}
    assert ids_of([write_list(tmp_path, "a,0,10,/m/20000\n")], write_ontology(tmp_path, chain)) == ["a"]


def test_each_class_of_the_ontology_can_be_excluded_by_its_name_alone_and_all_at_once(shared):
    classes = ontology_file.load(str(shared / "ontology.json"))
    for mid, one in classes.items():
        assert list(ontology_file.resolve([one.name.upper()], classes, "")) == [mid]
    everything = ",".join(one.name for one in classes.values())
    assert list(ontology_file.resolve([everything], classes, "")) == list(classes)
