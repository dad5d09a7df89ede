"""Fuzzing of the parsers: mutations of valid files, and arbitrary input from hypothesis.

``make fuzz`` draws random examples, and ``CLIPLINE_FUZZ`` times as many as a test run can afford.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import time
import warnings
import zlib
from collections import Counter
from contextlib import suppress
from encodings.aliases import aliases

import brotli
import numpy as np
import pyarrow as pa
import pytest
from bombs import HEALTHY_PAGE, gif, picture
from hypothesis import example, given
from hypothesis import strategies as st
from mutation import fuzz, mutated, urls
from PIL import Image

from infra.images.decode import decode_rgb
from infra.images.errors import ImageError
from infra.images.formats import ACCEPTED
from infra.images.header import read_header
from pipelines.crawl.config import Traps
from pipelines.crawl.sitemap import SitemapError, parse
from pipelines.crawl.traps import pattern, trap, without_session
from pipelines.formats.wat import WatPage
from pipelines.html.candidates import candidates
from pipelines.html.images import SOURCES, ExtractOptions, images_of_page, images_of_wat
from pipelines.html.jsonld import described
from pipelines.html.page import Html, decode
from pipelines.html.resolve import fast_canonical, resolved
from pipelines.html.srcset import parse_srcset
from pipelines.images.resize import Resizing, resize
from pipelines.web import FetchError, ResourceType, Web
from pipelines.web.coding import CodingError, OversizeError, decoder
from pipelines.web.fetcher import Fetcher
from pipelines.web.http_client import retry_after
from pipelines.web.policy.opt_outs import IMAGE, PAGE, Policy, from_headers, from_metas, refusal
from pipelines.web.policy.robots import RobotsRules, sitemaps
from pipelines.web.policy.tdmrep import Reservations
from pipelines.web.urls import BadUrlError, canonical, host_of, origin_of

pytestmark = pytest.mark.long  # many examples


def in_pieces(data: bytes, size: int):
    return (data[at : at + size] for at in range(0, len(data), size))


# --- addresses --------------------------------------------------------------------------------------------------------


@fuzz(400)
@given(urls, st.none() | st.just("http://a.example/x/y?z") | urls)
def test_addresses(url, base):
    """canonical() gives an http(s) address that it leaves as it is, or says why not."""
    with suppress(BadUrlError):
        found = canonical(url, base)
        assert found.startswith(("http://", "https://")) and found.isascii()
        assert canonical(found) == found == fast_canonical(found)
        assert base is not None or fast_canonical(url) == found
        assert canonical(found, base="http://b.example/") == found
        assert found.startswith(origin_of(found)) and "@" not in origin_of(found)
        assert host_of(found)


@fuzz(300)
@given(
    st.lists(
        st.sampled_from(
            ["a", "b1", ".", "..", "/", "//", "?", "#", ":", "%41", "é", "x.jpg", "http:", "xn--", "&", " "]
        )
    )
)
def test_the_short_way_to_an_address_leads_where_the_long_one_does(parts):
    base, address = "http://a.example/x/y?z=/", "".join(parts)
    try:
        expected = canonical(address, base)
    except BadUrlError:
        expected = None
    if not address.strip() or address.strip().startswith("#"):  # no picture's address
        expected = None
    assert resolved(pa.array([None, address, address]), [base], np.zeros(3, int)).to_pylist() == [None, *[expected] * 2]


@fuzz(200)
@given(urls)
def test_traps(url):
    """Every canonical address has a pattern, and without its session it is still an address."""
    with suppress(BadUrlError):
        url = canonical(url)
        assert pattern(url) == pattern(url)
        trap(url, Traps())
        canonical(without_session(url))


# --- headers, robots.txt, opt-outs ------------------------------------------------------------------------------------


@fuzz(300)
@given(
    st.text(max_size=40)
    | st.sampled_from(["²", "١٢", "1e3", "-1", "1.5", " 7 ", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 GMT"])
    | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} (Jan|Feb|Dec) \d{1,30} \d\d:\d\d:\d\d (GMT|[+-]\d{4,8})", fullmatch=True)
)
@example("Fri, 01 Jan 99999999999999999999 00:00:00 GMT")
def test_retry_after(value):
    """Seconds, none of them negative, or that it does not say."""
    found = retry_after(value)
    assert found is None or found >= 0


_ROBOTS = [
    b"User-agent: *\nDisallow: /private/*.jpg$\nAllow: /private/a\nCrawl-delay: 2.5\nSitemap: http://a.example/s.xml\n",
    b"\xef\xbb\xbfuser-agent: gptbot\r\nuser-agent: clipline\r\nDisallow: /\r\n\r\nUser-agent:*\nAllow: /*?x=\n",
    b"User-agent: x\nRequest-rate: 1/10s 0800-1200\nVisit-time: 0600-0845\nHost: a\nClean-param: ref /\n",
]


@fuzz(250)
@given(
    st.sampled_from([200, 204, 301, 404, 429, 500, 999]),
    mutated(_ROBOTS)
    | st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
    urls,
)
def test_robots(status, body, url):
    """Any body gives rules, any rules give an answer and a delay, in no time."""
    rules = RobotsRules.parse(status, body)
    assert rules.crawl_delay >= 0
    with suppress(BadUrlError):
        assert isinstance(rules.refusal(canonical(url), "clipline") + rules.opt_out(canonical(url)), str)


@pytest.mark.parametrize("rule", ["/*a*a*a*a*a*a*a*a*a*a*a*a*b", "/" + "*" * 400 + "b$", "/" + "a*" * 300 + "$b"])
def test_robots_patterns_are_matched_in_linear_time(rule):
    rules = RobotsRules.parse(200, f"User-agent: *\nDisallow: {rule}\n".encode())
    started = time.thread_time()
    rules.refusal("http://a.example/" + "a" * 4000, "clipline")
    assert time.thread_time() - started < 1.0


_SITEMAPS = [
    b"""<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"><url><loc>http://a.example/1</loc>
    <lastmod>2026-01-01</lastmod></url><url><loc> http://a.example/2?x=1&amp;y=2 </loc></url></urlset>""",
    b"""<sitemapindex><sitemap><loc>http://a.example/s.xml</loc></sitemap></sitemapindex>""",
    b"""<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;"><!ENTITY e SYSTEM "file:///etc/passwd">]><urlset><url><loc>&b;&e;
    </loc></url></urlset>""",
    b"http://a.example/1\nhttp://a.example/2\n",
    gzip.compress(b"<urlset><url><loc>http://a.example/3</loc></url></urlset>", mtime=0),
]


