"""Configuration of the objective coca."""

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
    """CoCa's contrast and captioning (Yu et al. 2022, https://arxiv.org/abs/2205.01917); needs a CoCa model."""

    kind = "coca"

    contrastive_weight: float = Field(1.0, ge=0, description="weight of the contrastive loss")
    caption_weight: float = Field(2.0, ge=0, description="weight of the captioning loss")

    def build(self, model: nn.Module, run: Run, inputs: Mapping[str, Path]) -> Objective:
        from training.objectives.coca.objective import CoCa

        return CoCa(model, self)
