"""Words of the demo's captions whose meaning the images tell, as test sets of a text tower alone, with exact truth.

Small and tiny, or small and huge: captions use them in the same places, and never two of them in one, so texts alone
do not tell which mean the same. Images do. Pairs that share a word or are spelled alike are left out: who only spells
would know them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations, product
from math import dist, sqrt

from workflows.demo.scenes import COLOURS, POSITIONS, SHAPES, SIZES, TEXTURES, WORDS, name

__all__ = ["analogies", "rated_pairs"]

_FUNCTION_WORDS = {"in", "at", "on", "the", "with"}
_ALIKE = 3  # first letters by which stripy is known from striped


def rated_pairs() -> list[tuple[str, str, str, float]]:
    """Two wordings, the attribute they tell, and how alike what they mean is, from 0 to 1.

    Sizes lie in a row, positions on a grid, by their distance; textures are the same, 1, or not, 0.
    """
    said = {
        "size": _said("a", SIZES),
        "texture": [*_said("t", TEXTURES), *_said("n", TEXTURES)],
        "position": _said("p", POSITIONS),
    }
    return [
        (one, other, attribute, _likeness(attribute, value, other_value))
        for attribute, wordings in said.items()
        for (one, value), (other, other_value) in combinations(wordings, 2)
        if not _spelled_alike(one, other)
    ]


def analogies() -> dict[str, list[tuple[str, str, str, str]]]:
    """Red circle is to blue circle as red square to blue square; and as to red square, blue circle to blue square.

    The words tell these, too: a tower that adds words up needs no image for them.
    """
    by_colour = [
        (name(shape, colour), name(shape, other), name(third, colour), name(third, other))
        for (colour, other), (shape, third) in product(permutations(COLOURS, 2), permutations(SHAPES, 2))
    ]
    by_shape = [(first, third, second, fourth) for first, second, third, fourth in by_colour]
    return {"colour": by_colour, "shape": by_shape}


def _said(place: str, values: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each wording of each of an attribute's values, with the value."""
    return [(wording, value) for value in values for wording in dict.fromkeys(WORDS[place][value])]


def _likeness(attribute: str, value: str, other: str) -> float:
    if attribute == "size":
        return 1 - abs(SIZES.index(value) - SIZES.index(other)) / (len(SIZES) - 1)
    if attribute == "position":
        places = [divmod(POSITIONS.index(one), 3) for one in (value, other)]
        return round(1 - dist(*places) / (2 * sqrt(2)), 3)
    return float(value == other)


def _spelled_alike(one: str, other: str) -> bool:
    """True if two wordings share the beginning of a word that says anything."""
    return bool({*_beginnings(one)} & {*_beginnings(other)})


def _beginnings(wording: str) -> Iterator[str]:
    words = wording.replace("-", " ").split()
    return (word[:_ALIKE] for word in words if word not in _FUNCTION_WORDS)
