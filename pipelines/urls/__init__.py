"""Convert URL lists, such as img2dataset's inputs, LAION, COYO and DataComp, to pairs for ``download``."""

from pipelines.urls.stage import Config, run

__all__ = ["Config", "run"]
