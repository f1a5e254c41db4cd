"""Small lists and an ontology whose selection is known, written by hand."""
import json
from pathlib import Path

from manifests import audioset

ROOT = Path(__file__).resolve().parents[2]

# id: (name, children). Bells have two parents, one of them outside Music; cowbells have three.
CLASSES = {
    "/m/04rlf": ("Music", ["/m/inst", "/m/xmas"]),
    "/m/inst": ("Musical instrument", ["/m/bell", "/m/flute"]),
    "/m/bell": ("Bell", ["/m/cowbell"]),
    "/m/cowbell": ("Cowbell", []),
    "/m/flute": ("Wind instrument, woodwind instrument", []),
    "/m/xmas": ("Christmas music", ["/m/carol"]),
    "/m/carol": ("Carol", []),
    "/m/voice": ("Human voice", ["/m/09x0r", "/m/sing", "/m/0463cq4"]),
    "/m/09x0r": ("Speech", ["/m/talk"]),
    "/m/talk": ("Male speech, man speaking", []),
    "/m/sing": ("Singing", []),
    "/m/0463cq4": ("Crying, sobbing", []),
    "/m/things": ("Sounds of things", ["/m/bell", "/m/0jbk"]),
    "/m/0jbk": ("Animal", ["/m/cow"]),
    "/m/cow": ("Cattle", ["/m/cowbell"]),
}


def write_ontology(folder: Path, classes: dict) -> str:
    path = folder / "ontology.json"
    path.write_text(json.dumps([{"id": mid, "name": name, "child_ids": children, "description": "", "restrictions": []}
                                for mid, (name, children) in classes.items()]))
    return str(path)


def write_list(folder: Path, data: bytes | str, name: str = "list.csv") -> str:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def ids_of(lists, ontology: str, exclude=audioset.EXCLUDED) -> list[str]:
    return [segment.id for segment in audioset.segments(lists, ontology, exclude)]


OFFICIAL = b"""\
# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=3, num_segs=3, num_unique_labels=4, num_positive_labels=5
# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/04rlf,/m/cowbell"
--ZhevVpy1s, 50.000, 56.500, "/m/sing"
-0DLPzsiXXE, 0.000, 10.000, "/m/sing,/m/carol"
"""
EXPECTED = [audioset.Segment("--PJHxphWEs", 30.0, 40.0, ("Music", "Cowbell")),
            audioset.Segment("-0DLPzsiXXE", 0.0, 10.0, ("Singing", "Carol"))]

ROWS = """\
music, 0, 10, "/m/04rlf"
bell, 0, 10, "/m/bell"
cowbell, 0, 10, "/m/cowbell"
cow, 0, 10, "/m/cow,/m/cowbell"
talk, 0, 10, "/m/talk,/m/04rlf"
sing, 0, 10, "/m/sing,/m/04rlf"
cry, 0, 10, "/m/0463cq4,/m/flute"
carol, 0, 10, "/m/carol"
speech, 0, 10, "/m/09x0r"
voice, 0, 10, "/m/voice"
"""
