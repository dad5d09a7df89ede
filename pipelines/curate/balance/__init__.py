"""Flatten what the captions talk about: MetaCLIP's rule (Xu et al. 2023, algorithm 1), last before sharding."""

from pipelines.curate.balance.stage import Config, run

__all__ = ["Config", "run"]
