"""Reshard: other training shards of the samples of shards, equal and shuffled, all of them or a subset."""

from pipelines.curate.reshard.config import Config
from pipelines.curate.reshard.stage import run

__all__ = ["Config", "run"]
