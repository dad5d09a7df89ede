"""Configuration of the objective infonce."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from training.objectives.config import ObjectiveConfig

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from training.config import Config as Run
    from training.objectives.base import Objective

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """CLIP's symmetric InfoNCE with a learnt temperature (Radford et al. 2021, https://arxiv.org/abs/2103.00020)."""

    kind = "infonce"

    def build(self, model: nn.Module, run: Run, inputs: Mapping[str, Path]) -> Objective:
        from training.objectives.infonce.objective import InfoNCE

        return InfoNCE(model)
