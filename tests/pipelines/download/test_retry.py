"""Rows that failed get another try; what succeeded is not touched, and later stages see both."""

import io
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image

from infra.errors import DataError
from infra.formats.shards import read_samples, sample_key, write_triple
from infra.run.context import Context
from infra.run.manifest import Artifact, File
from infra.schema import Drop, images_schema
from pipelines.download.retry import RETRY_OF, Pick, _chunks, read_picks, rows_to_retry
from pipelines.layout import Images, Slice, chunk_rows, downloads, image_shards, read_images
from pipelines.tables import image_table, read_slices

TIMEOUT = {"status": "failed_to_download", "error_message": "timeout: ", "reason": "timeout"}
GONE = {"status": "failed_to_download", "error_message": "HTTP Error 404: Not Found", "reason": "http_error"}


def jpeg(index: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (index * 37 % 256, index * 91 % 256, 80)).save(out, "JPEG")
    return out.getvalue()


ROWS = [(f"caption {index}", *((None, TIMEOUT) if index % 3 == 1 else (None, GONE) if index == 5 else (jpeg(index),)))
        for index in range(11)]  # fmt: skip


def tried_again(inputs, folder, succeeding, reasons=(Drop.TIMEOUT,), per_shard=2) -> Artifact:
    """What a download of the rows due would leave, if those whose caption is in ``succeeding`` came this time."""
    context = Context(folder)
    for shard, picks in rows_to_retry(inputs, reasons, per_shard):
        rows = read_picks(Images.of(inputs), picks)
        table, members = [], []
        for index, row in enumerate(rows.to_pylist()):
            row |= {"key": sample_key(shard, index, per_shard)}
            if row["caption"] in succeeding:
                row |= {"status": "success", "original_width": 16, "original_height": 16, "sha256": row["uid"] * 2}
                members += [(f"{row['key']}.jpg", jpeg(99)), (f"{row['key']}.txt", row["caption"].encode())]
            else:
                row |= TIMEOUT
            table.append(row)
        schema = images_schema(rows.schema).append(pa.field("reason", pa.string()))
        write_triple(context.output, shard, members, pa.Table.from_pylist(table, schema))
    return Artifact(context.store, context.finish())


def test_the_rows_are_those_of_the_reason_and_keys_go_on(images_artifact, tmp_path):
    images = images_artifact(ROWS, per_shard=4)
    assert rows_to_retry({"images": images}, [Drop.TIMEOUT], 2) == [
        (3, (Pick(0, (1,)), Pick(1, (0,)))),
        (4, (Pick(1, (3,)), Pick(2, (2,)))),
    ]
    assert rows_to_retry({"images": images}, [Drop.HTTP_ERROR], 2) == [(3, (Pick(1, (1,)),))]
    assert rows_to_retry({"images": images}, [Drop.DECODE], 2) == []

    earlier = {row["key"]: row for row in rows_of(images)}
    again = tried_again({"images": images}, tmp_path / "again", {"caption 1", "caption 7"})
    assert [number for number, _ in image_shards(images, again)] == [0, 1, 2, 3, 4]
    later = rows_of(again)
    for row in later:  # the same pair under a new key
        before = earlier[row[RETRY_OF]]
        assert {name: row[name] for name in ("uid", "url", "caption", "page_url")} == {
            name: before[name] for name in ("uid", "url", "caption", "page_url")
        }
    assert not {row["key"] for row in later} & earlier.keys()
    assert [row["key"] for row in later] == ["000030", "000031", "000040", "000041"]

    # a third try takes what the second did not bring, once
    both = {"images": images, "images_retry": again}
    third = rows_to_retry(both, [Drop.TIMEOUT], 10)
    assert third == [(5, (Pick(3, (1,)), Pick(4, (1,))))]
    rows = read_picks(Images.of(both), third[0][1])
    assert rows["caption"].to_pylist() == ["caption 4", "caption 10"]
    assert rows[RETRY_OF].to_pylist() == ["000031", "000041"]
    assert rows.column_names[-1] == RETRY_OF


