"""Decontaminate: no image of an evaluation set in what a model is trained on."""

from pipelines.curate.decontaminate.config import Config
from pipelines.curate.decontaminate.stage import run

__all__ = ["Config", "run"]
