"""Lists, archives and pages without a row: the stages that read them end with an account of nothing, or say so."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adopting import adopted

from infra.errors import DataError
from infra.formats.testset import EvalSet
from pipelines import download, extract, urls

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"


def page(body: bytes) -> bytes:
    """A WARC record of a page."""
    payload = RESPONSE + body
    head = (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.example/\r\n"
        b"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-000000000000>\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        b"Content-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n" % len(payload)
    )
    return head + payload + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("archive", "entered"),
    [(b"", 0), (page(b"<p>words and no image</p>"), 0), (page(b"<img src=x.jpg>"), 1)],
    ids=["no record", "no image", "no caption"],
)
def test_archives_without_a_pair_give_downloads_without_a_row(ray_cluster, finished, tmp_path, archive, entered):
    path = tmp_path / "x.warc.gz"
    path.write_bytes(gzip.compress(archive))
    pairs = finished(extract.run, extract.Config(), {"pages": adopted(path, "archives")})
    assert (pairs.manifest.funnel.entered, pairs.manifest.funnel.kept) == (entered, 0)
    images = finished(download.run, download.Config(), {"pairs": pairs})
    assert (images.manifest.funnel.entered, images.manifest.funnel.kept) == (0, 0)


def test_a_table_without_a_row_is_named(ray_cluster, finished, tmp_path):
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in ("url", "text")}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="the list has no rows") as caught:
        finished(urls.run, urls.Config(), {"list": adopted(tmp_path / "a.parquet", "url_list")})
    assert "a.parquet is empty" in caught.value.found


def test_test_sets_without_a_sample_are_told(tmp_path):
    """A set of no shards, and one whose shard holds nothing."""
    for name, shards in (("none", 0), ("hollow", 1)):
        folder = tmp_path / "sets" / name
        (folder / "test").mkdir(parents=True)
        (folder / "dataset_type.txt").write_text("retrieval")
        (folder / "test/nshards.txt").write_text(str(shards))
    (tmp_path / "sets/hollow/test/0.tar").write_bytes(bytes(10240))
    sets = adopted(tmp_path / "sets", "testsets")
    for name in ("none", "hollow"):
        with pytest.raises(DataError, match=f"test set '{name}' is empty"):
            list(EvalSet.open(sets, name, "test"))
