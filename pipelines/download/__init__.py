"""From pairs of URL and caption to shards of images: fetched, judged, brought to size, in img2dataset's layout."""

from pipelines.download.stage import Config, run

__all__ = ["Config", "run"]
