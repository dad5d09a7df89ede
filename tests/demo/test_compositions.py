"""Compositions show what their captions say, seen by the colours of their pixels; and a pair has the same words."""

from __future__ import annotations

import re
from collections import Counter

import cv2
import numpy as np
import pytest

from workflows.demo.compositions import CATEGORIES, pair
from workflows.demo.drawing import render_composition
from workflows.demo.scenes import COLOURS, SEEN

NUMBERS = {"a": 1, "the": 1, "two": 2, "three": 3, "four": 4}
TONES = {
    "red": (208, 32, 36), "yellow": (250, 212, 0), "green": (24, 148, 52), "blue": (24, 76, 214),
    "purple": (136, 32, 168), "black": (16, 16, 18),
}  # fmt: skip
SHAPES = "circle|square|triangle|star|cross|heart"


def blobs(pixels: np.ndarray) -> dict[str, list[tuple[float, float]]]:
    """The centres (x, y) of the areas of each colour."""
    found = {}
    for colour in COLOURS:
        near = (np.abs(pixels.astype(int) - TONES[colour]).max(axis=2) < 30).astype(np.uint8)
        _, _, stats, centres = cv2.connectedComponentsWithStats(near)
        found[colour] = [tuple(centre) for centre, stat in zip(centres[1:], stats[1:], strict=True) if stat[4] > 60]
    return found


def said(caption: str) -> list[tuple[int, str, str]]:
    """Number, colour and shape of all that a caption names, in its order."""
    pattern = rf"(?:(a|the|two|three|four|no) )?({'|'.join(COLOURS)}) ({SHAPES})(?:e?s)?\b"
    return [(NUMBERS.get(number, 0), colour, shape) for number, colour, shape in re.findall(pattern, caption)]


@pytest.mark.long
@pytest.mark.parametrize("category", CATEGORIES)
def test_captions_are_true_and_those_of_the_other_image_false(category):
    for seed in range(40):
        both = pair(category, seed)
        assert sorted(both[0].caption.split()) == sorted(both[1].caption.split())
        for one, other in (both, both[::-1]):
            areas = blobs(render_composition(one, 160))
            assert true(category, one, areas), one.caption
            assert not true(category, replaced(one, other.caption), areas), (one.caption, other.caption)


def replaced(one, caption):
    return type(one)(one.items, one.background, one.seed, caption)


def true(category, composition, areas) -> bool:
    (number, first, shape), (other_number, second, other_shape) = said(composition.caption)
    shapes = {item.colour: item.shape for item in composition.items}
    match category:
        case "attribute":
            return (shapes, len(areas[first]), len(areas[second])) == ({first: shape, second: other_shape}, 1, 1)
        case "count":
            return (len(areas[first]), len(areas[second])) == (number, other_number)
        case "negation":
            return (len(areas[first]), len(areas[second])) == (1, 0)
        case "relation":
            (one,), (other,) = areas[first], areas[second]
            across, down = one[0] - other[0], one[1] - other[1]
            relation = next(
                words for words in ("left of", "right of", "above", "below") if words in composition.caption
            )
            return {"left of": across < -20, "right of": across > 20, "above": down < -20, "below": down > 20}[relation]
    raise AssertionError(category)


def test_shapes_do_not_touch_or_leave_the_image():
    for category in CATEGORIES:
        for seed in range(200):
            for one in pair(category, seed):
                places = np.array([item.place for item in one.items])
                radius = one.items[0].radius
                assert places.min() - radius > -0.01
                assert places.max() + radius < 1.01
                gaps = np.linalg.norm(places[:, None] - places[None], axis=2) + 9 * np.eye(len(places))
                assert gaps.min() > 2 * radius


def test_every_combination_is_one_that_training_shows_and_all_occur():
    shown = Counter(
        (item.shape, item.colour)
        for category in CATEGORIES
        for seed in range(300)
        for one in pair(category, seed)
        for item in one.items
    )
    assert set(shown) == set(SEEN)
