"""Extract image-text pairs from stored pages: WARC or WAT in, pairs out."""

from pipelines.extract.stage import Config, run

__all__ = ["Config", "run"]
