"""Embed test sets: every image and text encoded once for a model, for all tasks, searches and probes that follow."""

from evaluation.embed.config import Config
from evaluation.embed.stage import run

__all__ = ["Config", "run"]
