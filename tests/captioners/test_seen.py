"""Captions of looks: honest, readable, varied, the same everywhere."""
import random
import re

import pytest

from captioners import looks, seen
from captioners.looks import COLOURS
from captioners.seen import BANDS, SAID, claims, facts, image_caption, video_caption
from manifests import records
from manifests.outcomes import Loss

PICTURE = {"brightness": 0.2, "contrast": 0.05, "saturation": 50.0, "sharpness": 0.9,
           "colours": [0.3 if name == "black" else 0.7 if name == "blue" else 0.0 for name in COLOURS]}
FILM = PICTURE | {"brightness_spread": 0.01, "brightness_trend": 0.0, "colour_change": 0.0, "motion": 0.3, "cuts": []}
CAPTION = {image_caption: PICTURE, video_caption: FILM}
# What is left of captions without their claims: nothing here names an object, a scene or a mood.
CONNECTIVES = {"a", "an", "and", "has", "here", "in", "is", "it", "this", "the", "with", "picture", "image", "frame",
               "still", "video", "clip", "film"}


def shares(rng) -> list[float]:
    weights = [rng.random() ** rng.choice([1, 3, 12]) for _ in COLOURS]
    return [weight / sum(weights) for weight in weights]


def random_film(rng, missing=0.05) -> dict:
    found = {"brightness": rng.random(), "contrast": rng.uniform(0, 0.4), "saturation": rng.uniform(0, 100),
             "sharpness": rng.random(), "colours": shares(rng), "brightness_spread": rng.uniform(0, 0.4),
             "brightness_trend": rng.uniform(-1, 1), "colour_change": rng.random(), "motion": rng.random() ** 3,
             "cuts": [float(number) for number in range(int(rng.random() ** 2 * 15))]}
    return {name: None if rng.random() < missing else value for name, value in found.items()}


@pytest.fixture(scope="module")
def captioned() -> list[tuple[dict, str, str]]:
    """2,000 random films, each with a caption of either kind."""
    rng = random.Random(0)
    films = [random_film(rng) for _ in range(2000)]
    return [(film, image_caption(film, seed), video_caption(film, seed)) for seed, film in enumerate(films)]


def test_captions_say_what_was_measured_and_nothing_else(captioned):
    for film, image, video in captioned:
        known = facts(film)
        for text in (image, video):
            assert claims(text).items() <= known.items(), (text, claims(text), known)
        assert not claims(image).keys() & {"motion", "cuts", "light", "trend", "change"}, image


def test_captions_say_enough(captioned):
    for film, image, video in captioned:
        known = facts(film)
        still = known.keys() & {"brightness", "contrast", "saturation", "sharpness"}
        assert len(claims(image).keys() & still) >= min(3, len(still)), image
        for facet in ("motion", "cuts"):
            assert (facet in claims(video)) == (facet in known), video
        for text in (image, video):
            assert claims(text).get("colours") == known.get("colours"), text


def test_nothing_is_left_without_the_claims(captioned):
    for _, image, video in captioned:
        for text in (image, video):
            rest = text
            for pattern in (*seen._PALETTES.values(), seen._PHRASES):
                rest = pattern.sub(" ", rest)
            assert set(re.findall(r"[\w'-]+", rest.lower())) <= CONNECTIVES, text


def test_captions_are_well_formed(captioned):
    for _, image, video in captioned:
        for text in (image, video):
            assert re.fullmatch(r"[A-Z][^.\n]*\.( [A-Z][^.\n]*\.){0,2}", text), text
            assert not re.search(r"  | ,|,,|,\.|\b[aA] [aeiou]|\b(an) [^aeiou]|\b(\w+) \2\b|None|[{}]", text), text
            assert 25 < len(text) < 320, text


def test_every_phrase_is_read_back_as_what_it_says():
    phrases = [phrase for names in SAID.values() for ways in names.values() for way in ways for phrase in way]
    assert len(set(phrases)) == len(phrases)
    for facet, names in SAID.items():
        for name, ways in names.items():
            assert ways.clauses and ways.things
            for phrase in (*ways.epithets, *ways.clauses, *ways.things):
                assert claims(f"Here is a film: {phrase}.") == {facet: name}, phrase


