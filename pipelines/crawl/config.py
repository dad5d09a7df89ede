"""Configuration of a crawl."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from infra.cluster import Limits
from infra.config import Config as BaseConfig
from infra.config import Input, Runtime, StageConfig
from infra.errors import ConfigError, UsageError
from pipelines.web import Web
from pipelines.web.urls import canonical

__all__ = ["UNIT", "Config", "Traps"]

UNIT = "pages"
"""Unit of the stage's funnel."""

_PAGES_PER_PARTITION = 20_000


class Traps(BaseConfig):
    """Thresholds from which a URL, or a family of URLs, counts as a crawler trap."""

    max_segments: int = Field(20, gt=0, description="maximum number of path segments")
    max_repeats: int = Field(2, gt=0, description="how often a path may repeat the same segment or segments in a row")
    max_parameters: int = Field(12, gt=0, description="maximum number of query parameters")
    max_alike: int = Field(
        30, gt=0, description="near-identical pages after which no more of their pattern (host, path shape) are fetched"
    )


class Config(StageConfig):
    """Starting URLs, scope and limits of a crawl. Seeds, sitemaps, pages or a page list are needed."""

    inputs: ClassVar[Mapping[str, Input]] = {
        "page_list": Input(
            "url_list", required=False, repeated=True, description="URLs to fetch without following their links"
        ),
    }
    produces: ClassVar[tuple[str, ...]] = ("pages",)
    code_version: ClassVar[int] = 3

    seeds: tuple[str, ...] = Field((), description="URLs to start from")
    sitemaps: tuple[str, ...] = Field(
        (), description='URLs of sitemaps to start from; "robots": the sitemaps that robots.txt of the seeds names'
    )
    pages: tuple[str, ...] = Field((), description="URLs to fetch without following their links")
    scope: Literal["host", "domain", "any"] = Field(
        "host",
        description="links to follow: to the hosts of seeds and sitemaps, with and without www.; to any host of their "
        "registered domains; to any host",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description='hosts to stay on, instead of a scope; patterns such as "*.example.org"'
    )
    include: tuple[str, ...] = Field(
        (), description="regular expressions; if given, only links that match one are followed"
    )
    exclude: tuple[str, ...] = Field((), description="regular expressions; links that match one are not followed")
    ignored_parameters: tuple[str, ...] = Field(
        (
            *("utm_*", "fbclid", "gclid", "mc_cid", "mc_eid", "phpsessid", "PHPSESSID", "jsessionid", "sid"),
            *("sessionid", "session_id", "ASPSESSIONID*", "osCsid", "zenid", "CFID", "CFTOKEN"),
        ),
        description="patterns of query parameters that do not change a page and are removed",
    )
    traps: Traps = Field(Traps(), description="crawler trap detection")
    max_pages: int = Field(1000, gt=0, description="maximum number of pages to keep")
    max_pages_per_host: int | None = Field(None, gt=0, description="maximum number of pages to keep per host")
    max_depth: int | None = Field(None, ge=0, description="maximum number of links from a starting URL")
    max_links: int = Field(2000, gt=0, description="maximum number of links read from one page")
    max_sitemaps: int = Field(
        1000, gt=0, description="maximum number of sitemap files per starting sitemap, indexes included"
    )
    max_sitemap_urls: int = Field(1_000_000, gt=0, description="maximum number of URLs per starting sitemap")
    round_urls: int | None = Field(
        None, gt=0, description="maximum number of URLs per round; default: a twentieth of max_pages, at least 2000"
    )
    host_urls: int | None = Field(
        None, gt=0, description="maximum number of URLs per round and host; default: a quarter of round_urls"
    )
    shard_urls: int = Field(200, gt=0, description="target number of URLs per shard; those of one host are never split")
    partitions: int | None = Field(
        None,
        gt=0,
        le=4096,
        description=f"partitions of the frontier; default: one per {_PAGES_PER_PARTITION} of max_pages",
    )
    warc_date: str | None = Field(
        None, description="instant to record as WARC-Date and Date, e.g. 2026-01-01T00:00:00Z, for reproducible bytes"
    )
    web: Web = Field(Web(), description="HTTP client")
    min_success_share: Runtime[float] = Field(
        0.05,
        ge=0,
        le=1,
        description="minimum share of URLs that get a response; the crawl stops below it, after the first 1000",
    )
    limits: Runtime[Limits] = Field(Limits(), description="how to use the cluster")

    @field_validator("seeds", "sitemaps")
    @classmethod
    def _canonical(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(url if url == "robots" else canonical(url) for url in value))

    @field_validator("include", "exclude")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"a regular expression ({error})") from None
        return value

    @field_validator("warc_date")
    @classmethod
    def _is_instant(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", value):
            raise ValueError("an instant such as 2026-01-01T00:00:00Z")
        return value

    @model_validator(mode="after")
    def _has_hosts(self) -> Self:
        if "robots" in self.sitemaps and not self.seeds:
            raise ConfigError('sitemaps: "robots" needs seeds, since it reads their robots.txt')
        return self

    def check_inputs(self, given: Collection[str]) -> None:
        if not (self.seeds or self.sitemaps or self.pages or given):
            raise UsageError("a crawl needs starting URLs", expected="seeds, sitemaps, pages or an input page_list")

    @property
    def round_size(self) -> int:
        return self.round_urls or max(2000, self.max_pages // 20)

    @property
    def host_size(self) -> int:
        return self.host_urls or max(1, self.round_size // 4)

    @property
    def partition_count(self) -> int:
        return self.partitions or min(256, -(-self.max_pages // _PAGES_PER_PARTITION))
