"""Evaluate answers to questions about images, as VQA and visual entailment ask for them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from evaluation.tasks.task import Task

__all__ = ["VisualQuestionAnswering"]


class VisualQuestionAnswering(Task):
    """Visual question answering: ``acc`` is the share of right answers; two baselines do not see the image.

    ``blind_acc``: to equal questions always the answer that is right most often in this very set, the most that any
    model can have without the images. ``acc_other_image``: the model itself, beside another image of the set. Where
    every image has several questions, ``unread_acc`` is that most without the words: to all questions of an image the
    answer that is right most often. Models trained with the objective ``vqa`` give answers; with ``candidates`` those
    trained to guess masked words can be measured, too. A ``category`` in the ``json`` makes a table by category.
    """

    candidates: tuple[str, ...] = Field(
        (), description="answers that the language head ranks, of any fusion model; none: those the model has learnt"
    )

    kind: ClassVar[str] = "visual_question_answering"
    implementation: ClassVar[str] = "evaluation.tasks.work.vqa:measure"
    needs: ClassVar[tuple[str, ...]] = ("visual_question_answering",)
    main: ClassVar[str] = "acc"
    units: ClassVar[str] = "questions"

    def inputs(self) -> tuple[str, ...]:
        return ("model",)

    def reads_regions(self) -> bool:
        return True
