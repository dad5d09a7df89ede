"""Tables between stages: what is added to rows survives, and what does not fit together is refused."""

import pyarrow as pa
import pytest
from PIL import Image

from infra.errors import DataError
from infra.hashing import hash64
from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines.curate import dedup, filter
from pipelines.layout import funnel, selection_shards
from pipelines.tables import SELECTION_COLUMNS, concatenated, read_table, successes, uid, with_column, write_selection


def test_a_column_is_added_or_replaced_in_its_place():
    rows = pa.table({"a": [1, 2], "b": [3, 4]})
    assert with_column(rows, "c", pa.array([5, 6])).to_pydict() == {"a": [1, 2], "b": [3, 4], "c": [5, 6]}
    replaced = with_column(rows, "a", pa.array(["x", "y"]))
    assert list(replaced.to_pydict().items()) == [("a", ["x", "y"]), ("b", [3, 4])]


def test_shards_whose_columns_differ_are_joined_where_that_is_possible():
    one, two = pa.table({"a": [1], "s": pa.array([0.5])}), pa.table({"a": [2], "s": pa.array([1], pa.int32())})
    assert concatenated([one, two, pa.table({"a": [3]})]).to_pydict() == {"a": [1, 2, 3], "s": [0.5, 1.0, None]}
    with pytest.raises(DataError, match="different types in different shards"):
        concatenated([one, pa.table({"a": [2], "s": ["high"]})])


def test_img2datasets_own_rows_get_a_uid_and_the_columns_they_lack():
    rows = pa.table(
        {
            "url": ["http://a/1", "http://a/2", "http://a/3"],
            "caption": ["one", None, "three"],
            "key": ["000000", "000001", "000002"],
            "status": ["success", "success", "failed_to_download"],
            "score": [0.1, 0.2, 0.3],
        }
    )
    found = successes(rows, 7)
    assert found.column_names == [*SELECTION_COLUMNS, "status", "score"]
    assert found["uid"].to_pylist() == [uid("http://a/1", "one"), uid("http://a/2", "")]
    assert found["shard"].to_pylist() == [7, 7]
    assert found["license"].to_pylist() == [None, None]


def test_a_column_called_reason_gives_way_to_the_reason(tmp_path):
    context = Context(tmp_path)
    rows = pa.table({"uid": ["a", "b"], "reason": [None, None]})
    counted = write_selection(context.output, 0, rows, [None, "too_red"], {"note": pa.array([1, 2])})
    assert counted == funnel("images", [None, "too_red"])
    dropped = read_table(context.store, "data/dropped-00000.parquet").to_pylist()
    assert dropped == [{"uid": "b", "reason": "too_red", "note": 2}]


def test_a_folder_without_kept_rows_is_no_selection(tmp_path):
    context = Context(tmp_path)
    assert selection_shards(Artifact(context.store, context.finish())) == []
    context.output.write_table("data/00000.parquet", pa.table({"uid": ["a"]}))
    with pytest.raises(DataError, match="no files of kept rows"):
        selection_shards(Artifact(context.store, context.finish()))


def test_hashes_are_even():
    draws = [hash64(str(number)) / 2**64 for number in range(4000)]
    assert abs(sum(draws) / 4000 - 0.5) < 0.02
    assert abs(sum(draw < 0.1 for draw in draws) / 4000 - 0.1) < 0.02


def test_dedup_of_a_deduplicated_selection_changes_nothing(ray_cluster, images_artifact, finished):
    colours = ("red", "blue", "red", "green")
    images = images_artifact([(f"a {colour} area", Image.new("RGB", (30, 30), colour)) for colour in colours])
    chosen = finished(filter.run, filter.Config(rules=()), {"images": images})
    once = finished(dedup.run, dedup.Config(), {"images": images, "selection": chosen})
    twice = finished(dedup.run, dedup.Config(), {"images": images, "selection": once})
    assert once.manifest.funnel.kept == twice.manifest.funnel.entered == twice.manifest.funnel.kept == 3
    assert once.read("data/kept-00000.parquet") == twice.read("data/kept-00000.parquet")
