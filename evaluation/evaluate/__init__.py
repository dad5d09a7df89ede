"""Run one evaluation task: a test set as vectors of a model in, scores with confidence intervals out."""

from evaluation.evaluate.config import Config
from evaluation.evaluate.stage import run

__all__ = ["Config", "run"]
