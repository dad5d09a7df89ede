"""The recipe ``common_crawl``: from a list of archives to images."""

from __future__ import annotations

import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import answer, serving
from PIL import Image

from infra.run.context import Context
from infra.run.manifest import Artifact
from pipelines.formats.warc import Writer
from workflows.recipe import load

DATE = "2026-01-01T00:00:00Z"


@pytest.fixture
def image_server():
    """The port of a server of four images."""
    out = io.BytesIO()
    Image.new("RGB", (300, 260), "teal").save(out, "JPEG")
    with serving(dict.fromkeys(("/0.jpg", "/1.jpg", "/2.jpg", "/dir/9.jpg"), answer(out.getvalue()))) as served:
        yield served.port


def archives(folder):
    """A WARC file of ours, a WAT file of Common Crawl's kind, and the list of both."""
    with (folder / "a.warc.gz").open("wb") as sink:
        warc = Writer(sink, "a.warc.gz", DATE, {})
        for n in range(3):
            body = b'<html lang=en><img src="/%d.jpg" alt="picture number %d">' % (n, n)
            warc.page(f"http://a.example/{n}", DATE, 200, [("Content-Type", "text/html")], body, [])
    link = {"path": "IMG@/src", "url": "/2.jpg", "alt": "picture number 2"}
    html = {"Head": {}, "Links": [link, link | {"url": "9.jpg", "alt": "the last one"}]}
    response = {"Response-Message": {"Status": "200"}, "Headers": {}, "HTML-Metadata": html}
    head = {"WARC-Target-URI": "http://a.example/dir/"}
    envelope = {"Payload-Metadata": {"HTTP-Response-Metadata": response}, "WARC-Header-Metadata": head}
    block = json.dumps({"Envelope": envelope}).encode()
    header = b"WARC/1.0\r\nWARC-Type: metadata\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    (folder / "b.wat.gz").write_bytes(gzip.compress(header % len(block) + block + b"\r\n\r\n"))
    (folder / "some.paths.gz").write_bytes(gzip.compress(b"a.warc.gz\nb.wat.gz\nc.wat.gz\n"))


def test_from_archives_to_images(ray_cluster, tmp_path, image_server):
    archives(tmp_path)
    parameters = {"prefix": str(tmp_path), "max_files": 2, "connect_to": {"*.example": f"127.0.0.1:{image_server}"}}
    workflow = load("common_crawl").function(paths=["some.paths.gz"], **parameters)
    stages = {stage.name: stage for stage in workflow.stages}
    curated = ["pages", "extract", "download", "filter", "dedup", "balance", "shard"]
    assert list(stages) == [*curated, "train", "embed", "retrieval"]

    context = Context(tmp_path / "pages", location=stages["pages"].config.location())
    pages = Artifact(context.store, stages["pages"].run(stages["pages"].config, {}, context))
    context = Context(tmp_path / "extract")
    pairs = Artifact(context.store, stages["extract"].run(stages["extract"].config, {"pages": pages}, context))
    assert (pairs.manifest.funnel.kept, pairs.manifest.funnel.dropped) == (4, {"duplicate_pair": 1})
    context = Context(tmp_path / "download")
    manifest = stages["download"].run(stages["download"].config, {"pairs": pairs}, context)
    assert manifest.funnel.kept == 4
    table = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / "download/data").glob("*.parquet")))
    assert table["caption"].to_pylist() == [*(f"picture number {n}" for n in range(3)), "the last one"]
