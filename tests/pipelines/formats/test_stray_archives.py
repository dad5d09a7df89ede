"""Archives as the world's writers leave them: the same pages from each, and as warcio reads them where it can."""

import gzip
import io
import zlib

import brotli
import pytest
from adopting import adopted
from fastwarc.stream_io import ZstdWriter
from warcio.archiveiterator import ArchiveIterator

from infra.run.context import Context
from pipelines import extract
from pipelines.extract.config import Config
from pipelines.extract.shard import Rows, as_rows
from pipelines.formats.warc import Reader

CAP = 1 << 20
HTML = [f"<html><body><p>Straße {n}</p><img src=/{n}.jpg alt='fox {n}'>{'x' * n * 40}</body></html>" for n in range(6)]
PAGES = [(f"http://p.example/{n}", html.encode()) for n, html in enumerate(HTML)]
PLAIN_TYPE = b"Content-Type: text/html; charset=utf-8\r\n"


def zstd(data: bytes) -> bytes:
    sink = io.BytesIO()
    with ZstdWriter(sink) as writer:
        writer.write(data)
    return sink.getvalue()


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def chunked(data: bytes, extension: bytes = b"", end: bytes = b"\r\n") -> bytes:
    pieces = [data[at : at + 50] for at in range(0, len(data), 50)]
    return b"".join(b"%X%s%s%s%s" % (len(p), extension, end, p, end) for p in pieces) + b"0" + end + end


