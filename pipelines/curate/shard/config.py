"""Configuration of the shard stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig

__all__ = ["Config"]


class Config(StageConfig):
    inputs: ClassVar[Mapping[str, Input]] = {
        "images": Input("images", repeated=True, description="a download, and retries of it"),
        "selection": Input("selection", description="the rows to write"),
    }
    produces: ClassVar[tuple[str, ...]] = ("shards", "testsets")
    code_version: ClassVar[int] = 3

    samples_per_shard: int = Field(1000, gt=1, description="samples in a shard")
    holdout_fraction: float = Field(
        0.05, ge=0, lt=1, description="share of the images, or of clusters of near duplicates, held out from training"
    )
    seed: int = Field(0, description="seed of the shuffle and of the split")
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")
