"""Configuration of the objective infonce."""

from __future__ import annotations

from training.objectives.config import ObjectiveConfig

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """CLIP's symmetric InfoNCE with a learnt temperature (Radford et al. 2021, https://arxiv.org/abs/2103.00020)."""

    kind = "infonce"
    implementation = "training.objectives.infonce.objective:InfoNCE"