def http(body: bytes, fields: bytes = PLAIN_TYPE, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return status + b"\r\n" + fields + b"\r\n" + body


def warc(block: bytes, url: str, kind: bytes = b"response", media: bytes = b"application/http; msgtype=response"):
    head = b"WARC/1.0\r\nWARC-Type: %s\r\nWARC-Record-ID: <urn:uuid:%s>\r\nWARC-Date: 2020-01-01T00:00:00Z\r\n"
    head += b"WARC-Target-URI: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (kind, b"0" * 32, url.encode(), media, len(block)) + block + b"\r\n\r\n"


def arc(block: bytes, url: str, version: int = 1) -> bytes:
    more = b"200 - - 0 x.arc.gz " if version == 2 else b""
    return b"%s 192.0.2.1 20020102030405 text/html %s%d\n" % (url.encode(), more, len(block)) + block + b"\n"


def arc_head(version: int = 1) -> bytes:
    fields = b"URL IP-address Archive-date Content-type "
    fields += b"Result-code Checksum Location Offset Filename " if version == 2 else b""
    return arc(b"%d 0 Internet Archive\n%sArchive-length\n" % (version, fields), "filedesc://x.arc", version)


def heads(record: bytes, change) -> bytes:
    """The record with its WARC header changed."""
    head, gap, block = record.partition(b"\r\n\r\n")
    return change(head + gap) + block


def lower(head: bytes) -> bytes:
    first, *rest = head.split(b"\r\n")
    named = [line.partition(b":") for line in rest]
    return b"\r\n".join([first, *(name.lower() + colon + value for name, colon, value in named)])


def bare(head: bytes) -> bytes:
    return head.replace(b"\r\n", b"\n")


def folded(head: bytes) -> bytes:
    return head.replace(b"application/http; ", b"application/http;\r\n\t")


def each(make) -> list[bytes]:
    return [make(body, url) for url, body in PAGES]


def coded(fields: bytes, code=bytes) -> list[bytes]:
    """Responses with these header lines besides their Content-Type, and their bodies in a coding."""
    return each(lambda body, url: warc(http(code(body), PLAIN_TYPE + fields + b"\r\n"), url))


def headed(change) -> list[bytes]:
    return each(lambda body, url: heads(warc(http(body), url), change))


FOLDED_TYPE = b"Content-Type: text/html;\r\n  charset=utf-8\r\n"
CHUNKED, GZIP = b"Transfer-Encoding: chunked", b"Content-Encoding: gzip"
RECORDS = {
    "as the standard has it": headed(bytes),
    "LF in WARC headers": headed(bare),
    "LF in HTTP headers": each(lambda body, url: warc(bare(http(b"")) + body, url)),
    "LF everywhere": each(lambda body, url: heads(warc(bare(http(b"")) + body, url)[:-4] + b"\n\n", bare)),
    "a bare LF in one line": headed(lambda head: head.replace(b"\r\n", b"\n", 3)),
    "names in lower case": headed(lower),
    "names in upper case": each(lambda body, url: warc(http(body, b"CONTENT-TYPE: TEXT/HTML\r\n"), url)),
    "a version of old": headed(lambda head: head.replace(b"WARC/1.0", b"WARC/0.17")),
    "no space behind colons": headed(lambda head: head.replace(b": ", b":")),
    "folded headers": each(lambda body, url: heads(warc(http(body, FOLDED_TYPE), url), folded)),
    "addresses in brackets": each(lambda body, url: warc(http(body), f"<{url}>")),
    "one line end behind records": each(lambda body, url: warc(http(body), url)[:-2]),
    "many blank lines": each(lambda body, url: warc(http(body), url) + b"\r\n" * 20),
    "chunks": coded(CHUNKED, chunked),
    "chunks with extensions": coded(CHUNKED, lambda body: chunked(body, b';a="1";b')),
    "gzip": coded(GZIP, gzip.compress),
    "gzip in chunks": coded(GZIP + b"\r\n" + CHUNKED, lambda body: chunked(gzip.compress(body))),
    "deflate": coded(b"Content-Encoding: deflate", zlib.compress),
    "raw deflate": coded(b"Content-Encoding: deflate", raw_deflate),
    "decoded under the old headers": coded(GZIP + b"\r\n" + CHUNKED),
    "an unknown coding that is none": coded(b"Content-Encoding: utf-8"),
    "HTTP/1.0 without a phrase": each(lambda body, url: warc(http(body, status=b"HTTP/1.0 200"), url)),
}
ARC = [arc_head(), *each(lambda body, url: arc(http(body), url))]
BEYOND_WARCIO = {
    "ARC 1": ARC,  # which it reads unless it is one gzip member
    "ARC 2": [arc_head(2), *each(lambda body, url: arc(http(body), url, 2))],
    "chunks that end in LF": coded(CHUNKED, lambda body: chunked(body, end=b"\n")),
    "gzip twice": coded(b"Content-Encoding: gzip, GZIP", lambda body: gzip.compress(gzip.compress(body))),
    "gzip twice, in two headers": coded(
        GZIP + b"\r\nContent-Encoding: x-gzip", lambda body: gzip.compress(gzip.compress(body))
    ),
    "gzip, then br": coded(b"Content-Encoding: gzip, br", lambda body: brotli.compress(gzip.compress(body))),
    "gzip in transfer": coded(b"Transfer-Encoding: gzip, chunked", lambda body: chunked(gzip.compress(body))),
    "br": coded(b"Content-Encoding: br", brotli.compress),
    "zstd": coded(b"Content-Encoding: zstd", zstd),
    "br, decoded under the old headers": coded(b"Content-Encoding: br"),
    "deflate, decoded under the old headers": coded(b"Content-Encoding: deflate"),
    "interim responses first": each(
        lambda body, url: warc(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + http(body), url)
    ),
    "a protocol of later": each(lambda body, url: warc(http(body, status=b"HTTP/2 200"), url)),
    "resources": each(lambda body, url: warc(body, url, b"resource", b"text/html; charset=utf-8")),
    "responses without HTTP": each(lambda body, url: warc(body, url, b"response", b"text/html; charset=utf-8")),
}


def read(data: bytes) -> list[tuple[str, bytes]]:
    reader = Reader(io.BytesIO(data), CAP)
    found = [(page.url, page.body) for page in reader]
    assert (reader.damaged, reader.passed.total() - reader.passed["other_kind"]) == (0, 0)
    return found


def by_warcio(data: bytes) -> list[tuple[str, bytes]]:
    return [
        (record.rec_headers.get_header("WARC-Target-URI"), record.content_stream().read())
        for record in ArchiveIterator(io.BytesIO(data), arc2warc=True)
        if record.rec_type == "response"
    ]


PACKINGS = {
    "a member each": lambda records: b"".join(map(gzip.compress, records)),
    "one member": lambda records: gzip.compress(b"".join(records)),
    "not at all": lambda records: b"".join(records),
    "zstd": lambda records: b"".join(map(zstd, records)),
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("form", [*RECORDS, *BEYOND_WARCIO])
def test_the_same_pages_however_they_were_written(form, packing):
    assert read(PACKINGS[packing]((RECORDS | BEYOND_WARCIO)[form])) == PAGES


@pytest.mark.parametrize("form", RECORDS)
def test_warcio_reads_the_same(form):
    data = PACKINGS["a member each"](RECORDS[form])
    assert by_warcio(data) == read(data)


def test_warcio_reads_the_same_of_an_arc_file():
    for packing in ("a member each", "not at all"):
        assert by_warcio(PACKINGS[packing](ARC)) == PAGES


@pytest.mark.parametrize(
    ("fields", "is_page"),
    [
        (b"Content-Type: html\r\n", True),  # no media type: the content decides
        (b"Content-Type: text/html charset=utf-8\r\n", True),
        (b"Content-Type: text/html, text/html\r\n", True),
        (b"Content-Type: text/plain\r\nContent-Type: text/html\r\n", True),  # the last counts
        (b"Content-Type: text/html\r\nContent-Type: image/png\r\n", False),
        (b"Content-Type: text/html\r\nContent-Type: */*\r\n", True),
        (b"Content-Type: TEXT/HTML;charset='utf-8'\r\n", True),
        (b'Content-Type: "text/html"\r\n', True),
        (b"Content-Type:\r\n", True),
        (b"Content-Type: ;charset=utf-8\r\n", True),
        (b"X-Nothing: 1\r\n", True),
        (b"Content-Type: unknown/unknown\r\n", True),
        (b"Content-Type: application/xhtml+xml\r\n", True),
        (b"Content-Type: text/plain\r\n", False),
        (b"Content-Type: image/jpeg\r\n", False),
        (b"Content-Type: text/htmlx\r\n", False),
    ],
)
def test_content_types_as_browsers_read_them(fields, is_page):
    reader = Reader(io.BytesIO(warc(http(PAGES[0][1], fields), PAGES[0][0])), CAP)
    assert [page.url for page in reader] == [PAGES[0][0]] * is_page
    assert reader.passed["not_html"] == (not is_page)


def test_without_a_type_only_markup_is_a_page():
    for body, is_page in [
        (b"\xef\xbb\xbf \n<!DOCTYPE html><p>x", True),
        (b"<?xml version='1.0'?>\n<html xmlns='http://www.w3.org/1999/xhtml'/>", True),
        (b"<?xml version='1.0'?><rss/>", False),
        (b"plain words", False),
        (b"%PDF-1.4", False),
        (b"\xff\xd8\xff\xe0", False),
    ]:
        reader = Reader(io.BytesIO(warc(http(body, b""), "http://a.example/")), CAP)
        assert len(list(reader)) == is_page, body


def labelled(coding: bytes, body: bytes) -> bytes:
    return http(body, PLAIN_TYPE + b"Content-Encoding: " + coding + b"\r\n")


BOMB = b"x" * 2 * CAP


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (labelled(b"compress", b"\x1f\x9d\x90" + bytes(range(256))), "content_coding"),
        (labelled(b"gzip", b"\x00\x01\x02" * 50), "content_coding"),
        (http(b"<p>", status=b"HTTP/1.1 404 Not Found"), "http_error"),
        (http(b"GIF89a", b"Content-Type: image/gif\r\n"), "not_html"),
        (b"20200101 dns:a.example", "not_html"),
        (http(b"x" * CAP), "too_large"),
        (labelled(b"gzip", gzip.compress(BOMB)), "too_large"),
        (labelled(b"gzip,gzip", gzip.compress(gzip.compress(BOMB))), "too_large"),
        (labelled(b"zstd", zstd(BOMB)), "too_large"),
        (labelled(b"br", brotli.compress(BOMB)), "too_large"),
    ],
)
def test_what_gives_no_page_is_counted_by_reason(block, reason):
    good = warc(http(b"<p>x"), "http://a.example/good")
    reader = Reader(io.BytesIO(good + warc(block, "http://a.example/") + good), CAP)
    assert [page.url[-4:] for page in reader] == ["good", "good"]
    assert (dict(reader.passed), reader.damaged) == ({reason: 1}, 0)


