"""Fetcher against real, misbehaving servers on loopback."""

import asyncio
import gzip
import ipaddress
import socket
import zlib
from collections import Counter

import brotli
import pytest
from loopback import Site, answer

from infra.schema import Drop
from pipelines.web import FetchError, Web
from pipelines.web.coding import CodingError, OversizeError, decoder
from pipelines.web.fetcher import Fetcher
from pipelines.web.guard import Guard, is_public
from pipelines.web.http_client import retry_after
from pipelines.web.policy.opt_outs import IMAGE, LINKS, PAGE, from_headers, from_metas, refusal
from pipelines.web.policy.robots import RobotsRules
from pipelines.web.urls import BadUrlError, canonical, host_of, is_address, matches, origin_of, without_parameters


def web(site, **changes):
    return Web(**{"connect_to": {"*.example": f"127.0.0.1:{site.port}"}, "retries": 0, "retry_s": 0.0, **changes})


async def fetch(routes, url="http://a.example/x", kind="page", admit=None, follow=True, **changes):
    async with Site(routes) as site, Fetcher(web(site, **changes), admit) as fetcher:
        return await fetcher.get(url, kind, follow=follow)


async def refused(*args, **kwargs):
    with pytest.raises(FetchError) as caught:
        await fetch(*args, **kwargs)
    return caught.value.reason, caught.value.detail


# --- what works ---


async def test_a_page_arrives_with_its_headers_and_our_name():
    routes = {"/x": answer("<p>grüße".encode(), X_Odd=["1", "2"])}
    async with Site(routes) as site, Fetcher(web(site, contact="mailto:a@b.example")) as fetcher:
        response = await fetcher.get("HTTP://A.example:80/y/../x#part")
    assert (response.url, response.status) == ("http://a.example/x", 200)
    assert response.body.decode() == "<p>grüße"
    assert [value for name, value in response.headers if name == "X-Odd"] == ["1", "2"]
    assert site.asked == ["a.example/robots.txt", "a.example/x"]
    assert "User-Agent: clipline/0.1 (+mailto:a@b.example)\r\n" in site.heads[-1]


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(b"<p>a" * 1000)),
        ("x-gzip", gzip.compress(b"<p>a" * 400) + gzip.compress(b"<p>a" * 600) + b"garbage"),
        ("deflate", zlib.compress(b"<p>a" * 1000)),
        ("deflate", zlib.compress(b"<p>a" * 1000)[2:-4]),
        ("br", brotli.compress(b"<p>a" * 1000)),
        ("identity", b"<p>a" * 1000),
    ],
)
async def test_content_codings(coding, body):
    assert (await fetch({"/x": answer(body, Content_Encoding=coding)})).body == b"<p>a" * 1000


@pytest.mark.parametrize("host", ["static1", "img.host2", "cdn-7", "3com", "a1.b2.c3", "xn--80ak6aa92e1"])
async def test_a_name_that_ends_in_a_digit_is_a_name(host):
    """Such a host, also as a redirect's target, once ended a whole download."""
    routes = {"a.example/x": answer(b"", "302 Found", Location=f"http://{host}/y"), f"{host}/y": answer(b"<p>found")}
    async with Site(routes) as site:
        names = {"*.example": f"127.0.0.1:{site.port}", host: f"127.0.0.1:{site.port}"}
        async with Fetcher(web(site, connect_to=names)) as fetcher:
            for url in (f"http://{host}/y", "http://a.example/x"):
                assert (await fetcher.get(url)).body == b"<p>found"


@pytest.mark.parametrize(
    ("url", "literal"),
    [
        ("http://static1/", False),
        ("http://1/", True),
        ("http://0x7f.1/", True),
        ("http://2130706433/", True),
        ("http://127.0.0.1./", True),
        ("http://[::1]/", True),
        ("http://a.b1/", False),
        ("http://a.1b/", False),
        ("http://1.2.3.4.example/", False),
        ("http://1.2.3.4x/", False),
    ],
)
def test_an_address_is_told_from_a_name(url, literal):
    host = host_of(canonical(url))
    assert is_address(host) is literal
    if literal:
        ipaddress.ip_address(host)


