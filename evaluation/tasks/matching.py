"""Evaluate a fusion model's other heads: image-text matching (ITM) and masked words (MLM)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from evaluation.tasks.task import Task

__all__ = ["Matching"]


class Matching(Task):
    """Fusion: ``itm_acc`` over an image's captions and the likeliest wrong one, half each; ``mlm_acc1`` of words.

    The wrong caption is the nearest by the two encoders; of a model that reads regions, which has no image encoder, one
    of the image half the set away. ``mlm_acc1_other_image`` is the baseline: the words are guessed beside another image
    of the set. Only models trained with the objectives ``albef``, ``vilt`` or ``vilbert`` can be measured.
    """

    kind: ClassVar[str] = "matching"
    implementation: ClassVar[str] = "evaluation.tasks.work.matching:measure"
    needs: ClassVar[tuple[str, ...]] = ("retrieval",)
    main: ClassVar[str] = "itm_acc"
    units: ClassVar[str] = "captions, right and wrong"

    words: bool = Field(True, description="measure masked words, too")
    mask_rate: float = Field(0.15, gt=0, lt=1, description="share of a caption's words that are masked, one at least")

    def inputs(self) -> tuple[str, ...]:
        return ("model",)

    def reads_regions(self) -> bool:
        return True
