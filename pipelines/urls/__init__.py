"""Somebody else's list of pictures: img2dataset's inputs, LAION's, COYO's, DataComp's, as pairs for ``download``."""

from pipelines.urls.stage import Config, run

__all__ = ["Config", "run"]
