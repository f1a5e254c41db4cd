"""Pairs are exactly those of the definition, however they are searched for."""
import hashlib
import math

import numpy as np
import pytest

from pairing import match, neighbours, points
from pairing.match import Clips, Settings
from pairing.points import DIMENSIONS

OCTAVE = 1 / DIMENSIONS[0].scale
SETTINGS = [Settings(half_double=both) for both in (False, True)]


def corpus(count: int, seed: int) -> list[dict]:
    """Clips in clusters, as artists and genres make them: near-equal tempi, equal points, few clips a source video."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1.2, (count // 12, 8))
    centres[:, 0] = rng.choice([90.0, 100, 120, 120, 120, 128, 140, 60, 180, 70, 45], len(centres))
    centres[:, 0] = np.log2(centres[:, 0]) * OCTAVE
    clips = []
    for index in range(count):
        point = centres[rng.integers(len(centres))] + rng.normal(0, 0.35, 8)
        kind = rng.random()
        if kind < 0.2:
            point = np.round(point * 2) / 2      # on a grid: many equal distances
        elif kind < 0.35 and clips:
            point = clips[rng.integers(len(clips))]["point"].copy()
            if kind < 0.25:
                point[0] += OCTAVE * rng.choice((-1, 1))
        clips.append({"id": f"clip-{rng.integers(10**9)}-{index}", "point": point, "split": int(rng.random() < 0.1),
                      "source": int(rng.integers(count // 3)), "recording": index})
        if kind > 0.97 and index:                # a copy, and what is alike in all but its source
            twin = clips[rng.integers(index)]
            clips[-1] |= {"recording": twin["recording"], "point": twin["point"].copy()}
    for clip in clips[:40]:
        clip["source"] = -1                      # one video with many clips
        clip["point"] = clips[0]["point"] + rng.normal(0, 0.05, 8) * (rng.random() < 0.7)
    return clips


def table(clips: list[dict]) -> Clips:
    ranks = {key: rank for rank, key in enumerate(sorted(clip["id"] for clip in clips))}
    return Clips(np.array([clip["point"] for clip in clips]), np.array([ranks[clip["id"]] for clip in clips]),
                 match.ties(clip["id"] for clip in clips),
                 *(np.array([clip[name] for clip in clips], np.int32) for name in ("split", "source", "recording")))


def brute(clips: list[dict], settings: Settings) -> set[tuple[str, str, float]]:
    """The definition, pair by pair, in plain Python."""
    names = [clip["id"] for clip in clips]
    hashes = [int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) for name in names]
    points = [clip["point"].tolist() for clip in clips]
    shifts = (0.0, -OCTAVE, OCTAVE) if settings.half_double else (0.0,)
    near: list[list] = [[] for _ in clips]
    for i, one in enumerate(clips):
        for j in range(i):
            other = clips[j]
            if (one["split"] == other["split"] and one["source"] != other["source"]
                    and one["recording"] != other["recording"]):
                gap = points[i][0] - points[j][0]
                if min(abs(gap + shift) for shift in shifts) > settings.threshold + 1e-6:
                    continue
                total = min((gap + shift) * (gap + shift) for shift in shifts)
                for x, y in zip(points[i][1:], points[j][1:], strict=True):
                    total += (x - y) * (x - y)  # not ** 2: the C library's power rounds once more
                if math.sqrt(total) <= settings.threshold:
                    tie = abs(hashes[i] - hashes[j])
                    near[i].append((math.sqrt(total), tie, names[j]))
                    near[j].append((math.sqrt(total), tie, names[i]))
    first = {names[i]: {name: far for far, _, name in sorted(found)[:settings.max_pairs_per_clip]}
             for i, found in enumerate(near)}
    return {(one, other, far) for one, found in first.items() for other, far in found.items()
            if one < other and one in first[other]}


def named(clips: list[dict], found: match.Found) -> set[tuple[str, str, float]]:
    names = sorted(clip["id"] for clip in clips)
    triples = [(names[a], names[b], far) for a, b, far in zip(found.a, found.b, found.distance.tolist(), strict=True)]
    assert len(set(triples)) == len(triples)
    return set(triples)


@pytest.fixture(scope="module")
def clips() -> list[dict]:
    return corpus(2000, 1)


@pytest.fixture(scope="module")
def truth(clips) -> dict[Settings, set]:
    return {settings: brute(clips, settings) for settings in SETTINGS}


@pytest.mark.parametrize("settings", SETTINGS, ids=["as they are", "octaves equal"])
@pytest.mark.parametrize("buckets", [1, 2, 7, 50])
def test_pairs_are_those_of_the_definition(clips, truth, settings, buckets):
    found = match.pairs(table(clips), settings, buckets)
    assert named(clips, found) == truth[settings]
    assert len(truth[settings]) > 500
    assert {far for *_, far in truth[settings]} >= {0.0}


def test_octaves_make_pairs_of_their_own(truth):
    assert len(truth[SETTINGS[1]] - truth[SETTINGS[0]]) > 50


@pytest.mark.parametrize("settings", SETTINGS, ids=["as they are", "octaves equal"])
def test_the_order_of_the_input_changes_no_bit(clips, settings):
    first = match.pairs(table(clips), settings, 3)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(clips))
        again = match.pairs(table([clips[index] for index in order]), settings, 5)
        for name in ("a", "b", "distance", "alone"):
            assert getattr(again, name).tobytes() == getattr(first, name).tobytes()


def test_other_settings(clips):
    clips = clips[:500]
    for settings in (Settings(max_pairs_per_clip=1), Settings(max_pairs_per_clip=40, threshold=2.5),
                     Settings(threshold=0.3, half_double=True), Settings(threshold=30.0, max_pairs_per_clip=2)):
        for buckets in (1, 6):
            assert named(clips, match.pairs(table(clips), settings, buckets)) == brute(clips, settings)


def test_who_is_alone(clips):
    clips = clips[:400]
    names = sorted(clip["id"] for clip in clips)
    found = match.pairs(table(clips), Settings(), 4)
    accompanied = {name for triple in brute(clips, Settings(max_pairs_per_clip=10**6)) for name in triple[:2]}
    assert {names[rank] for rank in found.alone} == set(names) - accompanied
    assert 0 < len(found.alone) < len(clips)


@pytest.mark.parametrize("buckets", [1, 4])
@pytest.mark.parametrize("shape", ["one point", "two points", "one source", "one recording", "one point of one source",
                                   "subnormal"])
def test_shapes_that_trees_dislike(shape, buckets, monkeypatch):
    monkeypatch.setattr(neighbours, "_ROOM", 2000)  # searches are cut small, too
    rng = np.random.default_rng(2)
    count = 300
    point = np.r_[np.log2(120) * OCTAVE, np.zeros(7)]
    clips = [{"id": f"{rng.integers(10**9)}", "point": point.copy(), "split": 0, "source": index, "recording": index}
             for index in range(count)]
    for index, clip in enumerate(clips):
        if shape == "two points":
            clip["point"][3] = 0.5 * (index % 2)
            clip["source"] = index % 2 * count + (index if index % 2 else 0)  # of the first point all of one video
        elif shape in ("one source", "one recording"):
            clip["point"] += rng.normal(0, 0.1, 8)
            clip[shape.removeprefix("one ")] = 0 if index < 250 else index
        elif shape == "one point of one source":
            clip["source"] = 0 if index < 250 else index
        elif shape == "subnormal":
            clip["point"][3] = index * 1e-170    # other points, and distances that round to 0
    for settings in SETTINGS:
        expected = brute(clips, settings)
        assert named(clips, match.pairs(table(clips), settings, buckets)) == expected
        assert expected


def test_thousands_of_equal_clips_cost_little(monkeypatch):
    """All candidates that are looked at are counted: as many again for twice the clips, not four times."""
    gap, looked = neighbours._gap, []
    monkeypatch.setattr(neighbours, "_gap", lambda one, other: looked.append(len(one)) or gap(one, other))
    point = np.r_[np.log2(120) * OCTAVE, np.zeros(7)]
    cost = []
    for count in (4000, 8000):
        looked.clear()
        found = match.pairs(table([{"id": f"{index}", "point": point, "split": 0, "source": index // 3,
                                    "recording": index} for index in range(count)]), Settings())
        assert len(found.a) > 1.5 * count  # each finds its neighbours, not all the same few
        cost.append(sum(looked))
    assert 0 < cost[1] < 2.5 * cost[0]


def test_tempi_of_a_pair_agree_within_three_and_a_half_per_cent(clips):
    assert Settings().tempo_ratio == pytest.approx(1.0353, abs=1e-4)
    vectors = table(clips).vector[np.argsort(table(clips).rank)]
    found = match.pairs(table(clips), Settings())
    ratio = 2 ** (np.abs(vectors[found.a, 0] - vectors[found.b, 0]) / OCTAVE)
    assert 1.02 < ratio.max() <= Settings().tempo_ratio


def measured(**fields) -> dict[str, np.ndarray]:
    values = {"tempo": 120.0, "tempo_confidence": 0.95, "onset_rate": 4.0, "pulse": [0, 0, 0.4, 0, 0, 0.8],
              "chroma": [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], "pitch_median": 69.0, "loudness": -14.0,
              "dynamics": 6.0} | fields
    return {name: np.array([value], np.float64) for name, value in values.items()}


def apart(one: dict, other: dict, half_double: bool = False) -> float:
    return float(points.distance(points.vectors(measured(**one)), points.vectors(measured(**other)), half_double)[0])


@pytest.mark.parametrize("one, other, far", [
    ({}, {}, 0),
    ({"tempo": 120 * 2 ** 0.05}, {}, 1),
    ({"tempo": 60.0}, {}, 20),
    ({"onset_rate": 2.0}, {}, 1),
    ({"onset_rate": 0.0}, {"onset_rate": 0.25}, 0),
    ({"pulse": [0, 0.4, 0.4, 0.4, 0, 0.8]}, {}, 0.8),
    ({"pitch_median": 45.0}, {}, 1),
    ({"pitch_median": math.nan}, {"pitch_median": 64.0}, 0),
    ({"loudness": -26.0}, {}, 1),
    ({"loudness": math.nan}, {"loudness": -70.0}, 0),
    ({"dynamics": 18.0}, {}, 1),
    ({"onset_rate": 8.0, "dynamics": 18.0}, {}, math.sqrt(2)),
])
def test_each_dimension_counts_as_told(one, other, far):
    assert apart(one, other) == pytest.approx(far, abs=1e-9)


def test_octaves_count_as_equal_where_asked():
    assert apart({"tempo": 60.0}, {}, half_double=True) == pytest.approx(0, abs=1e-9)
    assert apart({"tempo": 240.0}, {}, half_double=True) == pytest.approx(0, abs=1e-9)
    assert apart({"tempo": 40.0}, {"tempo": 160.0}, half_double=True) == pytest.approx(20)  # one octave, not two


def test_neighbours_on_the_circle_of_fifths_are_near():
    def scale(tonic: int) -> list[float]:
        return np.roll(np.isin(np.arange(12), (0, 2, 4, 5, 7, 9, 11)) / 7, tonic).tolist()
    far = [apart({"chroma": scale(7 * step % 12)}, {"chroma": scale(0)}) for step in range(7)]
    assert far == sorted(far) and far[0] == 0 and far[6] > 3 * far[1]
    even = {"chroma": [1 / 12] * 12}
    assert len({round(apart(even, {"chroma": scale(tonic)}), 9) for tonic in range(12)}) == 1
    assert apart(even, {"chroma": [math.nan] * 12}) == pytest.approx(0, abs=1e-9)


def test_only_a_sure_tempo_can_be_paired():
    for fields, right in (({}, True), ({"tempo_confidence": 0.69}, False), ({"tempo": math.nan}, False),
                          ({"dynamics": math.nan}, False), ({"pulse": [math.nan] * 6}, False)):
        one = measured(**fields)
        assert match.steady(points.vectors(one), one["tempo_confidence"], Settings()).tolist() == [right]


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"threshold": math.nan}, {"max_pairs_per_clip": 0},
                                   {"min_tempo_confidence": 1.5}])
def test_settings_that_cannot_work_are_told(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


def test_nothing_to_pair():
    found = match.pairs(table(corpus(40, 0)).take(slice(0)), Settings(), 3)
    assert [len(part) for part in (found.a, found.b, found.distance, found.alone)] == [0] * 4
