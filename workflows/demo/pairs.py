"""Statements about two images side by side, true or false, as NLVR2 has them (https://arxiv.org/abs/1811.00491).

A group is two pairs of images and two statements, each statement true of one pair and false of the other. So who
reads the words alone, or sees the images alone, is right half the time, exactly. Both pairs show the same colours and
the same shapes (for ``more``: the same images): which belongs to which, and in which image, decides.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

from workflows.demo.compositions import NUMBERS, Composition, Item, counted, kept_apart, two_things
from workflows.demo.scenes import BACKGROUNDS, name

__all__ = ["KINDS", "TRUTHS", "Compared", "compare"]

TRUTHS = ("true", "false")


@dataclass(frozen=True)
class Compared:
    """Two images, statements about them and whether each is true. ``fresh``: as of :class:`.questions.Asked`."""

    left: Composition
    right: Composition
    statements: tuple[str, str]
    answers: tuple[str, str]
    fresh: bool


def compare(kind: str, seed: int, *, unseen: bool = False) -> tuple[Compared, Compared]:
    """The group number ``seed`` of one of :data:`KINDS`: of the first pair the first statement is true.

    ``unseen``: it is about two shapes in two colours that no image to learn from shows together.
    """
    draw = random.Random(f"{kind} {seed} {unseen}")
    statements, pairs = KINDS[kind](draw, unseen)
    background = draw.choice(BACKGROUNDS)
    return tuple(  # type: ignore[return-value] # of two
        Compared(
            Composition(left, background, seed, ""),
            Composition(right, background, seed + 1, ""),
            statements,
            answers,
            any(kept_apart(one, other) for one, other in combinations(left, 2)),
        )
        for (left, right), answers in zip(pairs, (TRUTHS, TRUTHS[::-1]), strict=True)
    )


# --- what is stated ---------------------------------------------------------------------------------------------------

_Items = tuple[Item, ...]
_Group = tuple[tuple[str, str], tuple[tuple[_Items, _Items], tuple[_Items, _Items]]]
"""Two statements, and two pairs of images."""


def _where(draw: random.Random, unseen: bool) -> _Group:
    """Two shapes in either image, and in which of them a shape has which colour."""
    one, other = two_things(draw, together=not unseen)
    shown, swapped = (one, other), _swapped(one, other)
    said = tuple(f"the {name(one.shape, one.colour)} is in the {side} image" for side in ("left", "right"))
    return (said[0], said[1]), ((shown, swapped), (swapped, shown))


def _same(draw: random.Random, unseen: bool) -> _Group:
    """Two shapes in either image, in equal or in exchanged colours."""
    one, other = two_things(draw, together=not unseen)
    shown, swapped = (one, other), _swapped(one, other)
    said = f"the {one.shape} has one colour in both images", f"the {one.shape} has two colours in these images"
    return said, ((shown, _somewhere(draw, *shown)), (shown, _somewhere(draw, *swapped)))


def _more(draw: random.Random, unseen: bool) -> _Group:
    """Several shapes of two colours, and in which image there are more of one."""
    one, other = two_things(draw, together=not unseen)
    numbers = draw.sample(list(NUMBERS), 2)
    places = counted(draw, sum(numbers))

    def shown(first: int) -> _Items:
        things = [one] * first + [other] * (len(places) - first)
        return tuple(replace(thing, place=place, radius=0.12) for thing, place in zip(things, places, strict=True))

    many, few = shown(max(numbers)), shown(min(numbers))
    said = f"more shapes are {one.colour} in the left image", f"more shapes are {one.colour} in the right image"
    return said, ((many, few), (few, many))


def _swapped(one: Item, other: Item) -> _Items:
    """The two items, each in the other's colour."""
    return replace(one, colour=other.colour), replace(other, colour=one.colour)


def _somewhere(draw: random.Random, one: Item, other: Item) -> _Items:
    """The two items, in each other's place half the time: where a colour is tells nothing of the shape that has it."""
    exchanged = replace(one, place=other.place), replace(other, place=one.place)
    return draw.choice(((one, other), exchanged))


KINDS: dict[str, Callable[[random.Random, bool], _Group]] = {"where": _where, "same": _same, "more": _more}
