"""The extraction: what a page shows, what is said of it, and that nothing is lost or kept twice."""

import gzip
import hashlib
import io
import random
from collections import Counter

import lxml.html
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.context import Context
from infra.manifest import Artifact
from infra.schema import pairs_schema
from pipelines import extract
from pipelines.candidates import SOURCES, candidates, license_of, parse_srcset
from pipelines.extract_shard import find_duplicates, page_rows, uid
from pipelines.page import Html, decode
from pipelines.text import clean, has_words, shorten
from pipelines.warc import Page, Reader, Writer

URL = "http://a.example/dir/page"
DATE = "2026-01-01T00:00:00Z"


def found(html, sources=SOURCES, headers=()):
    page = Html.parse(URL, list(headers), html.encode() if isinstance(html, str) else html)
    return [
        (item.url.removeprefix("http://a.example"), item.text, item.source, item.reason and str(item.reason))
        for item in candidates(page, sources, 100)
    ]


def kept(html, **kwargs):
    return [(url, text, source) for url, text, source, reason in found(html, **kwargs) if reason is None]


# --- which texts ---


def test_texts_of_an_image_and_their_order():
    html = """<meta property="og:image" content="/o.jpg"><meta property="og:title" content="The page">
    <figure><a><img src="i.jpg" alt="an &eacute;clair" title="sweet"></a>
    <figcaption>A <b>cake</b><br>today</figcaption></figure>"""
    assert kept(html) == [
        ("/dir/i.jpg", "an éclair", "alt"),
        ("/dir/i.jpg", "A cake today", "figcaption"),
        ("/dir/i.jpg", "sweet", "title"),
        ("/o.jpg", "The page", "og"),
    ]
    assert [source for *_, source in kept(html, sources=("title", "alt"))] == ["title", "alt"]


def test_captions_of_nested_figures_and_older_markup():
    html = """<figure><figure><img src="1"><figcaption>in</figcaption></figure>
    <img src="2"><figcaption>out</figcaption></figure>
    <div class="wp-caption"><img src="3"><p class="wp-caption-text">old</p></div><figcaption>stray</figcaption>"""
    assert kept(html) == [
        ("/dir/1", "in", "figcaption"),
        ("/dir/2", "out", "figcaption"),
        ("/dir/3", "old", "figcaption"),
    ]


def test_open_graph_prefers_the_images_own_text():
    html = """<meta property="og:image" content="/1"><meta property="og:image:secure_url" content="https://a.example/1">
    <meta property="og:image:alt" content="first"><meta property="og:image" content="/2">
    <meta property="og:description" content="about it all">"""
    assert kept(html) == [("/1", "first", "og"), ("/2", "about it all", "og")]


# --- which address ---


@pytest.mark.parametrize(
    ("markup", "wanted"),
    [
        ('<img src="s.jpg" srcset="a.jpg 100w, b.jpg 800w, c.jpg 400w" alt="x">', "/dir/b.jpg"),
        ('<img src="s.jpg" srcset="a.jpg, b.jpg 2x" alt="x">', "/dir/b.jpg"),
        ('<img src="s.jpg" srcset="a.jpg 1x" alt="x">', "/dir/s.jpg"),
        ('<img srcset="a.jpg 1x" alt="x">', "/dir/a.jpg"),
        ('<img src="data:image/gif;base64,R0" data-src="l.jpg" alt="x">', "/dir/l.jpg"),
        ('<img src="blank.gif" data-srcset="l.jpg 300w, m.jpg 600w" alt="x">', "/dir/m.jpg"),
        ('<img src="s.jpg" data-original="{json}" alt="x">', "/dir/s.jpg"),
        ('<picture><source media="(max-width: 9px)" srcset="t.jpg"><img src="s.jpg" alt="x"></picture>', "/dir/s.jpg"),
        ('<picture><source srcset="a.avif 900w" type="image/avif"><img src="s.jpg" alt="x"></picture>', "/dir/s.jpg"),
        (
            '<picture><source srcset="a.webp 9w, b.webp 90w" type="image/webp"><img src="s.jpg" alt="x"></picture>',
            "/dir/b.webp",
        ),
        ('<noscript><img src="n.jpg" alt="x"></noscript>', "/dir/n.jpg"),
        (
            '<base href="//b.example/q/"><img src="i m.jpg?a=1&amp;b=2#f" alt="x">',
            "http://b.example/q/i%20m.jpg?a=1&b=2",
        ),
        ("<IMG SRC=i.jpg ALT=x", None),
        ("<p><img alt=x src=i.jpg /></span><div>", "/dir/i.jpg"),
    ],
)
def test_the_best_address(markup, wanted):
    assert kept(markup) == ([(wanted, "x", "alt")] if wanted else [])


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("a 1x, b 2x", [("a", 0, 1), ("b", 0, 2)]),
        ("a,b 3w", [("a,b", 3, 1)]),
        ("a, b", [("a", 0, 1), ("b", 0, 1)]),
        (" , a 10w 5h ,", [("a", 10, 1)]),
        ("data:image/gif;base64,R0lG 1x, b 1.5x", [("data:image/gif;base64,R0lG", 0, 1), ("b", 0, 1.5)]),
        ("a 1e99w", [("a", 0, 1)]),
        ("", []),
        (",,,", []),
    ],
)
def test_srcset(value, wanted):
    assert parse_srcset(value) == wanted