async def test_redirects_are_followed_and_listed():
    routes = {
        "/x": answer(b"", "301 Moved", Location="/y"),
        "/y": answer(b"", "302 Found", Location="http://b.example/z?q=ä"),
        "b.example/z?q=%C3%A4": answer(b"<p>end"),
    }
    response = await fetch(routes)
    assert response.url == "http://b.example/z?q=%C3%A4"
    assert response.redirects == ("http://a.example/x", "http://a.example/y")
    assert (await fetch(routes, follow=False)).header("location") == "/y"


@pytest.mark.alone
async def test_connections_to_a_host_are_bounded_and_paced():
    routes = {f"/{n}": answer() for n in range(12)}

    async def slowly(writer):
        await asyncio.sleep(0.02)
        writer.write(answer(Connection="close"))

    async with Site({path: slowly for path in routes}) as site:
        async with Fetcher(web(site, host_concurrency=3, obey_robots=False)) as fetcher:
            await asyncio.gather(*(fetcher.get(f"http://a.example{path}") for path in routes))
        assert site.most_open == 3
        async with Fetcher(web(site, delay_s=0.03, obey_robots=False)) as fetcher:
            loop = asyncio.get_running_loop()
            start = loop.time()
            await asyncio.gather(*(fetcher.get(f"http://a.example/{n}") for n in range(4)))
            assert loop.time() - start >= 3 * 0.03


# --- where we do not go ---


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "data:text/html,hello",
        "ftp://a.example/x",
        "http://me:secret@a.example/",
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://1../",  # a name by the standard, an address to resolvers and clients
        "http://256.256.256.256../",
        "http://127.0.0.1../",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://a.example/" + "x" * 5000,
        "http://",
        "not a url",
    ],
)
async def test_addresses_refused_without_a_word_on_the_wire(url):
    assert (await refused({}, url))[0] is Drop.REFUSED
    redirecting = {"/x": answer(b"", "302 Found", Location=url)}
    if url not in ("not a url", "http://"):  # as a Location the first is a relative path
        assert (await refused(redirecting))[0] is Drop.REFUSED


@pytest.mark.parametrize("host", ["static1", "img.host2", "a.0x1g", "x.1a2"])
async def test_a_name_may_end_in_a_digit(host):
    routes = {f"{host}/x": answer(), "a.example/x": answer(b"", "302 Found", Location=f"http://{host}/x")}
    async with Site(routes) as site:
        mapping = {pattern: f"127.0.0.1:{site.port}" for pattern in ("*.example", host)}
        async with Fetcher(web(site, connect_to=mapping)) as fetcher:
            for url in (f"http://{host}/x", "http://a.example/x"):
                assert (await fetcher.get(url)).url == f"http://{host}/x"


async def test_a_name_that_ends_in_a_digit_is_looked_up(monkeypatch):
    asked = []

    def getaddrinfo(host, *_):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    async with Fetcher(Web(retries=0, obey_robots=False)) as fetcher:
        with pytest.raises(FetchError) as caught:
            await fetcher.get("http://static1/x.jpg", "image")
    assert (caught.value.reason, caught.value.detail) == (Drop.REFUSED, "an address that is not public")
    assert asked == ["static1"]


