"""Starting URLs of a crawl: seeds, sitemaps and lists of pages, put into the frontier as if found on a page.

Each source has its own range of positions, so that seeds come before sitemaps, sitemaps before listed pages, and each
in its order, whichever task reads them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from infra.errors import DataError
from infra.run.context import ShardOutput
from infra.run.manifest import Funnel, ShardRecord
from infra.schema import Drop
from pipelines.crawl.config import UNIT, Config
from pipelines.crawl.frontier_tables import Due, Found, FoundSet, write_found
from pipelines.crawl.scope import Scope
from pipelines.crawl.sitemap import Read, walk
from pipelines.urls.files import ListFile
from pipelines.urls.formats import MalformedRow, read_batches
from pipelines.urls.plan import URL_COLUMNS
from pipelines.web import FetchError
from pipelines.web.fetcher import Fetcher
from pipelines.web.policy.robots import sitemaps
from pipelines.web.politeness.client import LimiterClient
from pipelines.web.urls import BadUrlError, canonical, host_of, origin_of, shown

__all__ = ["Given", "PageList", "Sitemaps", "inject", "sources"]

_POSITIONS = 1 << 40  # range of one source
_BATCH = 200_000  # URLs written at once
_HOSTS = 20  # per task that reads sitemaps
_READ = pa.schema(
    [
        ("url", pa.string()),
        ("reason", pa.string()),  # null: read
        ("detail", pa.string()),
        ("urls", pa.int64()),
        ("refused", pa.int64()),  # entries that are no URLs
    ]
)
_REFUSED = pa.schema([("url", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True)
class Given:
    """Seeds and pages given in the configuration."""

    config: Config


@dataclass(frozen=True)
class Sitemaps:
    """``starts``: (number of the source, URL of a sitemap, or of a robots.txt that names some)."""

    starts: tuple[tuple[int, str], ...]
    config: Config


@dataclass(frozen=True)
class PageList:
    """A file of URLs. ``number``: number of the source."""

    file: ListFile
    number: int
    config: Config


Source = Given | Sitemaps | PageList


def sources(config: Config, page_lists: Sequence[ListFile] = ()) -> tuple[dict[str, Source], dict[str, Source]]:
    """Return the sources by name: those given in the configuration, and those to be read from files or the web."""
    given: dict[str, Source] = {"inject-given": Given(config)} if config.seeds or config.pages else {}
    starts = [url for url in config.sitemaps if url != "robots"]
    if len(starts) < len(config.sitemaps):
        starts += [f"{origin}/robots.txt" for origin in dict.fromkeys(map(origin_of, config.seeds))]
    hosts: dict[str, list[tuple[int, str]]] = {}
    for number, start in enumerate(starts, 1):
        hosts.setdefault(host_of(start), []).append((number, start))
    remote: dict[str, Source] = {}
    groups = list(hosts.values())
    for part, first in enumerate(range(0, len(groups), _HOSTS)):
        part_starts = tuple(start for group in groups[first : first + _HOSTS] for start in group)
        remote[f"inject-sitemaps-{part:04d}"] = Sitemaps(part_starts, config)
    for part, file in enumerate(page_lists):
        remote[f"inject-list-{part:04d}"] = PageList(file, len(starts) + 2 + part, config)
    return given, remote


def inject(source: Source, output: ShardOutput, limiter: LimiterClient | None = None) -> ShardRecord:
    """Write a source's URLs as links found. Facts: ``found``, their number."""
    match source:
        case Given():
            return _given(source, output)
        case Sitemaps():
            return asyncio.run(_sitemaps(source, output, limiter))
        case PageList():
            return _listed(output, source.config, source.number, _urls_of(source.file))


def _given(source: Given, output: ShardOutput) -> ShardRecord:
    config = source.config
    scope = Scope(config)
    seeds = FoundSet(scope.found(position, Due(scope.normalize(url), 0)) for position, url in enumerate(config.seeds))
    write_found(output, 0, output.shard, seeds, config.partition_count)
    if not config.pages:
        return output.commit(facts={"found": len(seeds)})
    last = len(config.sitemaps) + len(config.seeds) + 1
    return _listed(output, config, last, config.pages, len(seeds))


# --- lists of pages ---------------------------------------------------------------------------------------------------


