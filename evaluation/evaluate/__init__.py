"""Run one evaluation task: a model and a test set in, scores with confidence intervals out."""

from evaluation.evaluate.config import Config
from evaluation.evaluate.stage import run

__all__ = ["Config", "run"]
