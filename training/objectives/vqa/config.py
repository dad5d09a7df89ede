"""Configuration of the objective vqa."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, field_validator

from infra.errors import ConfigError
from infra.formats.region_shape import RegionShape
from infra.fusion.config import fusion_folder, read_fusion_config, regions_read
from infra.store import Store
from training.objectives.config import ObjectiveConfig

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """Answers as classes, learnt by a fusion model that albef, vilt or vilbert has trained: the input ``pretrained``.

    It reads what that model does, pixels or a detector's regions. A caption is a question with its answer behind it:
    ``what colour is the star? red``. Statements are questions, too: of entailment, or of two images, as NLVR2's.
    """

    kind = "vqa"
    implementation = "training.objectives.vqa.objective:VQA"
    needs: ClassVar[tuple[str, ...]] = ("pretrained",)

    answers: tuple[str, ...] = Field(description="every answer there is; a caption that ends with none is not learnt")

    images: int = Field(1, ge=1, description="pictures of equal width side by side in each image; NLVR2: 2")

    @field_validator("answers")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or len(value) < 2:
            raise ConfigError("training.objectives.vqa.config.Config.answers must be two at least, all different")
        return value

    def side_by_side(self) -> int:
        return self.images

    def regions(self, models: Mapping[str, Store]) -> RegionShape | None:
        """Those that the model to start from reads, of so many pictures."""
        store = models.get("pretrained")
        if store is None or (folder := fusion_folder(store)) is None:
            return None
        return regions_read({**read_fusion_config(store, folder), "images": self.images})
