"""Captions against measurements: what free English states, and whether it is what was measured."""
import pytest

from captioners import measured
from captioners.agreement import COLUMNS, PACES, PERCUSSION, agreement, check, contradictions
from captioners.statements import statements
from captioners.vocabulary import BANDS
from manifests.outcomes import REASONS, Loss
from manifests.records import AGREEMENT, MEASUREMENT
from tests.captioners.test_measured import captioned  # noqa: F401

CLIP = {"tempo": 140.0, "tempo_confidence": 0.9, "key": "A", "mode": "minor", "key_confidence": 0.9,
        "percussiveness": 0.3}
NOTHING = dict.fromkeys(("tempo", "key", "mode", "percussion"))


def said(caption):
    """{kind: values} of a caption."""
    found = {}
    for one in statements(caption):
        found.setdefault(one.kind, []).append(one.value)
    return found


def judged(caption, **clip):
    return {facet: verdict for facet, verdict in agreement(caption, CLIP | clip).items() if verdict}


@pytest.mark.parametrize(("caption", "expected"), [
    ("a fast-paced rock song at 140 bpm in A minor with heavy drums",
     {"bpm": [(140, 140)], "pace": ["fast"], "key": [(9, "minor")], "percussion": ["strong"]}),
    ("slow tempo ballad", {"pace": ["slow"]}),
    ("An uptempo pop song.", {"pace": ["fast"]}),
    ("The song is medium tempo with a groovy bass", {"pace": ["moderate"]}),
    ("a slow, sad and emotional piano ballad", {"pace": ["slow"]}),
    ("The tempo of the song is slow.", {"pace": ["slow"]}),
    ("The tempo is medium fast", {"pace": ["moderate", "fast"]}),
    ("slow to medium tempo", {"pace": ["slow", "moderate"]}),
    ("a very slow tempo", {"pace": ["very slow"]}),
    ("90-100 BPM house", {"bpm": [(90, 100)]}),
    ("between 90 and 100 beats per minute", {"bpm": [(90, 100)]}),
    ("90 – 100 bpm", {"bpm": [(90, 100)]}),
    ("The tempo is around 120.", {"bpm": [(120, 120)]}),
    ("No percussion at all, no clear pulse.", {"percussion": ["none"], "no beat": [None]}),
    ("A guitar piece without drums", {"percussion": ["none"]}),
    ("There aren't any drums", {"percussion": ["none"]}),
    ("drums are absent", {"percussion": ["none"]}),
    ("beatless ambient", {"percussion": ["none"]}),
    ("no vocals, just drums", {"percussion": ["some"]}),
    ("soft brushed drums", {"percussion": ["light"]}),
    ("in the key of F sharp major", {"key": [(6, "major")]}),
    ("The piece is in E♭ major.", {"key": [(3, "major")]}),
    ("in D-flat major", {"key": [(1, "major")]}),
    ("in Bb minor", {"key": [(10, "minor")]}),
    ("in c# minor", {"key": [(1, "minor")]}),
    ("in Cb major", {"key": [(11, "major")]}),
    ("C#m at 92bpm", {"key": [(1, "minor")], "bpm": [(92, 92)]}),
    ("in the key of C", {"key": [(0, None)]}),
    ("This is a major hit, in A major.", {"key": [(9, "major")]}),
    ("The song is in a minor key.", {"mode": ["minor"]}),
    ("A minor key melody plays", {"mode": ["minor"]}),
    ("no clear key and no steady beat", {"no key": [None], "no beat": [None]}),
])
def test_what_captions_state(caption, expected):
    assert said(caption) == expected


@pytest.mark.parametrize("caption", [
    "signed to a major label", "minor changes in the arrangement", "key moments of the film", "A major hit of the 80s",
    "A minor issue aside, it is fine", "fast cars and slow motion", "a quick guitar solo", "a fast guitar solo",
    "suitable for a fast-paced action scene", "clarinet in B flat", "playing a minor chord progression",
    "C major, G major and D minor chords", "sung in a higher key", "it lasts 120 seconds", "4 beats per bar",
    "the relative minor key", "no bass, drums, or vocals", "without vocals, drums and bass", "a slow-building track",
    "a key change", "",
])
def test_what_states_nothing(caption):
    assert not said(caption).keys() - {"key changes"}
    assert agreement(caption, CLIP) == NOTHING


