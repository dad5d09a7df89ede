"""Dedup: keep one copy of each image, comparing bytes first and content next, across the whole selection."""

from pipelines.curate.dedup.config import Config
from pipelines.curate.dedup.stage import run

__all__ = ["Config", "run"]
