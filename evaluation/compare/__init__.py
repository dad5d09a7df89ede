"""Compare models on the same test sets: paired differences with intervals, and which of them are separated from 0."""

from evaluation.compare.config import Config
from evaluation.compare.stage import run

__all__ = ["Config", "run"]
