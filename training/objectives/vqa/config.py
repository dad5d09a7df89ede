"""Configuration of the objective vqa."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from infra.errors import ConfigError
from training.objectives.config import ObjectiveConfig

if TYPE_CHECKING:
    from torch import nn

    from training.config import Config as Run
    from training.objectives.base import Objective

__all__ = ["Config"]


class Config(ObjectiveConfig):
    """Answers as classes, learnt by a fusion model that albef or vilt has trained: the input ``pretrained``.

    A caption is a question with its answer behind it: ``what colour is the star? red``.
    """

    kind = "vqa"
    needs: ClassVar[tuple[str, ...]] = ("pretrained",)

    answers: tuple[str, ...] = Field(description="every answer there is; a caption that ends with none is not learnt")

    @field_validator("answers")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or len(value) < 2:
            raise ConfigError("training.objectives.vqa.config.Config.answers must be two at least, all different")
        return value

    def build(self, model: nn.Module, run: Run, inputs: Mapping[str, Path]) -> Objective:
        from training.objectives.vqa.objective import VQA

        return VQA(model, self, run, inputs["pretrained"])
