"""One HTTP exchange under a deadline and size limits: a ``Response``, or a ``FetchError`` that names the failure."""

from __future__ import annotations

import asyncio
import errno
import math
import resource as rlimits
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from infra.errors import TransientError
from infra.schema import Drop
from pipelines.html.media import content_type, names_html
from pipelines.web.budget import ByteBudget, Share
from pipelines.web.coding import ACCEPTED, CodingError, OversizeError, decoder
from pipelines.web.config import Web
from pipelines.web.deadline import Deadline, Deadlines
from pipelines.web.guard import AddressRefusedError, Guard
from pipelines.web.response import FetchError, ResourceType, Response
from pipelines.web.wire import WireLimitError, connector, limit_body

__all__ = ["HTTPClient", "retry_after"]

MAX_FILE_BYTES = 500 * 1024  # of a robots.txt: the least RFC 9309 asks a crawler to parse; we read no more
MAX_SITEMAP_BYTES = 50 << 20  # the protocol's limit
_FILES = 8192  # open files a worker should be allowed: connections, most of them briefly idle
_LOCAL_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_MAX_HEADERS = 100
_MAX_HEADER_BYTES = 32 << 10  # of all headers together
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504, 522, 524})
_KEEP_ALIVE_S = 5.0  # idle; thousands of hosts a minute would leave thousands of connections open
_FIRST_BYTES = 64 << 10  # booked for a body of unknown length before it begins
_GRACE_S = 5.0  # before the minimum rate applies
_ACCEPT: dict[ResourceType, dict[str, str]] = {
    "page": {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.1"},
    "image": {"Accept": "image/webp,image/png,image/jpeg,image/*;q=0.8,*/*;q=0.1"},
    "sitemap": {"Accept": "application/xml,text/xml;q=0.9,text/plain;q=0.5,*/*;q=0.1"},
    "robots": {"Accept": "text/plain,*/*;q=0.1"},
    "policy": {"Accept": "application/json,application/rsl+xml,text/plain;q=0.9,*/*;q=0.1"},
}


class HTTPClient:
    """The HTTP session of one event loop. Call ``close`` in the end."""

    def __init__(self, web: Web) -> None:
        self._web = web
        _allow_files(_FILES)
        self.guard = Guard(web.connect_to, web.allow_private, web.dns_threads)
        self._max_bytes: dict[ResourceType, int] = {
            "page": web.max_page_bytes,
            "image": web.max_image_bytes,
            "sitemap": min(MAX_SITEMAP_BYTES, web.max_bytes_in_flight // 2),
            "robots": MAX_FILE_BYTES,
            "policy": MAX_FILE_BYTES,
        }
        self.budget = ByteBudget(web.max_bytes_in_flight, max(self._max_bytes.values()))
        self._deadlines = Deadlines()
        self._clock = asyncio.get_running_loop().time
        self._session = aiohttp.ClientSession(
            connector=connector(self.guard, _KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, connect=web.connect_s),
            headers={"User-Agent": web.user_agent_header, "Accept-Encoding": ACCEPTED},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # pipelines.web.coding does it, under a size limit
            trust_env=False,  # a proxy would resolve names without the guard
            max_headers=_MAX_HEADERS,
        )

    async def close(self) -> None:
        self._deadlines.close()
        await self._session.close()
        await self.guard.close()

    async def resolve(self, host: str) -> None:
        """Look ``host`` up ahead of a request: dead names occupy resolver threads for seconds, which must not count
        against the server's deadline. Raises FetchError if it takes longer than a request may."""
        if self.guard.is_cached(host):
            return
        try:
            with self._deadlines.within(self._web.deadline_s):
                await self.guard.look_up(host)
        except TimeoutError:
            raise FetchError(Drop.TIMEOUT, "the host's name was not resolved in time") from None

    async def request(
        self, url: str, resource: ResourceType, on_headers: Callable[[int], None]
    ) -> tuple[Response, Share]:
        """GET ``url``; returns the response and its body's share of the budget, which the caller releases.

        ``on_headers(status)`` is called when the headers are in, with 0 if they are not HTTP. Raises FetchError, also
        for a transient error status, and TransientError if this machine is out of resources.
        """
        share = self.budget.share()
        try:
            with self._deadlines.within(self._web.deadline_s) as deadline:
                async with self._session.get(
                    URL(url, encoded=True), headers=_ACCEPT[resource], allow_redirects=False
                ) as reply:
                    on_headers(reply.status)
                    headers = _decoded_headers(reply)
                    if not 200 <= reply.status < 300:
                        return Response(url, reply.status, headers, b""), share
                    if resource == "page" and names_html(kind := content_type(headers)) is False:
                        raise FetchError(Drop.NOT_HTML, kind[:80])
                    first = self._first_bytes(reply, resource)
                    if not share.try_grow(first):
                        await self._wait_for_memory(share, first, deadline)
                    body = await self._read_body(reply, resource, share, deadline)
                    share.shrink(len(body))
                    return Response(url, reply.status, headers, body), share
        except BaseException as error:
            share.release()
            if isinstance(error, aiohttp.ClientResponseError):
                on_headers(0)
            if isinstance(error, (AddressRefusedError, WireLimitError, aiohttp.ClientError, OSError)):
                _raise_if_local(error)
                raise _fetch_error(error) from None
            raise

    def _first_bytes(self, reply: aiohttp.ClientResponse, resource: ResourceType) -> int:
        """Return how many bytes to book for the body before it is read: all of it, if its length is known.

        Raises FetchError if that is too much.
        """
        limit, length = self._max_bytes[resource], reply.content_length
        if length is not None and length > limit and resource != "robots":
            raise FetchError(Drop.TOO_LARGE, f"more than {limit} bytes")
        known = length is not None and not reply.headers.get("Content-Encoding")
        return min(limit, length if known and length is not None else _FIRST_BYTES)

    async def _wait_for_memory(self, share: Share, size: int, deadline: Deadline) -> float:
        """Let ``share`` grow to ``size`` bytes; the time this takes, which is returned, does not count against the
        server's deadline."""
        since, at = self._clock(), deadline.at
        deadline.at = math.inf
        await share.grow(size)
        waited = self._clock() - since
        deadline.at = at + waited
        return waited

    async def _read_body(
        self, reply: aiohttp.ClientResponse, resource: ResourceType, share: Share, deadline: Deadline
    ) -> bytes:
        """Read and decode the body, enforcing size limit and minimum rate; a robots.txt is cut at the limit."""
        limit = self._max_bytes[resource]
        limit_body(reply, limit)
        content = reply.content
        slowest = self._clock() + _GRACE_S
        at = deadline.at
        body = bytearray()  # not a list of pieces: a server that sends them small would make each cost 50 bytes
        received = 0
        try:
            decode = decoder(reply.headers.get("Content-Encoding", ""))
            while data := await content.readany():
                received += len(data)
                while data or decode.pending:
                    body += decode.some(data, min(share.size, limit) + 1 - len(body))
                    data = b""
                    if len(body) > limit or received > limit:
                        raise OversizeError(b"")
                    if len(body) > share.size and not share.try_grow(
                        more := min(limit, max(2 * share.size, len(body)))
                    ):
                        waited = await self._wait_for_memory(share, more, deadline)
                        at, slowest = at + waited, slowest + waited
                deadline.at = min(at, slowest + received / self._web.min_rate)
        except OversizeError:
            if resource != "robots":
                raise FetchError(Drop.TOO_LARGE, f"more than {limit} bytes") from None
            del body[limit:]
        except CodingError as error:
            raise FetchError(Drop.HTTP_ERROR, f"content coding: {error}") from None
        else:
            if received and not decode.complete:
                raise FetchError(Drop.TRUNCATED, "the coded body ended early", transient=True)
        return bytes(body)


def _allow_files(count: int) -> None:
    soft, hard = rlimits.getrlimit(rlimits.RLIMIT_NOFILE)
    if soft < count:
        rlimits.setrlimit(rlimits.RLIMIT_NOFILE, (min(count, hard), hard))


def _decoded_headers(reply: aiohttp.ClientResponse) -> list[tuple[str, str]]:
    """Return the headers as text. Raises FetchError for too many bytes of them, or a transient error status."""
    try:
        headers = [(name.decode(), value.decode()) for name, value in reply.raw_headers]
    except UnicodeDecodeError:
        headers = [(_text(name), _text(value)) for name, value in reply.raw_headers]
    if sum([len(name) + len(value) for name, value in headers]) > _MAX_HEADER_BYTES:
        raise FetchError(Drop.TOO_LARGE, f"more than {_MAX_HEADER_BYTES} bytes of headers")
    if reply.status in _TRANSIENT:
        after = retry_after(reply.headers.get("Retry-After", ""))
        raise FetchError(Drop.HTTP_ERROR, str(reply.status), transient=True, retry_after_s=after)
    return headers


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _raise_if_local(error: BaseException) -> None:
    """Raise TransientError if this machine is out of resources, which must not count as the server's failure."""
    if isinstance(error, OSError) and error.errno in _LOCAL_ERRNOS:
        raise TransientError(
            "this machine cannot open more connections",
            found=errno.errorcode[error.errno],
            fix="raise its limit of open files (ulimit -n), or lower web.concurrency",
        ) from error


def _fetch_error(error: BaseException) -> FetchError:
    """Translate an exception of aiohttp or the operating system; the text holds neither address nor port."""
    if isinstance(error, AddressRefusedError):
        return FetchError(Drop.REFUSED, "an address that is not public")
    if isinstance(error, WireLimitError):
        return FetchError(Drop.TOO_LARGE, "more than its limit on the wire")
    if isinstance(error, aiohttp.ServerTimeoutError):
        return FetchError(Drop.TIMEOUT, "no connection in time", silent=True)
    if isinstance(error, TimeoutError):
        return FetchError(Drop.TIMEOUT, "too slow", silent=True)
    if isinstance(error, aiohttp.ClientPayloadError):
        return FetchError(Drop.TRUNCATED, "the body ended early", transient=True)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        again = error.os_error.errno == socket.EAI_AGAIN
        return FetchError(Drop.CONNECTION, "the host's name does not resolve", transient=again)
    if isinstance(error, aiohttp.ClientSSLError):
        return FetchError(Drop.CONNECTION, "TLS failed")
    if isinstance(error, aiohttp.InvalidURL):
        return FetchError(Drop.REFUSED, "not a URL")
    if isinstance(error, aiohttp.ClientResponseError):
        return FetchError(Drop.CONNECTION, "malformed answer")
    number = error.errno if isinstance(error, OSError) else None
    name = errno.errorcode.get(number, "") if number else ""
    return FetchError(Drop.CONNECTION, name or "the connection was closed", transient=True, silent=True)


def retry_after(value: str) -> float | None:
    """Parse a Retry-After header, a number or a date, to seconds from now; None if it is neither."""
    value = value.strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter for a year of more than 18 digits
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
