"""Analogies: the image of a blue car, less the word "blue", plus the word "red", should be nearest to red cars.

Kiros et al. (2014) show a handful of them. Here every image asks for each other value of each of its attributes that
some image has beside the same rest, and finds them among all images but itself. ``plain_recall@k`` is the baseline that
leaves the words out: how often the image finds them as it is.

A set for analogies has an attribute's value in each line of a sample's ``txt`` and the attributes' names in its
``json``: ``blue``, ``car`` and ``{"attributes": ["colour", "shape"]}``, the same for all images.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from evaluation.tasks.task import Task

__all__ = ["Analogies"]


class Analogies(Task):
    """Image analogies (blue car - blue + red): recall of what another word asks for; rows by attribute and question."""

    kind: ClassVar[str] = "analogies"
    implementation: ClassVar[str] = "evaluation.tasks.work.analogies:measure"
    needs: ClassVar[tuple[str, ...]] = ("analogies",)
    main: ClassVar[str] = "analogy_recall@1"
    units: ClassVar[str] = "questions"

    recall_at: tuple[int, ...] = Field((1, 5), min_length=1, description="the k of recall@k")
    weight: float = Field(1.0, gt=0, description="how much the words count beside the image; all are unit vectors")