@fuzz(300)
@given(mutated(_SITEMAPS))
def test_sitemaps(body):
    """Addresses as they are written, or SitemapError; nothing from this machine's files."""
    with suppress(SitemapError):
        assert "root:" not in str(parse(body))
    assert all(isinstance(address, str) for address in sitemaps(body))


@fuzz(200)
@given(
    st.sampled_from([200, 404, 500]),
    mutated([b'[{"location": "/a/*", "tdm-reservation": 1}, {"location": "/", "tdm-reservation": 0}]', b"[[{}]]"]),
)
def test_reservations(status, body):
    assert Reservations.parse(status, body).refusal("http://a.example/a/b") in ("", "tdm-reservation: 1")


_DIRECTIVE = st.sampled_from(
    ["noai", "noindex", "none", "all", "clipline", "*", "GPTBot", ":", ",", ";", " ", "max-image-preview", "large", "1"]
) | st.text(max_size=8)


@fuzz(300)
@given(st.lists(_DIRECTIVE, max_size=12).map("".join), st.booleans())
def test_opt_outs(value, forbidden):
    """Nothing that is said can raise, or unsay what another header says."""
    said = [("X-Robots-Tag", value)] + [("x-robots-tag", "noai")] * forbidden
    found = list(from_headers(said, "clipline"))
    assert not forbidden or refusal(found, PAGE)
    assert list(from_metas([("robots", value), (value, "noai")], "clipline"))
    assert bool(refusal(found, PAGE)) <= bool(refusal(found, IMAGE))


# --- content codings --------------------------------------------------------------------------------------------------

_TEXT = HEALTHY_PAGE * 8
_PACK = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "deflate": zlib.compress,
    "br": lambda data: brotli.compress(data, quality=4),
}
_UNPACK = {"gzip": gzip.decompress, "deflate": zlib.decompress, "br": brotli.decompress}