@given(st.text(alphabet="a,b :w12x\n\t.", max_size=60))
def test_srcset_ends_on_anything(value):
    assert all(address and not address.endswith(",") for address, *_ in parse_srcset(value))


# --- what goes no further ---


@pytest.mark.parametrize(
    ("markup", "reason"),
    [
        ('<img src="i.jpg">', "no_text"),
        ('<img src="i.jpg" alt="">', "no_text"),
        ('<img src="i.jpg" alt=" \u200b -- ">', "no_text"),
        ('<img src="data:image/png;base64,AAAA" alt="x">', "bad_url"),
        ('<img src="javascript:x()" alt="x">', "bad_url"),
        ('<img src="http://[bad" alt="x">', "bad_url"),
        ('<img src="#" alt="x">', "bad_url"),
        ('<img alt="x">', "bad_url"),
        ('<img src="p.gif" width="1" height="1" alt="x">', "tracking_pixel"),
        ('<img src="p.gif" width="1px" height=0>', "tracking_pixel"),
        ('<img src="p.gif" style="height:1px; width: 1px" alt="x">', "tracking_pixel"),
        ('<img src="p.gif" style="max-height:10px; width: 1px" alt="x">', None),
        ('<img src="p.gif" width="1" height="100" alt="x">', None),
    ],
)
def test_dropped_candidates(markup, reason):
    assert [row[3] for row in found(markup)] == [reason]


@pytest.mark.parametrize(
    ("head", "headers", "opted_out"),
    [
        ('<meta name="robots" content="noimageai">', [], True),
        ('<META NAME="ROBOTS" CONTENT="NOAI">', [], True),
        ('<meta name="clipline" content="noindex">', [], True),
        ('<meta name="tdm-reservation" content="1">', [], True),
        ("", [("X-Robots-Tag", "noimageai")], True),
        ("", [("TDM-Reservation", "1")], True),
        ('<meta name="robots" content="nofollow, max-image-preview:large">', [], False),
        ('<meta name="googlebot" content="noindex">', [], False),
    ],
)
def test_pages_that_opt_out(head, headers, opted_out):
    page = Page(URL, headers, f"{head}<img src=1 alt=one><img src=2>".encode())
    reasons = [row["reason"] for row in page_rows(page, extract.Config())]
    assert reasons == (["opt_out", "opt_out"] if opted_out else [None, "no_text"])
    assert "opt_out" not in [row["reason"] for row in page_rows(page, extract.Config(obey_opt_out=False))]


# --- the page ---


def test_language_licence_and_page_address():
    html = b'<html lang="pt-BR"><link rel="stylesheet license" href="/cc0"><img src=1 alt=um>'
    (row,) = page_rows(Page("HTTP://A.example/x/../y#z", [], html), extract.Config())
    assert (row["page_url"], row["language"], row["license"]) == ("http://a.example/y", "pt-BR", "http://a.example/cc0")
    assert row["uid"] == hashlib.sha256(b"http://a.example/1\num").hexdigest()[:32]
    bare = Html.parse(URL, [("Content-Language", "de, en")], b"<p>")
    assert (bare.language, license_of(bare)) == ("de", "")


