"""Add up the scores of a suite: named test sets, the main metric of each, and averages that say what is missing."""

from evaluation.suite.config import Config, Entry, Suite, load_suite, suites
from evaluation.suite.stage import run

__all__ = ["Config", "Entry", "Suite", "load_suite", "run", "suites"]
