"""Crawl politely, breadth first, from seeds, sitemaps or lists of pages, and store the pages as WARC.

The crawl proceeds in rounds, as Nutch's does. *Inject* puts the starting URLs into the frontier. Then, in each round,
*generate* selects the URLs that are due and deals them to shards, all of one host to the same shard; *fetch* gets a
shard's pages; *update* merges their links into the frontier. The frontier is partitioned by host and lies on disk
(frontier.py); the driver holds counts only (rounds.py). Every step of every shard and partition is committed as it
ends, so a killed crawl continues where it was, and what is fetched depends only on the web and the configuration.

Files: ``data/{round}-{part}.warc.gz`` the pages; ``.urls.parquet`` the outcome of each URL; ``.sitemaps.parquet`` of
each sitemap; ``data/unvisited-{partition}.parquet`` URLs never fetched, because of a budget or a trap. The frontier's
own files below ``frontier/`` are deleted when the crawl ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest
from pipelines.crawl.config import Config
from pipelines.urls.files import list_files

__all__ = ["Config", "run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Run the crawl. Inputs ``page_list``, ``page_list_2``, ...: adopted lists of URLs.

    Funnel: distinct URLs found on the site, or listed -> pages kept.
    """
    from pipelines.crawl.rounds import Rounds

    config.check_inputs(inputs)
    page_lists = list_files(config.given("page_list", inputs))
    with ExitStack() as stack:
        crawl = Rounds(config, page_lists, context, stack)
        crawl.inject()
        crawl.update()
        while crawl.kept < config.max_pages and crawl.generate():
            crawl.fetch()
            crawl.update()
        return crawl.finish()
