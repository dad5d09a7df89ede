"""Configuration of the download stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig
from infra.errors import UsageError
from infra.schema import Drop
from pipelines.download.verify import Digest, Verify
from pipelines.web import Web

__all__ = ["Config", "ResizeMode"]

ResizeMode = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]


class Config(StageConfig):
    """Names and meanings are img2dataset's where it has the option."""

    inputs: ClassVar[Mapping[str, Input]] = {
        "pairs": Input("pairs", required=False, description="URLs and captions to download"),
        "images": Input("images", required=False, repeated=True, description="earlier downloads, with retry"),
    }
    produces: ClassVar[tuple[str, ...]] = ("images",)

    code_version: ClassVar[int] = 4

    image_size: int = Field(256, gt=0, description="side to resize to, pixels")
    resize_mode: ResizeMode = Field(
        "keep_ratio",
        description="keep_ratio: shorter side to image_size; center_crop: the same, then crop to a square; "
        "keep_ratio_largest: longer side to image_size; border: the same, then pad with white; no: keep the size",
    )
    resize_only_if_bigger: bool = Field(True, description="never enlarge an image")
    min_image_size: int = Field(0, ge=0, description="smallest shorter side of the original, pixels")
    max_image_area: int = Field(100_000_000, gt=0, description="largest original, square pixels")
    max_aspect_ratio: float = Field(20.0, ge=1, description="longer by shorter side of the original, at most")
    encode_format: Literal["jpg", "png", "webp"] = Field("jpg", description="format of the stored images")
    encode_quality: int = Field(95, ge=0, le=100, description="JPEG or WebP quality; for PNG the compression, 0 to 9")
    skip_reencode: bool = Field(False, description="keep the file as served where it needs no resizing")
    extract_exif: bool = Field(True, description="keep the Exif tags, in column exif")
    compute_hash: Digest = Field(
        "sha256", description="hash of the bytes served; any but sha256 gets a column of its own"
    )
    verify: Verify | None = Field(None, description="compare images with the hashes in the list")
    samples_per_shard: int = Field(1000, gt=1, description="rows per shard, img2dataset's number_sample_per_shard")
    retry: tuple[Drop, ...] = Field(
        (), description="retry the rows that failed for these reasons in the downloads given as images"
    )
    engine: Literal["clipline", "img2dataset"] = Field(
        "clipline",
        description="img2dataset: its own code on the same shards. It connects to any address, private ones too, "
        "ignores robots.txt and has no size limit, so use it only for lists you trust",
    )
    web: Web = Field(Web(), description="how to fetch")
    rows_in_flight: Runtime[int] = Field(2048, gt=0, description="rows a worker fetches at once; most of them wait")
    resize_threads: Runtime[int] = Field(2, gt=0, description="threads per worker that decode and resize")
    min_success_share: Runtime[float] = Field(
        0.05, ge=0, le=1, description="share of rows that must succeed, after the first 1000, for the stage to go on"
    )
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    @model_validator(mode="after")
    def _png_compression(self) -> Self:
        if self.encode_format == "png" and self.encode_quality > 9:
            raise ValueError("encode_quality of a PNG is its compression, 0 to 9")
        return self

    @model_validator(mode="after")
    def _connects_as_told(self) -> Self:
        if self.engine == "img2dataset" and self.web.connect_to:
            raise ValueError("img2dataset looks names up itself: connect_to is for engine=clipline")
        return self

    def extras(self) -> tuple[str, ...]:
        return ("img2dataset",) if self.engine == "img2dataset" else ()

    def check_inputs(self, given: Collection[str]) -> None:
        """Exactly one of ``pairs`` and ``images``, the latter with ``retry``."""
        pairs, images = "pairs" in given, [name for name in given if name != "pairs"]
        if pairs == bool(images):
            raise UsageError(
                "a download takes either pairs or earlier images to retry",
                expected="one of the inputs pairs and images",
                found=", ".join(sorted(given)) or "no inputs",
            )
        if images and not self.retry:
            raise UsageError(
                "images as the input of a download are for a retry",
                fix="name the reasons to retry, as retry=['timeout']",
            )
        if pairs and self.retry:
            raise UsageError(
                "a retry takes its rows from earlier downloads", expected="input images", found="input pairs"
            )
