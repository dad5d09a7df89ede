"""Filter: keep the images and captions worth training on, by named rules; record the rule that dropped each row."""

from pipelines.curate.filter.config import Config
from pipelines.curate.filter.rules import Rule
from pipelines.curate.filter.stage import run

__all__ = ["Config", "Rule", "run"]
