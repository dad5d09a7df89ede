"""One HTTP exchange: a request out, an answer back within its deadline and its caps, or one named reason why not."""

from __future__ import annotations

import asyncio
import errno
import math
import resource
import socket
from collections import deque
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal

import aiohttp
from yarl import URL

from infra.errors import TransientError
from infra.schema import Drop
from pipelines.web.coding import ACCEPTED, CodingError, OversizeError, decoder
from pipelines.web.deadline import Deadline, Deadlines
from pipelines.web.fetcher import FetchError, Response, Web, media_type
from pipelines.web.guard import AddressRefusedError, Guard

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Budget", "Client", "What", "retry_after"]

What = Literal["page", "image", "sitemap", "robots", "tdm"]

MAX_FILE_BYTES = 500 * 1024  # of a robots.txt: what RFC 9309 asks a crawler to read at least; we read no more
MAX_SITEMAP_BYTES = 50 << 20  # what the protocol allows
_FILES = 8192  # open files a worker should be allowed: connections, most of them idle for a moment
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_MAX_HEADERS = 100
_MAX_HEADER_BYTES = 32 << 10  # all of them together
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504, 522, 524})
_KEEP_ALIVE_S = 5.0  # idle; thousands of hosts a minute would leave thousands of connections open
_GRACE_S = 5.0  # before the minimum rate counts
_HTML = ("text/html", "application/xhtml+xml", "")
_ACCEPT: dict[What, dict[str, str]] = {
    "page": {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.1"},
    "image": {"Accept": "image/webp,image/png,image/jpeg,image/*;q=0.8,*/*;q=0.1"},
    "sitemap": {"Accept": "application/xml,text/xml;q=0.9,text/plain;q=0.5,*/*;q=0.1"},
    "robots": {"Accept": "text/plain,*/*;q=0.1"},
    "tdm": {"Accept": "application/json,*/*;q=0.1"},
}


class Budget:
    """Bytes that bodies may take up, first come, first served, so that a large one is not starved by small ones."""

    def __init__(self, total: int) -> None:
        self.free = total
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    def try_take(self, count: int) -> bool:
        if self._line or count > self.free:
            return False
        self.free -= count
        return True

    async def take(self, count: int) -> None:
        """Wait for ``count`` bytes. Whoever waits must hold none, or two could wait for each other for ever."""
        if self.try_take(count):
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append((count, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(count)
            else:
                self._line.remove((count, turn))
                self.give(0)
            raise

    def give(self, count: int) -> None:
        self.free += count
        while self._line and self._line[0][0] <= self.free:
            count, turn = self._line.popleft()
            if not turn.done():
                self.free -= count
                turn.set_result(None)


class Client:
    """The HTTP session of one event loop. Call ``close`` in the end."""

    def __init__(self, web: Web) -> None:
        self._web = web
        _allow_files(_FILES)
        self.guard = Guard(web.connect_to, web.allow_private, web.dns_threads)
        self.budget = Budget(web.max_bytes_in_flight)
        self._caps: dict[What, int] = {
            "page": web.max_page_bytes,
            "image": web.max_image_bytes,
            "sitemap": min(MAX_SITEMAP_BYTES, web.max_bytes_in_flight),
            "robots": MAX_FILE_BYTES,
            "tdm": MAX_FILE_BYTES,
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
            auto_decompress=False,  # pipelines.web.coding does it, under a cap
            trust_env=False,  # a proxy would resolve names behind the guard's back
            max_headers=_MAX_HEADERS,
        )

    async def close(self) -> None:
        self._deadlines.close()
        await self._session.close()
        await self.guard.close()

    async def resolve(self, host: str) -> None:
        """Have ``host`` looked up. That may take a while, since dead names keep our resolver's threads for seconds; it
        is no delay of the server's. Raises FetchError if it takes longer than a request may."""
        if self.guard.knows(host):
            return
        try:
            with self._deadlines.within(self._web.deadline_s):
                await self.guard.look_up(host)
        except TimeoutError:
            raise FetchError(Drop.TIMEOUT, "the host's name was not resolved in time") from None

    async def request(self, url: str, what: What, answered: Callable[[int], None]) -> tuple[Response, int]:
        """The answer to a GET, and how many bytes of the budget its body holds: the caller gives them back.

        ``answered(status)`` is called when the headers are in. Raises FetchError; a status that may pass is one, too.
        Raises TransientError if it is this machine that cannot.
        """
        try:
            with self._deadlines.within(self._web.deadline_s) as limit:
                async with self._session.get(
                    URL(url, encoded=True), headers=_ACCEPT[what], allow_redirects=False
                ) as reply:
                    answered(reply.status)
                    return await self._answer(url, what, reply, limit)
        except AddressRefusedError:
            raise FetchError(Drop.REFUSED, "an address that is not public") from None
        except aiohttp.ServerTimeoutError:
            raise FetchError(Drop.TIMEOUT, "no connection in time") from None
        except TimeoutError:
            raise FetchError(Drop.TIMEOUT, "too slow") from None
        except aiohttp.ClientPayloadError:
            raise FetchError(Drop.TRUNCATED, "the body ended early", transient=True) from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _OURS:  # which must not look like the server's failure
                raise TransientError(
                    "this machine can open no more connections",
                    found=errno.errorcode[error.errno],
                    fix="raise its limit of open files (ulimit -n), or lower web.concurrency",
                ) from error
            raise _connection_error(error) from None

    async def _answer(
        self, url: str, what: What, reply: aiohttp.ClientResponse, limit: Deadline
    ) -> tuple[Response, int]:
        headers = _texts(reply.raw_headers)
        if sum([len(name) + len(value) for name, value in headers]) > _MAX_HEADER_BYTES:
            raise FetchError(Drop.TOO_LARGE, f"more than {_MAX_HEADER_BYTES} bytes of headers")
        if reply.status in _TRANSIENT:
            after = retry_after(reply.headers.get("Retry-After", ""))
            raise FetchError(Drop.HTTP_ERROR, str(reply.status), transient=True, retry_after_s=after)
        if not 200 <= reply.status < 300:
            return Response(url, reply.status, headers, b""), 0
        if what == "page" and (found := media_type(reply.headers.get("Content-Type", ""))) not in _HTML:
            raise FetchError(Drop.NOT_HTML, _printable(found[:80]))
        cap = self._caps[what]
        coding = reply.headers.get("Content-Encoding", "")
        length = reply.content_length
        if length is not None and length > cap and what != "robots":
            raise FetchError(Drop.TOO_LARGE, f"more than {cap} bytes")
        held = cap if length is None or coding else min(cap, length)
        if not self.budget.try_take(held):
            await self._wait_for_room(held, limit)
        try:
            body = await self._body(coding, what, reply, limit)
        except BaseException:
            self.budget.give(held)
            raise
        self.budget.give(held - len(body))
        return Response(url, reply.status, headers, body), len(body)

    async def _wait_for_room(self, count: int, limit: Deadline) -> None:
        """Waiting for our own memory does not count against the server's deadline."""
        since, deadline = self._clock(), limit.at
        limit.at = math.inf
        await self.budget.take(count)
        limit.at = deadline + self._clock() - since

    async def _body(self, coding: str, what: What, reply: aiohttp.ClientResponse, limit: Deadline) -> bytes:
        """The decoded body under the cap and above the minimum rate; of a robots.txt what fits under the cap."""
        cap = self._caps[what]
        content = reply.content
        slowest = self._clock() + _GRACE_S
        deadline = limit.at
        body = bytearray()  # not a list of pieces: a server that sends them small would make each cost 50 bytes
        wire = 0
        try:
            decode = decoder(coding)
            while data := await content.readany():
                wire += len(data)
                body += decode.feed(data, cap - len(body))
                if wire > cap:
                    raise OversizeError(b"")
                limit.at = min(deadline, slowest + wire / self._web.min_rate)
        except OversizeError as error:
            if what != "robots":
                raise FetchError(Drop.TOO_LARGE, f"more than {cap} bytes") from None
            body += error.fitting
        except CodingError as error:
            raise FetchError(Drop.HTTP_ERROR, f"content coding: {error}") from None
        else:
            if wire and not decode.complete:
                raise FetchError(Drop.TRUNCATED, "the coded body ended early", transient=True)
        return bytes(body)


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def _texts(raw: tuple[tuple[bytes, bytes], ...]) -> list[tuple[str, str]]:
    try:
        return [(name.decode(), value.decode()) for name, value in raw]
    except UnicodeDecodeError:
        return [(_text(name), _text(value)) for name, value in raw]


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _printable(text: str) -> str:
    """A server's words as they may be shown on a terminal, which would obey control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _connection_error(error: Exception) -> FetchError:
    """What went wrong with the connection, in words that hold neither address nor port."""
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
    what = errno.errorcode.get(number, "") if number else ""
    return FetchError(Drop.CONNECTION, what or "the connection was closed", transient=True)


def retry_after(value: str) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as a date; None if it does not say."""
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
