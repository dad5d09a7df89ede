"""Keep the images and captions worth training on, by a list of named rules; record the rule that dropped each row."""

from pipelines.curate.filter.stage import Config, run

__all__ = ["Config", "run"]
