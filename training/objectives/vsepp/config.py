"""Configuration of the objective vsepp."""

from __future__ import annotations

from pydantic import Field

from training.objectives.config import ObjectiveConfig

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """VSE++'s hinge loss against the hardest negative (Faghri et al. 2018, https://arxiv.org/abs/1707.05612)."""

    kind = "vsepp"
    implementation = "training.objectives.vsepp.objective:VSEPP"

    margin: float = Field(0.2, gt=0, description="cosine by which a match must beat its negatives")
    warmup: int = Field(0, ge=0, description="samples until only the hardest negative counts, instead of all")
