"""Zero-shot classification: classes become sentences, an image goes to the nearest (Radford et al., 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from evaluation.tasks.task import Scores, Task
from infra.formats.testset.named_texts import named_texts

if TYPE_CHECKING:
    from evaluation.embedded import Embedded

__all__ = ["ZeroShot"]


def _named(groups: Any) -> Any:  # noqa: ANN401 - what pydantic is given
    """Fields alone are one grouping, under WILDS's name for the worst group."""
    if isinstance(groups, str):
        groups = (groups,)
    return {"wg": groups} if isinstance(groups, (list, tuple)) and groups else groups or {}


class ZeroShot(Task):
    """Accuracy, mean per-class recall and calibration; a row per image (to compare two runs pairwise), one per class.

    With ``groups`` also the accuracy of the worst group of images, and a row per group. Where images have any number of
    classes, mean average precision.
    """

    kind: ClassVar[str] = "zeroshot_classification"
    needs: ClassVar[tuple[str, ...]] = ("classification", "multilabel")
    takes: ClassVar[tuple[str, ...]] = ("prompts",)
    main: ClassVar[str] = "acc1"

    templates: tuple[str, ...] | None = Field(
        None,
        description="prompts with {c} for the class, or open_clip:imagenet, which need the model; none: the set's, "
        "or the 80 of ImageNet",
    )

    groups: Annotated[dict[str, tuple[str, ...]], BeforeValidator(_named)] = Field(
        default_factory=dict,
        description="fields of the samples' json: images that agree in all are a group, `class` is the true class; "
        "gives acc_wg and acc_top5_wg, or {name: fields} acc_name and acc_top5_name",
    )

    macro_f1: bool = Field(False, description="gives F1-macro_all, too: the mean over classes of F1, by WILDS's name")
    classnames: tuple[str, ...] | None = Field(
        None, description="a name for each class, or open_clip:imagenet, which need the model; none: the set's"
    )

    @field_validator("templates", "classnames", mode="before")
    @classmethod
    def _by_name(cls, given: object, info: ValidationInfo) -> object:
        # What a constant holds is the value, not its name.
        return named_texts(given, str(info.field_name)) if isinstance(given, str) else given

    @field_validator("templates")
    @classmethod
    def _hold_the_class(cls, templates: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if templates is not None and (not templates or any("{c}" not in template for template in templates)):
            raise ValueError("every template must hold {c}, and there must be one")
        return templates

    @field_validator("groups")
    @classmethod
    def _have_names_and_fields(cls, groups: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, fields in groups.items():
            if not fields or not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"groups {name!r}: a name of letters, digits, _ and -, with a field at least")
        return groups

    def inputs(self) -> tuple[str, ...]:
        return () if self.templates is None and self.classnames is None else ("model",)

    def evaluate(self, data: Embedded) -> Scores:
        from evaluation.tasks.work.zeroshot import measure  # loads numpy and matplotlib

        return measure(self, data)
