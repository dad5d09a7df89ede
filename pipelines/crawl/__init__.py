"""Crawl politely, breadth first, from seeds, sitemaps or lists of pages, and store the pages as WARC."""

from pipelines.crawl.stage import Config, run

__all__ = ["Config", "run"]
