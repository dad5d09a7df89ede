"""Configuration of an extraction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from infra.config import Input, Runtime, StageConfig

__all__ = ["Config"]


class Config(StageConfig):
    """Pages to read, texts that become captions, opt-outs to obey."""

    inputs: ClassVar[Mapping[str, Input]] = {"pages": Input("pages", required=False)}
    produces: ClassVar[tuple[str, ...]] = ("pairs",)
    code_version: ClassVar[int] = 5

    paths: tuple[str, ...] = Field(
        (),
        description="WARC, ARC or WAT files to read instead of a crawl: local paths, s3:// or https:// URLs, patterns "
        "with *, or lists of these (*.paths, *.paths.gz, *.txt)",
    )
    prefix: str = Field(
        "", description="prefix of relative paths, given and listed, e.g. https://data.commoncrawl.org/"
    )
    max_files: int | None = Field(None, gt=0, description="maximum number of files to read")
    sources: tuple[Literal["alt", "figcaption", "title", "og", "twitter", "json-ld"], ...] = Field(
        ("alt", "figcaption", "title", "og", "twitter", "json-ld"),
        min_length=1,
        description="sources of captions, best first; WAT files have alt, title, og and twitter",
    )
    max_caption: int = Field(2000, gt=0, description="maximum length of a caption, characters")
    context: int = Field(
        0,
        ge=0,
        description="maximum length of the context of an image, its heading and nearest paragraph, characters; 0: none",
    )
    max_page_bytes: int = Field(4 << 20, gt=0, description="maximum size of a page, bytes; larger ones are skipped")
    obey_opt_out: bool = Field(
        True, description="drop images of pages whose headers or meta tags withhold them from AI use"
    )
    agent: str = Field("clipline", description="our user agent name, which opt-outs may address")
    attempts: Runtime[int] = Field(3, gt=0, description="attempts per shard when a worker or the network fails")
