"""Configuration of the objective siglip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from training.objectives.config import ObjectiveConfig

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from training.config import Config as Run
    from training.objectives.base import Objective

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """SigLIP's pairwise sigmoid loss (Zhai et al. 2023, https://arxiv.org/abs/2303.15343).

    Almost no pair matches, so the learnt bias starts at -10: without it the first steps would only push everything
    apart.
    """

    kind = "siglip"
    model_settings = MappingProxyType({"init_logit_scale": math.log(10), "init_logit_bias": -10.0})

    def build(self, model: nn.Module, run: Run, inputs: Mapping[str, Path]) -> Objective:
        from training.objectives.siglip.objective import SigLIP

        return SigLIP(model)
