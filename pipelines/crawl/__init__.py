"""Crawl politely, breadth first, from seeds, sitemaps or a list of pages, and keep the pages as WARC."""

from pipelines.crawl.stage import Config, run

__all__ = ["Config", "run"]
