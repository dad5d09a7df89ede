"""What it costs to meet a behaviour: a process of its own, so that only the client is measured.

``python appetite.py WEB_JSON NAME...`` prints, as JSON, by how many MB the resident memory peaked above where it stood,
and the seconds it took.
"""

import asyncio
import json
import re
import sys
import time
from pathlib import Path

from hostile import BEHAVIOURS

from infra.store.spool import Spool
from pipelines import crawl, download, extract
from pipelines.crawl import shard as crawl_shard
from pipelines.crawl.frontier_tables import Due
from pipelines.download import shard as download_shard
from pipelines.extract import shard as extract_shard
from pipelines.formats.warc import Page
from pipelines.web import Web
from pipelines.web.fetcher import Fetcher


def resident_mb(what: str) -> int:
    """``VmRSS`` now, or ``VmHWM``, the most there was since the last :func:`forget`."""
    return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024


def forget() -> None:
    """Let the high-water mark start from here (see proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


async def meet(name: str, web: Web) -> None:
    behaviour = BEHAVIOURS[name]
    if "image" in behaviour.kinds:
        settings = download.Config(web=web, max_image_area=16_000_000, image_size=64)
        with Spool() as spool:
            async with download_shard.Downloader(settings) as downloader:
                await asyncio.gather(*await downloader.start([behaviour.url("image")], spool))
        return
    settings = crawl.Config(seeds=["http://a.example/"], allowed_hosts=["*.example"], web=web)
    with Spool() as spool:
        async with Fetcher(web) as fetcher, crawl_shard.Visitor(settings, fetcher, spool) as visitor:
            seen = await visitor.visit(0, Due(behaviour.url("page"), 0))
        body = spool.get(seen.body) if seen.body else b""
    if seen.response is not None:
        page = Page(seen.response.url, seen.response.headers, body)
        extract_shard.page_rows(page, extract.Config())


def main() -> None:
    web = Web.model_validate_json(sys.argv[1])
    cost = {}
    asyncio.run(meet("png_with_alpha", web))  # imports and pools are nobody's bomb
    asyncio.run(meet("utf_7", web))
    for name in sys.argv[2:]:
        before, started = resident_mb("VmRSS"), time.monotonic()
        forget()
        asyncio.run(meet(name, web))
        cost[name] = resident_mb("VmHWM") - before, time.monotonic() - started
    sys.stdout.write(json.dumps(cost))


main()
