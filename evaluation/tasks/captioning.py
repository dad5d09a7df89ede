"""Evaluate captions that a model writes, beside those that people wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from evaluation.tasks.task import Scores, Task
from infra.captioning.config import Decoding, Greedy

if TYPE_CHECKING:
    from evaluation.embedded import Embedded

__all__ = ["Captioning"]


class Captioning(Task):
    """``CIDEr`` (CIDEr-D) and ``Bleu_4`` of a written caption, with the image's captions as references.

    ``CIDEr_other_image`` is the baseline: the same captions with the references of other images. Only CoCa models and
    those trained with the objective ``clipcap`` can be measured.
    """

    kind: ClassVar[str] = "captioning"
    needs: ClassVar[tuple[str, ...]] = ("retrieval",)
    main: ClassVar[str] = "CIDEr"

    decoding: Decoding = Field(Greedy(), description="the way captions are written: greedy, beam, nucleus or your own")

    def inputs(self) -> tuple[str, ...]:
        return ("model",)

    def evaluate(self, data: Embedded) -> Scores:
        from evaluation.tasks.work.captioning import measure  # loads numpy

        return measure(self, data)
