"""Configuration of effective robustness: models, shifts, and which models are the baseline."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar, Self

from pydantic import Field, model_validator

from infra.config import Config as Base
from infra.config import Input, StageConfig
from infra.errors import UsageError

__all__ = ["Config", "Line", "Shift"]


class Line(Base):
    """Line from a model's accuracy on the standard set to that expected on the shifted one, between logits."""

    slope: float = Field(description="logits on the shifted set for one on the standard set")
    intercept: float = Field(description="logit on the shifted set of a model that is right half the time on the other")


class Shift(Base):
    """A standard test set and a shifted one; of the same classes, or the two accuracies are of different questions."""

    standard: str = Field(description="test set that models are usually compared on")
    shifted: str = Field(description="test set of other images")
    metric: str = Field("acc1", description="metric of the standard set, a share of right answers")
    shifted_metric: str | None = Field(None, description="metric of the shifted set; none: the same")
    line: Line | None = Field(None, description="the expectation, from models measured elsewhere; none: fitted")
    points: tuple[tuple[float, float], ...] = Field(
        (), description="accuracies of models measured elsewhere on both sets, which the line is fitted to, too"
    )

    @model_validator(mode="after")
    def _has_one_line(self) -> Self:
        if self.line and self.points:
            raise ValueError("a shift has a line and points to fit one to")
        if wrong := [one for point in self.points for one in point if not 0 < one < 1]:
            raise ValueError(f"points are accuracies, shares between 0 and 1, not {wrong[0]}")
        return self


class Config(StageConfig):
    """Configuration of effective robustness."""

    code_version: ClassVar[int] = 2
    inputs: ClassVar[Mapping[str, Input]] = {
        "scores": Input("scores", repeated=True, description="evaluations, with any ending: scores_large_imagenetv2"),
    }
    produces: ClassVar[tuple[str, ...]] = ("robustness",)

    models: dict[str, tuple[str, ...]] = Field(description="inputs of each model by its name", min_length=1)
    shifts: dict[str, Shift] = Field(description="shifts by name", min_length=1)
    baseline: tuple[str, ...] = Field(
        (), description="models that lines are fitted to; none: all, if a shift has no points"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")

    @model_validator(mode="after")
    def _knows_its_baseline(self) -> Self:
        if unknown := sorted(set(self.baseline) - set(self.models)):
            raise ValueError(f"baseline names models that are not among models: {', '.join(unknown)}")
        return self

    def check_inputs(self, given: Collection[str]) -> None:
        """Every input belongs to one model, and every model's inputs are there."""
        named = [name for inputs in self.models.values() for name in inputs]
        if sorted(named) != sorted(given):
            raise UsageError(
                "the models and the inputs of effective robustness do not fit",
                expected=f"each of {', '.join(sorted(given))} of one model",
                found=", ".join(sorted(named)),
            )