def test_img2datasets_own_shards_have_no_reasons_to_retry_for(tmp_path):
    context = Context(tmp_path / "theirs")
    rows = pa.table({"url": ["http://a/"], "key": ["000000000"], "status": ["failed_to_download"]})
    context.output.write_table("data/00000.parquet", rows)
    assert rows_to_retry({"images": Artifact(context.store, context.finish())}, [Drop.TIMEOUT], 2) == []


def rows_of(artifact):
    images = Images(((0, artifact.store),))
    return [row for number, _ in image_shards(artifact) for row in image_table(images, number).to_pylist()]


def test_later_stages_see_both(ray_cluster, images_artifact, finished, tmp_path):
    from pipelines.curate import dedup, shard
    from pipelines.curate import filter as filtering

    images = images_artifact(ROWS, per_shard=4)
    manifest = images.manifest
    again = tried_again({"images": images}, tmp_path / "again", {"caption 1", "caption 7"})
    inputs = {"images": images, "images_retry": again}
    good = finished(filtering.run, filtering.Config(rules=()), inputs)
    assert good.manifest.funnel.entered == 6 + 2
    unique = finished(dedup.run, dedup.Config(near=False), {**inputs, "selection": good})
    shards = finished(shard.run, shard.Config(holdout_fraction=0), {**inputs, "selection": unique})
    samples = list(read_samples(io.BytesIO(shards.read("data/train/00000.tar"))))
    texts = {sample["txt"].decode(): sample["jpg"] for sample in samples}
    assert sorted(texts) == sorted([row[0] for row in ROWS if row[1]] + ["caption 1", "caption 7"])
    assert texts["caption 7"] == jpeg(99)
    assert texts["caption 3"] == jpeg(3)
    assert not list(images.verify())
    assert images.manifest == manifest
    assert json.loads(samples[0]["json"])["uid"]


def test_two_downloads_that_are_no_retries_are_refused(images_artifact):
    images = images_artifact(ROWS, per_shard=4)
    with pytest.raises(DataError, match="same number"):
        downloads({"images": images, "images_other": images})
    assert downloads({"images": images, "selection": images}) == [images]


def test_a_shard_is_found_in_the_download_that_holds_it(images_artifact, tmp_path):
    images = images_artifact(ROWS, per_shard=4)
    nothing = Artifact(tmp_path / "nothing", replace(images.manifest, files=[]))
    both = Images.of({"images_retry": nothing, "images": images})
    assert both.stores == ((0, images.store),)
    assert read_images(both, [{"shard": 2, "key": "0000020"[-6:]}]) == [jpeg(8)]
    assert read_images(images.store, [{"shard": 0, "key": "000000"}]) == [jpeg(0)]
    with pytest.raises(DataError):
        Images(()).store(0)


@given(st.lists(st.integers(0, 7), max_size=6), st.integers(1, 5))
def test_chunks_of_picks_lose_nothing(sizes, size):
    picks = [Pick(shard, tuple(range(count))) for shard, count in enumerate(sizes)]
    chunks = [[(pick.shard, row) for pick in chunk for row in pick.rows] for chunk in _chunks(picks, size)]
    assert [row for chunk in chunks for row in chunk] == [(pick.shard, row) for pick in picks for row in pick.rows]
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(chunks)


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 9))
def test_slices_of_files_of_several_row_groups(tmp_path_factory, rows, size, group):
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("groups")
    files = []
    for number in range(2):
        table = pa.table({"row": pa.array(range(number * 100, number * 100 + rows), pa.int64())})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=group)
        files.append(File(path=f"{number}.parquet", bytes=0, sha256="", rows=rows))
    store = Context(folder).store
    chunks = [read_slices(store, slices)["row"].to_pylist() for slices in chunk_rows(files, size)]
    assert [row for part in chunks for row in part] == [*range(rows), *range(100, 100 + rows)]
    if rows:
        assert read_slices(store, [Slice("1.parquet", rows - 1, 1)])["row"].to_pylist() == [100 + rows - 1]
