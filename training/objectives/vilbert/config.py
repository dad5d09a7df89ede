"""Configuration of the objective vilbert."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from infra.errors import ConfigError
from infra.formats.region_shape import RegionShape
from infra.store import Store
from training.objectives.config import ObjectiveConfig

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """ViLBERT's matching, masked words and masked regions by co-attention (https://arxiv.org/abs/1908.02265).

    Shards have a detector's regions, see :mod:`infra.formats.regions`; pixels are not read.
    """

    kind = "vilbert"
    implementation = "training.objectives.vilbert.objective:ViLBERT"

    most_regions: int = Field(36, ge=1, description="regions of an image; of more the first are taken")
    features: int = Field(2048, ge=1, description="width of a region's feature, as in regions.npy")
    classes: int = Field(1600, ge=1, description="classes of the detector, as in classes.npy")
    layers: int = Field(6, ge=1, description="layers of co-attention, behind the text tower")
    itm_weight: float = Field(1.0, ge=0, description="weight of image-text matching; 0: none")
    mlm_weight: float = Field(1.0, ge=0, description="weight of masked language modelling; 0: none")
    mrm_weight: float = Field(1.0, ge=0, description="weight of masked regions' classes; 0: none, nor are they read")
    mask_rate: float = Field(0.15, gt=0, lt=1, description="fraction of words and of regions masked")
    whole_words: bool = Field(False, description="mask all tokens of a word or none; needs CLIP's tokenizer")
    wrong_images: float = Field(0.5, gt=0, lt=1, description="fraction of captions that are matched with another image")
    negatives_among: int = Field(
        32, ge=2, description="neighbouring samples that wrong images are drawn from; a divisor of the micro-batch"
    )

    def regions(self, models: Mapping[str, Store]) -> RegionShape:
        return RegionShape(self.most_regions, self.features, self.classes if self.mrm_weight else 0)

    def check(self, micro_batch: int) -> None:
        if not (self.itm_weight or self.mlm_weight):
            raise ConfigError(
                "the objective vilbert has no loss that reads words", expected="itm_weight or mlm_weight above 0"
            )
        if self.itm_weight:
            self.check_divides("negatives_among", micro_batch)
