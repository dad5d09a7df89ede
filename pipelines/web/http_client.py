"""One HTTP exchange under a deadline and size limits: a ``Response``, or a ``FetchError`` that names the failure."""

from __future__ import annotations

import asyncio
import errno
import math
import resource as rlimits
import socket
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from infra.errors import TransientError
from infra.schema import Drop
from pipelines.web.coding import ACCEPTED, CodingError, OversizeError, decoder
from pipelines.web.config import Web
from pipelines.web.deadline import Deadline, Deadlines
from pipelines.web.guard import AddressRefusedError, Guard
from pipelines.web.response import FetchError, ResourceType, Response, media_type

__all__ = ["ByteBudget", "HTTPClient", "retry_after"]

MAX_FILE_BYTES = 500 * 1024  # of a robots.txt: the least RFC 9309 asks a crawler to parse; we read no more
MAX_SITEMAP_BYTES = 50 << 20  # the protocol's limit
_FILES = 8192  # open files a worker should be allowed: connections, most of them briefly idle
_LOCAL_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_MAX_HEADERS = 100
_MAX_HEADER_BYTES = 32 << 10  # of all headers together
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504, 522, 524})
_KEEP_ALIVE_S = 5.0  # idle; thousands of hosts a minute would leave thousands of connections open
_GRACE_S = 5.0  # before the minimum rate applies
_HTML = ("text/html", "application/xhtml+xml", "")
_ACCEPT: dict[ResourceType, dict[str, str]] = {
    "page": {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.1"},
    "image": {"Accept": "image/webp,image/png,image/jpeg,image/*;q=0.8,*/*;q=0.1"},
    "sitemap": {"Accept": "application/xml,text/xml;q=0.9,text/plain;q=0.5,*/*;q=0.1"},
    "robots": {"Accept": "text/plain,*/*;q=0.1"},
    "policy": {"Accept": "application/json,application/rsl+xml,text/plain;q=0.9,*/*;q=0.1"},
}


class ByteBudget:
    """Memory budget of response bodies, first come, first served, so that small bodies do not starve a large one."""

    def __init__(self, total: int) -> None:
        self.free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_acquire(self, count: int) -> bool:
        if self._waiting or count > self.free:
            return False
        self.free -= count
        return True

    async def acquire(self, count: int) -> None:
        """Wait for ``count`` bytes. The caller must hold none, or two callers could wait for each other for ever."""
        if self.try_acquire(count):
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((count, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.release(count)
            else:
                self._waiting.remove((count, granted))
                self.release(0)
            raise

    def release(self, count: int) -> None:
        self.free += count
        while self._waiting and self._waiting[0][0] <= self.free:
            count, granted = self._waiting.popleft()
            if not granted.done():
                self.free -= count
                granted.set_result(None)


class HTTPClient:
    """The HTTP session of one event loop. Call ``close`` in the end."""

    def __init__(self, web: Web) -> None:
        self._web = web
        _allow_files(_FILES)
        self.guard = Guard(web.connect_to, web.allow_private, web.dns_threads)
        self.budget = ByteBudget(web.max_bytes_in_flight)
        self._max_bytes: dict[ResourceType, int] = {
            "page": web.max_page_bytes,
            "image": web.max_image_bytes,
            "sitemap": min(MAX_SITEMAP_BYTES, web.max_bytes_in_flight),
            "robots": MAX_FILE_BYTES,
            "policy": MAX_FILE_BYTES,
        }
        self._deadlines = Deadlines()
        self._clock = asyncio.get_running_loop().time
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                resolver=self.guard,
                use_dns_cache=False,  # the guard has its own
                keepalive_timeout=_KEEP_ALIVE_S,
            ),
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
    ) -> tuple[Response, int]:
        """GET ``url``; returns the response and the bytes its body holds of the budget, which the caller releases.

        ``on_headers(status)`` is called when the headers are in. Raises FetchError, also for a transient error status,
        and TransientError if this machine is out of resources.
        """
        try:
            with self._deadlines.within(self._web.deadline_s) as deadline:
                async with self._session.get(
                    URL(url, encoded=True), headers=_ACCEPT[resource], allow_redirects=False
                ) as reply:
                    on_headers(reply.status)
                    headers = _decoded_headers(reply)
                    if not 200 <= reply.status < 300:
                        return Response(url, reply.status, headers, b""), 0
                    # Reserve memory for the largest body that may come, and release the rest once it is there.
                    held = self._body_limit(reply, resource)
                    if not self.budget.try_acquire(held):
                        await self._wait_for_memory(held, deadline)
                    try:
                        body = await self._read_body(reply, resource, deadline)
                    except BaseException:
                        self.budget.release(held)
                        raise
                    self.budget.release(held - len(body))
                    return Response(url, reply.status, headers, body), len(body)
        except (AddressRefusedError, aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            _raise_if_local(error)
            raise _fetch_error(error) from None

    def _body_limit(self, reply: aiohttp.ClientResponse, resource: ResourceType) -> int:
        """Return the most bytes the decoded body may have. Raises FetchError if the headers rule it out."""
        if resource == "page" and (found := media_type(reply.headers.get("Content-Type", ""))) not in _HTML:
            raise FetchError(Drop.NOT_HTML, _printable(found[:80]))
        limit, length = self._max_bytes[resource], reply.content_length
        if length is not None and length > limit and resource != "robots":
            raise FetchError(Drop.TOO_LARGE, f"more than {limit} bytes")
        return limit if length is None or reply.headers.get("Content-Encoding") else min(limit, length)

    async def _wait_for_memory(self, count: int, deadline: Deadline) -> None:
        """Acquire ``count`` bytes; the time this takes does not count against the server's deadline."""
        since, at = self._clock(), deadline.at
        deadline.at = math.inf
        await self.budget.acquire(count)
        deadline.at = at + self._clock() - since

    async def _read_body(self, reply: aiohttp.ClientResponse, resource: ResourceType, deadline: Deadline) -> bytes:
        """Read and decode the body, enforcing size limit and minimum rate; a robots.txt is cut at the limit."""
        limit = self._max_bytes[resource]
        content = reply.content
        slowest = self._clock() + _GRACE_S
        at = deadline.at
        body = bytearray()  # not a list of pieces: a server that sends them small would make each cost 50 bytes
        received = 0
        try:
            decode = decoder(reply.headers.get("Content-Encoding", ""))
            while data := await content.readany():
                received += len(data)
                body += decode.feed(data, limit - len(body))
                if received > limit:
                    raise OversizeError(b"")
                deadline.at = min(at, slowest + received / self._web.min_rate)
        except OversizeError as error:
            if resource != "robots":
                raise FetchError(Drop.TOO_LARGE, f"more than {limit} bytes") from None
            body += error.fitting
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


def _printable(text: str) -> str:
    """Replace control characters, which a terminal would obey, in text from a server."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _raise_if_local(error: Exception) -> None:
    """Raise TransientError if this machine is out of resources, which must not count as the server's failure."""
    if isinstance(error, OSError) and error.errno in _LOCAL_ERRNOS:
        raise TransientError(
            "this machine cannot open more connections",
            found=errno.errorcode[error.errno],
            fix="raise its limit of open files (ulimit -n), or lower web.concurrency",
        ) from error


def _fetch_error(error: Exception) -> FetchError:
    """Translate an exception of aiohttp or the operating system; the text holds neither address nor port."""
    if isinstance(error, AddressRefusedError):
        return FetchError(Drop.REFUSED, "an address that is not public")
    if isinstance(error, aiohttp.ServerTimeoutError):
        return FetchError(Drop.TIMEOUT, "no connection in time")
    if isinstance(error, TimeoutError):
        return FetchError(Drop.TIMEOUT, "too slow")
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
    return FetchError(Drop.CONNECTION, name or "the connection was closed", transient=True)


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
