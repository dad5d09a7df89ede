"""Accuracy under noise, blur, weather and compression (Hendrycks and Dietterich, 2019)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from evaluation.corruptions import Corruptions
from evaluation.tasks.by_texts import ByTexts

__all__ = ["Corrupted"]


class Corrupted(ByTexts):
    """Zero-shot accuracy on the images under each corruption and severity, their mean, and what is lost by them."""

    kind: ClassVar[str] = "zeroshot_corrupted"
    implementation: ClassVar[str] = "evaluation.tasks.work.corrupted:measure"
    needs: ClassVar[tuple[str, ...]] = ("classification",)
    main: ClassVar[str] = "acc1_corrupted"

    corruptions: Corruptions = Field(Corruptions(), description="what is done to the images, which must be embedded so")

    def changes(self) -> Corruptions:
        return self.corruptions
