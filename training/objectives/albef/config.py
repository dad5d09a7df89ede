"""Configuration of the objective albef."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from training.objectives.config import ObjectiveConfig

if TYPE_CHECKING:
    from training.objectives.albef.matcher import Matcher

__all__ = ["Config", "load"]


class Config(ObjectiveConfig):
    """ALBEF's momentum contrast, matching and masked language modelling (https://arxiv.org/abs/2107.07651)."""

    kind = "albef"
    implementation = "training.objectives.albef.objective:ALBEF"

    queue_size: int = Field(65_536, ge=0, description="features kept as further negatives")
    momentum: float = Field(0.995, gt=0, lt=1, description="decay of the momentum encoders at each step")
    alpha: float = Field(0.4, ge=0, le=1, description="weight of the momentum model's soft targets")
    alpha_warmup: int = Field(1_000_000, ge=0, description="samples over which that weight rises from zero")
    itm_weight: float = Field(1.0, ge=0, description="weight of image-text matching; 0: none")
    mlm_weight: float = Field(1.0, ge=0, description="weight of masked language modelling; 0: none")
    mask_rate: float = Field(0.15, gt=0, lt=1, description="fraction of words masked")
    negatives_among: int = Field(
        32,
        ge=2,
        description="neighbouring samples that hard negatives are drawn from; a divisor of the micro-batch",
    )
    fusion_layers: int = Field(6, ge=1, description="layers of the fusion encoder")

    def check(self, micro_batch: int) -> None:
        if self.itm_weight:
            self.check_divides("negatives_among", micro_batch)


def load(folder: str | Path) -> Matcher:
    """The model trained with this objective and its fusion encoder, to score how well texts and images match.

    ``folder`` is a training artifact or the ``data`` folder in it. Raises ConfigError if there is no fusion encoder, or
    if it was trained without matching.
    """
    from training.objectives.albef.matcher import Matcher

    return Matcher.load(Path(folder))
