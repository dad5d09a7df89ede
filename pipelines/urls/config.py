"""Configuration of a URL list."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from infra.cluster import Limits
from infra.config import Runtime, StageConfig
from pipelines.urls.files import Format, find_files

__all__ = ["Config"]


class Config(StageConfig):
    """Files of a URL list and the meaning of its columns; options have img2dataset's names where it has them."""

    produces: ClassVar[tuple[str, ...]] = ("pairs",)
    code_version: ClassVar[int] = 2

    url_list: str | tuple[str, ...] = Field(
        description="files, folders or globs, local or at any fsspec URL (s3://, https://, hf://)"
    )
    input_format: Format | None = Field(None, description="file format; default: from the file names")
    url_col: str | None = Field(None, description="column of URLs; default: one of the usual names")
    caption_col: str | None = Field(
        None, description='column of captions; default: one of the usual names; "": images without captions'
    )
    save_additional_columns: tuple[str, ...] | None = Field(None, description="further columns to keep; default: all")
    limits: Runtime[Limits] = Field(Limits(), description="resources and retries")

    @field_validator("url_list")
    @classmethod
    def _absolute(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or not all(value):
            raise ValueError("the path of a list")
        # absolute: a worker may run in another folder
        paths = tuple(
            url if "://" in url else str(Path(url).expanduser().absolute())
            for url in ((value,) if isinstance(value, str) else value)
        )
        return paths[0] if isinstance(value, str) else paths

    @property
    def urls(self) -> tuple[str, ...]:
        """Paths and URLs of the list, as a tuple."""
        return (self.url_list,) if isinstance(self.url_list, str) else self.url_list

    def identity(self) -> dict[str, Any]:
        """Identify the list by content, not by path."""
        return super().identity() | {"url_list": [file.digest() for file in find_files(self.urls, self.input_format)]}
