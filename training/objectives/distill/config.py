"""Configuration of the objective distill."""

from __future__ import annotations

from pydantic import Field

from training.objectives.config import ObjectiveConfig

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """InfoNCE plus the cross-entropy with a trained teacher, the input ``teacher`` of the training stage."""

    kind = "distill"
    implementation = "training.objectives.distill.objective:Distillation"
    needs = ("teacher",)

    weight: float = Field(1.0, gt=0, description="weight of the cross-entropy with the teacher")