def _listed(
    output: ShardOutput, config: Config, number: int, lines: Iterable[str | MalformedRow], found: int = 0
) -> ShardRecord:
    """Write listed URLs as links found, and those refused, with the reason, as outcomes."""
    refused: dict[str, tuple[Drop, str]] = {}
    rows = enumerate(lines)
    for part in range(1 << 20):
        batch = list(islice(rows, _BATCH))
        if not batch:
            break
        links = FoundSet()
        for position, line in batch:
            if isinstance(line, MalformedRow):
                refused[line.text] = (Drop.MALFORMED, line.detail)
                continue
            try:
                links.add([Found(number * _POSITIONS + position, Due(canonical(line.strip()), 0, listed=True))])
            except BadUrlError as error:
                if line.strip():
                    refused[line] = (Drop.BAD_URL, str(error))
        write_found(output, 0, f"{output.shard}-{part:04d}", links, config.partition_count)
        found += len(links)
    if refused:
        lost = [{"url": shown(url), "reason": str(why), "detail": detail} for url, (why, detail) in refused.items()]
        output.write_table(f"data/{output.shard}.urls.parquet", pa.Table.from_pylist(lost, _REFUSED))
    dropped = Counter(str(why) for why, _ in refused.values())
    return output.commit(
        Funnel(unit=UNIT, entered=len(refused), kept=0, dropped=dict(sorted(dropped.items()))), {"found": found}
    )


def _urls_of(file: ListFile) -> Iterator[str | MalformedRow]:
    """Yield the entries of a list, in order. Raises DataError for a table without a column of URLs."""
    for batch in read_batches(file.open, file.format, file.url):
        column = next((name for name in batch.columns for usual in URL_COLUMNS if name.lower() == usual), None)
        if column is None and batch.columns:
            found = ", ".join(batch.columns)
            raise DataError(f"{file.url} has no column of URLs", expected=", ".join(URL_COLUMNS), found=found)
        values = batch.columns[column] if column else []
        yield from (str(url or "") for url in (values.to_pylist() if isinstance(values, pa.Array) else values))
        yield from batch.bad


# --- sitemaps ---------------------------------------------------------------------------------------------------------


async def _sitemaps(source: Sitemaps, output: ShardOutput, limiter: LimiterClient | None) -> ShardRecord:
    config, scope = source.config, Scope(source.config)
    read: list[dict[str, Any]] = []
    outside: Counter[str] = Counter()
    total = 0
    async with Fetcher(config.web, limiter=limiter) as fetcher:
        for number, start in source.starts:
            position = number * _POSITIONS
            part = 0
            links = FoundSet()
            async for one in _walk(start, fetcher, config):
                read.append(_row(one))
                for url in map(scope.normalize, one.urls):
                    position += 1
                    if why := scope.outside(url):
                        outside[why] += 1
                    else:
                        links.add([scope.found(position, Due(url, 0))])
                if len(links) >= _BATCH:
                    write_found(output, 0, f"{output.shard}-{number}-{part}", links, config.partition_count)
                    total, part, links = total + len(links), part + 1, FoundSet()
            write_found(output, 0, f"{output.shard}-{number}-{part}", links, config.partition_count)
            total += len(links)
    output.write_table(f"data/{output.shard.removeprefix('inject-')}.parquet", pa.Table.from_pylist(read, _READ))
    failed = Counter(row["reason"] for row in read if row["reason"])
    facts = {"failed": dict(sorted(failed.items()))} if failed else {}
    return output.commit(facts={"found": total, "links_outside": dict(sorted(outside.items())), **facts})


async def _walk(start: str, fetcher: Fetcher, config: Config) -> AsyncIterator[Read]:
    """Walk the sitemap at ``start``, or those named by it if it is a robots.txt."""

    async def get(url: str) -> bytes:
        return (await fetcher.get(url, "sitemap")).body

    starts = [start]
    if start.endswith("/robots.txt"):
        try:
            named = sitemaps(await get(start))  # Protego would take minutes for a hostile file
        except FetchError as error:
            yield Read(start, [], error.reason, error.detail)
            return
        starts = []
        for url in named[: config.max_sitemaps]:
            try:
                starts.append(canonical(url, start))
            except BadUrlError:
                continue
        if not starts:
            yield Read(start, [], Drop.NOT_SITEMAP, "names no sitemap")
    for one in dict.fromkeys(starts):
        async for read in walk(one, get, config.max_sitemaps, config.max_sitemap_urls):
            yield read


def _row(read: Read) -> dict[str, Any]:
    return {
        "url": shown(read.url),
        "reason": read.reason and str(read.reason),
        "detail": read.detail or None,
        "urls": len(read.urls),
        "refused": read.refused,
    }
