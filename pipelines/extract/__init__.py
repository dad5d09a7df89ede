"""Find the pictures of stored pages and the texts that go with them: WARC or WAT in, pairs out."""

from pipelines.extract.stage import Config, run

__all__ = ["Config", "run"]
