"""Configuration of the objective distill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from training.objectives.config import ObjectiveConfig

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from training.config import Config as Run
    from training.objectives.base import Objective

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """InfoNCE plus the cross-entropy with a trained teacher, the input ``teacher`` of the training stage."""

    kind = "distill"
    needs = ("teacher",)

    weight: float = Field(1.0, gt=0, description="weight of the cross-entropy with the teacher")

    def build(self, model: nn.Module, run: Run, inputs: Mapping[str, Path]) -> Objective:
        from training.objectives.distill.objective import Distillation

        return Distillation(model, self, inputs["teacher"], compiled=run.cluster.compile)
