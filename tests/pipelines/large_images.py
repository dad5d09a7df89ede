"""large_images: a crawl of which only images of enough pixels are kept."""

from pydantic import Field

from pipelines import crawl, download, extract
from pipelines.curate import filter
from pipelines.curate.filter.rules import BASIC, Rule
from workflows.stage import Stage, Workflow


class Pixels(Rule):
    """A lower limit on the pixels of the original image."""

    columns = ("original_width", "original_height")

    min: int = Field(90_000, ge=0, description="fewest pixels")

    def keeps(self, rows):
        import pyarrow.compute as pc

        return pc.greater_equal(pc.multiply(rows["original_width"], rows["original_height"]), self.min)


def workflow(seeds: list[str]) -> Workflow:
    crawled = Stage("crawl", crawl.run, crawl.Config(seeds=seeds))
    pairs = Stage("extract", extract.run, extract.Config(), {"pages": crawled})
    images = Stage("download", download.run, download.Config(), {"pairs": pairs})
    kept = Stage("filter", filter.run, filter.Config(rules=(*BASIC, Pixels())), {"images": images})
    return Workflow("large_images", (crawled, pairs, images, kept))