async def test_a_name_that_resolves_to_a_private_address_is_refused(monkeypatch):
    def lookup(host, port, *_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with Site({"/x": answer()}) as site:
        url = f"http://rebound.test:{site.port}/x"
        async with Fetcher(Web(retries=0)) as fetcher:
            with pytest.raises(FetchError, match="not public") as caught:
                await fetcher.get(url)
        assert caught.value.reason is Drop.REFUSED
        assert site.asked == []
        async with Fetcher(Web(retries=0, allow_private=("127.0.0.0/8",))) as fetcher:
            assert (await fetcher.get(url)).status == 200


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.0.8", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("::ffff:192.0.0.8", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:192.168.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(ipaddress.ip_address(address)) is public


async def test_connect_to_maps_patterns_ports_and_ipv6():
    guard = Guard({"*.example": "127.0.0.1:81", "six.test": "[::1]:82", "bare.test": "10.0.0.1"}, (), 1)
    found = [await guard.resolve(host, 80) for host in ("a.b.example", "six.test", "bare.test")]
    assert [(hit[0]["host"], hit[0]["port"]) for hit in found] == [("127.0.0.1", 81), ("::1", 82), ("10.0.0.1", 80)]
    await guard.close()


async def test_redirect_loops_and_chains_end():
    loop = {"/x": answer(b"", "302 Found", Location="/y"), "/y": answer(b"", "302 Found", Location="/x")}
    assert await refused(loop) == (Drop.REFUSED, "redirect loop")
    chain = {f"/{n}": answer(b"", "302 Found", Location=f"/{n + 1}") for n in range(9)}
    assert await refused(chain, "http://a.example/0") == (Drop.REFUSED, "more than 5 redirects")
    assert (await refused({"/x": answer(b"", "302 Found")}))[0] is Drop.HTTP_ERROR


async def test_a_redirect_off_the_admitted_site():
    routes = {"/x": answer(b"", "302 Found", Location="http://b.example/")}
    assert await refused(routes, admit=lambda url: "//a." in url) == (Drop.OFF_SITE, "http://b.example/")


# --- what servers do to us ---


async def test_status_errors_and_what_is_tried_again():
    assert await refused({}) == (Drop.HTTP_ERROR, "404")
    async with Site({"/x": [answer(b"", "503 Busy"), answer(b"", "429 Slow", Retry_After="0"), answer()]}) as site:
        async with Fetcher(web(site, retries=2)) as fetcher:
            assert (await fetcher.get("http://a.example/x")).status == 200
        assert site.asked.count("a.example/x") == 3
    async with Site({"/x": answer(b"", "410 Gone")}) as site:
        async with Fetcher(web(site, retries=2)) as fetcher:
            with pytest.raises(FetchError, match="410"):
                await fetcher.get("http://a.example/x")
        assert site.asked.count("a.example/x") == 1


def test_retry_after_forms():
    assert retry_after("120") == 120
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("soon") is retry_after("") is None


async def test_bodies_that_are_too_large_or_bombs():
    assert (await refused({"/x": answer(b"x" * 2000)}, max_page_bytes=1000))[0] is Drop.TOO_LARGE
    endless = answer(b"", Transfer_Encoding="chunked", Content_Length=None) + b"400\r\n" + b"x" * 1024 + b"\r\n"
    assert (await refused({"/x": endless}, max_page_bytes=1000))[0] is Drop.TOO_LARGE
    bomb = gzip.compress(bytes(50 << 20))
    for coding, body in (("gzip", bomb), ("br", brotli.compress(bytes(50 << 20), quality=1))):
        reason, detail = await refused({"/x": answer(body, Content_Encoding=coding)}, max_page_bytes=1 << 20)
        assert (reason, detail) == (Drop.TOO_LARGE, "more than 1048576 bytes")


async def test_truncated_bodies():
    async def short(writer):
        writer.write(answer(b"x" * 10, Content_Length="100"))

    assert (await refused({"/x": short}))[0] is Drop.TRUNCATED
    half = gzip.compress(b"a" * 1000)[:-6]
    assert (await refused({"/x": answer(half, Content_Encoding="gzip")}))[0] is Drop.TRUNCATED
    reason, detail = await refused({"/x": answer(b"not gzip at all", Content_Encoding="gzip")})
    assert reason is Drop.HTTP_ERROR and "content coding" in detail
    assert (await refused({"/x": answer(Content_Encoding="zstd-odd")}))[0] is Drop.HTTP_ERROR


@pytest.mark.alone
async def test_slow_servers_meet_the_deadline(monkeypatch):
    never = asyncio.Event()

    async def silent(writer):
        await never.wait()

    async def dripping(writer):
        writer.write(answer(b"x", Content_Length="1000000"))
        await never.wait()

    assert await refused({"/x": silent}, deadline_s=0.1) == (Drop.TIMEOUT, "too slow")
    assert await refused({"/x": dripping}, deadline_s=0.1) == (Drop.TIMEOUT, "too slow")
    monkeypatch.setattr("pipelines.web.http_client._GRACE_S", 0.1)  # the minimum rate, long before the deadline
    assert await refused({"/x": dripping}, deadline_s=60.0) == (Drop.TIMEOUT, "too slow")
    never.set()


async def test_connections_that_fail():
    async def slam(writer):
        writer.transport.abort()

    assert (await refused({"/x": slam}))[0] is Drop.CONNECTION
    assert (await refused({"/x": b"HELLO\r\n\r\n"})) == (Drop.CONNECTION, "malformed answer")
    assert (await refused({"/x": answer(X_Long="x" * 20000)}))[0] is Drop.CONNECTION
    assert (await refused({"/x": answer()}, "https://a.example/x"))[0] is Drop.CONNECTION
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # not listening
        async with Fetcher(Web(connect_to={"*": f"127.0.0.1:{bound.getsockname()[1]}"}, retries=0)) as fetcher:
            with pytest.raises(FetchError) as caught:
                await fetcher.get("http://a.example/")
    assert (caught.value.reason, caught.value.detail) == (Drop.CONNECTION, "robots.txt: ECONNREFUSED")


async def test_a_page_must_be_html_and_an_image_may_be_anything():
    routes = {"/x": answer(b"%PDF", Content_Type="application/pdf")}
    assert await refused(routes) == (Drop.NOT_HTML, "application/pdf")
    assert (await fetch(routes, kind="image")).body == b"%PDF"
    assert (await fetch({"/x": answer(Content_Type="application/xhtml+xml; charset=utf-8")})).status == 200
    assert (await fetch({"/x": answer(Content_Type=None)})).status == 200


# --- robots.txt ---

ROBOTS = b"""User-agent: *
Disallow: /private
Crawl-delay: 0.02

User-agent: GPTBot
Disallow: /art

User-agent: somebody
Disallow: /
"""


async def test_robots_is_asked_once_and_obeyed():
    routes = {"/robots.txt": answer(ROBOTS, Content_Type="text/plain"), "/x": answer(), "/private": answer()}
    async with Site(routes) as site, Fetcher(web(site)) as fetcher:
        await asyncio.gather(*(fetcher.get("http://a.example/x") for _ in range(5)))
        with pytest.raises(FetchError) as caught:
            await fetcher.get("http://a.example/private")
        assert caught.value.reason is Drop.ROBOTS
        with pytest.raises(FetchError) as caught:
            await fetcher.get("http://a.example/art/1.png", "image")
        assert (caught.value.reason, caught.value.detail) == (Drop.OPT_OUT, "robots.txt: User-agent: GPTBot")
    assert Counter(site.asked) == {"a.example/robots.txt": 1, "a.example/x": 5}
    assert (await fetch(routes, "http://a.example/private", obey_robots=False)).status == 200


async def test_robots_of_the_host_a_redirect_leads_to():
    routes = {
        "a.example/x": answer(b"", "302 Found", Location="http://b.example/private"),
        "b.example/robots.txt": answer(ROBOTS),
        "/private": answer(),
    }
    assert await refused(routes) == (Drop.ROBOTS, "robots.txt")


@pytest.mark.parametrize(
    ("status", "outcome"), [("404 None", None), ("403 No", None), ("500 Oh", "500"), ("429 Slow", "429")]
)
async def test_what_a_missing_robots_means(status, outcome):
    routes = {"/robots.txt": answer(b"User-agent: *\nDisallow: /", status), "/x": answer()}
    if outcome is None:
        assert (await fetch(routes)).status == 200
    else:
        assert await refused(routes) == (Drop.ROBOTS, f"robots.txt: {outcome}")


async def test_robots_of_any_size_is_read_up_to_its_cap():
    routes = {"/robots.txt": answer(b"User-agent: *\nDisallow: /x\n" + b"#" * (1 << 20)), "/x": answer()}
    assert await refused(routes) == (Drop.ROBOTS, "robots.txt")
    packed = gzip.compress(b"User-agent: *\nDisallow: /x\n" + b"#" * (1 << 20))
    assert await refused({**routes, "/robots.txt": answer(packed, Content_Encoding="gzip")}) == (
        Drop.ROBOTS,
        "robots.txt",
    )


def test_rules_know_the_delay_and_the_ai_crawlers_named():
    rules = RobotsRules.parse(200, ROBOTS)
    assert rules.agents == ("GPTBot",)
    assert rules.crawl_delay == 0.02
    assert not rules.refusal("http://a.example/art", "clipline")
    assert RobotsRules.parse(404, b"").crawl_delay == 0.0


# --- opt-outs ---


@pytest.mark.parametrize(
    ("values", "page", "image"),
    [
        (["noai"], True, True),
        (["all"], False, False),
        (["noimageai"], False, True),
        (["NoIndex, nofollow"], True, True),
        (["none"], True, True),
        (["nofollow"], False, False),
        (["max-image-preview:large, noai"], True, True),
        (["max-snippet: 5", "noimageindex"], False, True),
        (["googlebot: noindex, noai"], False, False),
        (["clipline: noai"], True, True),
        (["otherbot: noindex, clipline: noml"], True, True),
        (["GPTBot: noindex"], True, True),
        (["*: noai"], True, True),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], False, False),
        (["tdm-reservation: 1"], True, True),
        (["tdm-reservation: 0"], False, False),
        (["", ",,", ": noai"], False, False),
    ],
)
def test_robots_tags(values, page, image):
    said = list(from_headers([("x-robots-tag", value) for value in values], "clipline"))
    assert bool(refusal(said, PAGE)) is page
    assert bool(refusal(said, IMAGE)) is image


