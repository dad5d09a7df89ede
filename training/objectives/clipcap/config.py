"""Configuration of the objective clipcap."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from infra.errors import ConfigError
from training.objectives.config import ObjectiveConfig

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """Captions from a frozen CLIP's features (https://arxiv.org/abs/2111.09734): the input ``pretrained``.

    The model stays as it is. A mapping from its feature to a prefix of tokens and the language model behind these are
    trained, both from random weights. Without random augmentation an image is encoded once.
    """

    kind = "clipcap"
    implementation = "training.objectives.clipcap.objective:ClipCap"
    needs: ClassVar[tuple[str, ...]] = ("pretrained",)

    prefix: int = Field(10, ge=1, description="tokens that stand for the image")
    width: int = Field(512, ge=1, description="width of the language model")
    layers: int = Field(6, ge=1, description="layers of the language model")
    heads: int = Field(8, ge=1, description="heads of the language model, a divisor of width")

    def check(self, micro_batch: int) -> None:
        if self.width % self.heads:
            raise ConfigError(
                "training.objectives.clipcap.config.Config.heads does not divide the width",
                expected=f"a divisor of {self.width}",
                found=str(self.heads),
            )
