"""Effective robustness: how much better a model is on a shifted test set than the usual one promises."""

from evaluation.robustness.config import Config, Line, Shift
from evaluation.robustness.points import read_points
from evaluation.robustness.stage import run

__all__ = ["Config", "Line", "Shift", "read_points", "run"]
