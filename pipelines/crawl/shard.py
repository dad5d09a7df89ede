"""One shard of a crawl's round: fetch its URLs concurrently, write the outcomes in order.

Links are extracted in a thread (parsing releases the interpreter lock), and bodies wait on disk until it is their turn
in the WARC, so a shard's memory does not depend on how slow the first server is.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, NoReturn

import pyarrow as pa

from infra.errors import redact, without_user_info
from infra.rows import counted, row_error
from infra.run.context import ShardOutput
from infra.run.manifest import Funnel, ShardRecord
from infra.schema import Drop
from infra.store.spool import Spool, Ticket
from pipelines.crawl.config import UNIT, Config
from pipelines.crawl.frontier_tables import Due, Found, FoundSet, read_due, write_found
from pipelines.crawl.scope import Scope
from pipelines.crawl.traps import Fingerprint, fingerprint
from pipelines.formats.warc import Writer
from pipelines.html.media import content_type, is_html
from pipelines.html.page import Html, attribute
from pipelines.web import FetchError, Response
from pipelines.web.fetcher import Fetcher
from pipelines.web.policy.opt_outs import CRAWLED
from pipelines.web.politeness.client import LimiterClient
from pipelines.web.urls import shown

__all__ = ["DueShard", "Shard", "Visit", "Visitor", "fetch", "work"]

_URLS = pa.schema(
    [
        ("url", pa.string()),
        ("depth", pa.int32()),
        ("reason", pa.string()),  # null: kept
        ("detail", pa.string()),
        ("location", pa.string()),  # of a redirect
        ("content_type", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),  # of the decoded body
        ("links", pa.int32()),
        ("images", pa.uint64()),  # pipelines.crawl.traps.Fingerprint
        ("simhash", pa.uint64()),
    ]
)


@dataclass(frozen=True)
class DueShard:
    """A shard of the frontier: row group ``group`` of a partition's due URLs."""

    generation: int
    partition: int
    group: int
    config: Config


@dataclass(frozen=True)
class Shard:
    """URLs to fetch. ``rows``: (position in the round, URL)."""

    name: str
    rows: list[tuple[int, Due]]
    config: Config
    limiter: LimiterClient | None = None
    generation: int = 0


@dataclass
class Visit:
    """Outcome of one URL. ``response``, with its body in the spool, is set if the page is kept."""

    position: int
    due: Due
    reason: Drop | None = None
    detail: str = ""
    location: str = ""
    response: Response | None = None
    body: Ticket | None = None
    sha256: str = ""
    fingerprint: Fingerprint | None = None
    found: list[Found] = field(default_factory=list)
    outside: Counter[str] = field(default_factory=Counter)


def fetch(spec: DueShard, output: ShardOutput, limiter: LimiterClient | None = None) -> ShardRecord:
    """Fetch the due URLs of a shard of the frontier."""
    rows = read_due(output.store, spec.generation, spec.partition, spec.group)
    return work(Shard(output.shard, rows, spec.config, limiter, spec.generation), output)


def work(shard: Shard, output: ShardOutput) -> ShardRecord:
    """Fetch the shard's URLs and commit WARC, outcomes and links. Facts: ``found``, the number of distinct links."""
    return asyncio.run(_work(shard, output))


async def _work(shard: Shard, output: ShardOutput) -> ShardRecord:
    config = shard.config
    filename = f"{shard.name}.warc.gz"
    urls: list[dict[str, Any]] = []
    found = FoundSet()
    dropped: Counter[str] = Counter()
    unforeseen: list[str] = []
    outside: Counter[str] = Counter()
    sent = [("User-Agent", config.web.user_agent_header)]
    info = {
        "software": "clipline",
        "format": "WARC File Format 1.1",
        "robots": "obey" if config.web.obey_robots else "ignore",
        "http-header-user-agent": config.web.user_agent_header,
    }
    with Spool() as spool, output.open(f"data/{filename}") as sink:
        warc = Writer(sink, filename, _now(config), info)
        async with Fetcher(config.web, limiter=shard.limiter) as fetcher, Visitor(config, fetcher, spool) as visitor:
            visits = (visitor.visit(position, due) for position, due in shard.rows)
            async for seen in _in_order(visits, 4 * config.web.concurrency):
                if seen.response is not None and seen.body is not None:
                    page = seen.response
                    headers = _stored(page, config)
                    body = _published(spool.get(seen.body))
                    warc.page(shown(page.url), _now(config), page.status, headers, body, sent)
                else:
                    dropped[str(seen.reason)] += 1
                    unforeseen += [seen.detail] * (seen.reason is Drop.UNFORESEEN)
                urls.append(_row(seen))
                found.add(seen.found)
                outside += seen.outside
    output.write_table(f"data/{shard.name}.urls.parquet", pa.Table.from_pylist(urls, _URLS))
    write_found(output, shard.generation, shard.name, found, config.partition_count)
    entered, lost = len(shard.rows), sum(dropped.values())
    funnel = Funnel(unit=UNIT, entered=entered, kept=entered - lost, dropped=dict(sorted(dropped.items())))
    facts = {"found": len(found), "links_outside": dict(sorted(outside.items()))}
    return output.commit(funnel, facts | counted(unforeseen))


