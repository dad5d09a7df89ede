"""SemDeDup: one row of those whose embeddings are nearly the same."""

from pipelines.curate.semdedup.config import Config
from pipelines.curate.semdedup.stage import run

__all__ = ["Config", "run"]
