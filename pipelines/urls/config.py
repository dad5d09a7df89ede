"""Configuration of a URL list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig
from pipelines.urls.files import Format

__all__ = ["Config", "Quoting"]

Quoting = Literal["quoted", "unquoted", "backslash"]
"""As RFC 4180 says, so that a quote within quotes is doubled; not at all; with backslashes before quotes."""


class Config(StageConfig):
    """Meaning of the columns of a URL list; options have img2dataset's names where it has them."""

    inputs: ClassVar[Mapping[str, Input]] = {"list": Input("url_list", repeated=True, description="the adopted list")}
    produces: ClassVar[tuple[str, ...]] = ("pairs",)
    code_version: ClassVar[int] = 4

    input_format: Format | None = Field(None, description="file format; default: from the file names")
    url_col: str | None = Field(None, description="column of URLs; default: one of the usual names")
    caption_col: str | None = Field(
        None, description='column of captions; default: one of the usual names; "": images without captions'
    )
    quoting: Quoting | None = Field(
        None, description="how fields of csv and tsv are quoted; default: found out from the first lines of each file"
    )
    save_additional_columns: tuple[str, ...] | None = Field(None, description="further columns to keep; default: all")
    limits: Runtime[Limits] = Field(Limits(), description="resources and retries")
