"""Extraction: candidates, captions, opt-outs, duplicates; no candidate is lost or kept twice."""

import gzip
import hashlib
import io
import random
import re
import unicodedata
from collections import Counter

import ftfy
import lxml.html
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.run.context import Context, ShardOutput
from infra.run.manifest import Artifact
from infra.schema import pairs_schema
from pipelines import extract
from pipelines.extract.shard import page_rows, repeated
from pipelines.formats.warc import Page, Reader, Writer
from pipelines.html.candidates import candidates
from pipelines.html.images import SOURCES, ExtractOptions, images_of_page
from pipelines.html.page import Html, decode
from pipelines.html.srcset import parse_srcset
from pipelines.html.text import _PLAIN, FTFY, captions, clean, has_words, shorten

URL = "http://a.example/dir/page"
DATE = "2026-01-01T00:00:00Z"


def found(html, sources=SOURCES, headers=()):
    page = Html.parse(URL, list(headers), html.encode() if isinstance(html, str) else html)
    options = ExtractOptions(sources, 100)
    of_page = candidates([images_of_page(page, options)], options)
    columns = [column.to_pylist() for column in (of_page.urls, of_page.texts, of_page.sources, of_page.reasons)]
    return [(url.removeprefix("http://a.example"), *others) for url, *others in zip(*columns, strict=True)]


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


def test_captions_as_programs_of_the_web_mark_them_up():
    """The shapes are those that Blogger, MediaWiki (an image, two in one frame, a gallery) and Docutils write."""
    html = """<table class="tr-caption-container"><tr><td><a href="b"><img src="1"></a></td></tr>
    <tr><td class="tr-caption" style="x">blog</td></tr></table>
    <div class="thumb tright"><div class="thumbinner"><a class="image"><img src="2"></a>
    <div class="thumbcaption"><div class="magnify"><a class="internal" title="Enlarge"></a></div>a bridge</div>
    </div></div>
    <div class="thumb tmulti tright"><div class="thumbinner multiimageinner"><div class="trow">
    <div class="tsingle"><div class="thumbimage"><img src="3"></div><div class="thumbcaption">left</div></div>
    <div class="tsingle"><div class="thumbimage"><img src="4"></div><div class="thumbcaption">right</div></div></div>
    </div></div><ul class="gallery"><li class="gallerybox"><div><div class="thumb"><div><img src="5"></div></div>
    <div class="gallerytext"><p>a door</p></div></div></li><li class="gallerybox"><img src="6"></li></ul>
    <div class="align-left figure"><img src="7"><p class="caption"><span>a plot</span></p></div>
    <div class="thumb"><img src="8"></div><p class="gallerytext">stray</p>"""
    rows = [(url[-1], text, source) for url, text, source, _ in found(html)]
    captions = ["blog", "a bridge", "left", "right", "a door", None, "a plot", None]
    expected = [(str(n), text or "", "figcaption" if text else None) for n, text in enumerate(captions, 1)]
    assert rows == expected


def test_captions_are_the_text_that_a_browser_shows():
    html = """<figure><img src=1><figcaption><style>.x{}</style><p>A <em>fox</em>, running in (<a href=#>snow</a>).</p>
    <h4>Photo: <a>Ann</a></h4><script>var a</script><noscript>b</noscript></figcaption></figure>"""
    assert kept(html) == [("/dir/1", "A fox, running in (snow). Photo: Ann", "figcaption")]


