"""Multiple choice in steps, as VCR asks it (Zellers et al., 2019): which answer is right, and which reason for it?"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from evaluation.tasks.task import Task

__all__ = ["MultipleChoice"]


class MultipleChoice(Task):
    """Multiple choice (VCR): ``acc``, the share of images whose right choice has the highest score in every step.

    The captions of an image are all choices, each a whole text: the question with an answer; the question, its answer
    and a reason. Its ``json`` names the steps in their order, with the number of choices, of which the first is right:
    ``{"steps": {"answer": 4, "rationale": 4}}``. ``{step}_acc`` is of a step alone. ``acc_other_image`` is the
    baseline: the same choices beside another image of the set. What scores level counts as its expectation. A
    ``category`` in the ``json`` makes a table by category.
    """

    kind: ClassVar[str] = "multiple_choice"
    implementation: ClassVar[str] = "evaluation.tasks.work.multiple_choice:measure"
    needs: ClassVar[tuple[str, ...]] = ("multiple_choice",)
    main: ClassVar[str] = "acc"
    units: ClassVar[str] = "images"
    regions_by: ClassVar[str] = "score=matching"

    score: Literal["cosine", "matching"] = Field(
        "cosine", description="what ranks the choices: the two encoders, or the matching head of a fusion model"
    )

    def inputs(self) -> tuple[str, ...]:
        return ("model",) if self.score == "matching" else ()

    def reads_regions(self) -> bool:
        return self.score == "matching"
