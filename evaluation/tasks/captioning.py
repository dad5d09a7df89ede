"""Score captions that a model writes against those that people wrote."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from evaluation.tasks.task import Task
from infra.captioning.config import Decoding, Greedy

__all__ = ["Captioning"]


class Captioning(Task):
    """Captioning: ``CIDEr`` (CIDEr-D) and ``Bleu_4`` of a written caption, with the image's captions as references.

    ``CIDEr_other_image`` is the baseline: the same captions with the references of other images. Only CoCa models and
    those trained with the objective ``clipcap`` can be measured.
    """

    kind: ClassVar[str] = "captioning"
    implementation: ClassVar[str] = "evaluation.tasks.work.captioning:measure"
    needs: ClassVar[tuple[str, ...]] = ("retrieval",)
    main: ClassVar[str] = "CIDEr"

    decoding: Decoding = Field(Greedy(), description="the way captions are written: greedy, beam, nucleus or your own")

    def inputs(self) -> tuple[str, ...]:
        return ("model",)
