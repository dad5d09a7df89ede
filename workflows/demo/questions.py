"""Questions and statements about images of several shapes, with their exact answers.

Images come in groups: all of a group are asked the same, and each has another answer. So who does not see the image is
right once in a group, exactly, whatever the words. The images of a group show the same colours and the same shapes
(but for ``count``, and for what a statement is neutral of): who sees these, but not which belongs to which and where,
is right half the time.

An image is a view of a world that goes on beyond it: a statement about a shape that it does not show is neutral.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

from workflows.demo.compositions import NUMBERS, RELATIONS, Composition, Item, counted, kept_apart, placed, two_things
from workflows.demo.scenes import BACKGROUNDS, SEEN, SHAPES, name

__all__ = ["LABELS", "QUESTIONS", "STATEMENTS", "Asked", "ask", "between_two"]

LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Asked:
    """An image whose caption is the question or statement, and the right answer. ``fresh``: it shows two things that
    are :func:`.compositions.kept_apart`."""

    image: Composition
    answer: str
    fresh: bool


def ask(kind: str, seed: int, *, unseen: bool = False) -> tuple[Asked, ...]:
    """The group number ``seed`` of one of :data:`QUESTIONS` or :data:`STATEMENTS`.

    ``unseen``: it is about two shapes in two colours that no image to learn from shows together.
    """
    draw = random.Random(f"{kind} {seed} {unseen}")
    text, shown = (QUESTIONS | STATEMENTS)[kind](draw, unseen)
    background = draw.choice(BACKGROUNDS)
    return tuple(
        Asked(
            Composition(items, background, seed, text),
            answer,
            any(kept_apart(one, other) for one, other in combinations(items, 2)),
        )
        for answer, items in shown
    )


# --- what is asked ----------------------------------------------------------------------------------------------------

_Items = tuple[Item, ...]
_Group = tuple[str, list[tuple[str, _Items]]]
"""The words, and each answer with the image that has it."""


def _swapped(one: Item, other: Item) -> tuple[Item, Item]:
    """The two items, each in the other's colour."""
    return replace(one, colour=other.colour), replace(other, colour=one.colour)


def _colour(draw: random.Random, unseen: bool) -> _Group:
    one, other = two_things(draw, together=not unseen)
    return f"what colour is the {one.shape}?", [
        (one.colour, (one, other)),
        (other.colour, _swapped(one, other)),
    ]


def _shape(draw: random.Random, unseen: bool) -> _Group:
    one, other = two_things(draw, together=not unseen)
    return f"what shape is {one.colour}?", [(one.shape, (one, other)), (other.shape, _swapped(one, other))]


def _exists(draw: random.Random, unseen: bool) -> _Group:
    one, other = two_things(draw, together=not unseen)
    return f"is there a {name(one.shape, one.colour)}?", [("yes", (one, other)), ("no", _swapped(one, other))]


def _relation(draw: random.Random, unseen: bool) -> _Group:
    relation, images = between_two(draw, unseen)
    between = images[0][2]
    return f"what colour is the shape {relation} the {between.shape}?", [(items[0].colour, items) for items in images]


def _count(draw: random.Random, unseen: bool) -> _Group:
    one, other = two_things(draw, together=not unseen)
    numbers = draw.sample(list(NUMBERS), 2)
    places = counted(draw, sum(numbers))

    def shown(first: int) -> _Items:
        things = [one] * first + [other] * (len(places) - first)
        return tuple(replace(thing, place=place, radius=0.12) for thing, place in zip(things, places, strict=True))

    return f"how many shapes are {one.colour}?", [(NUMBERS[first], shown(first)) for first in numbers]


def _binding(draw: random.Random, unseen: bool) -> _Group:
    """A statement of one shape's colour. Neutral: that shape is not in the image, its colour is."""
    one, other = two_things(draw, together=not unseen)
    elsewhere = replace(one, shape=_another(draw, one, other))
    shown = (one, other), (elsewhere, other), _swapped(one, other)
    return f"the {one.shape} is {one.colour}", list(zip(LABELS, shown, strict=True))


def _place(draw: random.Random, unseen: bool) -> _Group:
    """A statement of where a shape is from another one. Neutral: the other one is not in the image."""
    one, other = two_things(draw, together=not unseen)
    relation = draw.choice(list(RELATIONS))
    near, away = placed(draw, relation, one, other)
    elsewhere = replace(away, shape=_another(draw, other, one))
    turned = replace(other, place=near.place), replace(one, place=away.place)
    shown = (near, away), (near, elsewhere), turned
    return f"the {one.shape} is {relation} the {other.shape}", list(zip(LABELS, shown, strict=True))


def _another(draw: random.Random, own: Item, other: Item) -> str:
    """Choose a third shape for ``own``: one that training shows in its colour and together with ``other``."""
    shapes = [shape for shape in SHAPES if shape not in (own.shape, other.shape) and (shape, own.colour) in SEEN]
    return draw.choice([shape for shape in shapes if not kept_apart(replace(own, shape=shape), other)])


def between_two(draw: random.Random, unseen: bool) -> tuple[str, tuple[tuple[Item, Item, Item], ...]]:
    """A relation, and two images of a shape that has it to a third one, and another beyond that; in swapped colours."""
    one, other = two_things(draw, together=not unseen)
    relation = draw.choice(list(RELATIONS))
    near, away = placed(draw, relation, one, other)
    shown = one, other, *_swapped(one, other)
    thirds = [
        Item(shape, colour, (0.5, 0.5), 0.1)
        for shape, colour in SEEN
        if shape not in (one.shape, other.shape) and colour not in (one.colour, other.colour)
    ]
    between = draw.choice([third for third in thirds if not any(kept_apart(third, item) for item in shown)])
    near, away = replace(near, radius=0.1), replace(away, radius=0.1)
    return relation, ((near, away, between), (*_swapped(near, away), between))


QUESTIONS: dict[str, Callable[[random.Random, bool], _Group]] = {
    "colour": _colour,
    "shape": _shape,
    "exists": _exists,
    "relation": _relation,
    "count": _count,
}
STATEMENTS: dict[str, Callable[[random.Random, bool], _Group]] = {"binding": _binding, "place": _place}
