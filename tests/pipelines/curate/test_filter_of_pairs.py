"""The filter before the download: pairs are judged by what their list says; what needs an image is refused."""

import pyarrow as pa
import pytest

from infra.errors import DataError, UsageError
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines import download
from pipelines.curate import filter as filtering
from pipelines.curate.filter.rules import ImageBytes, ImageSide, Score, TextWords
from pipelines.download.shard import Work
from pipelines.layout import chunk_rows, kept_files
from pipelines.tables import RESERVED, read_table


@pytest.fixture
def pairs(tmp_path):
    """Twenty pairs in five files, with the columns of DataComp's metadata as the urls stage names them."""
    context = Context(tmp_path / "pairs")
    rows = [
        {"uid": f"{n:032x}", "url": f"http://a.example/{n}.jpg", "caption": "a red fox" if n % 4 else "fox"}
        | {"score": n / 20, "original_width_listed": 100 if n % 5 == 0 else 500, "original_height_listed": 400}
        for n in range(20)
    ]
    for part in range(5):
        context.output.write_table(f"data/{part}-0000.parquet", pa.Table.from_pylist(rows[4 * part : 4 * part + 4]))
    context.output.write_table("data/dropped-0-0000.parquet", pa.Table.from_pylist(rows[:2]))
    return Artifact(context.store, context.finish())


def urls(selection: Artifact, part: str) -> set[int]:
    tables = [read_table(selection.store, file.path) for file in selection.files(f"data/{part}-", ".parquet")]
    return {int(url.rpartition("/")[2][:-4]) for table in tables for url in table["url"].to_pylist()}


def test_what_the_list_says_decides(ray_cluster, finished, pairs):
    rules = (ImageSide(min=200), TextWords(min=3), Score(column="score", top=0.5))
    kept = finished(filtering.run, filtering.Config(rules=rules), {"pairs": pairs})
    assert urls(kept, "kept") == {n for n in range(10, 20) if n % 5 and n % 4}
    assert urls(kept, "dropped") == set(range(20)) - urls(kept, "kept")
    assert kept.manifest.facts["failed"] == {"image_side": 4, "text_words": 5, "score_score": 10}
    assert kept.manifest.funnel.unit == "pairs"

    # A filter of what it left, and a download of that; what a download finds out itself does not come from here.
    again = finished(filtering.run, filtering.Config(rules=(Score(column="score", min=0.85),)), {"pairs": kept})
    assert urls(again, "kept") == {17, 18, 19}
    (chunk,) = chunk_rows(kept_files(again), 10)
    columns = Work(download.Config(), again.store).rows(chunk).column_names
    assert {"url", "caption", "score", "original_width_listed"} <= set(columns) and not RESERVED & set(columns)


def test_what_only_an_image_tells_is_refused(ray_cluster, finished, pairs):
    with pytest.raises(DataError, match="'image_bytes', which these pairs, which are not downloaded yet"):
        finished(filtering.run, filtering.Config(rules=(ImageBytes(),)), {"pairs": pairs})


@pytest.mark.parametrize("given", [(), ("pairs", "images"), ("pairs", "selection")])
def test_images_or_pairs(given):
    with pytest.raises(UsageError, match="either images"):
        filtering.Config().check_inputs(given)
    filtering.Config().check_inputs(("images", "images_retry", "selection"))
    filtering.Config().check_inputs(("pairs",))
