"""The bases of tasks in which texts stand for classes, or are asked for themselves."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator

from evaluation.tasks.task import Task
from infra.formats.testset.named_texts import named_texts

__all__ = ["ByTexts", "Templated"]


class Templated(Task):
    """Base of tasks whose texts are put into prompts."""

    kind: ClassVar[str] = ""

    templates: tuple[str, ...] | None = Field(
        None,
        description="prompts with {c} for the words, or open_clip:imagenet, which need the model; none: words alone",
    )

    @field_validator("templates", mode="before")
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

    def inputs(self) -> tuple[str, ...]:
        return () if self.templates is None else ("model",)


class ByTexts(Templated):
    """Base of tasks that classify by the vectors of prompts with the classes' names."""

    kind: ClassVar[str] = ""
    takes: ClassVar[tuple[str, ...]] = ("prompts",)

    templates: tuple[str, ...] | None = Field(
        None,
        description="prompts with {c} for the class, or open_clip:imagenet, which need the model; none: the set's, "
        "or the 80 of ImageNet",
    )
    classnames: tuple[str, ...] | None = Field(
        None, description="a name for each class, or open_clip:imagenet, which need the model; none: the set's"
    )

    @field_validator("classnames", mode="before")
    @classmethod
    def _names_by_name(cls, given: object, info: ValidationInfo) -> object:
        return named_texts(given, str(info.field_name)) if isinstance(given, str) else given

    def inputs(self) -> tuple[str, ...]:
        return () if self.templates is None and self.classnames is None else ("model",)
