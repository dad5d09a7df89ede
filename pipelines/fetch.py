"""The one way out to the web: a guarded, polite client for pages and images.

Everything a server can do to us ends as one :class:`FetchError` with a reason, within a deadline and a byte cap;
everything we do to a server is what its robots.txt, its opt-outs and its load allow.
Facts about the attacks and the manners are in the modules this one is made of: ``urls`` (what an address is), ``guard``
(where we connect), ``coding`` (bodies under a cap), ``robots`` and ``optout`` (what we are allowed).
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator

from infra.config import Config, Runtime
from infra.schema import Drop

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

    from pipelines.guard import Guard
    from pipelines.robots import Robots

__all__ = ["FetchError", "Fetcher", "Kind", "Response", "Web"]

Kind = Literal["page", "image"]

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504, 522, 524})
_REDIRECT = frozenset({301, 302, 303, 307, 308})
_GRACE_S = 5.0  # before the minimum rate counts
_HTML = ("text/html", "application/xhtml+xml")
_ACCEPT = {
    "page": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.1",
    "image": "image/webp,image/png,image/jpeg,image/*;q=0.8,*/*;q=0.1",
    "robots": "text/plain,*/*;q=0.1",
}


class Web(Config):
    """How to behave on the web. Times are seconds, sizes bytes of decoded body."""

    user_agent: str = Field(
        "clipline/0.1", description="product/version sent to servers; the product is the name robots.txt rules address"
    )
    contact: str = Field(
        "", description="address or URL where an annoyed site owner reaches you; sent with the user agent"
    )
    obey_robots: bool = Field(True, description="fetch only what robots.txt allows")
    obey_opt_out: bool = Field(
        True, description="drop what X-Robots-Tag, robots meta tags, TDM reservation or robots.txt keep from AI use"
    )
    max_page_bytes: int = Field(4 << 20, gt=0, description="largest page taken, bytes decoded")
    max_image_bytes: int = Field(32 << 20, gt=0, description="largest image taken, bytes decoded")
    max_redirects: int = Field(5, ge=0, description="redirects followed from one address")
    concurrency: Runtime[int] = Field(64, gt=0, description="requests in flight per worker")
    host_concurrency: Runtime[int] = Field(2, gt=0, description="requests in flight per host")
    delay_s: Runtime[float] = Field(0.0, ge=0, description="pause between requests to one host; Crawl-delay raises it")
    max_delay_s: Runtime[float] = Field(
        30.0, ge=0, description="longest pause a Crawl-delay or Retry-After can ask for"
    )
    deadline_s: Runtime[float] = Field(30.0, gt=0, description="for one request, from connecting to the last byte")
    connect_s: Runtime[float] = Field(10.0, gt=0, description="for opening a connection")
    min_rate: Runtime[float] = Field(1000.0, gt=0, description="bytes per second a body must average after 5 s")
    retries: Runtime[int] = Field(2, ge=0, description="further attempts after a failure that may pass")
    retry_s: Runtime[float] = Field(1.0, ge=0, description="wait before the first retry, doubled each time, jittered")
    dns_threads: Runtime[int] = Field(16, gt=0, description="look-ups at once")
    connect_to: Runtime[dict[str, str]] = Field(
        {}, description='host pattern -> "address[:port]" to connect to instead, private ones too; first match wins'
    )
    allow_private: Runtime[tuple[str, ...]] = Field(
        (), description="networks that may be reached although they are not public, as 10.0.0.0/8"
    )

    @field_validator("allow_private")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        import ipaddress

        for network in value:
            ipaddress.ip_network(network)
        return value

    @property
    def agent(self) -> str:
        """The product token, as robots.txt and scoped headers name it."""
        return self.user_agent.partition("/")[0]

    @property
    def user_agent_header(self) -> str:
        return f"{self.user_agent} (+{self.contact})" if self.contact else self.user_agent


class FetchError(Exception):
    """No body came of it. ``reason`` for the funnel, ``detail`` for a person: never an address, port or time."""

    def __init__(
        self, reason: Drop, detail: str = "", *, transient: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason, self.detail, self.transient, self.retry_after_s = reason, detail, transient, retry_after_s


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. ``body`` is decoded; ``headers`` are as received, in order; ``redirects`` are the URLs passed."""

    url: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    redirects: tuple[str, ...] = field(default=())

    def header(self, name: str, default: str = "") -> str:
        """The first header of that name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), default)

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; empty if none was given."""
        return self.header("Content-Type").partition(";")[0].strip().lower()

    @property
    def is_redirect(self) -> bool:
        return self.status in _REDIRECT


class _Host:
    """One host's turns: so many at once, and a pause between their starts."""

    def __init__(self, concurrency: int, delay_s: float) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._next = 0.0
        self.delay_s = delay_s

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._slots:
            now = asyncio.get_running_loop().time()
            start = max(now, self._next)
            self._next = start + self.delay_s
            if start > now:
                await asyncio.sleep(start - now)
            yield

    def pause(self, seconds: float) -> None:
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)