@pytest.mark.parametrize(("caption", "clip", "expected"), [
    # numbers: within 4 %, left open at half and double, off beyond 8 %
    ("140 BPM", {}, "agrees"), ("145 BPM", {}, "agrees"), ("149 BPM", {}, None), ("153 BPM", {}, "contradicts"),
    ("70 BPM", {}, None), ("280 BPM", {}, None), ("92 BPM", {}, "contradicts"), ("210 BPM", {}, "contradicts"),
    ("about 150 BPM", {}, "agrees"), ("about 160 BPM", {}, None), ("about 170 BPM", {}, "contradicts"),
    ("130-150 BPM", {}, "agrees"), ("90-100 BPM", {}, "contradicts"), ("60-80 BPM", {}, None),
    ("92 BPM", {"tempo_confidence": 0.2}, None), ("92 BPM", {"tempo": None}, None),
    ("155 BPM", {"tempo_confidence": 0.4}, None), ("92 BPM", {"tempo_confidence": 0.4}, "contradicts"),
    # words: only what is clearly off
    ("fast tempo", {}, "agrees"), ("slow tempo", {}, "contradicts"), ("slow tempo", {"tempo": 110.0}, None),
    ("medium tempo", {}, None), ("slow tempo", {"tempo": 140.0, "tempo_confidence": 0.4}, None),
    ("fast tempo", {"tempo": 70.0}, "contradicts"), ("fast tempo", {"tempo": 95.0}, None),
    ("slow to medium tempo", {}, None), ("not a slow song", {}, "agrees"), ("The tempo is not fast", {}, "contradicts"),
    ("The tempo is not fast", {"tempo": 90.0}, "agrees"), ("The tempo is not fast", {"tempo": 120.0}, None),
    # a number outweighs a word; changes are left open
    ("a slow song at 140 BPM", {}, "agrees"), ("a slow song at 70 BPM", {}, None),
    ("The tempo is slow and gets faster", {}, None), ("a half-time groove at 92 BPM", {}, None),
    ("no steady beat", {}, "contradicts"), ("no steady beat", {"tempo": None}, "agrees"),
    ("no steady beat", {"tempo_confidence": 0.5}, None),
])
def test_tempo(caption, clip, expected):
    assert agreement(caption, CLIP | clip) == NOTHING | {"tempo": expected}


@pytest.mark.parametrize(("caption", "clip", "expected"), [
    ("in A minor", {}, {"key": "agrees", "mode": "agrees"}),
    ("in A major", {}, {"key": "agrees", "mode": "contradicts"}),
    ("in D minor", {}, {"key": "contradicts", "mode": "agrees"}),
    ("in F major", {}, {"key": "contradicts", "mode": "contradicts"}),
    ("in C major", {}, {}),                                              # the relative key has the same notes
    ("in the key of C", {}, {}),
    ("in the key of A", {}, {"key": "agrees"}),
    ("in the key of D", {}, {"key": "contradicts"}),
    ("in a minor key", {}, {"mode": "agrees"}),
    ("in a major key", {}, {"mode": "contradicts"}),
    ("in D# minor", {"key": "D#"}, {"key": "agrees", "mode": "agrees"}),
    ("in E♭ minor", {"key": "D#"}, {"key": "agrees", "mode": "agrees"}),
    ("probably in D minor", {}, {"mode": "agrees"}),                     # a fifth away, and not sure
    ("probably in F# minor", {}, {"key": "contradicts", "mode": "agrees"}),
    ("in F# minor", {"key_confidence": 0.5}, {"key": "contradicts", "mode": "agrees"}),
    ("probably in F# minor", {"key_confidence": 0.5}, {"mode": "agrees"}),
    ("in a major key", {"key_confidence": 0.5}, {}),
    ("in D minor", {"key_confidence": 0.2}, {}), ("in D minor", {"key": None, "mode": None}, {}),
    ("from A minor to C major", {}, {"key": "agrees", "mode": "agrees"}),
    ("it modulates from F major to D major", {}, {}),
    ("no clear key", {}, {"key": "contradicts"}), ("atonal", {"key_confidence": 0.05}, {"key": "agrees"}),
])
def test_key_and_mode(caption, clip, expected):
    assert judged(caption, **clip) == expected


