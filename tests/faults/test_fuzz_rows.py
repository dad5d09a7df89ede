"""Fuzzing of whole ways: from a listed URL to a committed row, and from a page to its pairs.

The stages' own steps, on lists, answers, images and pages that had accidents. Whatever they hold, every row has an
outcome and none of them is an error that nobody foresaw.
"""

from __future__ import annotations

import asyncio
import datetime
import decimal
import io
import json
import tarfile
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adopting import adopted
from bombs import HEALTHY_IMAGE, HEALTHY_PAGE, picture
from hypothesis import given
from hypothesis import strategies as st
from loopback import serving
from mutation import fuzz, mutated, urls
from PIL import Image

from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact
from infra.schema import Drop, Status
from pipelines import crawl, download, extract
from pipelines import urls as url_lists
from pipelines.crawl import shard as crawl_shard
from pipelines.crawl.frontier_tables import Due
from pipelines.download import shard as download_shard
from pipelines.extract import shard as extract_shard
from pipelines.layout import chunk_rows, kept_files
from pipelines.web import Web
from pipelines.web.urls import BadUrlError, canonical

REASONS = {*map(str, Drop)} - {str(Drop.UNFORESEEN)}
IMAGES = [picture("JPEG"), picture("PNG", "P"), picture("WEBP"), picture("GIF"), picture("BMP")]


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK", kind: bytes = b"image/jpeg") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Type: " + kind, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def web(port: int) -> Web:
    """Limits that nobody waits for; every name leads to the server of the test."""
    return Web(
        connect_to={"*": f"127.0.0.1:{port}"},
        retries=0,
        deadline_s=3.0,
        connect_s=3.0,
        max_delay_s=0.0,
        host_concurrency=64,
        breaker_failures=1_000_000,
        max_image_bytes=1 << 20,
        max_page_bytes=1 << 20,
    )