def test_texts_that_say_the_same_are_one():
    html = """<figure><img src=1 alt="The red fox" title="The red fox.">
    <figcaption>Figure 14.2. The red fox</figcaption></figure>
    <figure><img src=2 alt="Лиса"><figcaption>Рис. 3: Зимой</figcaption></figure>
    <div class=figure><img src=3 alt=""><p class=title>図 1.2 狐</p></div><img src=4 alt="Fig. 4">"""
    rows = [(url[-1], text, source, reason) for url, text, source, reason in found(html)]
    assert rows == [
        ("1", "The red fox", "alt", None),
        ("1", "The red fox", "figcaption", "duplicate_pair"),
        ("1", "The red fox.", "title", "duplicate_pair"),
        ("2", "Лиса", "alt", None),
        ("2", "Зимой", "figcaption", None),
        ("3", "狐", "figcaption", None),
        ("4", "", None, "no_text"),
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
        ('<picture><source srcset="a.jxl 900w" type="image/jxl"><img src="s.jpg" alt="x"></picture>', "/dir/s.jpg"),
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
def test_the_best_url(markup, wanted):
    assert kept(markup) == ([(wanted, "x", "alt")] if wanted else [])


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("a 1x, b 2x", [("a", 0, 1), ("b", 0, 2)]),
        ("a,b 3w", [("a,b", 3, 1)]),
        ("a, b", [("a", 0, 1), ("b", 0, 1)]),
        (" , a 10w 5h ,", [("a", 10, 1)]),
        ("data:image/gif;base64,R0lG 1x, b 1.5x", [("data:image/gif;base64,R0lG", 0, 1), ("b", 0, 1.5)]),
        ("a 1e99w, b", [("b", 0, 1)]),
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
    reasons = [row.reason for row in page_rows(page, extract.Config())[0]]
    assert reasons == (["opt_out", "opt_out"] if opted_out else [None, "no_text"])
    rows, _ = page_rows(page, extract.Config(obey_opt_out=False))
    assert "opt_out" not in [row.reason for row in rows]
    assert all(bool(row.opt_out) == opted_out for row in rows)  # recorded all the same


# --- the page ---


def test_language_licence_and_page_url():
    html = b'<html lang="pt-BR"><link rel="stylesheet license" href="/cc0"><img src=1 alt=um>'
    (row,), _ = page_rows(Page("HTTP://A.example/x/../y#z", [], html), extract.Config())
    assert (row.page_url, row.language, row.license) == ("http://a.example/y", "pt-BR", "http://a.example/cc0")
    assert row.uid == hashlib.blake2b(b"http://a.example/1\num", digest_size=16).hexdigest()
    bare = Html.parse(URL, [("Content-Language", "de, en")], b"<p>")
    assert (bare.language, bare.license) == ("de", "")


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
        (
            "Zoë, Chloë, naïve, café, Ærø, Åse, Öl, år, à, é".encode() + b"\xc3",
            "",
            "Zoë, Chloë, naïve, café, Ærø, Åse, Öl, år, à, é\ufffd",
        ),
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
        ("caf\ufffd au lait &amp; \ufffc tea", "caf au lait & tea"),
        ("\ufffd\ufffd t\ufffd", ""),
    ],
)
def test_clean_text(raw, wanted):
    assert clean(raw) == wanted
    assert clean(wanted) == wanted


SOME_TEXT = st.none() | st.text(alphabet="ab1 |&;é\u200b\x00.e\u0301\u0338\xa0Ã©â€œ", max_size=8)


@given(st.lists(SOME_TEXT, max_size=4), st.integers(1, 12))
def test_texts_that_look_clean_are(raw, length):
    def one(text):
        cleaned = clean((text or "")[: 4 * length])
        return shorten(cleaned, length) if has_words(cleaned) else None

    assert captions(pa.array(raw, pa.string()), length).to_pylist() == [one(text) for text in raw]


def test_letters_that_look_clean_are_clean_beside_any_other():
    """No two of them combine, none is invisible."""
    plain = [chr(code) for code in range(0x10000) if re.fullmatch(f"[{_PLAIN}]", chr(code))]
    together = "".join(plain)
    assert len(plain) > 30_000 and together.isprintable()
    assert unicodedata.is_normalized("NFC", together) and unicodedata.is_normalized("NFC", together[::-1])
    assert all(
        first + second == unicodedata.normalize("NFC", first + second) for first in "aeo\u3046가" for second in plain
    )
    assert not any(unicodedata.combining(character) for character in plain)


SCRIPTS = st.text(alphabet="aé üßŒ’“—жРСё图ñ€ãÃÂ¿?\u00a0\ufffd\x1a½", max_size=12)
CHARSETS = st.sampled_from(["utf-8", "latin-1", "cp1252", "cp1251", "cp1250", "cp1253", "cp437", "mac-roman"])


@given(SCRIPTS, CHARSETS, st.booleans())
def test_text_that_skips_repair_needs_none(text, charset, lossy):
    """The quick check passes nothing that ftfy would change."""
    garbled = text.encode().decode(charset, "ignore").replace("\u00a0" if lossy else "", " " if lossy else "")
    mended = unicodedata.normalize("NFC", ftfy.fix_text(garbled, FTFY))
    assert clean(garbled) == clean(mended)


def test_shorten_and_words():
    assert shorten("one two three", 8) == "one two"
    assert shorten("one two three", 7) == "one two"
    assert shorten("x" * 20, 9) == "x" * 9
    assert not has_words("—★ .") and has_words("图")


