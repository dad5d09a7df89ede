"""Configuration of the subset stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig
from infra.errors import UsageError

__all__ = ["Config"]


class Config(StageConfig):
    inputs: ClassVar[Mapping[str, Input]] = {
        "selection": Input("selection", required=False, description="rows whose ids are written"),
        "pairs": Input("pairs", required=False, description="pairs whose ids are written"),
    }
    produces: ClassVar[tuple[str, ...]] = ("metadata",)

    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    def check_inputs(self, given: Collection[str]) -> None:
        """Either a selection or pairs."""
        if len(given) != 1:
            raise UsageError("subset needs a selection or pairs", found=", ".join(sorted(given)) or "neither")
