"""Configuration of the reshard stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from infra.config import Input
from pipelines.curate import shard

__all__ = ["Config"]


class Config(shard.Config):
    inputs: ClassVar[Mapping[str, Input]] = {
        "shards": Input("shards", repeated=True, description="WebDataset tars, of any members"),
        "subset": Input(
            "metadata",
            required=False,
            description="ids of the samples to take: DataComp's .npy, or 32 hex digits a line; one listed n times is "
            "written n times",
        ),
    }
    code_version: ClassVar[int] = 1

    holdout_fraction: float = Field(
        0.0, ge=0, lt=1, description="share of the images, or of clusters of near duplicates, held out from training"
    )
