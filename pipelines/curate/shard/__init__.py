"""Shard: shuffle, split off the holdout and write WebDataset training shards."""

from pipelines.curate.shard.config import Config
from pipelines.curate.shard.stage import run

__all__ = ["Config", "run"]