def served(data: bytes):
    """A route that sends ``data`` and hangs up, so that nobody waits for what was cut off."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        with suppress(ConnectionError):
            await writer.drain()

    return send


@pytest.fixture(scope="module")
def server():
    """``routes`` may be changed at any time."""
    with serving({}) as site:
        yield site


# --- answers ----------------------------------------------------------------------------------------------------------

_HEADER = st.sampled_from(
    [
        *(b"X-Robots-Tag: noai", b"X-Robots-Tag: \xff, clipline: none", b"tdm-reservation: 1", b"Refresh: 0; url=\0"),
        *(
            b"Content-Encoding: gzip",
            b"Content-Encoding: br",
            b"Content-Encoding: \xfc",
            b"Retry-After: 99999999999999",
        ),
        *(b"Transfer-Encoding: chunked", b"Content-Type: text/html; charset=\xe9", b"Set-Cookie: a=b", b"Date: \xb2"),
    ]
)
_STATUS = st.sampled_from(
    [b"200 OK", b"200", b"206 Partial", b"204 No", b"304 No", b"404 N\xf6", b"429 S", b"500 O", b"999 ?"]
)


@st.composite
def answers(draw, bodies: list[bytes], kind: bytes) -> bytes:
    """An answer with an accident: in its body, in its headers, anywhere; or a redirect to nowhere good."""
    match draw(st.sampled_from(("good", "body", "headers", "anywhere", "redirect"))):
        case "good":
            return answer(draw(st.sampled_from(bodies)), kind=kind)
        case "body":
            return answer(draw(mutated(bodies)), kind=kind)
        case "headers":
            headers = draw(st.lists(_HEADER, max_size=3))
            return answer(draw(st.sampled_from(bodies)), *headers, status=draw(_STATUS), kind=kind)
        case "anywhere":
            return draw(mutated([answer(body, kind=kind) for body in bodies]))
    target = draw(urls).encode("utf-8", draw(st.sampled_from(["surrogatepass", "replace"])))
    return answer(b"", b"Location: " + target.replace(b"\n", b"").replace(b"\r", b""), status=b"302 Found")


# --- from a listed URL to a committed row -----------------------------------------------------------------------------

_TEXT = st.text(max_size=30) | st.sampled_from(
    ["\0", "\u2028", "\ufeff", "a\tb", "é" * 1000, "&amp;#x110000;", "\ufffe"]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=5,
)
_MOMENT = st.datetimes() | st.sampled_from([datetime.datetime.min, datetime.datetime.max])
_TYPED = {
    "when": (pa.timestamp("us", "UTC"), _MOMENT),
    "day": (pa.date32(), st.dates()),
    "took": (pa.duration("ms"), st.timedeltas()),
    "price": (pa.decimal128(38, 9), st.decimals(-(10**20), 10**20, places=9).map(decimal.Decimal)),
    "raw": (pa.large_binary(), st.binary(max_size=9)),
    "score": (pa.float16(), st.floats(width=16)),
}


@st.composite
def lists(draw) -> tuple[bytes, str, int, list[bytes]]:
    """A list as a file, its format, the number of its rows, and what the servers of its rows answer."""
    count = draw(st.integers(1, 12))
    replies = [draw(answers(IMAGES, b"image/jpeg")) for _ in range(count)]
    rows = [{"url": draw(_listed(number)), "caption": draw(_TEXT | st.none())} for number in range(count)]
    if draw(st.booleans()):
        for row in rows:
            row |= draw(st.dictionaries(st.sampled_from(["meta", "width", "key", "a b", "ä"]), _JSON, max_size=3))
        return "".join(json.dumps(row) + "\n" for row in rows).encode(), "jsonl", count, replies
    names = draw(st.lists(st.sampled_from(sorted(_TYPED)), unique=True, max_size=3))
    columns = {name: pa.array([row[name] for row in rows], pa.string()) for name in ("url", "caption")}
    for name in names:
        kind, values = _TYPED[name]
        columns[name] = pa.array([draw(st.none() | values) for _ in rows], kind)
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue(), "parquet", count, replies


def _listed(number: int):
    """URLs of a row: mostly of its own host, whose server answers."""
    good = f"http://h{number}.example/{number}.jpg"
    odd = urls.map(lambda text: text.encode("utf-8", "replace").decode())
    return st.just(good) | st.sampled_from(["?", "#", "/", " ", "\t", "%00", "é"]).map(good.__add__) | odd


@pytest.mark.usefixtures("ray_cluster")
@fuzz(15)
@given(lists())
def test_from_a_listed_url_to_a_committed_row(server, listed):
    """Each row of the list is dropped or in a shard, in order, with its outcome; the tar holds the successes."""
    data, form, count, replies = listed
    server.routes.clear()
    for number, reply in enumerate(replies):
        server.routes |= {f"h{number}.example/{number}.jpg": served(reply)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / f"list.{form}"
        path.write_bytes(data)
        context = Context(folder / "pairs")
        pairs = Artifact(context.store, url_lists.run(url_lists.Config(), {"list": adopted(path, "url_list")}, context))
        funnel = pairs.manifest.funnel
        assert funnel.entered == count and funnel.dropped.keys() <= REASONS
        kept = [row for file in kept_files(pairs) for row in pq.read_table(folder / "pairs" / file.path).to_pylist()]
        settings = download.Config(web=web(server.port), samples_per_shard=5, image_size=32, max_image_area=1_000_000)
        batch = [
            ((number, parts), ShardOutput(Context(folder / "images").store, f"{number:05d}"))
            for number, parts in enumerate(chunk_rows(kept_files(pairs), settings.samples_per_shard))
        ]
        records = list(download_shard.work(download_shard.Work(settings, pairs.store), batch))
        rows = []
        for record in sorted(records, key=lambda record: record.shard):
            table = pq.read_table(folder / f"images/data/{record.shard}.parquet").to_pylist()
            rows += table
            assert record.funnel.dropped.keys() <= REASONS and "unforeseen" not in record.facts
            assert record.funnel.entered == len(table)
            check_tar(folder / f"images/data/{record.shard}.tar", table)
        assert [(row["uid"], row["url"]) for row in rows] == [(row["uid"], row["url"]) for row in kept]


def check_tar(path: Path, table: list[dict]) -> None:
    successes = [row["key"] for row in table if row["status"] == Status.SUCCESS]
    assert all((row["status"] == Status.SUCCESS) == (row["reason"] is None) for row in table)
    with tarfile.open(path) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}
    assert [name.partition(".")[0] for name in members if name.endswith(".jpg")] == successes
    for name, data in members.items():
        match name.partition(".")[2]:
            case "jpg":
                with Image.open(io.BytesIO(data)) as image:
                    assert min(image.size) <= 32
            case "json":
                assert json.loads(data)["key"] == name.partition(".")[0]
            case "txt":
                assert data.decode()


# --- from a page to its pairs -----------------------------------------------------------------------------------------

PAGES = [
    HEALTHY_PAGE,
    b"""<html lang=de><meta charset=utf-8><base href="/b/"><meta property="og:image" content="/o.jpg"><meta
    property="og:title" content="T"><link rel=license href=/l><script type="application/ld+json">{"@type":"ImageObject",
    "contentUrl":"/j.jpg","caption":"C"}</script><picture><source srcset="a.webp 1x, b.webp 2x"><img src=a.jpg
    alt="A &amp; B"></picture><figure><img data-src=f.jpg><figcaption>F <i>i</i></figcaption></figure><noscript><img
    src=n alt=N></noscript><a href="?q">q</a><a rel=nofollow href=x>x</a>""",
    "<p>grüße <a href=ü#x><img alt='日本語' src=ü.jpg title='\u202e rtl'></a>".encode("utf-16"),
    b"<img src=" + b"a" * 5000 + b" alt=long>" + b"<div>" * 300 + b"<img src=b alt=deep>",
]


@pytest.mark.long
@fuzz(30)
@given(st.lists(answers(PAGES, b"text/html; charset=utf-8"), min_size=1, max_size=8), st.lists(urls, max_size=4))
def test_from_a_page_to_its_pairs(server, replies, odd):
    """Each URL has an outcome, each page that is kept is read back, and each candidate is a pair or dropped."""
    server.routes.clear()
    listed = [f"http://p{number}.example/x" for number in range(len(replies))]
    for url, reply in zip(listed, replies, strict=True):
        server.routes |= {url.removeprefix("http://"): served(reply)}
    for url in odd:
        with suppress(BadUrlError):
            listed.append(canonical(url))
    listed = list(dict.fromkeys(listed))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = crawl.Config(seeds=["http://p0.example/"], allowed_hosts=["*"], web=web(server.port))
        due = [(position, Due(url, 0)) for position, url in enumerate(listed)]
        output = ShardOutput(Context(folder / "crawl").store, "0000-000")
        record = crawl_shard.work(crawl_shard.Shard("0000-000", due, settings), output)
        found = pq.read_table(folder / "crawl/data/0000-000.urls.parquet").to_pylist()
        assert [row["url"] for row in found] == listed
        assert Counter(row["reason"] for row in found if row["reason"]) == Counter(record.funnel.dropped)
        assert record.funnel.dropped.keys() <= REASONS
        check_pairs(folder, str(folder / "crawl/data/0000-000.warc.gz"), record.funnel.kept)


def check_pairs(folder: Path, archive: str, pages: int) -> None:
    store = Context(folder / "extract").store
    shard = extract_shard.Pages("00000", archive, 1, extract.Config())
    record = extract_shard.find_candidates(shard, ShardOutput(store, "candidates-00000"))
    records = record.facts["records"]
    assert records.get("page", 0) == pages and not records.get("damaged") and "unforeseen" not in record.facts
    extract_shard.find_duplicates(extract_shard.Ids(0, ["00000"]), ShardOutput(store, "duplicates-0000"))
    written = extract_shard.write_pairs(extract_shard.Pairs(0, "00000", 1), ShardOutput(store, "pairs-00000"))
    assert written.funnel.dropped.keys() <= REASONS
    pairs = pq.read_table(folder / "extract/data/pairs-00000.parquet").to_pylist()
    assert len({row["uid"] for row in pairs}) == len(pairs) == written.funnel.kept
    for row in pairs:
        assert canonical(row["url"]) == row["url"] and row["caption"].strip()


def test_the_seeds_of_the_fuzzing_come_through(server):
    """Or nothing that follows them would be tried."""
    for body in (*IMAGES, HEALTHY_IMAGE):
        Image.open(io.BytesIO(body)).load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server.routes.clear()
        server.routes |= {f"p{n}.example/x": served(answer(page, kind=b"text/html")) for n, page in enumerate(PAGES)}
        settings = crawl.Config(seeds=["http://p0.example/"], allowed_hosts=["*"], web=web(server.port))
        due = [(n, Due(f"http://p{n}.example/x", 0)) for n in range(len(PAGES))]
        output = ShardOutput(Context(folder / "crawl").store, "0000-000")
        record = crawl_shard.work(crawl_shard.Shard("0000-000", due, settings), output)
        assert record.funnel.kept == len(PAGES)
        check_pairs(folder, str(folder / "crawl/data/0000-000.warc.gz"), len(PAGES))
        assert pq.read_table(folder / "extract/data/pairs-00000.parquet").num_rows >= 8
