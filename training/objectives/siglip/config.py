"""Configuration of the objective siglip."""

from __future__ import annotations

import math
from types import MappingProxyType

from training.objectives.config import ObjectiveConfig

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """SigLIP's pairwise sigmoid loss (Zhai et al. 2023, https://arxiv.org/abs/2303.15343).

    Almost no pair matches, so the learnt bias starts at -10: without it the first steps would only push everything
    apart.
    """

    kind = "siglip"
    implementation = "training.objectives.siglip.objective:SigLIP"
    model_settings = MappingProxyType({"init_logit_scale": math.log(10), "init_logit_bias": -10.0})