@fuzz(150)
@given(st.sampled_from(sorted(_PACK)), st.binary(max_size=3000), st.integers(1, 700))
def test_codings_undo_what_was_done(coding, data, size):
    stream = decoder(coding)
    assert b"".join(stream.feed(piece, len(data)) for piece in in_pieces(_PACK[coding](data), size)) == data
    assert stream.complete


@fuzz(400)
@given(st.sampled_from(sorted(_PACK)), st.data(), st.integers(1, 700), st.integers(0, 2000))
def test_codings(coding, data, size, cap):
    """Damaged streams: never more than the cap, no other errors than the two, and no wrong bytes taken for complete."""
    packed = data.draw(mutated([_PACK[coding](_TEXT), _PACK[coding](b""), _PACK[coding](b"x")]))
    stream, out = decoder(coding), b""
    try:
        for piece in in_pieces(packed, size):
            out += stream.feed(piece, cap - len(out))
            assert len(out) <= cap
    except OversizeError as error:
        assert len(out + error.fitting) == cap
        return
    except CodingError:
        return
    if stream.complete and coding == "br":
        assert out == brotli.decompress(packed)
    elif stream.complete and packed:
        # Peers refuse garbage behind the end, which browsers and we forgive.
        peer = zlib.decompressobj(wbits=31 if coding == "gzip" else 15 if packed[0] & 15 == 8 else -15)
        assert out.startswith(peer.decompress(packed))


# --- answers ----------------------------------------------------------------------------------------------------------


def _answer(headers: bytes, body: bytes, status: bytes = b"200 OK") -> bytes:
    length = b"" if b"chunked" in headers else b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 %s\r\n%s%s\r\n%s" % (status, length, headers, body)


_HTML = b"Content-Type: text/html; charset=utf-8\r\n"
_CHUNKS = b"8;name=value\r\n<p>hello\r\n0\r\nX-Trailer: value\r\n\r\n"
_ANSWERS = [
    _answer(_HTML, b"<p>hello"),
    _answer(_HTML + b"Transfer-Encoding: chunked\r\nTrailer: X-Trailer\r\n", _CHUNKS),
    *(_answer(_HTML + b"Content-Encoding: %s\r\n" % coding.encode(), pack(_TEXT)) for coding, pack in _PACK.items()),
    _answer(b"X-Robots-Tag: gptbot: noai, max-image-preview: large\r\nTDM-Reservation: 1\r\n" + _HTML, b"<p>no"),
    _answer(b"Location: //b.example:80/a?b#c\r\n", b"", b"301 Moved Permanently"),
    _answer(b"Retry-After: Thu, 01 Jan 2026 00:00:00 GMT\r\n", b"", b"503 Service Unavailable"),
    _answer(b"Content-Type: image/png\r\nSet-Cookie: a=b; Path=/\r\nDate: Thu, 01 Jan 2026\r\n", picture("PNG")),
    b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n" + _answer(_HTML, b"<p>late"),
]


@pytest.mark.hypothesis
def test_answers():
    """Whatever comes over the wire ends as an answer or as one reason, in words that hold nothing of this machine."""
    sent = b""
    ended: Counter[bool] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            await writer.drain()
        writer.close()

    async def get(data: bytes, kind: ResourceType = "page", host: int = 0) -> None:
        nonlocal sent
        sent = data
        try:
            await fetcher.get(f"http://h{host}.example/", kind)
        except FetchError as error:
            assert error.detail.isprintable() and len(error.detail) < 5000 and str(port) not in error.detail
            ended[False] += 1
        else:
            ended[True] += 1

    with asyncio.Runner() as runner:
        server = runner.run(asyncio.start_server(serve, "127.0.0.1", 0))
        port = server.sockets[0].getsockname()[1]
        web = Web(connect_to={"*": f"127.0.0.1:{port}"}, retries=0, obey_robots=False, breaker_failures=1_000_000)
        fetcher = Fetcher(web)
        runner.run(fetcher.__aenter__())

        @fuzz(300)
        @given(mutated(_ANSWERS), st.sampled_from(["page", "image", "sitemap"]), st.integers(0, 1_000_000))
        def ends(data: bytes, kind: ResourceType, host: int) -> None:
            runner.run(get(data, kind, host))

        for answer in _ANSWERS:
            runner.run(get(answer))
        assert ended == {True: 6, False: 4}  # so that there is something to break
        ends()
        runner.run(fetcher.__aexit__(None, None, None))
        server.close()