def test_records_of_other_kinds_are_counted():
    """A WET file holds the text of pages, without their images."""
    text = warc(b"plain text of a page", "http://a.example/", b"conversion", b"text/plain")
    rows = Rows(Reader(io.BytesIO(PACKINGS["a member each"]([text] * 3)), CAP), Config())
    assert sum(map(len, rows.batches())) == 0
    assert rows.facts["records"] == {"other_kind": 3}


def test_a_body_that_was_cut_is_read_up_to_there():
    """As browsers do: they show what came."""
    body = PAGES[5][1]
    for coded, fields in [
        (gzip.compress(body)[:-12], b"Content-Encoding: gzip\r\n"),
        (chunked(body)[:-30], b"Transfer-Encoding: chunked\r\n"),
        (body[:300], b"Content-Length: 100000\r\n"),
    ]:
        reader = Reader(io.BytesIO(warc(http(coded, PLAIN_TYPE + fields), "http://a.example/")), CAP)
        (found,) = [page.body for page in reader]
        assert body.startswith(found) and len(found) >= 250


@pytest.mark.parametrize("damage", ["cut", "noise", "length"])
def test_damage_to_an_arc_file_costs_one_record(damage):
    records = [arc_head(), *each(lambda body, url: arc(http(body), url))]
    hurt = {
        "cut": records[3][:60] + b"\n",
        "noise": b"\xff\xfe noise\n" + records[3][20:],
        "length": records[3].replace(b"text/html ", b"text/html 9", 1),
    }[damage]
    for packing in ("a member each", "not at all", "one member"):
        data = PACKINGS[packing]([*records[:3], hurt, *records[4:]])
        reader = Reader(io.BytesIO(data), CAP)
        assert [page.url for page in reader] == [url for url, _ in PAGES[:2] + PAGES[3:]]
        assert reader.damaged >= 1


