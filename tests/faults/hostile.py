"""Hostile server behaviours, one function each, with the expected outcome.

Read it as a list: the docstring says what the server does, the line above says how it must end. ``reason=None`` means
that the file comes through all the same. :mod:`wire` serves the list, ``test_hostile.py`` holds us to it.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import zlib
from collections.abc import Callable
from typing import Any

import bombs
import brotli
from bombs import HEALTHY_IMAGE, MB, flipped, picture
from wire import Behaviour, HangUp, Wire

from infra.schema import Drop

BEHAVIOURS: dict[str, Behaviour] = {}


def hostile(*kinds: str, reason: Drop | None, detail: str = "", name: str = "", **how: Any) -> Callable:
    """Enter a function into the table; see :class:`wire.Behaviour` for the columns."""

    def enter(does: Callable) -> Callable:
        row = {
            "at": "fetch",
            "crawled": reason,
            "place": "file",
            "neighbour": True,
            "within_s": 3.0,
            "listener": "plain",
            "scheme": "http",
            "bomb": False,
            **how,
        }
        known = name or does.__name__
        assert known not in BEHAVIOURS, known
        BEHAVIOURS[known] = Behaviour(known, does, kinds or ("page", "image"), reason, detail, **row)
        return does

    return enter


# --- servers that take their time -------------------------------------------------------------------------------------


@hostile(reason=Drop.TIMEOUT, detail="too slow")
async def no_headers(wire: Wire):
    """Takes the request and never says a word."""
    await wire.silence()


@hostile(reason=Drop.TIMEOUT, detail="too slow")
async def headers_byte_by_byte(wire: Wire):
    """Sends its headers a byte every 100 ms, so that something always arrives."""
    await wire.drip(wire.answer(X_Padding="x" * 1000), 0.1)


@hostile(reason=Drop.TIMEOUT, detail="too slow")
async def body_stalls(wire: Wire):
    """Sends half of the body, then nothing more."""
    await wire.send(wire.answer()[:-20])
    await wire.silence()


@hostile(reason=Drop.TIMEOUT, detail="too slow")
async def body_byte_by_byte(wire: Wire):
    """Sends the body a byte every 100 ms."""
    await wire.send(wire.head(Content_Length=str(len(wire.good))))
    await wire.drip(wire.good, 0.1)


@hostile(reason=Drop.TIMEOUT, detail="too slow")
async def hints_for_ever(wire: Wire):
    """Sends one ``103 Early Hints`` after another, and never the answer."""
    while True:
        await wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
        await asyncio.sleep(0.05)


@hostile(reason=Drop.TIMEOUT, detail="no connection in time|too slow", neighbour=False, listener="deaf")
def nobody_accepts(wire: Wire):
    """A port behind which packets vanish."""


@hostile(reason=Drop.TIMEOUT, detail="too slow", neighbour=False, place="robots")
async def robots_never_come(wire: Wire):
    """Serves the file at once, if only its robots.txt ever came."""
    await wire.silence()


# --- bodies without end -----------------------------------------------------------------------------------------------


@hostile(reason=Drop.TOO_LARGE, detail="more than", bomb=True)
async def endless_body(wire: Wire):
    """No Content-Length, and no end."""
    await wire.send(wire.head(Connection="close"))
    await wire.forever(b"<p>" * 20_000)


@hostile(reason=Drop.TOO_LARGE, detail="more than", bomb=True)
async def endless_chunks(wire: Wire):
    """Chunk upon chunk."""
    await wire.send(wire.chunked())
    await wire.forever(b"ea60\r\n" + b"<p>" * 20_000 + b"\r\n")


@hostile(reason=Drop.TIMEOUT, detail="too slow")
async def endless_chunks_of_one_byte(wire: Wire):
    """Six bytes on the wire for each of the body, fast enough to count as alive."""
    await wire.send(wire.chunked())
    while True:
        await wire.send(b"1\r\nx\r\n" * 500)
        await asyncio.sleep(0.05)


@hostile(reason=Drop.TOO_LARGE, detail="on the wire", bomb=True)
async def endless_chunk_extension(wire: Wire):
    """A chunk size followed by a comment that never ends, so that no body ever arrives."""
    await wire.send(wire.chunked(b"10;note="))
    await wire.forever(b"x" * 60_000)


@hostile(reason=Drop.TOO_LARGE, detail="on the wire", bomb=True)
async def a_comment_on_every_byte(wire: Wire):
    """A kilobyte of comment with each byte of the body."""
    await wire.send(wire.chunked())
    for byte in wire.good * 100:
        await wire.send((b"1;note=" + b"x" * 1000 + b"\r\n%c\r\n" % byte) * 60)


@hostile(reason=Drop.TOO_LARGE, detail="on the wire", bomb=True)
async def hints_as_fast_as_they_go(wire: Wire):
    """Hints without end before the answer, a megabyte in no time."""
    await wire.forever((b"HTTP/1.1 103 Early Hints\r\nLink: </" + b"x" * 4000 + b">\r\n\r\n") * 15)


@hostile(reason=Drop.CONNECTION, detail="malformed answer", bomb=True)
async def trailers_without_end(wire: Wire):
    """The whole body, and behind it one trailer after another."""
    await wire.send(wire.chunked(b"%x\r\n" % len(wire.good), wire.good, b"\r\n0\r\n"))
    await wire.forever(b"X-Trailer: value\r\n" * 3000)


@hostile(reason=Drop.CONNECTION, detail="malformed answer", bomb=True)
async def a_trailer_without_end(wire: Wire):
    """The whole body, and behind it a trailer that never ends."""
    await wire.send(wire.chunked(b"%x\r\n" % len(wire.good), wire.good, b"\r\n0\r\nX-Trailer: "))
    await wire.forever(b"x" * 60_000)


@hostile(reason=Drop.TOO_LARGE, detail="more than", bomb=True)
async def two_hundred_megabytes(wire: Wire):
    """Says what it is going to send, and sends it."""
    await wire.send(wire.head(Content_Length=str(200 * MB)))
    await wire.forever(b"<p>" * 20_000)


@hostile("page", reason=Drop.TOO_LARGE, detail="more than", bomb=True)
async def a_page_of_two_hundred_megabytes(wire: Wire):
    """The same without saying so, with every byte of it wanted by nobody."""
    await wire.send(wire.head(Connection="close"))
    for _ in range(200):
        await wire.send(b"<!-- -->" * (MB // 8))
        await asyncio.sleep(0)


# --- lengths that lie -------------------------------------------------------------------------------------------------


@hostile(reason=Drop.TRUNCATED, detail="ended early")
def content_length_too_long(wire: Wire):
    """Promises 1,000 bytes more than it sends, and closes."""
    wire.writer.write(wire.answer(Content_Length=str(len(wire.good) + 1000)))
    raise HangUp


@hostile("page", reason=None)
def content_length_too_short(wire: Wire):
    """Sends more than it promises: the page ends where it was promised to, and the rest is nobody's answer."""
    return wire.answer(wire.good + b"HTTP/1.1 200 OK\r\n\r\nintruder", Content_Length=str(len(wire.good)))


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def content_length_in_mid_body(wire: Wire):
    """Promises half of what it sends, so that the second half stands where the next answer should begin."""
    return wire.answer(Content_Length=str(len(wire.good) // 2))


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def content_length_negative(wire: Wire):
    """``Content-Length: -1``."""
    return wire.answer(Content_Length="-1")


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def content_length_not_a_number(wire: Wire):
    """``Content-Length: all of it``."""
    return wire.answer(Content_Length="all of it")


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def content_length_beyond_64_bits(wire: Wire):
    """A length that overflows a counter."""
    return wire.answer(Content_Length=str(1 << 64))


@hostile(reason=Drop.TOO_LARGE, detail="more than")
def content_length_huge(wire: Wire):
    """An exabyte, of which not a byte needs to be read."""
    return wire.answer(Content_Length=str(10**18))


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def two_content_lengths(wire: Wire):
    """Two different ones: whoever picks one is open to request smuggling."""
    return wire.answer(Content_Length=[str(len(wire.good)), "5"])


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def content_length_and_chunked(wire: Wire):
    """Both ways of framing at once, which RFC 9112 (6.3) tells a client to take for an attack."""
    return wire.head(Content_Length="5", Transfer_Encoding="chunked") + b"5\r\nhello\r\n0\r\n\r\n"


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def chunk_size_overflows(wire: Wire):
    """A chunk of 16**20 bytes."""
    return wire.chunked(b"F" * 20 + b"\r\n", wire.good)


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def chunk_size_negative(wire: Wire):
    """A chunk of -1 bytes."""
    return wire.chunked(b"-1\r\n", wire.good, b"\r\n0\r\n\r\n")


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def chunk_size_not_a_number(wire: Wire):
    """A chunk of "many" bytes."""
    return wire.chunked(b"many\r\n", wire.good, b"\r\n0\r\n\r\n")


@hostile(reason=Drop.TRUNCATED, detail="ended early")
def chunk_size_too_large(wire: Wire):
    """A chunk that ends before its size."""
    wire.writer.write(wire.chunked(b"fffff\r\n", wire.good, b"\r\n0\r\n\r\n"))
    raise HangUp


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def chunk_size_too_small(wire: Wire):
    """A chunk that goes on behind its size."""
    return wire.chunked(b"5\r\n", wire.good, b"\r\n0\r\n\r\n")


@hostile(reason=Drop.TRUNCATED, detail="ended early")
def chunks_without_an_end(wire: Wire):
    """Whole chunks, but the last one never comes."""
    wire.writer.write(wire.chunked(b"%x\r\n" % len(wire.good), wire.good, b"\r\n"))
    raise HangUp


# --- compressed bodies ------------------------------------------------------------------------------------------------


@hostile(reason=Drop.TOO_LARGE, detail="more than", bomb=True)
def gzip_bomb(wire: Wire):
    """256 MB in 256 kB."""
    return wire.answer(bombs.gzip_bomb(), Content_Encoding="gzip")


@hostile(reason=Drop.TOO_LARGE, detail="more than", bomb=True)
def deflate_bomb(wire: Wire):
    """The same as a zlib stream."""
    return wire.answer(bombs.deflate_bomb(), Content_Encoding="deflate")


@hostile(reason=Drop.TOO_LARGE, detail="more than", bomb=True)
def brotli_bomb(wire: Wire):
    """64 MB in a hundred bytes."""
    return wire.answer(bombs.brotli_bomb(), Content_Encoding="br")


@hostile(reason=Drop.HTTP_ERROR, detail="content coding", bomb=True)
def gzip_within_gzip(wire: Wire):
    """A bomb within a bomb; nobody codes twice who means well."""
    return wire.answer(gzip.compress(bombs.gzip_bomb()), Content_Encoding="gzip, gzip")


@hostile("page", reason=None, within_s=4.0)
def fifty_thousand_empty_gzip_members(wire: Wire):
    """A megabyte of gzip members that hold nothing, then the page."""
    return wire.answer(bombs.empty_members() + gzip.compress(wire.good), Content_Encoding="gzip")


@hostile(reason=Drop.HTTP_ERROR, detail="content coding")
def a_coding_nobody_knows(wire: Wire):
    """``Content-Encoding: middle-out``."""
    return wire.answer(Content_Encoding="middle-out")


@hostile(reason=Drop.HTTP_ERROR, detail="content coding")
def a_coding_we_did_not_ask_for(wire: Wire):
    """LZW, as in 1985."""
    return wire.answer(b"\x1f\x9d\x90", Content_Encoding="compress")


@hostile(reason=Drop.HTTP_ERROR, detail="content coding")
def says_gzip_and_is_not(wire: Wire):
    """The body as it is, under a header that says it is packed."""
    return wire.answer(Content_Encoding="gzip")


@hostile(reason=Drop.HTTP_ERROR, detail="content coding")
def gzip_with_flipped_bytes(wire: Wire):
    """Some bytes in the middle are wrong; the checksum would tell, if nothing else did."""
    packed = gzip.compress(wire.good * 20, mtime=0)
    return wire.answer(flipped(packed, len(packed) // 2), Content_Encoding="gzip")


@hostile(reason=Drop.HTTP_ERROR, detail="content coding")
def gzip_with_a_wrong_checksum(wire: Wire):
    """All is well until the last eight bytes."""
    packed = gzip.compress(wire.good, mtime=0)
    return wire.answer(packed[:-8] + bytes(8), Content_Encoding="gzip")


@hostile(reason=Drop.TRUNCATED, detail="coded body ended early")
def gzip_cut_off(wire: Wire):
    """The right Content-Length for half of a stream."""
    packed = gzip.compress(wire.good)
    return wire.answer(packed[: len(packed) // 2], Content_Encoding="gzip")


@hostile(reason=Drop.TRUNCATED, detail="coded body ended early")
def brotli_cut_off(wire: Wire):
    """The same in Brotli, which has no checksum."""
    packed = brotli.compress(wire.good)
    return wire.answer(packed[: len(packed) // 2], Content_Encoding="br")


@hostile(reason=None)
def gzip_with_garbage_behind(wire: Wire):
    """What browsers forgive."""
    return wire.answer(gzip.compress(wire.good) + b"\0\0\0<!-- cached -->", Content_Encoding="gzip")


@hostile(reason=None)
def deflate_without_its_header(wire: Wire):
    """Bare deflate, as some servers understand the name."""
    return wire.answer(zlib.compress(wire.good)[2:-4], Content_Encoding="deflate")


# --- headers and status lines -----------------------------------------------------------------------------------------


@hostile(reason=Drop.CONNECTION, detail="malformed answer", bomb=True)
def a_header_of_a_megabyte(wire: Wire):
    """One header, one million characters."""
    return wire.answer(X_Long="x" * MB)


@hostile(reason=Drop.CONNECTION, detail="malformed answer", bomb=True)
def ten_thousand_headers(wire: Wire):
    """Many small ones."""
    return wire.answer(X_Many=[str(n) for n in range(10_000)])


@hostile(reason=Drop.CONNECTION, detail="malformed answer", bomb=True)
async def headers_without_end(wire: Wire):
    """Header after header, and never an empty line."""
    await wire.send(b"HTTP/1.1 200 OK\r\n")
    await wire.forever(b"".join(b"X-%d: %s\r\n" % (n, b"x" * 100) for n in range(100)))


@hostile(reason=Drop.CONNECTION, detail="malformed answer", bomb=True)
async def a_status_line_without_end(wire: Wire):
    """A reason phrase that goes on."""
    await wire.send(b"HTTP/1.1 200 ")
    await wire.forever(b"really " * 1000)


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def http_0_9(wire: Wire):
    """The body at once, as in 1991."""
    wire.writer.write(b"<p>hello\r\n\r\n")
    raise HangUp


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def a_status_of_four_digits(wire: Wire):
    """``HTTP/1.1 2000 Very OK``."""
    return wire.answer(status="2000 Very OK")


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def a_version_from_the_future(wire: Wire):
    """``HTTP/9.9 200 OK``."""
    return wire.answer().replace(b"HTTP/1.1", b"HTTP/9.9", 1)


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def another_protocol(wire: Wire):
    """A mail server."""
    wire.writer.write(b"220 mail.example ESMTP\r\n502 5.5.2 Error: command not recognized\r\n")
    raise HangUp


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def binary_garbage(wire: Wire):
    """Noise."""
    wire.writer.write(zlib.compress(bytes(range(256)) * 8))
    raise HangUp


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def a_nul_in_a_header(wire: Wire):
    """``X-Odd: a\\0b``."""
    return wire.answer(X_Odd="a\0b")


@hostile(reason=None)
def headers_in_no_charset(wire: Wire):
    """Header bytes that are neither ASCII nor UTF-8."""
    return wire.answer(X_Odd="caf\udce9 \udcff")


@hostile(reason=None)
def many_cookies(wire: Wire):
    """A hundred cookies, none of which may ever come back."""
    return wire.answer(Set_Cookie=[f"c{n}={'x' * 50}; Domain=.example; Path=/" for n in range(50)])


@hostile(reason=None)
def a_refresh_header_to_nowhere(wire: Wire):
    """``Refresh: 0; url=javascript:...``, which is no redirect of ours."""
    return wire.answer(Refresh="0; url=javascript:alert(1)", Link="<file:///etc/passwd>; rel=preload")


# --- connections ------------------------------------------------------------------------------------------------------


@hostile(reason=Drop.CONNECTION, detail="ECONNREFUSED", neighbour=False, listener="closed")
def nobody_listens(wire: Wire):
    """A closed port."""


@hostile(reason=Drop.CONNECTION, detail="")
def closes_at_once(wire: Wire):
    """Takes the request and hangs up."""
    raise HangUp


@hostile(reason=Drop.CONNECTION, detail="")
def resets_before_the_headers(wire: Wire):
    """RST instead of an answer."""
    wire.reset()


@hostile(reason=Drop.CONNECTION, detail="")
async def resets_within_the_headers(wire: Wire):
    """RST after half a header."""
    await wire.send(wire.answer()[:30])
    await asyncio.sleep(0.02)
    wire.reset()


@hostile(reason=Drop.TRUNCATED, detail="ended early")
async def resets_within_the_body(wire: Wire):
    """RST after half the body."""
    await wire.send(wire.answer()[:-20])
    await asyncio.sleep(0.02)
    wire.reset()


@hostile(reason=None)
def closes_a_connection_it_kept_alive(wire: Wire):
    """Answers robots.txt, keeps the connection, and drops it at the next request: nobody's fault, so asked again."""
    if wire.on_connection > 1:
        raise HangUp
    return wire.answer()


@hostile(reason=None)
def an_answer_nobody_asked_for(wire: Wire):
    """A second answer behind the first, in wait for the next request on the connection."""
    return wire.answer() + wire.answer(b"intruder", "403 Forbidden")


@hostile(reason=Drop.CONNECTION, detail="TLS failed|malformed", neighbour=False, scheme="https")
def tls_to_a_plain_port(wire: Wire):
    """https:// where nobody speaks TLS."""


@hostile(reason=Drop.CONNECTION, detail="", neighbour=False, listener="tls")
def plain_to_a_tls_port(wire: Wire):
    """http:// where only TLS is spoken."""


@hostile(reason=Drop.CONNECTION, detail="TLS failed", neighbour=False, listener="tls", scheme="https")
def a_certificate_nobody_signed(wire: Wire):
    """Self-signed."""


@hostile(reason=Drop.TIMEOUT, detail="", neighbour=False, listener="deaf", scheme="https")
def a_tls_greeting_never_answered(wire: Wire):
    """https:// into silence."""


# --- statuses ---------------------------------------------------------------------------------------------------------


@hostile(reason=Drop.HTTP_ERROR, detail="429|Too Many")
def too_many_requests_for_ever(wire: Wire):
    """429, however often one asks."""
    return wire.answer(b"", "429 Too Many Requests")


@hostile(reason=Drop.RATE_LIMITED, detail="503, its Retry-After is longer", neighbour=False)
def come_back_in_a_year(wire: Wire):
    """``Retry-After: 31536000``, which must not become a pause of a year: the host is left alone."""
    return wire.answer(b"", "503 Service Unavailable", Retry_After="31536000")


@hostile(reason=Drop.RATE_LIMITED, detail="503, its Retry-After is longer", neighbour=False)
def come_back_in_the_year_9999(wire: Wire):
    """``Retry-After`` as a date far away."""
    return wire.answer(b"", "503 Service Unavailable", Retry_After="Fri, 31 Dec 9999 23:59:59 GMT")


@hostile(reason=Drop.HTTP_ERROR, detail="503|Unavailable")
def come_back_at_no_time(wire: Wire):
    """``Retry-After`` with a number that is none to Python's int()."""
    return wire.answer(b"", "503 Service Unavailable", Retry_After="²³")


@hostile(reason=None)
def unavailable_then_fine(wire: Wire):
    """503 to the first, the file to the second."""
    return wire.answer(b"", "503 Service Unavailable") if wire.turn == 1 else wire.answer()


@hostile(reason=Drop.HTTP_ERROR, detail="304|Not Modified")
def not_modified(wire: Wire):
    """304 to somebody who has no copy."""
    return wire.head("304 Not Modified")


@hostile(reason=Drop.HTTP_ERROR, detail="999")
def a_status_of_its_own(wire: Wire):
    """999, which a large site gives to crawlers."""
    return wire.answer(b"", "999 Request Denied")


@hostile("page", reason=None)
def no_content(wire: Wire):
    """204: an empty page is a page."""
    return wire.head("204 No Content")


@hostile("image", reason=Drop.NOT_AN_IMAGE, at="after")
def no_image(wire: Wire):
    """204: an empty image is none."""
    return wire.head("204 No Content")


@hostile("image", reason=Drop.TRUNCATED, at="after")
def part_of_an_image(wire: Wire):
    """206 to somebody who asked for all of it."""
    half = len(wire.good) // 2
    return wire.answer(wire.good[:half], "206 Partial Content", Content_Range=f"bytes 0-{half - 1}/{len(wire.good)}")


@hostile(reason=None)
def hints_before_the_answer(wire: Wire):
    """Two 1xx answers, then the real one."""
    return b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + wire.answer()


@hostile(reason=Drop.HTTP_ERROR, detail="101|Switching")
def another_protocol_from_here_on(wire: Wire):
    """101 Switching Protocols, which nobody asked for."""
    wire.writer.write(wire.head("101 Switching Protocols", Upgrade="websocket", Connection="Upgrade"))
    raise HangUp


# --- redirects --------------------------------------------------------------------------------------------------------


@hostile(reason=Drop.REFUSED, detail="redirect loop", crawled=Drop.REDIRECT)
def a_circle_of_redirects(wire: Wire):
    """There and back again."""
    there, back = (f"/{name}.{'html' if wire.kind == 'page' else 'jpg'}" for name in ("there", "x"))
    return wire.moved(back if wire.path == there else there)


@hostile(reason=Drop.REFUSED, detail="redirect loop")
def a_redirect_to_itself(wire: Wire):
    """The shortest circle."""
    return wire.moved(wire.path)


@hostile(reason=Drop.REFUSED, detail="more than 5 redirects", crawled=Drop.REDIRECT)
def a_chain_of_redirects(wire: Wire):
    """Each address leads to the next, and none is the last."""
    stem, _, extension = wire.path.rpartition(".")
    return wire.moved(f"{stem}x.{extension}")


@hostile(reason=Drop.HTTP_ERROR, detail="without a location")
def a_redirect_without_location(wire: Wire):
    """301, but where to?"""
    return wire.answer(b"", "301 Moved Permanently")


@hostile(reason=Drop.REFUSED, detail="over-long|malformed|not")
def a_redirect_to_5000_characters(wire: Wire):
    """A Location longer than any address we take."""
    return wire.moved("/" + "x" * 5000)


@hostile("image", reason=None)
def a_location_with_a_tab_and_a_newline_escaped(wire: Wire):
    """Escapes stay escapes: the target is an odd path, not a second header."""
    return wire.answer() if "%0D%0A" in wire.path else wire.moved("/%0D%0AHost:%20evil.example/%00.jpg")


@hostile(reason=Drop.CONNECTION, detail="malformed answer")
def a_location_with_a_nul(wire: Wire):
    """A byte no header may hold."""
    return wire.moved("/a\0b")


@hostile("image", reason=Drop.REFUSED, detail="", place="file")
def a_location_that_tries_to_be_two_headers(wire: Wire):
    """CR LF within Location: the second half is a header, and the first leads into a circle."""
    return wire.moved("/x.jpg\r\nX-Injected: yes")


def _redirect(name: str, target: str, detail: str, crawled: Drop = Drop.REFUSED) -> None:
    def does(wire: Wire) -> bytes:
        return wire.moved(target)

    does.__doc__ = f"``Location: {target}``."
    hostile(reason=Drop.REFUSED, detail=detail, name=f"a_redirect_to_{name}", crawled=crawled)(does)


for _name, _host in {
    "loopback": "127.0.0.1",
    "loopback_in_short": "127.1",
    "loopback_in_hex": "0x7f.1",
    "loopback_as_a_number": "2130706433",
    "loopback_in_octal": "0177.0.0.01",
    "loopback_with_a_dot": "127.0.0.1.",
    "loopback_in_full_width": "127。0。0。1",
    "loopback_in_ipv6": "[::1]",
    "loopback_mapped_to_ipv6": "[::ffff:127.0.0.1]",
    "nowhere_in_ipv6": "[::]",
    "nowhere": "0.0.0.0",
    "a_private_network": "192.168.0.1",
    "a_private_network_in_nat64": "[64:ff9b::a00:1]",
    "a_private_network_in_6to4": "[2002:a00:1::1]",
    "the_cloud_s_secrets": "169.254.169.254",
    "the_cloud_s_secrets_in_ipv6": "[fd00:ec2::254]",
    "a_shared_network": "100.64.0.1",
    "everybody": "255.255.255.255",
    "a_multicast_group": "224.0.0.1",
}.items():
    _redirect(_name, f"http://{_host}/latest/meta-data/", "not public")
_redirect("localhost", "http://localhost/", "not public", crawled=Drop.OFF_SITE)  # a name: known once it is looked up
for _scheme in ("file:///etc/passwd", "ftp://a.example/x", "data:image/png;base64,AA==", "javascript:alert(1)"):
    _redirect(f"a_{_scheme.partition(':')[0]}_url", _scheme, "scheme")
_redirect("a_user", "http://me:secret@a.example/", "user part")


# --- robots.txt -------------------------------------------------------------------------------------------------------


@hostile(reason=None, place="robots", bomb=True)
async def robots_of_200_megabytes(wire: Wire):
    """Rules without end, of which half a megabyte is read."""
    await wire.send(wire.head(Content_Type="text/plain", Content_Length=str(200 * MB)))
    await wire.forever(b"User-agent: x\nDisallow: /\n" * 2000)


@hostile(reason=None, place="robots", bomb=True)
def robots_that_are_a_bomb(wire: Wire):
    """256 MB of spaces, packed."""
    return wire.answer(bombs.gzip_bomb(), Content_Encoding="gzip")


@hostile(reason=None, place="robots")
def robots_in_a_circle(wire: Wire):
    """A robots.txt that leads to itself: there are no rules to be had."""
    return wire.moved("/robots.txt")


@hostile(reason=None, place="robots")
def robots_on_loopback(wire: Wire):
    """A robots.txt that leads where we do not go."""
    return wire.moved("http://127.0.0.1/robots.txt")


@hostile(reason=None, place="robots")
def robots_that_are_a_page(wire: Wire):
    """The site's front page, with status 200, as many give for any address."""
    return wire.answer(bombs.HEALTHY_PAGE)


@hostile(reason=None, place="robots")
def robots_that_are_noise(wire: Wire):
    """Bytes."""
    return wire.answer(bytes(range(256)) * 100)


@hostile(reason=None, place="robots", within_s=4.0)
def robots_with_a_costly_pattern(wire: Wire):
    """A rule with many wildcards, on which a backtracking matcher would brood until the end of days."""
    return wire.answer(b"User-agent: *\nDisallow: " + b"/*x" * 40 + b"*nowhere$\n", Content_Type="text/plain")


@hostile(reason=None, place="robots", within_s=4.0)
def robots_of_fifty_thousand_rules(wire: Wire):
    """Half a megabyte of rules."""
    rules = b"".join(b"Disallow: /%05d\n" % n for n in range(30_000))
    return wire.answer(b"User-agent: *\n" + rules, Content_Type="text/plain")


@hostile(reason=Drop.ROBOTS, detail="500", neighbour=False, place="robots")
def robots_that_fail(wire: Wire):
    """500: one must assume that everything is forbidden (RFC 9309, 2.3.1.4)."""
    return wire.answer(b"", "500 Internal Server Error")


@hostile(reason=Drop.RATE_LIMITED, detail="Crawl-delay", place="robots", neighbour=False)
def robots_that_ask_for_a_day_between_requests(wire: Wire):
    """``Crawl-delay: 86400``, which nobody waits for."""
    return wire.answer(b"User-agent: *\nCrawl-delay: 86400\n", Content_Type="text/plain")


@hostile(reason=Drop.RATE_LIMITED, detail="robots.txt: 429", place="robots", neighbour=False)
def robots_that_come_back_tomorrow(wire: Wire):
    """429 with ``Retry-After: 86400`` to who asks for the rules."""
    return wire.answer(b"", "429 Too Many Requests", Retry_After="86400")


# --- what is not what it says it is -----------------------------------------------------------------------------------


@hostile("image", reason=Drop.NOT_AN_IMAGE, at="after")
def a_page_as_an_image(wire: Wire):
    """HTML as image/jpeg."""
    return wire.answer(bombs.HEALTHY_PAGE)


@hostile("image", reason=None)
def an_image_as_a_page(wire: Wire):
    """A JPEG as text/html: servers know no better, the bytes do."""
    return wire.answer(Content_Type="text/html")


def _not_an_image(name: str, body: bytes) -> None:
    def does(wire: Wire) -> bytes:
        return wire.answer(body)

    does.__doc__ = f"{name} as image/jpeg."
    hostile("image", reason=Drop.NOT_AN_IMAGE, at="after", name=f"{name}_as_a_jpeg".lower())(does)


_not_an_image("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>')
_not_an_image("PDF", b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF")
_not_an_image("ZIP", b"PK\x03\x04" + bytes(60))
_not_an_image("AVIF", b"\0\0\0\x20ftypavif" + bytes(60))
_not_an_image("QOI", picture("QOI"))
_not_an_image("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n(r) file\n")
_not_an_image("nothing", b"")


@hostile("image", reason=None)
def an_image_with_an_archive_behind(wire: Wire):
    """A polyglot: a JPEG to us, a ZIP to others."""
    return wire.answer(wire.good + b"PK\x05\x06" + bytes(18))


@hostile("image", reason=Drop.DECODE, at="after")
def a_script_that_begins_like_a_gif(wire: Wire):
    """A polyglot: ``GIF89a/*...*/=1;`` runs as JavaScript."""
    return wire.answer(b"GIF89a/*\0\4" + b"\1" * 20 + b"*/=alert(1);" + b" " * 200)


@hostile("page", reason=Drop.NOT_HTML, detail="image/jpeg")
def an_image_where_a_page_was(wire: Wire):
    """A JPEG that says so."""
    return wire.answer(HEALTHY_IMAGE, Content_Type="image/jpeg")


@hostile("page", reason=Drop.NOT_HTML, at="after")
def noise_without_a_type(wire: Wire):
    """No Content-Type, and nothing like HTML."""
    return wire.answer(HEALTHY_IMAGE, Content_Type=[])


# --- images that are dear to read -------------------------------------------------------------------------------------


def _image(name: str, does_what: str, body: Callable[[], bytes], reason: Drop | None, **how: Any) -> None:
    def does(wire: Wire) -> bytes:
        return wire.answer(body())

    does.__doc__ = does_what
    hostile("image", reason=reason, at="after", name=name, bomb=True, **how)(does)


_image("webp_of_40_bytes", "16,384 pixels square.", lambda: bombs.webp_claiming(16384, 16384), Drop.AREA)
_image("png_of_100000_square", "Ten gigapixels.", lambda: bombs.png_claiming(100_000, 100_000), Drop.AREA)
_image("png_of_2_billion_square", "All a PNG can say.", lambda: bombs.png_claiming(2**31 - 1, 2**31 - 1), Drop.AREA)
_image("jpeg_of_65535_square", "All a JPEG can say.", lambda: bombs.jpeg_claiming(65535, 65535), Drop.AREA)
_image("gif_of_65535_square", "All a GIF can say.", lambda: bombs.gif(65535, 65535, (1, 1)), Drop.AREA)
_image("bmp_of_2_billion_square", "All a BMP can say.", lambda: bombs.bmp(2**31 - 1, -(2**31)), Drop.AREA)
_image("png_of_no_pixels", "Zero by zero.", lambda: bombs.png_claiming(0, 0), Drop.NOT_AN_IMAGE)
_image("png_a_million_wide", "A line.", lambda: bombs.png_claiming(1_000_000, 1), Drop.ASPECT)
_image(
    "jpeg_larger_than_its_data",
    "4,000 square, of which the first few blocks are there.",
    lambda: bombs.jpeg_claiming(4000, 4000),
    Drop.TRUNCATED,
)
_image("gif_of_10000_frames", "Of which the first is taken.", lambda: bombs.gif(64, 64, *[(1, 1)] * 10_000), None)
_image(
    "gif_with_a_frame_larger_than_its_screen",
    "A screen of 64 square and a frame of 65,535.",
    lambda: bombs.gif(64, 64, (65535, 65535)),
    Drop.AREA,
)
_image(
    "webp_with_a_picture_larger_than_its_canvas",
    "A canvas of 16 square around 16,384.",
    lambda: bombs.webp_of_another_size_within(16384, 16384),
    Drop.DECODE,
)
_image("png_with_a_bomb_in_its_profile", "128 MB in iCCP.", lambda: bombs.png_with_bomb("iCCP"), None)
_image("png_with_a_bomb_in_its_text", "128 MB in zTXt.", lambda: bombs.png_with_bomb("zTXt"), None)
_image("png_with_a_bomb_in_its_pixels", "128 MB in IDAT.", lambda: bombs.png_with_bomb("IDAT"), None)
_image("png_with_4_gb_of_palette", "So it says.", lambda: bombs.png_with_a_long_chunk(b"PLTE"), Drop.TRUNCATED)
_image(
    "png_with_4_gb_of_pixels", "Of which all that matter are there.", lambda: bombs.png_with_a_long_chunk(b"IDAT"), None
)
_image("png_with_800_mb_of_texts", "In a hundred chunks.", lambda: bombs.png_with_texts(800), None)
_image("png_with_a_second_header", "64 square, then 30,000.", lambda: bombs.png_with_two_headers(), None)
_image("jpeg_with_a_second_frame", "96 x 64, then 65,535 square.", lambda: bombs.jpeg_with_two_frames(), Drop.DECODE)
_image("jpeg_of_500_scans", "Each a pass over all pixels.", lambda: bombs.jpeg_of_scans(500), Drop.DECODE)
_image(
    "jpeg_of_60_large_scans",
    "Nearly as many passes as are let through, over 12 megapixels.",
    lambda: bombs.jpeg_of_scans(50, 3500),
    None,
    within_s=5.0,
)
_image(
    "jpeg_of_20000_sequential_scans",
    "No progressive one, but a pass each all the same.",
    lambda: bombs.jpeg_of_sequential_scans(20_000, 4000),
    Drop.DECODE,
)
_image("jpeg_padded_with_ff", "Markers may be.", lambda: b"\xff\xd8" + b"\xff" * (1 << 19) + HEALTHY_IMAGE[2:], None)
_image(
    "exif_that_leads_in_circles",
    "60 kB that take an hour to read.",
    lambda: bombs.jpeg_with(bombs.exif_in_circles(2000, 2900)),
    None,
)
_image("gif_that_forgets", "1.6 million times, before its first pixel.", lambda: bombs.gif_that_forgets(600_000), None)
_image("gif_of_a_long_comment", "A byte at a time.", lambda: bombs.gif_of_comments(600_000), Drop.TRUNCATED)
_image(
    "bmp_with_an_absurd_header",
    "Its header is 4 GB long.",
    lambda: bombs.bmp(64, 64, info=2**32 - 1),
    Drop.NOT_AN_IMAGE,
)
_image("bmp_of_no_depth", "Zero bits a pixel.", lambda: bombs.bmp(64, 64, bits=0), Drop.NOT_AN_IMAGE)
_image("bmp_whose_pixels_are_elsewhere", "Offset 2**31.", lambda: bombs.bmp(64, 64, offset=2**31), Drop.TRUNCATED)
_image("avif_of_2_billion_square", "As it says.", lambda: bombs.avif_claiming(2**31 - 1, 2**31 - 1), Drop.NOT_AN_IMAGE)
_image("avif_larger_than_its_stream", "Shown at the size it says.", lambda: bombs.avif_claiming(2000, 2000), None)
_image("jp2_of_2_billion_square", "As it says.", lambda: bombs.jp2_claiming(2**31 - 1, 2**31 - 1), Drop.AREA)
_image("ppm_of_a_million_square", "Twenty bytes.", lambda: b"P6 1000000 1000000 255 " + bytes(16), Drop.AREA)
_image(
    "tiff_with_a_tile_of_3_gb",
    "Of which 64 square are shown.",
    lambda: bombs.tiff_with_a_giant_tile(55_000),
    Drop.DECODE,
)
_image(
    "tiff_of_tags_that_repeat_a_megabyte",
    "10,000 times.",
    lambda: bombs.tiff_that_repeats_itself(10_000, 500_000),
    Drop.NOT_AN_IMAGE,
)


# --- images cut off, and odd ones that must come through --------------------------------------------------------------

for _form, _reason in {
    "JPEG": Drop.TRUNCATED,
    "PNG": Drop.TRUNCATED,
    "WEBP": Drop.DECODE,
    "GIF": Drop.TRUNCATED,
    "BMP": Drop.TRUNCATED,
    "TIFF": Drop.TRUNCATED,
    "PPM": Drop.TRUNCATED,
}.items():
    _whole = picture(_form)
    _image(f"{_form.lower()}_cut_off", "Half of it.", lambda data=_whole: data[: len(data) // 2], _reason)
    _image(f"{_form.lower()}_cut_in_its_header", "Eight bytes.", lambda data=_whole: data[:8], Drop.NOT_AN_IMAGE)

_image("jpeg_in_cmyk", "For printers; becomes RGB.", lambda: picture("JPEG", "CMYK"), None)
_image("jpeg_in_grey", "Stays grey.", lambda: picture("JPEG", "L"), None)
_image("png_of_16_bits", "Scaled to 8.", lambda: bombs.png(96, 64, depth=16), None)
_image("png_with_a_palette", "Becomes RGB.", lambda: picture("PNG", "P"), None)
_image("png_with_one_bit", "Black and white.", lambda: picture("PNG", "1"), None)
_image("png_with_alpha", "Laid on white.", lambda: picture("PNG", "RGBA"), None)
for _form in ("BMP", "AVIF", "TIFF", "ICO", "JPEG2000", "PPM"):
    _image(f"{_form.lower()}_as_it_should_be", "Plain.", lambda form=_form: picture(form), None)


@hostile("image", reason=None)
def an_animated_webp(wire: Wire):
    """The first frame is taken."""
    from PIL import Image

    frames = [Image.new("RGB", (96, 64), colour) for colour in ("red", "blue", "green")]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:])
    return wire.answer(out.getvalue())


@hostile("image", reason=None)
def an_animated_png(wire: Wire):
    """The first frame is taken."""
    from PIL import Image

    frames = [Image.new("RGB", (96, 64), colour) for colour in ("red", "blue", "green")]
    out = io.BytesIO()
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:])
    return wire.answer(out.getvalue())


# --- pages that are dear to read --------------------------------------------------------------------------------------


def _page(name: str, does_what: str, body: Callable[[], bytes], **how: Any) -> None:
    headers = how.pop("headers", {})

    def does(wire: Wire) -> bytes:
        return wire.answer(body(), **headers)

    does.__doc__ = does_what
    hostile("page", reason=how.pop("reason", None), name=name, bomb=True, **how)(does)


_page("tags_100000_deep", "Each within the one before.", lambda: b"<div>" * 100_000 + bombs.HEALTHY_PAGE)
_page("tables_20000_deep", "Which the parser has to foster.", lambda: b"<table><tr><td>" * 20_000)
_page("formatting_never_closed", "To be opened again in each block.", lambda: b"<b><i><u><a href=x><p>" * 5000)
_page(
    "attributes_of_a_megabyte",
    "A hundred thousand of them on one element, all different.",
    lambda: b"<img " + b" ".join(b"a%d=1" % n for n in range(100_000)) + b" src=x alt=words>",
)
_page(
    "attributes_on_every_tag",
    "A thousand of them, tag after tag.",
    lambda: (b"<p " + b" ".join(b"a%d=1" % n for n in range(1000)) + b">") * 200 + bombs.HEALTHY_PAGE,
)
_page(
    "links_to_a_long_base",
    "Short links, each of which is four kilobytes once it is absolute.",
    lambda: (
        b"<base href='http://a.example/"
        + b"b" * 3900
        + b"/'>"
        + b"".join(b"<a href=%x></a>" % n for n in range(80_000))
    ),
)
_page("an_attribute_of_a_megabyte", "One.", lambda: b"<img src=x alt='" + b"word " * 200_000 + b"'>")
_page("a_style_of_spaces", "For expressions that backtrack.", lambda: b"<img style='width:1" + b" " * 500_000 + b"x'>")
_page("a_srcset_of_a_megabyte", "Offers upon offers.", lambda: b"<img srcset='" + b"a.jpg 1w, " * 90_000 + b"'>")
_page("entities_of_a_megabyte", "&amp; and so on.", lambda: b"<img src=x alt='" + b"&#x1F600;&amp;" * 60_000 + b"'>")
_page("links_by_the_ten_thousand", "All different.", lambda: b"".join(b"<a href=/%d>" % n for n in range(60_000)))
_page("images_by_the_ten_thousand", "In one figure.", lambda: b"<figure>" + b"<img src=a alt=b>" * 50_000)
_page("metas_by_the_ten_thousand", "None of use.", lambda: b"<meta charset" * 70_000)
_page("comments_never_closed", "All that follows is one.", lambda: b"<!--" * 200_000)
_page("nothing_but_nul", "A megabyte of zeros.", lambda: bytes(MB - 1))
_page("nul_within_words", "Browsers drop them.", lambda: bombs.HEALTHY_PAGE.replace(b"o", b"o\0"))
_page(
    "utf_16_that_is_utf_8",
    "The header lies, the bytes tell.",
    lambda: "<p>grüße <img src=/a.jpg alt='grüße aus köln'>".encode(),
    headers={"Content_Type": "text/html; charset=utf-16"},
)
_page(
    "a_charset_nobody_knows",
    "``charset=martian``.",
    lambda: bombs.HEALTHY_PAGE,
    headers={"Content_Type": "text/html; charset=martian"},
)
_page(
    "a_charset_that_is_no_charset",
    "``charset=zip``, a codec in Python.",
    lambda: bombs.HEALTHY_PAGE,
    headers={"Content_Type": "text/html; charset=zip"},
)
_page(
    "utf_7",
    "In which ``+ADw-`` would be a tag.",
    lambda: b"+ADw-script+AD4-alert(1)+ADw-/script+AD4-" + bombs.HEALTHY_PAGE,
    headers={"Content_Type": "text/html; charset=utf-7"},
)