@pytest.mark.parametrize(("caption", "measured", "expected"), [
    ("no percussion", 0.05, "agrees"), ("no percussion", 0.3, None), ("no percussion", 0.7, "contradicts"),
    ("heavy drums", 0.4, "agrees"), ("heavy drums", 0.1, None), ("heavy drums", 0.01, "contradicts"),
    ("drums play", 0.2, "agrees"), ("drums play", 0.05, None), ("drums play", 0.01, "contradicts"),
    ("soft drums", 0.1, "agrees"), ("soft drums", 0.9, "contradicts"), ("drums play", None, None),
])
def test_percussion(caption, measured, expected):
    assert agreement(caption, CLIP | {"percussiveness": measured}) == NOTHING | {"percussion": expected}


def test_the_vocabulary_lies_within_what_people_may_say():
    for facet, zones in (("pace", PACES), ("percussiveness", PERCUSSION)):
        for below, low, high, above in zones.values():
            assert below <= low < high <= above
        edges = [edge for edge, _ in BANDS[facet][1]]
        assert edges == sorted(edges)
    bands = [(low, high, words[0]) for (low, words), high in
             zip(BANDS["pace"][1], [*(edge for edge, _ in BANDS["pace"][1][1:]), 300], strict=True)]
    for low, high, word in bands:
        assert PACES[word][1] <= low < high <= PACES[word][2]


def test_the_measured_captioners_captions_never_contradict_their_clips_and_often_others(captioned):  # noqa: F811
    verdicts = [agreement(caption, clip) for clip, caption in captioned]
    assert [caption for (clip, caption), found in zip(captioned, verdicts, strict=True)
            if "contradicts" in found.values()] == []
    assert sum(any(found.values()) for found in verdicts) > 0.6 * len(verdicts)
    others = [agreement(caption, captioned[place - 1][0])["key"] for place, (_, caption) in enumerate(captioned)]
    assert others.count("contradicts") > 4 * others.count("agrees") > 0


def test_repetitions_of_any_length_are_read():
    """A model that is stuck repeats itself without end: what takes the square of it would not return."""
    assert said("very " * 50000 + "slow song") == {"pace": ["very slow"]}
    assert said("no " * 20000 + "drums") == {"percussion": ["none"]}
    assert said("C# and " * 10000 + "chords") == {}
    assert len(said("slow and " * 10000 + "sad song")["pace"]) == 1


def test_check_gives_the_fields_of_the_record_and_tells_what_is_off():
    row = {"id": "a", "caption": {"caption": "At 92 BPM in D major, heavy drums."}, "measurement": CLIP}
    found = check(row, drop=False)
    assert found == {"tempo": "contradicts", "key": "contradicts", "mode": "contradicts", "percussion": "agrees",
                     "detail": "says 92 BPM, measured 140 BPM; says D major, measured A minor"}
    assert found.keys() <= set(AGREEMENT.names)
    assert contradictions(row["caption"]["caption"], CLIP) == found["detail"].split("; ")
    with pytest.raises(Loss) as lost:
        check(row, drop=True)
    assert (lost.value.reason, lost.value.detail) == ("contradicted", found["detail"])
    assert "--drop-contradictions" in REASONS["contradicted"]


def test_check_without_anything_to_judge():
    assert check({"id": "a", "caption": {"caption": "A song."}, "measurement": CLIP}, drop=True) == (
        NOTHING | {"detail": ""})
    nothing = dict.fromkeys(MEASUREMENT.names)
    said = "A slow song at 90 BPM in A minor without drums."
    assert check({"id": "a", "caption": {"caption": said}, "measurement": nothing}, drop=True) == (
        NOTHING | {"detail": ""})
    assert set(COLUMNS) <= set(MEASUREMENT.names)


def test_a_real_caption_is_checked_against_its_own_measurement():
    clip = dict.fromkeys(MEASUREMENT.names) | CLIP | {"loudness": -12.0, "dynamics": 5.0, "centroid": 900.0}
    caption = measured.caption(clip, 3)
    assert "contradicts" not in agreement(caption, clip).values()
    other = agreement(caption, clip | {"tempo": 61.0, "key": "D#", "mode": "major"})
    assert (other["tempo"], other["key"]) == ("contradicts", "contradicts")
