"""Crawl politely, breadth first, from seeds, sitemaps or a list of pages, and keep the pages as WARC.

The crawl goes in rounds, as Nutch does: *inject* puts what is given into the frontier; then, round by round,
*generate* takes the URLs that are due and deals them to shards, all of a host to one, so that one worker keeps its
manners; *fetch* gets a shard's pages; *update* merges what they link to into the frontier. The frontier is partitioned
by host and lies on disk (frontier.py); what is here holds counts. Every step of every shard and partition is
committed as it ends, so a crawl that was killed goes on where it was, and what is fetched depends on nothing but the
web and the configuration.

Files: ``data/{round}-{part}.warc.gz`` the pages; ``.urls.parquet`` what became of each URL; ``.sitemaps.parquet`` of
each sitemap; ``data/unvisited-{partition}.parquet`` what the budgets left over and what is taken for a trap. What the
frontier keeps below ``frontier/`` goes when the crawl ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from infra.config import Runtime, StageConfig
from infra.errors import ConfigError
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.crawl.traps import Traps
from pipelines.urls import stage as url_list
from pipelines.web.fetcher import Web

if TYPE_CHECKING:
    pass

__all__ = ["Config", "Due", "run", "share"]

UNIT = "pages"

_PAGES_PER_PARTITION = 20_000


class Config(StageConfig):
    """What to crawl, how far, and how to behave. Of seeds, sitemaps, pages and page_lists at least one is needed."""

    produces: ClassVar[tuple[str, ...]] = ("pages",)

    seeds: tuple[str, ...] = Field((), description="addresses to start from")
    sitemaps: tuple[str, ...] = Field(
        (), description='addresses of sitemaps to start from; "robots": those that the seeds\' robots.txt name'
    )
    pages: tuple[str, ...] = Field((), description="addresses to fetch, whose links are not followed")
    page_lists: tuple[str, ...] = Field(
        (),
        description='files of such addresses, local or remote: text, a line each; CSV or Parquet with a column "url"',
    )
    scope: Literal["host", "domain", "any"] = Field(
        "host",
        description="links followed: to the hosts of seeds and sitemaps, with and without www.; within the domains "
        "registered to their owners; any",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description='instead of a scope, the hosts to stay on, as patterns like "*.example.org"'
    )
    include: tuple[str, ...] = Field((), description="regular expressions; a link must match one, if there are any")
    exclude: tuple[str, ...] = Field((), description="regular expressions; a link that matches one is not followed")
    ignored_parameters: tuple[str, ...] = Field(
        (
            *("utm_*", "fbclid", "gclid", "mc_cid", "mc_eid", "phpsessid", "PHPSESSID", "jsessionid", "sid"),
            *("sessionid", "session_id", "ASPSESSIONID*", "osCsid", "zenid", "CFID", "CFTOKEN"),
        ),
        description="query parameters, as patterns, that do not change a page and are cut off",
    )
    traps: Traps = Field(Traps(), description="what is taken for a crawler trap")
    max_pages: int = Field(1000, gt=0, description="pages kept at most")
    max_pages_per_host: int | None = Field(None, gt=0, description="pages kept of one host at most")
    max_depth: int | None = Field(None, ge=0, description="links away from a start at most")
    max_links: int = Field(2000, gt=0, description="links read from one page at most")
    max_sitemaps: int = Field(1000, gt=0, description="sitemap files read from one start, indexes included")
    max_sitemap_urls: int = Field(1_000_000, gt=0, description="addresses taken from the sitemaps of one start")
    round_urls: int | None = Field(
        None, gt=0, description="URLs fetched in one round at most; by default a twentieth of max_pages, at least 2000"
    )
    host_urls: int | None = Field(
        None, gt=0, description="of these, URLs of one host at most; by default a quarter of round_urls"
    )
    shard_urls: int = Field(200, gt=0, description="URLs a shard should hold; one host's are never split")
    partitions: int | None = Field(
        None, gt=0, le=4096, description=f"of the frontier; by default one per {_PAGES_PER_PARTITION} of max_pages"
    )
    warc_date: str | None = Field(
        None, description="instant to record as WARC-Date and Date, as 2026-01-01T00:00:00Z, for bytes that repeat"
    )
    web: Web = Field(Web(), description="how to fetch")
    min_success_share: Runtime[float] = Field(
        0.05, ge=0, le=1, description="of URLs that get an answer; below it, after the first 1000, the crawl stops"
    )
    attempts: Runtime[int] = Field(3, gt=0, description="attempts per shard when a worker is lost")

    @field_validator("seeds", "sitemaps")
    @classmethod
    def _canonical(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from pipelines.web.urls import canonical

        return tuple(dict.fromkeys(url if url == "robots" else canonical(url) for url in value))

    @field_validator("include", "exclude")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"a regular expression; {error}") from None
        return value

    @field_validator("warc_date")
    @classmethod
    def _instant(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", value):
            raise ValueError("an instant like 2026-01-01T00:00:00Z")
        return value

    @model_validator(mode="after")
    def _somewhere_to_start(self) -> Self:
        if not (self.seeds or self.sitemaps or self.pages or self.page_lists):
            raise ConfigError("a crawl needs somewhere to start", expected="seeds, sitemaps, pages or page_lists")
        if "robots" in self.sitemaps and not self.seeds:
            raise ConfigError('sitemaps: "robots" needs seeds, whose robots.txt name sitemaps')
        return self

    @field_validator("page_lists")
    @classmethod
    def _absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return url_list.Config(url_list=value).urls if value else ()

    def files(self) -> list[url_list.UrlFile]:
        """The files of the page lists."""
        return url_list.find(url_list.Config(url_list=self.page_lists)) if self.page_lists else []

    def identity(self) -> dict[str, Any]:
        """A list counts by its content, wherever it lies."""
        return super().identity() | {"page_lists": [file.digest() for file in self.files()]}

    @property
    def round_size(self) -> int:
        return self.round_urls or max(2000, self.max_pages // 20)

    @property
    def host_size(self) -> int:
        return self.host_urls or max(1, self.round_size // 4)

    @property
    def partition_count(self) -> int:
        return self.partitions or min(256, -(-self.max_pages // _PAGES_PER_PARTITION))


class Due(NamedTuple):
    """A URL to fetch. ``redirects``: how many led to it. ``listed``: asked for by name, so its links do not matter."""

    url: str
    depth: int
    redirects: int = 0
    listed: bool = False


def share(ready: list[dict[int, int]], count: int) -> list[int]:
    """How many URLs each partition may take of a round of ``count``; ``ready``: for each, how many it has by depth.

    What is less deep goes first, wherever it lies; where the budget ends within a depth, each gets in proportion to
    what it has (largest remainders), so that counts are all that needs to be known.
    """
    shares = [0] * len(ready)
    for depth in sorted(set().union(*ready)):
        here = [one.get(depth, 0) for one in ready]
        total = sum(here)
        if total > count:
            floors = [one * count // total for one in here]
            rest = sorted(range(len(here)), key=lambda index: (-(here[index] * count % total), index))
            for index in rest[: count - sum(floors)]:
                floors[index] += 1
            here = floors
        shares = [one + more for one, more in zip(shares, here, strict=True)]
        count -= sum(here)
    return shares


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """No inputs. Funnel: distinct URLs found on the site, or listed -> pages kept."""
    from pipelines.crawl.rounds import Rounds

    with ExitStack() as stack:
        crawl = Rounds(config, context, stack)
        crawl.inject()
        crawl.update()
        while crawl.kept < config.max_pages and crawl.generate():
            crawl.fetch()
            crawl.update()
        return crawl.finish()