async def _in_order(visits: Iterable[Coroutine[Any, Any, Visit]], window: int) -> AsyncIterator[Visit]:
    """Yield results in the order of ``visits``, with at most ``window`` of them in flight or waiting to be written."""
    in_flight: deque[asyncio.Task[Visit]] = deque()
    try:
        for visit in visits:
            in_flight.append(asyncio.create_task(visit))
            if len(in_flight) >= window:
                yield await in_flight.popleft()
        while in_flight:
            yield await in_flight.popleft()
    finally:
        for task in in_flight:
            task.cancel()
        await asyncio.gather(*in_flight, return_exceptions=True)


class Visitor:
    """Fetches and parses pages, many concurrently. Async context manager around its threads."""

    def __init__(self, config: Config, fetcher: Fetcher, spool: Spool) -> None:
        self._config, self._fetcher, self._spool = config, fetcher, spool
        self._scope = Scope(config)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="clipline-page")

    async def __aenter__(self) -> Visitor:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def visit(self, position: int, due: Due) -> Visit:
        """Fetch one URL. A redirect is not followed: its target becomes a URL of the frontier."""
        seen = Visit(position, due)
        try:
            async with self._fetcher.fetch(due.url, "page", follow=False) as response:
                if response.is_redirect:
                    self._drop_redirect(seen, response)
                if not is_html(content_type(response.headers), response.body):
                    raise FetchError(Drop.NOT_HTML, "no content type")
                await asyncio.get_running_loop().run_in_executor(self._threads, self._parse, seen, response)
                seen.body = self._spool.put(response.body)
                seen.response = replace(response, body=b"")
        except FetchError as error:
            seen.reason, seen.detail = error.reason, error.detail
        except Exception as error:
            if error is self._fetcher.failure:  # of all URLs, not of this one
                raise
            return Visit(position, due, Drop.UNFORESEEN, row_error(error))
        return seen

    def _drop_redirect(self, seen: Visit, response: Response) -> NoReturn:
        """Add the target of a redirect to the links found. Always raises FetchError: the URL itself is dropped."""
        due, limit = seen.due, self._config.web.max_redirects
        target = self._fetcher.redirect(response)
        target = seen.location = target if due.listed else self._scope.normalize(target)
        if not due.listed and (why := self._scope.outside(target)):
            raise FetchError(Drop.NOT_HTML if why == "image" else Drop.OFF_SITE, target)
        if target == due.url:
            raise FetchError(Drop.REFUSED, "redirect loop")
        if due.redirects >= limit:
            raise FetchError(Drop.REFUSED, f"more than {limit} redirects")
        following = Due(target, due.depth, due.redirects + 1, due.listed)
        seen.found.append(self._scope.found(seen.position, following))
        raise FetchError(Drop.REDIRECT, target)

    def _parse(self, seen: Visit, response: Response) -> None:
        """Extract links and fingerprint of a page. Runs in a thread."""
        seen.sha256 = hashlib.sha256(response.body).hexdigest()
        if seen.due.listed:
            return
        html = Html.parse(response.url, response.headers, response.body)
        links, more = self._links(html)
        nofollow = self._config.web.obey_robots and self._config.web.policy.of_links(html.headers, html.metas)
        seen.fingerprint = _fingerprint(html, seen.due.url, links)
        if nofollow:
            return
        for link in links:
            if why := self._scope.outside(link):
                seen.outside[why] += 1
            else:
                seen.found.append(self._scope.found(seen.position, Due(link, seen.due.depth + 1)))
        if more:
            seen.outside["too_many"] += more

    def _links(self, html: Html) -> tuple[list[str], int]:
        """Return the page's first links, distinct and normalized, and how many more it has."""
        found: dict[str, None] = {}
        for number, target in enumerate(html.targets):
            if len(found) == self._config.max_links:
                return list(found), len(html.targets) - number
            if link := html.resolve(target):
                found[self._scope.normalize(link)] = None
        return list(found), 0


def _fingerprint(html: Html, url: str, links: list[str]) -> Fingerprint:
    """Compute the fingerprint of a page. Removes scripts and styles from ``html``, so call it last."""
    images = [attribute(node, name) for node in html.tree.css("img") for name in ("src", "data-src", "srcset")]
    for node in html.tree.css("script, style, template"):
        node.decompose()
    body = html.tree.body
    return fingerprint(url, body.text(separator=" ") if body is not None else "", images, links)


def _row(seen: Visit) -> dict[str, Any]:
    page = seen.response
    return {
        "url": shown(seen.due.url),
        "depth": seen.due.depth,
        "reason": seen.reason and str(seen.reason),
        "detail": seen.detail or None,
        "location": shown(seen.location) or None,
        "content_type": page and page.header("Content-Type"),
        "bytes": seen.body and seen.body.size,
        "sha256": page and seen.sha256,
        "links": page and len(seen.found),
        "images": seen.fingerprint and seen.fingerprint.images,
        "simhash": seen.fingerprint and seen.fingerprint.simhash,
    }


def _now(config: Config) -> str:
    return config.warc_date or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _published(body: bytes) -> bytes:
    """Return a page without the passwords in its links; other bytes stay as they are, whatever their encoding."""
    return without_user_info(body) if b"@" in body else body


def _stored(page: Response, config: Config) -> list[tuple[str, str]]:
    """Return the headers to store: no secrets, ``Date`` as configured, if it is, and what the page's host withheld."""
    headers = [(name, redact(value)) for name, value in page.headers if name.lower() != CRAWLED.lower()]
    if page.opt_out:
        headers.insert(0, (CRAWLED, page.opt_out))
    if config.warc_date is None:
        return headers
    date = format_datetime(datetime.fromisoformat(config.warc_date), usegmt=True)
    return [(name, date if name.lower() == "date" else value) for name, value in headers]
