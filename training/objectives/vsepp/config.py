"""Configuration of the objective vsepp."""

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
    """VSE++'s hinge loss against the hardest negative (Faghri et al. 2018, https://arxiv.org/abs/1707.05612)."""

    kind = "vsepp"

    margin: float = Field(0.2, gt=0, description="cosine by which a match must beat its negatives")
    warmup: int = Field(0, ge=0, description="samples until only the hardest negative counts, instead of all")

    def build(self, model: nn.Module, run: Run, inputs: Mapping[str, Path]) -> Objective:
        from training.objectives.vsepp.objective import VSEPP

        return VSEPP(model, self, run.batch_size)