# --- pages ------------------------------------------------------------------------------------------------------------

_PAGES = [
    HEALTHY_PAGE,
    b"""<html lang=de><head><meta charset=utf-8><base href="/b/"><meta name=robots content="noai, nofollow">
    <meta property="og:image" content="/o.jpg"><meta property="og:title" content="T"><meta http-equiv=refresh
    content="0; url='/n'"><link rel=license href=/l><script type="application/ld+json">{"@type":"ImageObject",
    "contentUrl":"/j.jpg","caption":"C"}</script></head><body><picture><source srcset="a.webp 1x, b.webp 2x"
    type=image/webp><img src=a.jpg alt="A &amp; B" style="width:1px;height:1px"></picture><figure><img data-src=f.jpg
    srcset="s.jpg 100w, m.jpg 200w"><figcaption>F <i>i</i></figcaption></figure><noscript><img src=n alt=N></noscript>
    <a href="?q">q</a><a rel=nofollow href=x>x</a><iframe src=//c.example/></iframe></body></html>""",
    "<p>grüße <img alt='日本語' src=ü.jpg title='\u202e rtl'>".encode("utf-16"),
    "<meta charset=shift_jis><img src=x alt='写真'>".encode("shift_jis"),
]
_TYPES = st.sampled_from(
    [
        "",
        "text/html",
        *(f"text/html; charset={name}" for name in ("utf-8", "utf-16", "utf-7", "gbk", "zip", "²")),
    ]
)


@fuzz(250)
@given(mutated(_PAGES), _TYPES)
def test_pages(body, kind):
    """Whatever the bytes: text, links, directives and candidates, all addresses canonical."""
    assert isinstance(decode(body, kind), str)
    html = Html.parse("http://a.example/x", [("Content-Type", kind)], body)
    for link in filter(None, map(html.resolve, html.targets)):
        assert canonical(link) == link
    Policy("clipline").of_page(html.headers, html.metas), html.license, html.language.encode()
    options = ExtractOptions(SOURCES, 200, 100)
    found = candidates([images_of_page(html, options)], options)
    rows = zip(found.urls.to_pylist(), found.texts.to_pylist(), found.reasons.to_pylist(), strict=True)
    for url, text, reason in rows:
        assert len(text) <= 200
        assert reason or canonical(url) == url
        text.encode(), url.encode()


def test_every_codec_python_has_may_be_declared():
    for label in sorted({*aliases, *aliases.values(), "idna", "undefined"}):
        assert decode(b"<p>gr\xfc\xdfe", f"text/html; charset={label}")


@fuzz(300)
@given(
    st.lists(st.sampled_from(["a.jpg", ",", " ", "1x", "2w", "1e9w", "-1x", "\t", "(", ")", ",,", "²x"])).map("".join)
)
def test_srcset(value):
    for address, width, density in parse_srcset(value):
        assert address and " " not in address
        assert width >= 0 and density >= 0


_JSON = [
    b"""{"@context": "https://schema.org", "@graph": [{"@type": ["ImageObject", "Thing"], "contentUrl": "/a.jpg",
    "caption": {"@value": "C"}, "license": ["x"]}, {"@type": "Recipe", "name": "N", "image": ["/1.jpg",
    {"url": "/2.jpg"}]}]}""",
    b'<!-- [{"@type":"Product","image":{"@type":"ImageObject","url":"u","name":"n"}}] -->',
    b"[" * 3000 + b"]" * 3000,
]


@fuzz(250)
@given(mutated(_JSON))
def test_json_ld(script):
    """Texts, whatever the JSON."""
    for one in described(script.decode("utf-8", "replace")):
        assert all(isinstance(value, str) for value in one)


_WAT = [
    b"""{"Envelope": {"WARC-Header-Metadata": {"WARC-Target-URI": "http://a.example/x", "WARC-Type": "response"},
    "Payload-Metadata": {"HTTP-Response-Metadata": {"Headers": {"Content-Type": "text/html"}, "Response-Message":
    {"Status": "200"}, "HTML-Metadata": {"Head":
    {"Base": "/b/", "Metas": [{"name": "robots", "content": "noai"}]}, "Links": [{"path": "IMG@/src", "url": "a.jpg",
    "alt": "A"}, {"path": "A@/href", "url": "b"}]}}}}}"""
]


