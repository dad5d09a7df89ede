"""Configuration of the semdedup stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig

__all__ = ["Config"]


class Config(StageConfig):
    inputs: ClassVar[Mapping[str, Input]] = {
        "images": Input("images", repeated=True, description="a download, and retries of it"),
        "selection": Input("selection", required=False, description="the rows to deduplicate; by default all"),
        "embeddings": Input("embeddings", description="vectors of the rows: of embed, or adopted"),
    }
    produces: ClassVar[tuple[str, ...]] = ("selection",)

    epsilon: float = Field(0.05, ge=0, le=2, description="images are duplicates from a cosine above 1 - epsilon on")
    share: float | None = Field(
        None, gt=0, le=1, description="of the rows to keep; epsilon is then the one that keeps so many, found first"
    )
    keep: Literal["farthest", "nearest"] = Field(
        "farthest", description="of duplicates the one that stays: farthest from the centroid, the paper's, or nearest"
    )
    clusters: int | None = Field(
        None, ge=1, description="number of clusters of k-means; by default one per 2,000 rows, at most 50,000"
    )
    iterations: int = Field(10, ge=1, description="of k-means")
    seed: int = Field(0, ge=0, lt=2**31, description="of k-means and of the sample that it learns from")
    max_compared: int = Field(
        20_000,
        ge=1,
        description="rows before it with which a row of a larger cluster is compared, those of the most similar "
        "distance to the centroid",
    )
    embedding: str | None = Field(None, description="model whose vectors count, where files have several")
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")
