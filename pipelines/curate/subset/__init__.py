"""Subset: the ids of a selection as one file, which DataComp's tools read (Gadre et al. 2023)."""

from pipelines.curate.subset.config import Config
from pipelines.curate.subset.stage import run

__all__ = ["Config", "run"]
