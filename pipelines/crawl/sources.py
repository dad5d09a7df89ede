"""Where a crawl starts: seeds, sitemaps, lists of pages, each put into the frontier as if found on a page.

A source's addresses have positions of their own far apart, so that seeds come before sitemaps, those before listed
pages, and each in its order, whichever task reads them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from infra.errors import DataError
from infra.run.context import ShardOutput
from infra.run.manifest import Funnel, ShardRecord
from infra.schema import Drop
from pipelines.crawl.frontier_tables import Finds, Found, write_found
from pipelines.crawl.scope import Scope
from pipelines.crawl.sitemap import Read, walk
from pipelines.crawl.stage import UNIT, Config, Due
from pipelines.urls.formats import Bad, read_batches
from pipelines.urls.shard import URL_COLUMNS
from pipelines.urls.stage import UrlFile
from pipelines.web.fetcher import Fetcher, FetchError
from pipelines.web.policy.robots import sitemaps
from pipelines.web.politeness.actor import Link
from pipelines.web.urls import BadUrlError, canonical, host_of, origin_of

__all__ = ["Given", "PageList", "Sitemaps", "inject", "sources"]

_SPAN = 1 << 40  # positions of one source
_BATCH = 200_000  # addresses written at once
_HOSTS = 20  # per task that reads sitemaps
_READ = pa.schema(
    [
        ("url", pa.string()),
        ("reason", pa.string()),  # null: read
        ("detail", pa.string()),
        ("urls", pa.int64()),
        ("refused", pa.int64()),  # addresses in it that are none
    ]
)
_REFUSED = pa.schema([("url", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True)
class Given:
    """Seeds and pages written in the configuration."""

    config: Config


@dataclass(frozen=True)
class Sitemaps:
    """(number of the source, address of a sitemap or origin whose robots.txt names some)."""

    starts: tuple[tuple[int, str], ...]
    config: Config


@dataclass(frozen=True)
class PageList:
    """A file of addresses, and which source it is."""

    file: UrlFile
    number: int
    config: Config


Source = Given | Sitemaps | PageList


def sources(config: Config) -> tuple[dict[str, Source], dict[str, Source]]:
    """What to inject, by name: what is at hand, and what has to be read from elsewhere."""
    near: dict[str, Source] = {"inject-given": Given(config)} if config.seeds or config.pages else {}
    starts = [url for url in config.sitemaps if url != "robots"]
    if len(starts) < len(config.sitemaps):
        starts += [f"{origin}/robots.txt" for origin in dict.fromkeys(map(origin_of, config.seeds))]
    hosts: dict[str, list[tuple[int, str]]] = {}
    for number, start in enumerate(starts, 1):
        hosts.setdefault(host_of(start), []).append((number, start))
    far: dict[str, Source] = {}
    groups = list(hosts.values())
    for part, first in enumerate(range(0, len(groups), _HOSTS)):
        mine = tuple(start for group in groups[first : first + _HOSTS] for start in group)
        far[f"inject-sitemaps-{part:04d}"] = Sitemaps(mine, config)
    for part, file in enumerate(config.files()):
        far[f"inject-list-{part:04d}"] = PageList(file, len(starts) + 2 + part, config)
    return near, far


def inject(source: Source, output: ShardOutput, manners: Link | None = None) -> ShardRecord:
    """Write a source's addresses as found. Facts: ``found``, how many."""
    match source:
        case Given():
            return _given(source, output)
        case Sitemaps():
            return asyncio.run(_sitemaps(source, output, manners))
        case PageList():
            return _listed(output, source.config, source.number, _addresses(source.file))


def _given(source: Given, output: ShardOutput) -> ShardRecord:
    config = source.config
    scope = Scope(config)
    seeds = Finds(scope.found(position, Due(scope.tidy(url), 0)) for position, url in enumerate(config.seeds))
    write_found(output, 0, output.shard, seeds, config.partition_count)
    if not config.pages:
        return output.commit(facts={"found": len(seeds)})
    last = len(config.sitemaps) + len(config.seeds) + 1
    return _listed(output, config, last, config.pages, len(seeds))


