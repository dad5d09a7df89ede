"""Zero-shot classification: classes become sentences, an image goes to the nearest (Radford et al., 2021)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, field_validator

from evaluation.tasks.by_texts import ByTexts

__all__ = ["ZeroShot"]


def _named(groups: Any) -> Any:  # noqa: ANN401 - what pydantic is given
    """Fields alone are one grouping, under WILDS's name for the worst group."""
    if isinstance(groups, str):
        groups = (groups,)
    return {"wg": groups} if isinstance(groups, (list, tuple)) and groups else groups or {}


class ZeroShot(ByTexts):
    """Zero-shot accuracy, mean per-class recall and calibration; a row per image (to compare two runs) and class.

    With ``groups`` also the accuracy of the worst group of images, and a row per group. Where images have any number of
    classes, mean average precision.
    """

    kind: ClassVar[str] = "zeroshot_classification"
    implementation: ClassVar[str] = "evaluation.tasks.work.zeroshot:measure"
    needs: ClassVar[tuple[str, ...]] = ("classification", "multilabel")
    main: ClassVar[str] = "acc1"

    groups: Annotated[dict[str, tuple[str, ...]], BeforeValidator(_named)] = Field(
        default_factory=dict,
        description="fields of the samples' json: images that agree in all are a group, `class` is the true class; "
        "gives acc_wg and acc_top5_wg, or {name: fields} acc_name and acc_top5_name",
    )

    macro_f1: bool = Field(False, description="gives F1-macro_all, too: the mean over classes of F1, by WILDS's name")

    @field_validator("groups")
    @classmethod
    def _have_names_and_fields(cls, groups: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, fields in groups.items():
            if not fields or not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"groups {name!r}: a name of letters, digits, _ and -, with a field at least")
        return groups