class Fetcher:
    """An async context manager around one HTTP session; use one per event loop, for many fetches at once.

    ``admit(url)`` says whether a redirect may lead there; one that may not ends as ``Drop.OFF_SITE``.
    """

    def __init__(self, web: Web, admit: Callable[[str], bool] | None = None) -> None:
        self.web = web
        self._admit = admit
        self._hosts: dict[str, _Host] = {}
        self._session: ClientSession
        self._guard: Guard
        self._robots: Robots
        self._slots: asyncio.Semaphore

    async def __aenter__(self) -> Self:
        import aiohttp

        from pipelines.coding import ACCEPTED
        from pipelines.guard import Guard
        from pipelines.robots import Robots

        self._slots = asyncio.Semaphore(self.web.concurrency)
        self._guard = Guard(self.web.connect_to, self.web.allow_private, self.web.dns_threads)
        self._robots = Robots(self._load_robots)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=self._guard, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.web.connect_s),
            headers={"User-Agent": self.web.user_agent_header, "Accept-Encoding": ACCEPTED},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # pipelines.coding does it, under a cap
            trust_env=False,  # a proxy would resolve names behind the guard's back
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._robots.close()
        await self._session.close()
        await self._guard.close()

    async def get(self, url: str, kind: Kind = "page", *, follow: bool = True) -> Response:
        """Fetch ``url``. Raises FetchError for anything but a 2xx answer we may use.

        A page that is not HTML is refused before its body is read. Without ``follow`` a redirect is an answer too.
        """
        from pipelines.optout import IMAGE, PAGE, from_headers, refusal

        response = await self._chase(url, kind, follow)
        if response.is_redirect and not follow:
            return response
        if not 200 <= response.status < 300:
            raise FetchError(Drop.HTTP_ERROR, str(response.status))
        if self.web.obey_opt_out:
            said = from_headers(response.headers, self.web.agent)
            if why := refusal(said, IMAGE if kind == "image" else PAGE):
                raise FetchError(Drop.OPT_OUT, why)
        return response

    def redirect(self, response: Response) -> str:
        """Where a redirect leads, checked like any address we are given. Raises FetchError."""
        target = response.header("Location")
        if not target:
            raise FetchError(Drop.HTTP_ERROR, "redirect without a location")
        target = self._checked(target, base=response.url)
        if target == response.url or target in response.redirects:
            raise FetchError(Drop.REFUSED, "redirect loop")
        return target

    # --- from an address to its answer ---

    async def _chase(self, url: str, kind: Kind | Literal["robots"], follow: bool) -> Response:
        """Follow redirects by hand, so that each address on the way is checked like the first."""
        passed: tuple[str, ...] = ()
        url = self._checked(url)
        while True:
            if kind != "robots":
                await self._ask(url)
            response = replace(await self._retry(url, kind), redirects=passed)
            if not (follow and response.is_redirect):
                return response
            passed = (*passed, url)
            url = self.redirect(response)
            if len(passed) > self.web.max_redirects:
                raise FetchError(Drop.REFUSED, f"more than {self.web.max_redirects} redirects")
            if kind != "robots" and self._admit and not self._admit(url):
                raise FetchError(Drop.OFF_SITE, url)

    def _checked(self, url: str, base: str | None = None) -> str:
        from pipelines.guard import AddressRefusedError
        from pipelines.urls import BadUrlError, canonical, host_of

        where = "redirect to " if base else ""
        try:
            url = canonical(url, base)
            self._guard.check_literal(host_of(url))
        except BadUrlError as error:
            raise FetchError(Drop.REFUSED, f"{where}{error}") from None
        except AddressRefusedError:
            raise FetchError(Drop.REFUSED, f"{where}an address that is not public") from None
        return url

    def _host(self, url: str) -> _Host:
        from pipelines.urls import host_of

        name = host_of(url)
        if name not in self._hosts:
            self._hosts[name] = _Host(self.web.host_concurrency, self.web.delay_s)
        return self._hosts[name]

    async def _ask(self, url: str) -> None:
        """Raise FetchError if the origin's robots.txt keeps us from ``url``, or cannot be had."""
        from pipelines.urls import origin_of

        if not self.web.obey_robots:
            return
        try:
            rules = await self._robots.rules(origin_of(url))
        except FetchError as error:
            # The server is not there: that is what became of the URL, rather than that robots.txt forbids it.
            raise FetchError(error.reason, f"robots.txt: {error.detail}") from None
        if refused := rules.refusal(url, self.web.agent, as_ai=self.web.obey_opt_out):
            raise FetchError(*refused)
        if delay := rules.crawl_delay(self.web.agent):
            host = self._host(url)
            host.delay_s = max(host.delay_s, min(delay, self.web.max_delay_s))

    async def _load_robots(self, url: str) -> tuple[int, bytes]:
        try:
            response = await self._chase(url, "robots", follow=True)
        except FetchError as error:
            if error.reason is Drop.HTTP_ERROR and error.detail.isdigit():
                return int(error.detail), b""
            if error.reason is Drop.REFUSED:
                return 404, b""  # redirected in circles or where we do not go: there are no rules to be had
            raise
        return response.status, response.body

    # --- one request ---

    async def _retry(self, url: str, kind: Kind | Literal["robots"]) -> Response:
        wait = self.web.retry_s
        for left in range(self.web.retries, -1, -1):
            try:
                return await self._request(url, kind)
            except FetchError as error:
                if error.retry_after_s is not None:
                    self._host(url).pause(min(error.retry_after_s, self.web.max_delay_s))
                if not error.transient or not left:
                    raise
            await asyncio.sleep(random.uniform(0.5, 1.0) * wait)
            wait *= 2
        raise AssertionError("unreachable")

    async def _request(self, url: str, kind: Kind | Literal["robots"]) -> Response:
        import aiohttp
        from yarl import URL

        from pipelines.guard import AddressRefusedError

        async with self._host(url).turn(), self._slots:
            try:
                async with (
                    asyncio.timeout(self.web.deadline_s) as limit,
                    self._session.get(
                        URL(url, encoded=True), headers={"Accept": _ACCEPT[kind]}, allow_redirects=False
                    ) as reply,
                ):
                    return await self._answer(url, kind, reply, limit)
            except AddressRefusedError:
                raise FetchError(Drop.REFUSED, "an address that is not public") from None
            except aiohttp.ServerTimeoutError:
                raise FetchError(Drop.TIMEOUT, "no connection in time") from None
            except TimeoutError:
                raise FetchError(Drop.TIMEOUT, "too slow") from None
            except aiohttp.ClientPayloadError:
                raise FetchError(Drop.TRUNCATED, "the body ended early", transient=True) from None
            except (aiohttp.ClientError, OSError) as error:
                raise _connection_error(error) from None

    async def _answer(
        self, url: str, kind: Kind | Literal["robots"], reply: ClientResponse, limit: asyncio.Timeout
    ) -> Response:
        headers = [(_text(name), _text(value)) for name, value in reply.raw_headers]
        response = Response(url, reply.status, headers, b"")
        if response.is_redirect:
            return response
        if reply.status in _TRANSIENT:
            after = _retry_after(response.header("Retry-After"))
            raise FetchError(Drop.HTTP_ERROR, str(reply.status), transient=True, retry_after_s=after)
        if not 200 <= reply.status < 300:
            return response
        if kind == "page" and (found := response.content_type) and found not in _HTML:
            raise FetchError(Drop.NOT_HTML, found[:80])
        return Response(url, reply.status, headers, await self._body(response, kind, reply, limit))

    async def _body(
        self, response: Response, kind: Kind | Literal["robots"], reply: ClientResponse, limit: asyncio.Timeout
    ) -> bytes:
        """The decoded body under the cap and above the minimum rate; of a robots.txt what fits under the cap."""
        from pipelines.coding import CodingError, OversizeError, decoder
        from pipelines.robots import MAX_BYTES

        cap = {"page": self.web.max_page_bytes, "image": self.web.max_image_bytes, "robots": MAX_BYTES}[kind]
        clock = asyncio.get_running_loop().time
        slowest = clock() + _GRACE_S
        deadline = limit.when() or slowest
        pieces: list[bytes] = []
        wire = size = 0
        try:
            decode = decoder(response.header("Content-Encoding"))
            if kind != "robots" and (reply.content_length or 0) > cap:
                raise OversizeError(b"")
            async for data in reply.content.iter_any():
                wire += len(data)
                limit.reschedule(min(deadline, slowest + wire / self.web.min_rate))
                pieces.append(decode.feed(data, cap - size))
                size += len(pieces[-1])
                if wire > cap:
                    raise OversizeError(b"")
        except OversizeError as error:
            if kind != "robots":
                raise FetchError(Drop.TOO_LARGE, f"more than {cap} bytes") from None
            pieces.append(error.fitting)
        except CodingError as error:
            raise FetchError(Drop.HTTP_ERROR, f"content coding: {error}") from None
        else:
            if wire and not decode.complete:
                raise FetchError(Drop.TRUNCATED, "the coded body ended early", transient=True)
        return b"".join(pieces)


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _connection_error(error: Exception) -> FetchError:
    """What went wrong with the connection, in words that hold neither address nor port."""
    import aiohttp

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


def _retry_after(value: str) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as a date; None if it does not say."""
    value = value.strip()
    if not value:
        return None
    if value.isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
