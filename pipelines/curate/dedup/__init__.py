"""One copy of each picture: duplicates by their bytes, then by what they show, across the whole selection."""

from pipelines.curate.dedup.stage import Config, run

__all__ = ["Config", "run"]
