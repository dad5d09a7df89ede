"""WAT records: the same pairs as from the page itself, as far as a WAT has them; and malformed records."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wat_writer import document, record

from infra.run.context import Context, ShardOutput
from pipelines.extract.config import Config
from pipelines.extract.shard import Pages, Rows, as_rows, find_candidates, page_rows, wat_rows
from pipelines.formats.warc import Page, Reader
from pipelines.formats.wat import WatPage

URL = "https://a.example/dir/page?x=1"
KNOWN = Config(sources=("alt", "title", "og", "twitter"))


def of_wat(html, headers=(), config=KNOWN):
    return wat_rows(WatPage.parse(json.dumps(document(URL, html, headers)).encode()), config)


def of_page(html, headers=(), config=KNOWN):
    return page_rows(Page(URL, list(headers), html.encode()), config)[0]


@pytest.mark.parametrize(
    ("html", "headers"),
    [
        ("<img src=i.jpg alt='an &eacute;clair' title=sweet><img src=/2.jpg><img src=x:y alt=bad>", ()),
        ("<html lang=pt-BR><base href=//b.example/q/><img src='i m.jpg?a=1&amp;b=2#f' alt=x>", ()),
        ("<meta property=og:image content=/o.jpg><meta property=og:title content='The page'><p>", ()),
        ("<meta name=twitter:image content=/t.jpg><meta name=twitter:image:alt content=card><p>", ()),
        ("<meta name=robots content='noai, noimageai'><img src=1.jpg alt=one><img src=2.jpg alt=>", ()),
        ("<meta name=tdm-reservation content=1><img src=1.jpg alt=one>", ()),
        ("<img src=1.jpg alt=one>", [("X-Robots-Tag", "noindex"), ("X-Robots-Tag", "googlebot: nofollow")]),
        ("<img src=1.jpg alt=one>", [("Content-Language", "de, en")]),
        ("<img src=1.jpg alt=one>", [("content-usage", "train-ai=n"), ("Content-Signal", "ai-train=no")]),
        ("<img src=1.jpg alt=one>", [("Link", "<https://b.example/by>; rel=license")]),
        ("<img src=1.jpg alt=one>", [("Link", "</t.xml>; rel=license; type=application/rsl+xml")]),
        ("<link rel=license type=application/rsl+xml href=/t.xml><img src=1.jpg alt=one>", ()),
        ("<link rel=license href=/cc0><a rel=license href=/other>c</a><img src=1.jpg alt=one>", ()),
        ("<a rel='nofollow license' href=/by>c</a><img src=1.jpg alt='\u202ea\u200b  b'><img src=1.jpg alt=ab>", ()),
        ("<p>nothing", ()),
    ],
)
def test_the_same_rows_as_from_the_page(html, headers):
    assert of_wat(html, headers) == of_page(html, headers)


WORDS = st.text(alphabet="ab é图&;<\u200b\"'", max_size=8)


PLACES = st.sampled_from(["/1.jpg", "2.jpg", "//b.example/3", "data:x", ""])


@given(st.lists(st.tuples(PLACES, WORDS, WORDS), max_size=5))
def test_the_same_rows_for_any_images(images):
    def quoted(text):
        return text.replace("&", "&amp;").replace('"', "&quot;")

    html = "".join(f'<img src="{src}" alt="{quoted(alt)}" title="{quoted(title)}">' for src, alt, title in images)
    assert of_wat(html) == of_page(html)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda j: st.lists(j) | st.dictionaries(st.text(), j)
)


@pytest.mark.long
@given(st.sampled_from(["Metas", "Base", "Link", "Links", "Headers", "url", "alt", "WARC-Target-URI", "Status"]), JSON)
def test_any_value_in_any_place(key, value):
    def put(node):
        if isinstance(node, dict):
            return {name: value if name == key else put(item) for name, item in node.items()}
        return [put(item) for item in node] if isinstance(node, list) else node

    html = "<base href=/b><link rel=license href=/l><meta name=robots content=noai><img src=1 alt=x><img src=2 alt=y>"
    reader = Reader(io.BytesIO(record(put(document(URL, html))) + record(document(URL, html))), 1 << 20)
    rows = Rows(reader, KNOWN)
    found = [row for table in rows.batches() for row in as_rows(table)]
    kept = [row for row in found if row.reason != "unforeseen_error"]
    assert [row.caption for row in kept[-2:]] == ["x", "y"]  # the neighbour
    assert sum(rows.facts["records"].values()) == 2
    assert rows.pages in (1, 2)


def test_malformed_records_affect_no_others(tmp_path):
    good = record(document(URL, "<img src=1.jpg alt=one>"))
    other = [b"{", b"[]", b'{"HTML-Metadata": IMG@', b'{"HTML-Metadata": "IMG@"}', b"\xff\xfe", b"via: x\r\n"]
    redirect = record(document(URL, "<img src=1.jpg alt=one>", status="301"))
    cut = good[:-20]
    path = tmp_path / "x.warc.wat.gz"
    path.write_bytes(good.join([b"", *map(record, other), redirect, cut]))
    output = ShardOutput(Context(tmp_path / "out").store, "candidates-00000")
    facts = find_candidates(Pages("00000", str(path), 1, KNOWN), output).facts
    assert facts["records"] == {"damaged": 3, "other_kind": 5, "page": 8} and facts["cut_pages"] == 0


VALUES = st.sampled_from(["IMG@/src", "A@/href", "/1.jpg", "one", "license", "robots", "noai", "og:image"])
NAMES = st.sampled_from(["path", "url", "alt", "title", "rel", "name", "property", "content", "other"])
TAGS = st.lists(st.dictionaries(NAMES, VALUES), max_size=4)


@given(TAGS, TAGS, TAGS, st.sampled_from(["/b/", None]))
def test_decoded_whole_or_not_it_is_the_same_page(metas, head, links, base):
    page = document(URL, "", [("X-Robots-Tag", "noindex"), ("X-Robots-Tag", "bot: noai"), ("Server", "x")])
    html = page["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]["HTML-Metadata"]
    html |= {"Head": {"Metas": metas, "Link": head}, "Links": links}
    if base:
        html["Head"]["Base"] = base
    strict = WatPage.parse(json.dumps(page).encode())
    html["Links"] = [*links, 5]  # no link: now the record is decoded whole
    assert WatPage.parse(json.dumps(page).encode()) == strict