def test_bands_and_their_words_are_complete():
    for facet, (field, bands) in BANDS.items():
        assert field in looks.FILM
        edges = [edge for edge, _ in bands]
        assert edges == sorted(set(edges)) and edges[0] == 0
        assert {name for _, name in bands} - {None} == set(SAID[facet])
    assert {name for _, name in seen._CUTS} == set(SAID["cuts"])
    assert set(looks.PICTURE) <= set(records.FRAME.names) and set(looks.FILM) <= set(records.VIDEO.names)


@pytest.mark.parametrize(("field", "value", "facet", "expected"), [
    ("brightness", 0.0, "brightness", "very dark"), ("brightness", 0.12, "brightness", "dark"),
    ("brightness", 0.3, "brightness", None), ("brightness", 0.5, "brightness", "medium"),
    ("brightness", 0.95, "brightness", "very bright"), ("contrast", 0.25, "contrast", "high"),
    ("saturation", 1.0, "saturation", "none"), ("saturation", 80.0, "saturation", "vivid"),
    ("sharpness", 0.2, "sharpness", "soft"), ("sharpness", 0.45, "sharpness", None),
    ("sharpness", None, "sharpness", None), ("motion", 0.001, "motion", "still"), ("motion", 0.03, "motion", "slow"),
    ("cuts", [], "cuts", "none"), ("cuts", [1.0], "cuts", "one"), ("cuts", [1.0] * 4, "cuts", "few"),
    ("cuts", [1.0] * 5, "cuts", "several"), ("cuts", [1.0] * 30, "cuts", "many"),
    ("brightness_spread", 0.3, "light", "strongly varying"), ("colour_change", 0.5, "change", "changing")])
def test_facts(field, value, facet, expected):
    assert facts(FILM | {field: value}).get(facet) == expected


@pytest.mark.parametrize(("rise", "spread", "trend", "light"), [
    (0.4, 0.12, "brighter", None), (-0.4, 0.12, "darker", None),  # 0.4 / sqrt(12) = 0.115: nearly all of the spread
    (0.4, 0.3, None, "strongly varying"), (0.1, 0.029, None, None)])
def test_a_trend_is_told_where_a_line_fits(rise, spread, trend, light):
    said = facts(FILM | {"brightness_trend": rise, "brightness_spread": spread})
    assert (said.get("trend"), said.get("light")) == (trend, light)


@pytest.mark.parametrize(("found", "expected", "dominance"), [
    ({"red": 0.95, "blue": 0.05}, ("red",), "sole"), ({"red": 0.7, "blue": 0.3}, ("red", "blue"), "main"),
    ({"red": 0.85, "blue": 0.08, "pink": 0.07}, ("red",), "main"),
    ({"red": 0.3, "blue": 0.4, "pink": 0.2, "grey": 0.1}, ("blue", "red", "pink"), "mixed"),
    (dict.fromkeys(COLOURS, 1 / 11), ("black",), "many")])
def test_colours(found, expected, dominance):
    said = facts({"colours": [found.get(name, 0.0) for name in COLOURS], "brightness": 0.5})
    assert (said.get("colours"), said.get("dominance")) == (expected, dominance)


@pytest.mark.parametrize("caption", CAPTION)
def test_variety(caption):
    said = [caption(CAPTION[caption], seed) for seed in range(300)]
    assert len(set(said)) > 200
    assert said[:50] == [caption(CAPTION[caption], seed) for seed in range(50)]
    assert len({text.split()[0] for text in said}) >= 5


def test_what_cannot_be_told_is_lost():
    nothing = {"brightness": 0.3, "contrast": 0.08, "saturation": 3.0, "sharpness": None,
               "brightness_spread": 0.04, "motion": 0.015, "cuts": None}
    for caption in CAPTION:
        with pytest.raises(Loss) as loss:
            caption(nothing, 0)
        assert loss.value.reason == "caption_failed"


def test_movement_alone_is_told():
    text = video_caption({"motion": 0.3, "cuts": []}, 0)
    assert claims(text) == {"motion": "quick", "cuts": "none"}


def test_rows_of_captions():
    assert seen.caption(PICTURE, 7, "image") == {
        "caption": image_caption(PICTURE, 7), "captioner": "measured", "captioner_revision": str(seen.VERSION),
        "caption_prompt": "", "caption_seed": 7}
    assert seen.caption(FILM, 7, "video")["caption"] == video_caption(FILM, 7)
    assert set(seen.caption(FILM, 7, "video")) == set(records.CAPTION.names) - {"id", "outcome", "detail", "revision"}
