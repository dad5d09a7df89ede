"""Configuration of the objective coca."""

from __future__ import annotations

from pydantic import Field

from training.objectives.config import ObjectiveConfig

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """CoCa's contrast and captioning (Yu et al. 2022, https://arxiv.org/abs/2205.01917); needs a CoCa model."""

    kind = "coca"
    implementation = "training.objectives.coca.objective:CoCa"

    contrastive_weight: float = Field(1.0, ge=0, description="weight of the contrastive loss")
    caption_weight: float = Field(2.0, ge=0, description="weight of the captioning loss")
