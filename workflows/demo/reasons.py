"""Questions with four answers and four reasons for the right one, with exact truth (VCR's form).

Images come in groups of two, asked the same: each shows the other's two outer shapes in swapped colours. So whoever
reads the words alone, or also sees which shapes and colours there are, but not which belongs to which and where, is
right half the time at most in either step.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from workflows.demo.compositions import Composition
from workflows.demo.questions import between_two
from workflows.demo.scenes import BACKGROUNDS, COLOURS

__all__ = ["Reasoned", "reason"]

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Reasoned:
    """An image, its question with each answer, and these with each reason; the first of either is right."""

    image: Composition
    answers: tuple[str, ...]
    reasons: tuple[str, ...]
    fresh: bool


def reason(seed: int, *, unseen: bool = False) -> tuple[Reasoned, ...]:
    """The group number ``seed``; ``unseen``: of two shapes in two colours that no image to learn from shows."""
    draw = random.Random(f"reason {seed} {unseen}")
    relation, images = between_two(draw, unseen)
    background = draw.choice(BACKGROUNDS)
    fourth = draw.choice([one for one in COLOURS if one not in {item.colour for item in images[0]}])
    asked = relation, fourth, unseen
    return tuple(_reasoned(Composition(items, background, seed, ""), *asked) for items in images)


def _reasoned(image: Composition, relation: str, fourth: str, fresh: bool) -> Reasoned:
    near, away, between = image.items
    question = f"what colour is the shape {relation} the {between.shape}?"
    answers = tuple(f"{question} {colour}" for colour in (near.colour, away.colour, between.colour, fourth))
    reasons = tuple(
        f"{answers[0]}, the {item.shape} is {near.colour} and {place} the {between.shape}"
        for item in (near, away)
        for place in (relation, _OPPOSITE[relation])
    )
    return Reasoned(replace(image, caption=question), answers, reasons, fresh)