WORDS = "Zoë 图 ж"


@pytest.mark.parametrize(
    ("body", "content_type", "wanted"),
    [
        ("Zoë".encode(), "text/html", "Zoë"),
        ("Zoë".encode("latin-1"), "text/html", "Zoë"),
        ("Zoë".encode("latin-1"), "text/html; charset=ISO-8859-1", "Zoë"),
        ("€".encode("cp1252"), "text/html; charset=latin1", "€"),
        ("Zoë".encode(), "text/html; charset=iso-8859-1", "Zoë"),  # the header lies
        ("Зоя".encode("cp1251"), 'text/html; charset="windows-1251"', "Зоя"),
        (b'<meta charset="koi8-r">' + "Зоя".encode("koi8-r"), "text/html", "Зоя"),
        (b"<meta http-equiv=Content-Type content='text/html; charset=gb2312'>" + "图".encode("gbk"), "", "图"),
        ("図".encode("iso2022_jp"), "text/html; charset=iso-2022-jp", "図"),
        ("图".encode("utf-16"), "text/html", "图"),
        ("图".encode("utf-8-sig"), "text/html; charset=koi8-r", "图"),
        ("图".encode("utf-16-le"), "text/html; charset=utf-16le", "图"),
        (b"Z\xff", "text/html; charset=rot13", "Zÿ"),
        (b"Z\xff", "text/html; charset=no-such", "Zÿ"),
        (b"", "", ""),
    ],
)
def test_charsets(body, content_type, wanted):
    assert decode(body, content_type).rpartition(">")[2] == wanted


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("  a\n\tb\u3000c\u00a0 ", "a b c"),
        ("cafe\u0301", "café"),
        ("a\u200bb\u00adc\ufeff", "abc"),
        ("\u202eevil\u202c \u2067x\u2069", "evil x"),
        ("می\u200cروم", "می\u200cروم"),
        ("a\x00b\x1bc\x0bd", "a b c d"),
        ("wait\x85", "wait…"),
        ("sch\u00c3\u00b6n", "schön"),
        ("salt &amp; pepper", "salt & pepper"),
        ("“quoted” ﬁne Ｗ", "“quoted” ﬁne Ｗ"),
        ("👩\u200d🔬", "👩\u200d🔬"),
    ],
)
def test_clean_text(raw, wanted):
    assert clean(raw) == wanted
    assert clean(wanted) == wanted


def test_shorten_and_words():
    assert shorten("one two three", 8) == "one two"
    assert shorten("one two three", 7) == "one two"
    assert shorten("x" * 20, 9) == "x" * 9
    assert not has_words("—★ .") and has_words("图")


@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z]{1,8}\.jpg", fullmatch=True), st.from_regex(r"[a-zA-Z ]{0,12}", fullmatch=True))
    )
)
def test_images_and_alts_as_another_parser_sees_them(images):
    html = (
        "<html><body>" + "<p>".join(f"<div><img alt='{alt}' src={src}></div>" for src, alt in images) + "</body></html>"
    )
    peer = [
        (f"/dir/{node.get('src')}", " ".join(node.get("alt").split()))
        for node in lxml.html.fromstring(html).iter("img")
    ]
    assert [(url, text) for url, text, *_ in found(html)] == peer


# --- archives ---


def archive(pages):
    sink = io.BytesIO()
    warc = Writer(sink, "x.warc.gz", DATE, {"software": "test"})
    offsets = []
    for url, body in pages:
        offsets.append(sink.tell())
        warc.page(url, DATE, 200, [("Content-Type", "text/html")], body, [])
    return sink.getvalue(), offsets


PAGES = [(f"http://a.example/{n}", b"<p>%d" % n * 400) for n in range(6)]


