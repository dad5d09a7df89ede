"""Configuration of the objective data2vec."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from training.objectives.config import ObjectiveConfig

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """Masked self-distillation of one tower, without pairs (https://arxiv.org/abs/2202.03555).

    The other tower stays as it is; a run that goes on with the export as ``pretrained`` trains both.
    """

    kind = "data2vec"
    implementation = "training.objectives.data2vec.objective:Data2Vec"

    modality: Literal["image", "text"] = Field("image", description="the tower that is trained")
    layers: int = Field(6, ge=1, description="last layers of the averaged tower whose mean is predicted, at most all")
    mask_rate: float = Field(0.6, gt=0, lt=1, description="part of the patches or words masked; the paper: .6 and .15")
    beta: float = Field(2.0, gt=0, description="error from which the loss is linear, not quadratic")
    momentum: float = Field(0.999, gt=0, lt=1, description="decay of the averaged tower at each step, at the start")
    final_momentum: float = Field(0.9999, gt=0, lt=1, description="the same after momentum_warmup samples")
    momentum_warmup: int = Field(1_000_000, ge=0, description="samples over which the decay goes from one to the other")
