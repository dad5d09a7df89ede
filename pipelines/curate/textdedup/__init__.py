"""Textdedup: one row of those whose captions have nearly the same words, by MinHash."""

from pipelines.curate.textdedup.config import Config
from pipelines.curate.textdedup.stage import run

__all__ = ["Config", "run"]