def test_meta_tags_and_reservations():
    assert refusal(from_headers([("TDM-Reservation", "1")], "clipline"), PAGE) == "TDM-Reservation: 1"
    assert refusal(from_headers([("TDM-Reservation", "0")], "clipline"), PAGE) == ""
    metas = [("robots", "NoImageAI, nofollow"), ("googlebot", "noindex"), ("tdm-reservation", "1")]
    said = list(from_metas(metas, "clipline"))
    assert refusal(said, IMAGE) == "meta robots: NoImageAI, nofollow; meta tdm-reservation: 1"
    assert refusal(said, LINKS) == "meta robots: NoImageAI, nofollow"


async def test_an_opt_out_reaches_the_caller():
    routes = {"/x": answer(b"img", Content_Type="image/png", X_Robots_Tag=["max-snippet:1", "noimageai"])}
    assert await refused(routes, kind="image") == (Drop.OPT_OUT, "X-Robots-Tag: noimageai")
    used = await fetch(routes, kind="image", obey_opt_out=False)
    assert (used.body, used.opt_out) == (b"img", "X-Robots-Tag: noimageai")


# --- the parts by themselves ---


@pytest.mark.parametrize(
    ("given", "base", "wanted"),
    [
        ("HTTP://Ex.COM:80/a/./b/../c?b=1&a=2#f", None, "http://ex.com/a/c?b=1&a=2"),
        ("https://bücher.example", None, "https://xn--bcher-kva.example/"),
        ("../i m.png", "http://a.example/x/y/z", "http://a.example/x/i%20m.png"),
        ("//b.example/x", "https://a.example/", "https://b.example/x"),
        (" /a\n ", "http://a.example/q?x", "http://a.example/a"),
    ],
)
def test_canonical_urls(given, base, wanted):
    assert canonical(given, base) == wanted
    assert canonical(wanted) == wanted