@fuzz(250)
@given(mutated(_WAT))
def test_wat_records(record):
    """A page, none, or ValueError; and what a page says can be asked for."""
    with suppress(ValueError):
        if (page := WatPage.parse(record)) is not None:
            Policy("clipline").of_page(page.headers, page.metas), page.language.encode(), page.license, page.base
            options = ExtractOptions(SOURCES, 200, 100)
            candidates([images_of_wat(page, options)], options)


# --- images -----------------------------------------------------------------------------------------------------------


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    return picture("JPEG", exif=exif.tobytes())


_IMAGES = [
    *(picture("JPEG"), picture("JPEG", progressive=True), picture("JPEG", "CMYK"), picture("JPEG", "L"), _exif()),
    *(picture("PNG"), picture("PNG", "P"), picture("PNG", "RGBA"), picture("PNG", "1")),
    *(picture("WEBP"), picture("WEBP", lossless=True), picture("WEBP", "RGBA")),
    *(picture("GIF"), gif(64, 48, (64, 48), (1, 1)), picture("BMP"), picture("BMP", "L")),
    *(picture("AVIF"), picture("TIFF"), picture("ICO"), picture("JPEG2000"), picture("PPM")),
]
_OPTIONS = Resizing(image_size=32, max_image_area=1_000_000, max_aspect_ratio=50)


@pytest.mark.parametrize("seed", range(len(_IMAGES)))
def test_headers_agree_with_pillow(seed):
    header = read_header(_IMAGES[seed])
    with Image.open(io.BytesIO(_IMAGES[seed])) as image:
        assert (header.format, header.width, header.height) == (image.format.lower(), *image.size)


@fuzz(60)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.sampled_from(["1", "L", "P", "RGB", "RGBA", "I;16"]),
    st.sampled_from(
        [
            *(("PNG", {}), ("PNG", {"optimize": True})),
            *(("JPEG", {"optimize": True, "progressive": in_scans, "quality": 1}) for in_scans in (False, True)),
        ]
    ),
)
@example(3000, 3000, "L", ("JPEG", {"optimize": True, "progressive": True, "quality": 1}))
@example(3000, 3000, "1", ("PNG", {"optimize": True}))
def test_no_honest_image_is_shorter_than_the_least_it_must_be(width, height, mode, form):
    """The emptiest pictures there are, packed as tightly as Pillow can."""
    out = io.BytesIO()
    image = Image.new(mode, (width, height))
    image = image.convert("RGB") if form[0] == "JPEG" and mode != "L" else image
    image.save(out, form[0], **form[1])
    assert read_header(out.getvalue()).least <= len(out.getvalue())


def _with_two_frames() -> bytes:
    """A JPEG of 96 x 64 with the head of another frame, of 96 x 320, before its own."""
    out = io.BytesIO()
    Image.new("RGB", (96, 64)).save(out, "JPEG")
    head, frame, rest = out.getvalue().partition(b"\xff\xc0\x00\x11\x08\x00\x40")
    return head + frame[:-2] + b"\x01\x40" + rest[:12] + frame + rest


@fuzz(700)
@given(mutated(_IMAGES))
@example(_with_two_frames())
def test_image_headers(data):
    """None or a size; where Pillow opens the file too, the same size, or one that nobody decodes."""
    header = read_header(data)
    if header is None:
        return
    assert header.format in {form.name for form in ACCEPTED}
    assert header.width > 0 and header.height > 0 and 1 <= header.orientation <= 8
    theirs = _pillow(data)
    if theirs and theirs[0] == header.format and (header.width, header.height) != theirs[1:]:
        with pytest.raises(ImageError):  # of a JPEG with two frames Pillow takes the last one's; libjpeg refuses it
            decode_rgb(data)


def _pillow(data: bytes) -> tuple | None:
    with suppress(Exception), warnings.catch_warnings():  # it raises all sorts, and is only asked for its opinion
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data)) as image:
            return image.format.lower(), *image.size


@fuzz(500)
@given(mutated(_IMAGES))
def test_images(data):
    """An image of the size asked for, or ImageError."""
    try:
        image = resize(data, _OPTIONS)
    except ImageError as error:
        assert error.reason and error.message
        return
    assert min(image.width, image.height) <= 32
    with Image.open(io.BytesIO(image.data)) as written:
        assert written.size == (image.width, image.height)
