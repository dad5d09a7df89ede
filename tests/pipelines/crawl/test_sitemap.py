"""Sitemaps: all formats, malformed and hostile input."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import tracemalloc
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.schema import Drop
from pipelines.crawl.sitemap import MAX_URLS, SitemapError, parse, walk
from pipelines.web import FetchError

A = "http://a.example"


def urlset(*urls, kind="urlset", item="url", head='<?xml version="1.0" encoding="UTF-8"?>'):
    items = "".join(f"<{item}><loc> {escape(url)}\n</loc><lastmod>2026</lastmod></{item}>" for url in urls)
    return f'{head}<{kind} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{items}</{kind}>'.encode()


def index(*urls):
    return urlset(*urls, kind="sitemapindex", item="sitemap")


def test_forms():
    urls = [f"{A}/?a=1&b=2", f"{A}/ü"]
    utf_16 = urlset(*urls, head="").decode().encode("utf-16")
    for body in (urlset(*urls), gzip.compress(urlset(*urls)), utf_16, b"\xef\xbb\xbf" + urlset(*urls)):
        assert parse(body).urls == urls
    assert parse(f"\ufeff{A}/1\r\n\n {A}/2 ".encode()).urls == [f"{A}/1", f"{A}/2"]
    assert parse(index(f"{A}/s.xml")).sitemaps == [f"{A}/s.xml"]
    picture = "<image:image><image:loc>http://a.example/i.jpg</image:loc></image:image>"
    with_image = f"<urlset><url>{picture}<loc>{A}/1</loc></url></urlset>"
    assert parse(with_image.encode()).urls == [f"{A}/1"]
    assert parse(f"<s:urlset><s:url><s:loc><![CDATA[{A}/1]]></s:loc></s:url></s:urlset>".encode()).urls == [f"{A}/1"]
    rss = f"<rss><channel><link>{A}/</link><item><link>{A}/1</link></item></channel></rss>"
    assert parse(rss.encode()).urls == [f"{A}/1"]
    atom = f'<feed><link href="{A}/"/><entry><link rel="edit" href="x"/><link href="{A}/1"/></entry></feed>'
    assert parse(atom.encode()).urls == [f"{A}/1"]
    assert parse(b"") == parse(b"<urlset/>") == ([], [], "")


def test_of_a_broken_one_what_came_before_the_break_is_taken():
    assert parse(urlset(f"{A}/1", f"{A}/2")[:-70]) == ([f"{A}/1"], [], "malformed XML")
    assert parse(gzip.compress(urlset(*[f"{A}/{n}" for n in range(999)]))[:-20]).urls[0] == f"{A}/0"
    many = parse(urlset(*[f"{A}/{n}" for n in range(MAX_URLS + 5)]))
    assert (len(many.urls), many.broken) == (MAX_URLS, "too many URLs")


BILLION = (
    '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>' + f"<urlset><url><loc>{A}/&b;</loc></url></urlset>"
)
OUTSIDE = f'<!DOCTYPE x SYSTEM "file:///etc/passwd"><urlset><url><loc>{A}/</loc></url></urlset>'


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (BILLION.encode(), "document type"),
        (OUTSIDE.encode(), "document type"),
        (b"<html><body>Not found</body></html>", "another kind"),
        (b"Not found", "neither"),
        (b"\x89PNG\r\n", "neither"),
        (b"<urlset", "malformed"),
        (b"<urlset>" + b"<url>" * 100_000, "nested"),
        (b'<?xml version="1.0" encoding="klingon"?><urlset/>', "unknown encoding"),
        (b"\x1f\x8bgarbage", "gzip"),
    ],
)
def test_what_is_no_sitemap_says_why(body, why):
    with pytest.raises(SitemapError, match=why):
        parse(body)


@pytest.mark.long
def test_a_bomb_stays_small():
    bomb = gzip.compress(b" " * (200 << 20), 1)
    tracemalloc.start()
    with pytest.raises(SitemapError, match="unpacked"):
        parse(bomb)
    assert tracemalloc.get_traced_memory()[1] < 150 << 20
    tracemalloc.stop()


@given(st.binary(max_size=300), st.integers(0, 400))
def test_whatever_comes_is_a_sitemap_or_an_error(noise, at):
    whole = urlset(f"{A}/1", f"{A}/2")
    for body in (noise, whole[:at] + noise + whole[at:], gzip.compress(whole)[:at] + noise):
        with contextlib.suppress(SitemapError):
            assert len(parse(body).urls) <= MAX_URLS


# --- from one to the next ---


def walked(files, start=f"{A}/s", **limits):
    async def get(url):
        asked.append(url)
        if url not in files:
            raise FetchError(Drop.HTTP_ERROR, "404")
        return files[url]

    async def all_of_them():
        return [one async for one in walk(start, get, limits.get("max_files", 99), limits.get("max_urls", 99))]

    asked: list[str] = []
    reads = asyncio.run(all_of_them())
    assert len(set(asked)) == len(asked)
    return reads


def test_indexes_are_followed_level_by_level_each_file_once():
    files = {
        f"{A}/s": index("/1", f"{A}/2", f"{A}/s", f"{A}/gone", "ftp://a.example/"),
        f"{A}/1": index(f"{A}/3", f"{A}/2"),
        f"{A}/2": urlset(f"{A}/x", f"{A}/y#z", "javascript:x"),
        f"{A}/3": b"nothing",
    }
    assert walked(files) == [
        (f"{A}/s", [], None, "", 1),
        (f"{A}/1", [], None, "", 0),
        (f"{A}/2", [f"{A}/x", f"{A}/y"], None, "", 1),
        (f"{A}/gone", [], Drop.HTTP_ERROR, "404", 0),
        (f"{A}/3", [], Drop.NOT_SITEMAP, "neither XML nor a list of URLs", 0),
    ]


def test_an_endless_tree_of_indexes_ends():
    deep = {f"{A}/{'s' * n}": index(f"{A}/{'s' * (n + 1)}") for n in range(1, 50)}
    reads = walked(deep)
    assert [read.reason for read in reads] == [None] * 4 + [Drop.BUDGET]
    wide = {f"{A}/s": index(*[f"{A}/{n}" for n in range(30)])} | {f"{A}/{n}": urlset(f"{A}/p{n}") for n in range(30)}
    reads = walked(wide, max_files=10)
    assert sum(read.reason is None for read in reads) == 10
    assert sum(read.reason is Drop.BUDGET for read in reads) == 21
    reads = walked(wide, max_urls=5)
    assert sum(len(read.urls) for read in reads) == 5
    assert "more than 5" in reads[-1].detail
