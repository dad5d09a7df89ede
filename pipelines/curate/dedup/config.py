"""Configuration of the dedup stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig

__all__ = ["Config", "Staying"]


class Staying(StageConfig):
    """Choice of the row that stays, and treatment of the others and their captions."""

    stays: Literal["largest", "best", "earliest"] = Field(
        "largest",
        description="which row stays of those that are one: that with the most pixels as served, with the greatest "
        "`score`, or the first; of equals the first",
    )
    captions: Literal["own", "all", "best", "by_language"] = Field(
        "all",
        description="captions of the row that stays: its own; in the column `captions` all the rows' that it stands "
        "for, or the first of each language, its own before others; or as its `caption` that with the greatest `score`",
    )
    max_captions: int = Field(100, ge=1, description="captions that a row gets in the column `captions`")
    score: str = Field("clip_score", description="the column of numbers that tells the best row or caption")
    drop: bool = Field(
        True, description="drop duplicates; false: keep them, and only name in `duplicate_of` the row that would stay"
    )


class Config(Staying):
    inputs: ClassVar[Mapping[str, Input]] = {
        "images": Input("images", repeated=True, description="a download, and retries of it"),
        "selection": Input("selection", description="the rows to deduplicate"),
    }
    produces: ClassVar[tuple[str, ...]] = ("selection", "signatures")
    code_version: ClassVar[int] = 11

    placeholder_names: int = Field(
        8,
        ge=0,
        description="file names of one host from which equal files under different captions count as a placeholder, of "
        "which none is kept; 0: never",
    )
    urls: bool = Field(False, description="also drop rows whose image has the URL of another's, whatever its bytes")
    same_caption: bool = Field(
        False,
        description="take rows for duplicates only under one caption, whatever its case: an image stays once for each",
    )
    near: bool = Field(True, description="also drop re-encoded and resized copies, not only equal files")
    crops: bool = Field(
        True,
        description="find copies that are cropped, or have a border, a bar or a logo, too: some seventeen keys an "
        "image instead of two",
    )
    mirrored: bool = Field(False, description="count mirror images as copies")
    max_distance: int = Field(
        6, ge=0, le=15, description="bits in which the keys of two whole images may differ that are compared"
    )
    max_distance_parts: int = Field(
        5,
        ge=0,
        le=15,
        description="the same, if one of the keys is of a part, such as a crop or a half; at most `max_distance`",
    )
    max_bucket: int = Field(
        256, ge=1, description="images with which one is compared among those that share part of a hash, the best first"
    )
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")
