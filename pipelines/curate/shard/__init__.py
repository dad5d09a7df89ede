"""Shuffle, split off the holdout and write WebDataset training shards."""

from pipelines.curate.shard.stage import Config, run

__all__ = ["Config", "run"]
