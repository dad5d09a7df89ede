"""Configuration of a comparison: which evaluations are one variant's, and how sure a difference has to be."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field, field_validator

from infra.config import Input, StageConfig
from infra.errors import UsageError

__all__ = ["PRIMARY", "RESAMPLED", "Config"]

RESAMPLED = "data/resampled.parquet"
"""The table that an evaluation writes for comparisons: a column per metric, a row per resample."""

PRIMARY = ("acc1", "mean_recall@1")
"""The main metrics of classification and of retrieval, as DataComp takes them."""


class Config(StageConfig):
    code_version: ClassVar[int] = 3
    inputs: ClassVar[Mapping[str, Input]] = {
        "scores": Input("scores", repeated=True, description="evaluations, with any ending: scores_basic_seed0"),
    }
    produces: ClassVar[tuple[str, ...]] = ("comparison",)

    variants: dict[str, tuple[str, ...]] = Field(
        description="inputs of each variant by its name, the baseline first; several of one task are its seeds",
        min_length=2,
    )
    primary: tuple[str, ...] = Field(
        PRIMARY,
        description="metrics the verdict is about, names or patterns (`*`: all); of a task with none, its first",
        min_length=1,
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of each interval and of all verdicts together")
    seed: int = Field(0, description="seed of the draws of training's own noise")

    @field_validator("variants")
    @classmethod
    def _are_some(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, inputs in value.items():
            if not inputs:
                raise ValueError(f"variant {name!r} has no evaluation")
        return value

    def check_inputs(self, given: Collection[str]) -> None:
        """Every input belongs to one variant, and every variant's inputs are there."""
        named = [name for inputs in self.variants.values() for name in inputs]
        if sorted(named) != sorted(given):
            raise UsageError(
                "the variants and the inputs of a comparison do not fit",
                expected=f"each of {', '.join(sorted(given))} in one variant",
                found=", ".join(sorted(named)),
            )