def test_a_long_record_with_a_true_length_hides_no_archive_within_it():
    """A WARC file that was itself crawled: its records are not records of this one."""
    inner = b"\r\n\r\n".join(RECORDS["as the standard has it"]) * 1500
    assert len(inner) > CAP
    record = warc(http(inner, b"Content-Type: application/octet-stream\r\n"), "http://a.example/x.warc")
    good = warc(http(b"<p>x"), "http://a.example/good")
    for packing in ("a member each", "not at all", "one member"):
        reader = Reader(io.BytesIO(PACKINGS[packing]([good, record, good])), CAP)
        assert [page.url for page in reader] == ["http://a.example/good"] * 2
        assert (dict(reader.passed), reader.damaged) == ({"too_large": 1}, 0)


def test_a_long_record_with_a_false_length_costs_no_other():
    records = RECORDS["as the standard has it"]
    lies = [record.replace(b"Content-Length: ", b"Content-Length: 9000000", 1) for record in records]
    for packing in ("a member each", "not at all", "one member"):
        data = PACKINGS[packing]([records[0], lies[1], records[2], lies[3], records[4]])
        reader = Reader(io.BytesIO(data), CAP)
        assert [page.url for page in reader] == [PAGES[n][0] for n in (0, 2, 4)]
        assert reader.damaged == 2


def test_the_last_charset_counts():
    fields = b"Content-Type: text/html; charset=utf-8\r\nContent-Type: text/html; charset='windows-1251'\r\n"
    record = warc(http("<img src=1.jpg alt='Лиса'>".encode("cp1251"), fields), "http://a.example/")
    rows = Rows(Reader(io.BytesIO(record), CAP), Config())
    assert [row.caption for row in as_rows(next(rows.batches()))] == ["Лиса"]


@pytest.mark.parametrize(("hurt", "warned"), [(0, False), (1, False), (3, True)])
def test_a_success_with_many_damaged_records_warns(ray_cluster, tmp_path, caplog, hurt, warned):
    records = [warc(http(body), f"{url}{more}") for more in range(3) for url, body in PAGES]  # 18
    damaged = [record[:-40] + b"\r\n\r\n" for record in records[:hurt]]
    path = tmp_path / "x.warc.gz"
    path.write_bytes(PACKINGS["a member each"]([*damaged, *records[hurt:]]))
    manifest = extract.run(Config(), {"pages": adopted(path, "archives")}, Context(tmp_path / "out"))
    assert manifest.facts["records"] == {"damaged": hurt, "page": 18 - hurt} if hurt else {"page": 18}
    assert [f"{hurt} of 18 records are damaged" in record.getMessage() for record in caplog.records] == [True] * warned


def test_archives_without_pages_warn(ray_cluster, tmp_path, caplog):
    path = tmp_path / "x.wet.gz"
    path.write_bytes(gzip.compress(warc(b"the text", "http://a.example/", b"conversion", b"text/plain")))
    manifest = extract.run(Config(), {"pages": adopted(path, "archives")}, Context(tmp_path / "out"))
    assert manifest.funnel.entered == 0
    assert [record.getMessage() for record in caplog.records] == ["none of 1 records is an HTML page: other_kind 1"]
