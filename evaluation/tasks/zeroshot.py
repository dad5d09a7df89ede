"""Zero-shot classification: classes become sentences, an image goes to the nearest (Radford et al., 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from evaluation.tasks.task import Scores, Task

if TYPE_CHECKING:
    from evaluation.embedded import Embedded

__all__ = ["ZeroShot"]


class ZeroShot(Task):
    """Accuracy and mean per-class recall; a row per image (to compare two runs pairwise) and one per class."""

    kind: ClassVar[str] = "zeroshot_classification"
    needs: ClassVar[tuple[str, ...]] = ("classification",)
    main: ClassVar[str] = "acc1"

    templates: tuple[str, ...] | None = Field(
        None,
        description="prompts with {c} for the class, which need the model; none: the set's, or the 80 of ImageNet",
    )

    @field_validator("templates")
    @classmethod
    def _hold_the_class(cls, templates: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if templates is not None and (not templates or any("{c}" not in template for template in templates)):
            raise ValueError("every template must hold {c}, and there must be one")
        return templates

    def evaluate(self, data: Embedded) -> Scores:
        from evaluation.tasks.work.zeroshot import measure  # loads numpy and matplotlib

        return measure(self, data)