# --- lists of pages ---------------------------------------------------------------------------------------------------


def _listed(
    output: ShardOutput, config: Config, number: int, lines: Iterable[str | Bad], found: int = 0
) -> ShardRecord:
    """Addresses asked for by name. What is no address is kept as refused, with the reason."""
    refused: dict[str, tuple[Drop, str]] = {}
    rows = enumerate(lines)
    for part in range(1 << 20):
        batch = list(islice(rows, _BATCH))
        if not batch:
            break
        good = Finds()
        for position, line in batch:
            if isinstance(line, Bad):
                refused[line.text] = (Drop.MALFORMED, line.detail)
                continue
            try:
                good.add([Found(number * _SPAN + position, Due(canonical(line.strip()), 0, listed=True))])
            except BadUrlError as error:
                if line.strip():
                    refused[line] = (Drop.BAD_URL, str(error))
        write_found(output, 0, f"{output.shard}-{part:04d}", good, config.partition_count)
        found += len(good)
    if refused:
        lost = [{"url": url, "reason": str(why), "detail": detail} for url, (why, detail) in refused.items()]
        output.write_table(f"data/{output.shard}.urls.parquet", pa.Table.from_pylist(lost, _REFUSED))
    dropped = Counter(str(why) for why, _ in refused.values())
    return output.commit(
        Funnel(unit=UNIT, entered=len(refused), kept=0, dropped=dict(sorted(dropped.items()))), {"found": found}
    )


def _addresses(file: UrlFile) -> Iterator[str | Bad]:
    """What stands in a list, in order. Raises DataError for a table without a column of addresses."""
    for batch in read_batches(file.open, file.format, file.url):
        column = next((name for name in batch.columns for usual in URL_COLUMNS if name.lower() == usual), None)
        if column is None and batch.columns:
            found = ", ".join(batch.columns)
            raise DataError(f"{file.url} has no column of addresses", expected=", ".join(URL_COLUMNS), found=found)
        values = batch.columns[column] if column else []
        yield from (str(url or "") for url in (values.to_pylist() if isinstance(values, pa.Array) else values))
        yield from batch.bad


# --- sitemaps ---------------------------------------------------------------------------------------------------------


async def _sitemaps(source: Sitemaps, output: ShardOutput, manners: Link | None) -> ShardRecord:
    config, scope = source.config, Scope(source.config)
    read: list[dict[str, Any]] = []
    outside: Counter[str] = Counter()
    total = 0
    async with Fetcher(config.web, manners=manners) as fetcher:
        for number, start in source.starts:
            position = number * _SPAN
            part = 0
            finds = Finds()
            async for one in _walk(start, fetcher, config):
                read.append(_row(one))
                for url in map(scope.tidy, one.urls):
                    position += 1
                    if why := scope.outside(url):
                        outside[why] += 1
                    else:
                        finds.add([scope.found(position, Due(url, 0))])
                if len(finds) >= _BATCH:
                    write_found(output, 0, f"{output.shard}-{number}-{part}", finds, config.partition_count)
                    total, part, finds = total + len(finds), part + 1, Finds()
            write_found(output, 0, f"{output.shard}-{number}-{part}", finds, config.partition_count)
            total += len(finds)
    output.write_table(f"data/{output.shard.removeprefix('inject-')}.parquet", pa.Table.from_pylist(read, _READ))
    return output.commit(facts={"found": total, "links_outside": dict(sorted(outside.items()))})


async def _walk(start: str, fetcher: Fetcher, config: Config) -> AsyncIterator[Read]:
    """The sitemaps at ``start``, or those that the robots.txt there names."""

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
        "url": read.address,
        "reason": read.reason and str(read.reason),
        "detail": read.detail or None,
        "urls": len(read.urls),
        "refused": read.refused,
    }