@pytest.mark.long
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
def test_a_damaged_record_affects_no_others(damage, left, damaged):
    data, offsets = archive(PAGES)
    broken = bytearray(data)
    for page, offset in damage:
        broken[offsets[page] + offset] ^= 0xFF
    reader = Reader(io.BytesIO(bytes(broken)), 1 << 20)
    assert "".join(page.url[-1] for page in reader) == left
    assert reader.damaged == damaged


def test_plain_archives_and_what_is_no_page():
    data, _ = archive(PAGES)
    plain = Reader(io.BytesIO(gzip.decompress(data)), 1 << 20)
    assert [page.body for page in plain] == [body for _, body in PAGES]
    assert (plain.damaged, plain.is_archive) == (0, True)
    small = Reader(io.BytesIO(data), 100)
    assert (list(small), small.passed["too_large"]) == ([], 6)
    for other in (b"not a WARC at all" * 100, gzip.compress(b"nor this" * 100), b"<html>"):
        reader = Reader(io.BytesIO(other), 100)
        assert (list(reader), reader.records, reader.is_archive) == ([], 0, False)
    assert Reader(io.BytesIO(b""), 100).is_archive


def record(block, kind=b"response", length=None):
    """A record as another writer may leave it."""
    header = b"WARC/1.0\r\nWARC-Type: %s\r\nWARC-Target-URI: http://a.example/\r\nContent-Type: %s\r\n"
    content = b"application/http; msgtype=response" if kind == b"response" else b"application/json"
    size = len(block) if length is None else length
    return header % (kind, content) + b"Content-Length: %d\r\n\r\n" % size + block + b"\r\n\r\n"


