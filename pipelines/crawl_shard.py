"""One shard of a crawl's round: fetch its URLs side by side, write what came of them in their order."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.context import ShardOutput
from infra.manifest import Funnel, ShardRecord
from infra.schema import Drop
from infra.storage import Store
from pipelines.crawl import UNIT, Config, Due, Scope
from pipelines.fetch import Fetcher, FetchError, Response
from pipelines.optout import LINKS, refusal
from pipelines.page import Html
from pipelines.urls import without_parameters
from pipelines.warc import Writer

__all__ = ["Shard", "Visit", "read_links", "work"]

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
    ]
)
_LINKS = pa.schema([("position", pa.int64()), ("url", pa.string()), ("depth", pa.int32()), ("redirects", pa.int32())])


@dataclass(frozen=True)
class Shard:
    """``rows``: (position in the round, URL)."""

    name: str
    rows: list[tuple[int, Due]]
    config: Config


@dataclass
class Visit:
    """What came of one URL. ``response`` is there if the page is kept."""

    position: int
    due: Due
    reason: Drop | None = None
    detail: str = ""
    location: str = ""
    response: Response | None = None
    found: list[Due] = field(default_factory=list)
    outside: Counter[str] = field(default_factory=Counter)


def work(shard: Shard, output: ShardOutput) -> ShardRecord:
    """Fetch the shard's URLs and commit WARC, outcomes and links."""
    return asyncio.run(_work(shard, output))


async def _work(shard: Shard, output: ShardOutput) -> ShardRecord:
    config = shard.config
    scope = Scope(config)
    filename = f"{shard.name}.warc.gz"
    urls: list[dict[str, Any]] = []
    links: list[tuple[int, Due]] = []
    dropped: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    sent = [("User-Agent", config.web.user_agent_header)]
    info = {
        "software": "clipline",
        "format": "WARC File Format 1.1",
        "robots": "obey" if config.web.obey_robots else "ignore",
        "http-header-user-agent": config.web.user_agent_header,
    }
    pages = 0
    async with Fetcher(config.web) as fetcher:
        with output.open(f"data/{filename}") as sink:
            warc = Writer(sink, filename, _now(config), info)
            visits = (visit(fetcher, scope, config, position, due) for position, due in shard.rows)
            async for seen in _in_order(visits, 4 * config.web.concurrency):
                if seen.response is not None:
                    date = _now(config)
                    page = seen.response
                    warc.page(page.url, date, page.status, _dated(page.headers, config), page.body, sent)
                    pages += 1
                else:
                    dropped[str(seen.reason)] += 1
                urls.append(_row(seen))
                links += [(seen.position, due) for due in seen.found]
                outside += seen.outside
    output.write_table(f"data/{shard.name}.urls.parquet", pa.Table.from_pylist(urls, _URLS))
    columns = {
        "position": [position for position, _ in links],
        "url": [due.url for _, due in links],
        "depth": [due.depth for _, due in links],
        "redirects": [due.redirects for _, due in links],
    }
    output.write_table(f"data/{shard.name}.links.parquet", pa.table(columns, _LINKS))
    funnel = Funnel(unit=UNIT, entered=len(shard.rows), kept=pages, dropped=dict(sorted(dropped.items())))
    return output.commit(funnel, {"links_outside": dict(sorted(outside.items()))})


async def _in_order(visits: Iterable[Coroutine[Any, Any, Visit]], window: int) -> AsyncIterator[Visit]:
    """Results in the order of ``visits``, at most ``window`` of them under way or waiting to be written."""
    flying: deque[asyncio.Task[Visit]] = deque()
    try:
        for one in visits:
            flying.append(asyncio.create_task(one))
            if len(flying) >= window:
                yield await flying.popleft()
        while flying:
            yield await flying.popleft()
    finally:
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)


async def visit(fetcher: Fetcher, scope: Scope, config: Config, position: int, due: Due) -> Visit:
    """Fetch one URL. A redirect is not followed: its target takes its own place among the URLs due."""
    seen = Visit(position, due)
    try:
        response = await fetcher.get(due.url, "page", follow=False)
        if response.is_redirect:
            _redirected(seen, fetcher, scope, config, response)
        elif response.content_type or response.body.lstrip()[:1] in (b"<", b""):
            seen.response = response
            _links(seen, scope, config, response)
        else:
            raise FetchError(Drop.NOT_HTML, "no content type")
    except FetchError as error:
        seen.reason, seen.detail = error.reason, error.detail
    return seen


def _redirected(seen: Visit, fetcher: Fetcher, scope: Scope, config: Config, response: Response) -> None:
    target = without_parameters(fetcher.redirect(response), config.ignored_parameters)
    seen.location = target
    if why := scope.outside(target):
        raise FetchError(Drop.NOT_HTML if why == "image" else Drop.OFF_SITE, target)
    if target == seen.due.url:
        raise FetchError(Drop.REFUSED, "redirect loop")
    if seen.due.redirects >= config.web.max_redirects:
        raise FetchError(Drop.REFUSED, f"more than {config.web.max_redirects} redirects")
    seen.found.append(Due(target, seen.due.depth, seen.due.redirects + 1))
    raise FetchError(Drop.REDIRECT, target)


def _links(seen: Visit, scope: Scope, config: Config, response: Response) -> None:
    html = Html.parse(response.url, response.headers, response.body)
    if config.web.obey_robots and refusal(html.directives(config.web.agent), LINKS):
        return
    links = dict.fromkeys(without_parameters(link, config.ignored_parameters) for link in html.links())
    for link in links:
        if why := scope.outside(link):
            seen.outside[why] += 1
        else:
            seen.found.append(Due(link, seen.due.depth + 1))


def _row(seen: Visit) -> dict[str, Any]:
    page = seen.response
    return {
        "url": seen.due.url,
        "depth": seen.due.depth,
        "reason": seen.reason and str(seen.reason),
        "detail": seen.detail or None,
        "location": seen.location or None,
        "content_type": page and page.header("Content-Type"),
        "bytes": page and len(page.body),
        "sha256": page and hashlib.sha256(page.body).hexdigest(),
        "links": page and len(seen.found),
    }


def _now(config: Config) -> str:
    return config.warc_date or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _dated(headers: list[tuple[str, str]], config: Config) -> list[tuple[str, str]]:
    """With a fixed instant, that is what the server's clock shows as well."""
    if config.warc_date is None:
        return headers
    date = format_datetime(datetime.fromisoformat(config.warc_date), usegmt=True)
    return [(name, date if name.lower() == "date" else value) for name, value in headers]


def read_links(store: Store, record: ShardRecord) -> Iterator[tuple[int, Due]]:
    """(position of the page in its round, link) of a committed shard."""
    for file in record.files:
        if file.path.endswith(".links.parquet"):
            with store.open(file.path) as source:
                table = pq.read_table(source, schema=_LINKS)
            for position, *due in zip(*(column.to_pylist() for column in table.columns), strict=True):
                yield position, Due(*due)
