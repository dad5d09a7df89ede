"""Download images: pairs of URL and caption -> shards of images in img2dataset's layout, with every row's outcome."""

from pipelines.download.config import Config
from pipelines.download.stage import run

__all__ = ["Config", "run"]