@pytest.mark.parametrize("compressed", [True, False])
def test_a_cut_archive_is_damaged_wherever_it_is_cut(compressed):
    blocks = [record(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>%d" % n * 30) for n in range(3)]
    blocks = [gzip.compress(block, mtime=0) for block in blocks] if compressed else blocks
    ends = {sum(map(len, blocks[:count])) for count in range(4)}
    whole = b"".join(blocks)
    for cut in range(len(whole) + 1):
        reader = Reader(io.BytesIO(whole[:cut]), 1 << 20)
        pages = len(list(reader))
        complete = [end for end in ends if end and end <= cut]
        if cut in ends or (not compressed and cut + 4 in ends):  # the blank lines behind a record carry nothing
            assert reader.damaged == 0, cut
        elif cut + 4 in ends or not (not compressed and any(0 < end - cut < 4 or 0 < cut - end < 5 for end in ends)):
            assert reader.damaged == 1, cut
        assert pages >= len(complete), cut


def test_wrong_lengths_affect_no_other_records():
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>%d"
    for lie in (10**15, 500, 60, 20, 0):
        for compress in (lambda data: data, gzip.compress):
            blocks = [record(page % 1), record(page % 2, length=lie), record(page % 3), record(page % 4)]
            reader = Reader(io.BytesIO(b"".join(map(compress, blocks))), 1 << 16)
            assert {b"<p>1", b"<p>3", b"<p>4"} <= {page.body for page in reader}, lie


@pytest.mark.parametrize(
    ("headers", "body", "wanted"),
    [
        (b"Content-Encoding: gzip", gzip.compress(b"<p>x"), b"<p>x"),
        (b"Content-Encoding: gzip", b"<p>already", b"<p>already"),
        (b"Content-Encoding: zstd", b"<p>x", b"<p>x"),
        (b"Transfer-Encoding: chunked", b"4\r\n<p>x\r\n0\r\n\r\n", b"<p>x"),
        (b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip", b"<p>x", b"<p>x"),
        (b"Content-Encoding: gzip", gzip.compress(b"x" * 100_000), None),
    ],
)
def test_bodies_as_they_came_over_the_wire(headers, body, wanted):
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + headers + b"\r\n\r\n" + body
    reader = Reader(io.BytesIO(gzip.compress(record(block))), 10_000)
    assert [page.body for page in reader] == ([] if wanted is None else [wanted])
    assert (reader.passed.total(), reader.damaged) == (wanted is None, 0)


# --- duplicates, and the whole ---


def test_duplicates_against_brute_force(ray_cluster, tmp_path, monkeypatch):
    """Files of a hundred images of sixty, more files than fit one partition."""
    monkeypatch.setattr("pipelines.extract.stage._FILES_PER_PARTITION", 2)
    draw = random.Random(7)
    files = [
        [(f"http://a.example/{n}", page(*((f"/{draw.randrange(60)}.jpg", "x") for _ in range(20)))) for n in range(5)]
        for _ in range(5)
    ]
    files[2] = []
    pairs = written(tmp_path / "pages", files)
    manifest = extract.run(extract.Config(sources=("alt",)), {"pages": pairs}, Context(tmp_path / "out"))
    seen, wanted = set(), []
    for pages in files:
        fresh = []
        for _, body in pages:
            fresh += [src for src in re.findall(r'src="(.*?)"', body.decode()) if src not in seen and not seen.add(src)]
        wanted.append(fresh)
    found = [pq.read_table(path) for path in sorted((tmp_path / "out/data").glob("pairs-*.parquet"))]
    assert [[url.removeprefix("http://a.example") for url in table["url"].to_pylist()] for table in found] == wanted
    assert manifest.funnel.entered == 400


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=50))
def test_repeated_ids(ids):
    table = np.array(ids, dtype=[("high", ">u8"), ("low", ">u8")])
    assert repeated(table).tolist() == [identity in ids[:place] for place, identity in enumerate(ids)]


def written(folder, files):
    """A crawl's artifact with a WARC file for each list of (url, body)."""
    source = Context(folder)
    for number, pages in enumerate(files):
        source.output.write(f"data/{number:04d}-000.warc.gz", archive(pages)[0])
    return Artifact(source.store, source.finish())


def page(*images):
    return "".join(f'<img src="{src}" alt="{alt}">' for src, alt in images).encode()


def test_an_extraction_accounts_for_every_candidate(ray_cluster, tmp_path):
    files = [
        [("http://a.example/1", page(("/1.jpg", "one"), ("/2.jpg", "two"), ("/1.jpg", "one"))), ("no address", page())],
        [],
        [("http://a.example/2", page(("/2.jpg", "two"), ("/2.jpg", "zwei"), ("/3.jpg", ""), ("data:x", "x")))],
    ]
    pages = written(tmp_path / "pages", files)
    one = extract.run(extract.Config(), {"pages": pages}, Context(tmp_path / "one"))
    two = extract.run(extract.Config(), {"pages": pages}, Context(tmp_path / "one"))  # all committed: nothing is done
    assert one.to_bytes() == two.to_bytes()
    assert one.funnel.to_json() == {
        "unit": "candidates",
        "entered": 7,
        "kept": 3,
        "dropped": {"bad_url": 1, "duplicate_pair": 2, "no_text": 1},
    }
    assert one.facts["records"]["page"] == 2 and one.facts["records"]["bad_url"] == 1 and one.facts["files"] == 3
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


@pytest.mark.parametrize(
    ("step", "places", "where"),
    [
        ("images_of_page", lambda html: html.url, "of_page"),
        ("candidates", lambda pages: [images.base.removeprefix("http://a.example") for images in pages], "candidates"),
    ],
)
def test_a_page_that_nobody_foresaw_costs_itself(tmp_path, monkeypatch, step, places, where):
    """It is dropped by its address, with what happened; the pages around it give their pairs."""
    from pipelines.extract import shard

    real = getattr(shard, step)
    monkeypatch.setattr(shard, step, lambda pages, _: real(pages, _) if "/2" not in places(pages) else 1 / 0)
    path = tmp_path / "pages.warc.gz"
    with path.open("wb") as sink:
        writer = Writer(sink, path.name, DATE, {})
        for number in range(1, 4):
            body = f"<img src={number}.jpg alt='image {number}'>".encode()
            writer.page(f"http://a.example/{number}", DATE, 200, [("Content-Type", "text/html")], body, [])
    output = ShardOutput(Context(tmp_path / "out").store, "candidates-00000")
    record = shard.find_candidates(shard.Pages("00000", str(path), 1, extract.Config()), output)
    rows = pq.read_table(tmp_path / "out/scratch/00000.parquet").to_pylist()
    assert [(row["caption"], row["reason"]) for row in rows] == [
        ("image 1", None),
        ("image 3", None),
        ("", "unforeseen_error"),
    ]
    assert (rows[2]["page_url"], rows[2]["context"]) == ("http://a.example/2", f"ZeroDivisionError in {where}")
    assert record.facts["unforeseen"] == {f"ZeroDivisionError in {where}": 1}
    assert record.facts["records"].items() >= {("page", 2), ("unforeseen_error", 1)}
