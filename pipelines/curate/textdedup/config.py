"""Configuration of the textdedup stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from infra.cluster import Limits
from infra.config import Input, Runtime
from pipelines.curate.dedup.config import Staying

__all__ = ["Config"]


class Config(Staying):
    code_version: ClassVar[int] = 2
    inputs: ClassVar[Mapping[str, Input]] = {
        "images": Input("images", repeated=True, description="a download, and retries of it"),
        "selection": Input("selection", description="the rows to deduplicate"),
    }
    produces: ClassVar[tuple[str, ...]] = ("selection",)

    column: str = Field("caption", description="the column of texts that are compared")
    words: int = Field(2, ge=1, description="neighbouring words of a shingle; texts are compared as sets of shingles")
    threshold: float = Field(
        0.7, gt=0, le=1, description="texts are duplicates from this Jaccard similarity of their shingles on"
    )
    missed: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="probability at most that a pair of just this similarity is not found; of more similar ones it is "
        "less",
    )
    max_bucket: int = Field(
        100, ge=1, description="texts with which one is compared among those that share a band, the best first"
    )
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")
