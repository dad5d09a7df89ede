"""Configuration of the objective vilt."""

from __future__ import annotations

from pydantic import Field

from infra.errors import ConfigError
from training.objectives.config import ObjectiveConfig

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """ViLT's matching and masked language modelling in one transformer (https://arxiv.org/abs/2102.03334)."""

    kind = "vilt"
    implementation = "training.objectives.vilt.objective:ViLT"

    itm_weight: float = Field(1.0, ge=0, description="weight of image-text matching; 0: none")
    mlm_weight: float = Field(1.0, ge=0, description="weight of masked language modelling; 0: none")
    word_patch_alignment: float = Field(
        0.0, ge=0, description="weight of the optimal transport of words to patches, ViLT: 0.1; 0: none"
    )
    mask_rate: float = Field(0.15, gt=0, lt=1, description="fraction of words masked")
    whole_words: bool = Field(True, description="mask all tokens of a word or none; needs CLIP's tokenizer")
    wrong_images: float = Field(0.5, gt=0, lt=1, description="fraction of captions that are matched with another image")
    negatives_among: int = Field(
        32, ge=2, description="neighbouring samples that wrong images are drawn from; a divisor of the micro-batch"
    )

    def check(self, micro_batch: int) -> None:
        if not (self.itm_weight or self.mlm_weight):
            raise ConfigError("the objective vilt has no loss", expected="itm_weight or mlm_weight above 0")
        if self.word_patch_alignment and not self.itm_weight:
            raise ConfigError(
                "word_patch_alignment is of the pairs that are matched, and none are", expected="itm_weight above 0"
            )
        if self.itm_weight:
            self.check_divides("negatives_among", micro_batch)
