"""Pairs of images and captions that need composing: the same words in another order mean the other image.

The captions of a pair hold the same words equally often, so a bag of words scores them level. Either caption is right
for one image of the pair and wrong for the other, so who does not look at images is right half the time, exactly.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

from workflows.demo.scenes import BACKGROUNDS, COLOURS, SEEN, SHAPES, name

__all__ = [
    "CATEGORIES",
    "NUMBERS",
    "RELATIONS",
    "Composition",
    "Item",
    "counted",
    "kept_apart",
    "pair",
    "placed",
    "two_things",
]


@dataclass(frozen=True)
class Item:
    """One plain shape: its centre ``place`` (x, y) and radius are shares of the image's side."""

    shape: str
    colour: str
    place: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Composition:
    """An image to be, and its caption."""

    items: tuple[Item, ...]
    background: str
    seed: int
    caption: str


def pair(category: str, seed: int) -> tuple[Composition, Composition]:
    """The pair number ``seed`` of one of the :data:`CATEGORIES`: each caption is wrong for the other image.

    But for what the captions say the images are alike: background, tilts and, except in a relation, places.
    """
    draw = random.Random(f"{category} {seed}")
    first, second = CATEGORIES[category](draw)
    background = draw.choice(BACKGROUNDS)
    return Composition(first[0], background, seed, first[1]), Composition(second[0], background, seed, second[1])


# --- what the pairs differ in -----------------------------------------------------------------------------------------

Said = tuple[tuple[Item, ...], str]

NUMBERS = {2: "two", 3: "three", 4: "four"}
_PLURALS = {"cross": "crosses"}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def _attribute(draw: random.Random) -> tuple[Said, Said]:
    """Two shapes, and which of them has which of two colours."""
    wording = draw.choice(("a {} and a {}", "a picture of a {} and a {}", "there is a {} beside a {}"))
    one, other = two_things(draw)
    swapped = replace(one, colour=other.colour), replace(other, colour=one.colour)
    return _said(wording, (one, other)), _said(wording, swapped)


def _relation(draw: random.Random) -> tuple[Said, Said]:
    """Two coloured shapes, and which of them is left of, or above, the other."""
    relation = draw.choice(list(RELATIONS))
    wording = draw.choice(("a {{}} {} a {{}}", "a drawing of a {{}} {} a {{}}", "the {{}} is {} the {{}}")).format(
        relation
    )
    one, other = two_things(draw)
    near, away = placed(draw, relation, one, other)
    swapped = replace(other, place=near.place), replace(one, place=away.place)
    return _said(wording, (near, away)), _said(wording, swapped)


def _count(draw: random.Random) -> tuple[Said, Said]:
    """Several of two coloured shapes, and of which there are more."""
    wording = draw.choice(("{} {} and {} {}", "a card with {} {} and {} {}"))
    one, other = two_things(draw)
    numbers = draw.sample(list(NUMBERS), 2)
    places = counted(draw, sum(numbers))

    def shown(first: int, second: int) -> Said:
        things = [one] * first + [other] * second
        items = [replace(thing, place=place, radius=0.12) for thing, place in zip(things, places, strict=True)]
        plurals = [_PLURALS.get(thing.shape, f"{thing.shape}s") for thing in (one, other)]
        names = [name(plural, thing.colour) for plural, thing in zip(plurals, (one, other), strict=True)]
        return tuple(items), wording.format(NUMBERS[first], names[0], NUMBERS[second], names[1])

    return shown(*numbers), shown(*reversed(numbers))


def _negation(draw: random.Random) -> tuple[Said, Said]:
    """Of two coloured shapes one is there, the other is said not to be."""
    wording = draw.choice(("a {} and no {}", "there is a {} but no {}", "a picture with a {} but without a {}"))
    one, other = two_things(draw)
    other = replace(other, place=one.place)
    return _said(wording, (one, other), shown=1), _said(wording, (other, one), shown=1)


CATEGORIES: dict[str, Callable[[random.Random], tuple[Said, Said]]] = {
    "attribute": _attribute,
    "count": _count,
    "negation": _negation,
    "relation": _relation,
}


def two_things(draw: random.Random, *, together: bool | None = None) -> tuple[Item, Item]:
    """Two items apart from each other that differ in shape and colour; training shows either shape in either colour.

    ``together``: two that are not :func:`kept_apart`, or (False) that are.
    """
    while True:
        shapes, colours = draw.sample(SHAPES, 2), draw.sample(COLOURS, 2)
        if all((shape, colour) in SEEN for shape in shapes for colour in colours) and together in (
            None,
            (frozenset(shapes), frozenset(colours)) not in _APART,
        ):
            break
    far, aside = draw.choice((-1, 1)) * draw.uniform(0.22, 0.26), draw.uniform(-0.12, 0.12)
    near, away = (0.5 + far, 0.5 + aside), (0.5 - far, 0.5 - aside)
    if draw.random() < 0.5:  # one above the other instead of side by side
        near, away = near[::-1], away[::-1]
    radius = draw.uniform(0.17, 0.2)
    return Item(shapes[0], colours[0], near, radius), Item(shapes[1], colours[1], away, radius)


def kept_apart(one: Item, other: Item) -> bool:
    """True for two shapes in two colours, whichever has which, that no image shows together which questions train on.

    Of the four shapes that training shows in either of two colours, each misses one of the three others beside these
    colours; and of the four colours of two shapes likewise. So whatever of the four things is known, no other one is
    the likelier: only who sees which shape has which colour can tell. To keep a colour from a shape altogether, or
    unequally many pairs, would teach what is seldom the answer.
    """
    return (frozenset((one.shape, other.shape)), frozenset((one.colour, other.colour))) in _APART


_Apart = tuple[tuple[frozenset[str], frozenset[str]], ...]
"""Two shapes and two colours each."""


def _chosen_apart() -> _Apart:
    """For each two colours two pairs of their four shapes, and for each two shapes two pairs of their four colours."""
    rows = []
    for colours in combinations(COLOURS, 2):
        first, *others = (shape for shape in SHAPES if all((shape, colour) in SEEN for colour in colours))
        halves = [(frozenset((first, one)), frozenset(others) - {one}) for one in others]
        rows.append((frozenset(colours), halves))

    def extended(chosen: _Apart, number: int) -> _Apart | None:
        if number == len(rows):
            return chosen
        colours, halves = rows[number]
        for half in halves:
            if not any(shapes in half and colours & taken for shapes, taken in chosen):
                more = (*chosen, *((shapes, colours) for shapes in half))
                if (found := extended(more, number + 1)) is not None:
                    return found
        return None

    return extended((), 0) or ()


_APART = frozenset(_chosen_apart())


def placed(draw: random.Random, relation: str, one: Item, other: Item) -> tuple[Item, Item]:
    """The two items moved so that ``one`` is left of ``other``, or whatever the ``relation`` says."""
    across, down = RELATIONS[relation]
    aside, far = draw.uniform(-0.12, 0.12), draw.uniform(0.22, 0.26)
    near, away = ((0.5 + side * (across * far or aside), 0.5 + side * (down * far or aside)) for side in (1, -1))
    return replace(one, place=near), replace(other, place=away)


def counted(draw: random.Random, number: int) -> list[tuple[float, float]]:
    """So many places on a grid of three by three, for items of radius 0.12."""
    return draw.sample([(0.2 + 0.3 * column, 0.2 + 0.3 * row) for row in range(3) for column in range(3)], number)


def _said(wording: str, items: tuple[Item, ...], shown: int | None = None) -> Said:
    return items[:shown], wording.format(*(name(item.shape, item.colour) for item in items))
