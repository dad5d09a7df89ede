"""Embed: images and captions as vectors of a contrastive model, once, for every score and search that needs them."""

from pipelines.curate.embed.config import Config
from pipelines.curate.embed.stage import run

__all__ = ["Config", "run"]
