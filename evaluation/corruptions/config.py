"""Configuration of corruptions."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, field_validator

from evaluation.corruptions.corruption import Change, Corruption
from evaluation.corruptions.kinds import IMAGENET_C
from infra.config import Config

__all__ = ["Corruptions"]


class Corruptions(Config):
    """Kinds of corruptions of a test set, each at some severities."""

    kinds: tuple[Corruption, ...] = Field(
        IMAGENET_C, description="kinds of corruptions; all of ImageNet-C", min_length=1
    )
    severities: tuple[int, ...] = Field((1, 2, 3, 4, 5), description="how strong each is, from 1 to 5", min_length=1)
    side: int = Field(
        224, ge=8, description="pixels of the shorter side to which an image is scaled before, the same for all models"
    )

    @field_validator("severities")
    @classmethod
    def _are_known(cls, severities: tuple[int, ...]) -> tuple[int, ...]:
        if sorted(set(severities)) != sorted(severities) or not set(severities) <= {1, 2, 3, 4, 5}:
            raise ValueError("numbers from 1 to 5, each once")
        return severities

    @field_validator("kinds")
    @classmethod
    def _differ(cls, kinds: tuple[Corruption, ...]) -> tuple[Corruption, ...]:
        if len({kind.kind for kind in kinds}) < len(kinds):
            raise ValueError("each kind once: results are named by it")
        return kinds

    def changes(self) -> Mapping[str, Change]:
        """Every corruption at every severity, by its name."""
        every = [Change(kind, severity, self.side) for kind in self.kinds for severity in sorted(self.severities)]
        return {change.name: change for change in every}
