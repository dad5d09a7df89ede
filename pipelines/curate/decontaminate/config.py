"""Configuration of the decontaminate stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from pydantic import Field

from infra.cluster import Limits
from infra.config import Input, Runtime
from infra.encoder.config import EncoderConfig
from infra.errors import UsageError

__all__ = ["Config"]


class Config(EncoderConfig):
    """Model, precision and batch size are those of ``embed``, and count only where there are embeddings."""

    inputs: ClassVar[Mapping[str, Input]] = {
        "images": Input("images", repeated=True, description="a download, and retries of it"),
        "selection": Input("selection", required=False, description="the rows to look through; by default all"),
        "testsets": Input("testsets", repeated=True, description="test sets, adopted or written by shard"),
        "signatures": Input(
            "signatures",
            required=False,
            description="dedup of the same images: its hashes, instead of making them anew",
        ),
        "embeddings": Input("embeddings", required=False, description="vectors of the rows, to compare these, too"),
        "model": Input("model", required=False, description="the model of the embeddings, for the test images"),
    }
    code_version: ClassVar[int] = 6
    produces: ClassVar[tuple[str, ...]] = ("selection",)

    max_distance: int = Field(6, ge=0, le=15, description="bits the keys of two images that are compared may differ in")
    crops: bool = Field(True, description="find copies that are cropped, or have a border, a bar or a logo, too")
    mirrored: bool = Field(False, description="count mirror images as copies")
    max_compared: int = Field(
        256, ge=1, description="test images with which one is compared among those of near keys, the nearest first"
    )
    cosine: float = Field(0.95, ge=-1, le=1, description="of embeddings, from which on an image is one of a test set")
    embedding: str | None = Field(None, description="model whose vectors count, where files have several")
    batch_size: int = Field(64, ge=1, description="test images encoded at once")
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    def check_inputs(self, given: Collection[str]) -> None:
        if "embeddings" in given:
            super().check_inputs(given)
        elif "model" in given or self.pretrained is not None:
            raise UsageError(
                "a model is given, and no embeddings of the images",
                expected="an input 'embeddings' of the same model, or no model: copies are then found by hashes",
            )
