"""Configuration of the embed stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from infra.cluster import Limits
from infra.config import Input, Runtime
from infra.encoder.config import EncoderConfig

__all__ = ["Config"]


class Config(EncoderConfig):
    """``batch_size`` is part of the result: of another number of rows, a matrix product rounds otherwise."""

    inputs: ClassVar[Mapping[str, Input]] = {
        "images": Input("images", repeated=True, description="a download, and retries of it"),
        "selection": Input("selection", required=False, description="embed only the rows it keeps"),
        "model": Input("model", required=False, description="a trained or adopted model; or else pretrained is set"),
    }
    code_version: ClassVar[int] = 2
    produces: ClassVar[tuple[str, ...]] = ("embeddings",)

    captions: str = Field("caption", description="column of the captions: a text, or a list of texts, per row")
    mask_text: bool = Field(
        False, description="paint over written words before encoding, as T-MARS does; needs clipline[ocr]"
    )
    name: str = Field("clip", pattern=r"^\w+$", description="name of the arrays: {name}_img and {name}_txt")
    batch_size: int = Field(64, ge=1, description="images or texts encoded at once")
    limits: Runtime[Limits] = Field(
        Limits(), description="how to use the cluster; a task decodes in as many threads as it has CPUs"
    )

    def extras(self) -> tuple[str, ...]:
        return (*super().extras(), *(["ocr"] if self.mask_text else []))
