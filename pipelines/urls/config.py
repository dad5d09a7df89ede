"""Configuration of a URL list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig
from pipelines.urls.files import Format

__all__ = ["Config"]


class Config(StageConfig):
    """Meaning of the columns of a URL list; options have img2dataset's names where it has them."""

    inputs: ClassVar[Mapping[str, Input]] = {"list": Input("url_list", repeated=True, description="the adopted list")}
    produces: ClassVar[tuple[str, ...]] = ("pairs",)
    code_version: ClassVar[int] = 3

    input_format: Format | None = Field(None, description="file format; default: from the file names")
    url_col: str | None = Field(None, description="column of URLs; default: one of the usual names")
    caption_col: str | None = Field(
        None, description='column of captions; default: one of the usual names; "": images without captions'
    )
    save_additional_columns: tuple[str, ...] | None = Field(None, description="further columns to keep; default: all")
    limits: Runtime[Limits] = Field(Limits(), description="resources and retries")
