"""Where a crawl starts: seeds, sitemaps, lists of pages, each put into the frontier as if found on a page.

A source's addresses have positions of their own far apart, so that seeds come before sitemaps, those before listed
pages, and each in its order, whichever task reads them.
"""

from __future__ import annotations

import asyncio
import gzip
import io
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from infra.context import ShardOutput
from infra.errors import DataError
from infra.manifest import Funnel, ShardRecord
from infra.schema import Drop
from infra.storage import open_store
from pipelines.crawl import UNIT, Config, Due
from pipelines.fetch import Fetcher, FetchError
from pipelines.frontier import Found, write_found
from pipelines.hosts import Link
from pipelines.scope import Scope
from pipelines.sitemap import Read, walk
from pipelines.urls import BadUrlError, canonical, host_of, origin_of

__all__ = ["Given", "PageList", "Sitemaps", "inject", "read_list", "sources"]

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
_REFUSED = pa.schema([("url", pa.string()), ("depth", pa.int32()), ("reason", pa.string()), ("detail", pa.string())])


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

    path: str
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
    for part, path in enumerate(config.page_lists):
        far[f"inject-list-{part:04d}"] = PageList(path, len(starts) + 2 + part, config)
    return near, far


def inject(source: Source, output: ShardOutput, manners: Link | None = None) -> ShardRecord:
    """Write a source's addresses as found. Facts: ``found``, how many."""
    match source:
        case Given():
            return _given(source, output)
        case Sitemaps():
            return asyncio.run(_sitemaps(source, output, manners))
        case PageList():
            with _opened(source.path) as file:
                return _listed(output, source.config, source.number, read_list(file, source.path))


def _given(source: Given, output: ShardOutput) -> ShardRecord:
    config = source.config
    scope = Scope(config)
    seeds = (scope.found(position, Due(scope.tidy(url), 0)) for position, url in enumerate(config.seeds))
    found = write_found(output, 0, output.shard, seeds, config.partition_count)
    if not config.pages:
        return output.commit(facts={"found": found})
    last = len(config.sitemaps) + len(config.seeds) + 1
    return _listed(output, config, last, config.pages, found)


# --- lists of pages ---------------------------------------------------------------------------------------------------


def _listed(output: ShardOutput, config: Config, number: int, lines: Iterable[str], found: int = 0) -> ShardRecord:
    """Addresses asked for by name. What is no address is kept as refused, with the reason."""
    refused: dict[str, str] = {}
    rows = enumerate(line.strip() for line in lines)
    for part in range(1 << 20):
        batch = list(islice(rows, _BATCH))
        if not batch:
            break
        good = []
        for position, line in batch:
            try:
                good.append(Found(number * _SPAN + position, Due(canonical(line), 0, listed=True)))
            except BadUrlError as error:
                if line:
                    refused[line] = str(error)
        found += write_found(output, 0, f"{output.shard}-{part:04d}", good, config.partition_count)
    if refused:
        columns = [list(refused), [0] * len(refused), [str(Drop.BAD_URL)] * len(refused), list(refused.values())]
        output.write_table(f"data/{output.shard}.urls.parquet", pa.table(columns, _REFUSED))
    count = len(refused)
    funnel = Funnel(unit=UNIT, entered=count, kept=0, dropped={Drop.BAD_URL: count} if count else {})
    return output.commit(funnel, {"found": found})


def _opened(path: str) -> BinaryIO:
    folder, _, name = path.rpartition("/")
    try:
        file: BinaryIO = open_store(folder or ".").open(name)
    except FileNotFoundError:
        raise DataError("a list of pages is not there", found=path) from None
    return file


def read_list(file: BinaryIO, path: str) -> Iterator[str]:
    """The addresses of a list, in order, with bounded memory. Raises DataError for a table without a ``url`` column."""
    name = path.lower()
    if name.endswith((".parquet", ".pq")):
        table = pq.ParquetFile(file)
        column = _column(table.schema_arrow.names, path)
        for batch in table.iter_batches(columns=[column]):
            yield from (str(url) for url in batch[column].to_pylist() if url is not None)
        return
    if name.endswith(".gz"):
        file, name = cast(BinaryIO, gzip.GzipFile(fileobj=file)), name.removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        parse = pa.csv.ParseOptions(delimiter="\t" if name.endswith(".tsv") else ",", newlines_in_values=True)
        try:
            reader = pa.csv.open_csv(file, parse_options=parse)
            column = _column(reader.schema.names, path)
            for batch in reader:
                yield from (str(url) for url in batch[column].to_pylist() if url is not None)
        except pa.ArrowInvalid as error:
            raise DataError("a list of pages cannot be read", found=f"{path}: {error}") from None
        return
    yield from io.TextIOWrapper(file, "utf-8", errors="replace")


def _column(names: list[str], path: str) -> str:
    found = next((name for name in names if name.lower() == "url"), None)
    if found is None:
        raise DataError('a list of pages has no column "url"', found=f"{path}: {', '.join(names)}")
    return found


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
            waiting: list[Found] = []
            async for one in _walk(start, fetcher, config):
                read.append(_row(one))
                for url in map(scope.tidy, one.urls):
                    position += 1
                    if why := scope.outside(url):
                        outside[why] += 1
                    else:
                        waiting.append(scope.found(position, Due(url, 0)))
                if len(waiting) >= _BATCH:
                    total += write_found(output, 0, f"{output.shard}-{number}-{part}", waiting, config.partition_count)
                    part, waiting = part + 1, []
            total += write_found(output, 0, f"{output.shard}-{number}-{part}", waiting, config.partition_count)
    output.write_table(f"data/{output.shard.removeprefix('inject-')}.parquet", pa.Table.from_pylist(read, _READ))
    return output.commit(facts={"found": total, "links_outside": dict(sorted(outside.items()))})


async def _walk(start: str, fetcher: Fetcher, config: Config) -> AsyncIterator[Read]:
    """The sitemaps at ``start``, or those that the robots.txt there names."""

    async def get(url: str) -> bytes:
        return (await fetcher.get(url, "sitemap")).body

    starts = [start]
    if start.endswith("/robots.txt"):
        from protego import Protego

        try:
            named = list(Protego.parse((await get(start)).decode("utf-8", "replace")).sitemaps)
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
