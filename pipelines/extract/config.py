"""Configuration of an extraction."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from infra.cluster import Limits
from infra.config import Input, Runtime, StageConfig
from infra.errors import UsageError

__all__ = ["Config"]


class Config(StageConfig):
    """Pages to read, texts that become captions, opt-outs to obey."""

    inputs: ClassVar[Mapping[str, Input]] = {
        "pages": Input("pages", required=False, repeated=True, description="a crawl, or adopted WARC or WAT files"),
        "archive_list": Input(
            "archive_list", required=False, repeated=True, description="an adopted list of the URLs of such files"
        ),
    }
    produces: ClassVar[tuple[str, ...]] = ("pairs",)
    code_version: ClassVar[int] = 6

    prefix: str = Field(
        "", description="URL that the relative names in archive lists are below, e.g. https://data.commoncrawl.org/"
    )
    max_files: int | None = Field(None, gt=0, description="maximum number of files to read")
    sources: tuple[Literal["alt", "figcaption", "title", "og", "twitter", "json-ld"], ...] = Field(
        ("alt", "figcaption", "title", "og", "twitter", "json-ld"),
        min_length=1,
        description="sources of captions, best first; figcaption: also of figures by WordPress, Blogger, MediaWiki,"
        " DocBook and Docutils; WAT files have alt, title, og and twitter",
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
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    @field_validator("prefix")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value and ("://" not in value or value.startswith("file://")):
            raise ValueError("a URL; archives on this machine are adopted themselves, as the input 'pages'")
        return value

    def check_inputs(self, given: Collection[str]) -> None:
        if not given:
            raise UsageError("extract has nothing to read", expected="an input pages or archive_list")