def test_url_parts():
    assert origin_of("http://a.example:8080/x/y") == "http://a.example:8080"
    assert without_parameters("http://a/?utm_source=x&q=1&fbclid=2", ("utm_*", "fbclid")) == "http://a/?q=1"
    assert without_parameters("http://a/?utm_source=x", ("utm_*",)) == "http://a/"
    assert matches("a.b.example", "*.example") and not matches("example", "*.example")
    with pytest.raises(BadUrlError):
        canonical("javascript:void(0)", "http://a.example/")


def test_decoders_in_any_chunks():
    data = bytes(range(256)) * 40
    for coding, packed in (
        ("gzip", gzip.compress(data)),
        ("br", brotli.compress(data)),
        ("deflate", zlib.compress(data)),
    ):
        stream = decoder(coding)
        assert b"".join(stream.feed(packed[n : n + 1], len(data)) for n in range(len(packed))) == data
        assert stream.complete
        with pytest.raises(OversizeError) as caught:
            decoder(coding).feed(packed, 1000)
        assert caught.value.fitting == data[:1000]
    with pytest.raises(CodingError):
        decoder("br").feed(b"\xff" * 100, 1000)


def test_the_fingerprint_sees_what_decides_only():
    assert Web(concurrency=1, connect_to={"*": "127.0.0.1"}).identity() == Web().identity()
    assert Web(obey_robots=False).identity() != Web().identity()