@pytest.mark.parametrize(
    ("damage", "left", "damaged"),
    [
        ([], "012345", 0),
        ([(2, 60)], "01345", 1),
        ([(0, 60)], "12345", 1),
        ([(5, 60)], "01234", 1),
        ([(1, 60), (2, 60), (4, 60)], "035", 3),
        ([(2, 0)], "01345", 1),  # not even the start of a member
    ],
)
def test_a_damaged_record_costs_itself_alone(damage, left, damaged):
    data, offsets = archive(PAGES)
    broken = bytearray(data)
    for page, offset in damage:
        broken[offsets[page] + offset] ^= 0xFF
    reader = Reader(io.BytesIO(bytes(broken)), 1 << 20)
    assert "".join(page.url[-1] for page in reader) == left
    assert reader.damaged == damaged


def test_plain_and_cut_archives_and_what_is_no_page():
    data, offsets = archive(PAGES)
    plain = Reader(io.BytesIO(gzip.decompress(data)), 1 << 20)
    assert [page.body for page in plain] == [body for _, body in PAGES]
    cut = Reader(io.BytesIO(data[: offsets[3] + 40]), 1 << 20)
    assert [page.url for page in cut] == [url for url, _ in PAGES[:3]]
    small = Reader(io.BytesIO(data), 100)
    assert (list(small), small.skipped) == ([], 6)
    assert list(Reader(io.BytesIO(b"not a WARC at all" * 100), 100)) == []


# --- duplicates, and the whole ---


def test_duplicates_against_brute_force(tmp_path):
    context = Context(tmp_path)
    draw = random.Random(7)
    seen, wanted, names = set(), [], []
    for number in range(4):
        rows = [
            (uid("u", str(draw.randrange(60))), draw.choice([None, None, "no_text"])) for _ in range(50 * (number != 2))
        ]
        names.append(f"{number:05d}")
        table = pa.table({"uid": [row[0] for row in rows], "reason": pa.array([row[1] for row in rows], pa.string())})
        context.output.write_table(f"scratch/{names[-1]}.parquet", table)
        wanted.append([])
        for row, (identity, reason) in enumerate(rows):
            if reason is None:
                if identity in seen:
                    wanted[-1].append(row)
                seen.add(identity)
    assert [part.tolist() for part in find_duplicates(context.store, names)] == wanted


def page(*images):
    return "".join(f'<img src="{src}" alt="{alt}">' for src, alt in images).encode()


def test_an_extraction_accounts_for_every_candidate(ray_cluster, tmp_path):
    files = [
        [("http://a.example/1", page(("/1.jpg", "one"), ("/2.jpg", "two"), ("/1.jpg", "one"))), ("no address", page())],
        [],
        [("http://a.example/2", page(("/2.jpg", "two"), ("/2.jpg", "zwei"), ("/3.jpg", ""), ("data:x", "x")))],
    ]
    source = Context(tmp_path / "pages")
    for number, pages in enumerate(files):
        source.output.write(f"data/{number:04d}-000.warc.gz", archive(pages)[0])
    pages = Artifact(source.store, source.finish())
    one = extract.run(extract.Config(), {"pages": pages}, Context(tmp_path / "one"))
    two = extract.run(extract.Config(), {"pages": pages}, Context(tmp_path / "one"))  # all committed: nothing is done
    assert one.to_bytes() == two.to_bytes()
    assert one.funnel.model_dump() == {
        "unit": "candidates",
        "entered": 7,
        "kept": 3,
        "dropped": {"bad_url": 1, "duplicate_pair": 2, "no_text": 1},
    }
    assert one.facts == {"pages": 2, "damaged_records": 1, "other_records": 0}
    assert not (tmp_path / "one/scratch").exists()
    tables = [pq.read_table(path) for path in sorted((tmp_path / "one/data").glob("pairs-*.parquet"))]
    assert all(table.schema.equals(pairs_schema()) for table in tables)
    pairs = pa.concat_tables(tables).to_pylist()
    assert [(row["url"][-5:], row["caption"], row["page_url"][-1]) for row in pairs] == [
        ("1.jpg", "one", "1"),
        ("2.jpg", "two", "1"),
        ("2.jpg", "zwei", "2"),
    ]
    dropped = pa.concat_tables(
        pq.read_table(path) for path in sorted((tmp_path / "one/data").glob("dropped-*.parquet"))
    )
    assert Counter(dropped["reason"].to_pylist()) == one.funnel.dropped
