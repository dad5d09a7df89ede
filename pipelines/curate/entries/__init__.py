"""Entries: the words and phrases to balance by, counted in texts as MetaCLIP's metadata is (Xu et al. 2023)."""

from pipelines.curate.entries.config import Config
from pipelines.curate.entries.stage import run

__all__ = ["Config", "run"]
