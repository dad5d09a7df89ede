"""The one way out to the web: a guarded, polite client for pages and images.

Everything a server can do to us ends as one :class:`FetchError` with a reason, within a deadline and a byte cap;
everything we do to a server is what its robots.txt, its opt-outs and its load allow.
Facts about the attacks and the manners are in the modules this one is made of: ``urls`` (what an address is), ``guard``
(where we connect), ``coding`` (bodies under a cap), ``robots`` and ``optout`` (what we are allowed).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator, model_validator

from infra.config import Config, Runtime
from infra.schema import Drop

if TYPE_CHECKING:
    from pipelines.exchange import Client, What
    from pipelines.hosts import Answer, Link
    from pipelines.robots import Robots
    from pipelines.turns import Turns

__all__ = ["FetchError", "Fetcher", "Kind", "Response", "Web"]

Kind = Literal["page", "image", "sitemap"]

_REDIRECT = frozenset({301, 302, 303, 307, 308})


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
    max_bytes_in_flight: Runtime[int] = Field(
        256 << 20, gt=0, description="bytes of bodies a worker holds at once, from their headers until they are used"
    )
    max_redirects: int = Field(5, ge=0, description="redirects followed from one address")
    concurrency: Runtime[int] = Field(64, gt=0, description="requests in flight per worker")
    host_concurrency: Runtime[int] = Field(2, gt=0, description="requests in flight per host, of all workers together")
    target_concurrency: Runtime[float] = Field(
        0.0,
        ge=0,
        description="requests a host should have in flight on average: the pause between them becomes its latency "
        "divided by this (AutoThrottle); 0: host_concurrency",
    )
    delay_s: Runtime[float] = Field(0.0, ge=0, description="pause between requests to one host; Crawl-delay raises it")
    max_delay_s: Runtime[float] = Field(
        30.0, ge=0, description="longest pause a Crawl-delay or Retry-After can ask for"
    )
    deadline_s: Runtime[float] = Field(30.0, gt=0, description="for one request, from connecting to the last byte")
    connect_s: Runtime[float] = Field(10.0, gt=0, description="for opening a connection")
    min_rate: Runtime[float] = Field(1000.0, gt=0, description="bytes per second a body must average after 5 s")
    retries: Runtime[int] = Field(2, ge=0, description="further attempts after a failure that may pass")
    retry_s: Runtime[float] = Field(1.0, ge=0, description="wait before the first retry, doubled each time, jittered")
    breaker_failures: Runtime[int] = Field(
        5, gt=0, description="requests in a row without any answer after which a host is left alone"
    )
    breaker_s: Runtime[float] = Field(
        30.0, gt=0, description="for how long at first, doubled each time it still does not answer"
    )
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

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.max_bytes_in_flight < (largest := max(self.max_page_bytes, self.max_image_bytes)):
            raise ValueError(f"max_bytes_in_flight has no room for the largest body taken, {largest} bytes")
        return self

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


class Fetcher:
    """An async context manager around one HTTP session; use one per event loop, for many fetches at once.

    ``admit(url)`` says whether a redirect may lead there; one that may not ends as ``Drop.OFF_SITE``.
    ``manners``: the books of ``pipelines.hosts.shared``, kept with all other workers; without, our own.
    """

    def __init__(self, web: Web, admit: Callable[[str], bool] | None = None, manners: Link | None = None) -> None:
        self.web = web
        self._admit = admit
        self._manners = manners
        self._client: Client
        self._turns: Turns
        self._robots: Robots
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        from pipelines.exchange import Client
        from pipelines.hosts import Local
        from pipelines.robots import Robots
        from pipelines.turns import Turns

        self._client = Client(self.web)
        self._open.push_async_callback(self._client.close)
        self._turns = await self._open.enter_async_context(Turns(self.web, self._manners or Local(self.web)))
        self._robots = Robots(partial(self._file, "robots"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def fetch(self, url: str, kind: Kind = "page", *, follow: bool = True) -> AbstractAsyncContextManager[Response]:
        """``async with fetcher.fetch(url) as response``: the body counts as bytes in flight until the block ends.

        Raises FetchError for anything but a 2xx answer we may use, and TransientError when the stage's manners are no
        longer kept. A page that is not HTML is refused before its body is read. Without ``follow`` a redirect is an
        answer too. A block that fetches again while it holds a body can end up waiting for itself: do not.
        """
        return _Fetch(self, url, kind, follow)

    async def get(self, url: str, kind: Kind = "page", *, follow: bool = True) -> Response:
        """The same, with the body no longer counted."""
        async with self.fetch(url, kind, follow=follow) as response:
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

    def _judge(self, response: Response, kind: Kind, follow: bool) -> None:
        """Raise FetchError if the answer is not one we may use."""
        from pipelines.optout import IMAGE, PAGE, from_headers, refusal

        if response.is_redirect and not follow:
            return
        if not 200 <= response.status < 300:
            raise FetchError(Drop.HTTP_ERROR, str(response.status))
        if self.web.obey_opt_out and kind != "sitemap":  # which is read, not kept
            said = from_headers(response.headers, self.web.agent)
            if why := refusal(said, IMAGE if kind == "image" else PAGE):
                raise FetchError(Drop.OPT_OUT, why)

    # --- from an address to its answer ---

    async def _chase(self, url: str, what: What, follow: bool) -> tuple[Response, int]:
        """Follow redirects by hand, so that each address on the way is checked like the first."""
        passed: tuple[str, ...] = ()
        url = self._checked(url)
        while True:
            if what in ("page", "image", "sitemap"):
                await self._ask(url)
            response, held = await self._retry(url, what)
            if passed:
                response = replace(response, redirects=passed)
            if not (follow and response.is_redirect):
                return response, held
            passed = (*passed, url)
            url = self.redirect(response)
            if len(passed) > self.web.max_redirects:
                raise FetchError(Drop.REFUSED, f"more than {self.web.max_redirects} redirects")
            if what in ("page", "image", "sitemap") and self._admit and not self._admit(url):
                raise FetchError(Drop.OFF_SITE, url)

    def _checked(self, url: str, base: str | None = None) -> str:
        from pipelines.guard import AddressRefusedError
        from pipelines.urls import BadUrlError, canonical, host_of

        where = "redirect to " if base else ""
        try:
            url = canonical(url, base)
            self._client.guard.check_literal(host_of(url))
        except BadUrlError as error:
            raise FetchError(Drop.REFUSED, f"{where}{error}") from None
        except AddressRefusedError:
            raise FetchError(Drop.REFUSED, f"{where}an address that is not public") from None
        return url

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

    async def _file(self, what: What, url: str) -> Answer:
        """A robots.txt or the like, from whichever worker was first to fetch it."""
        return await self._turns.file(url, partial(self._load, what, url))

    async def _load(self, what: What, url: str) -> Answer:
        from pipelines.hosts import Answer
        from pipelines.robots import Rules

        try:
            response, held = await self._chase(url, what, follow=True)
        except FetchError as error:
            if error.reason is Drop.HTTP_ERROR and error.detail.isdigit():
                return Answer(int(error.detail))
            if error.reason is Drop.REFUSED:
                return Answer(404)  # redirected in circles or where we do not go: there are no rules to be had
            return Answer(0, reason=str(error.reason), detail=error.detail)
        self._client.budget.give(held)
        delay = Rules.read(response.status, response.body).crawl_delay(self.web.agent) if what == "robots" else 0.0
        return Answer(response.status, response.body, crawl_delay_s=delay)

    # --- one address ---

    async def _retry(self, url: str, what: What) -> tuple[Response, int]:
        from pipelines.turns import HostDownError
        from pipelines.urls import host_of

        host = host_of(url)
        wait = self.web.retry_s
        failed: FetchError | None = None
        for left in range(self.web.retries, -1, -1):
            try:
                return await self._request(url, host, what)
            except HostDownError:
                raise failed or FetchError(Drop.HOST_DOWN, "the host did not answer several times") from None
            except FetchError as error:
                too_long = error.retry_after_s is not None and error.retry_after_s > self.web.max_delay_s
                if not error.transient or not left or too_long:
                    raise
                failed = error
            await asyncio.sleep(random.uniform(0.5, 1.0) * wait)
            wait *= 2
        raise AssertionError("unreachable")

    async def _request(self, url: str, host: str, what: What) -> tuple[Response, int]:
        """One exchange in one turn, which tells the host's keepers how it went."""
        turns = self._turns
        await turns.take(host)
        clock = asyncio.get_running_loop().time
        start = clock()
        latency: float | None = None
        good = answered = True

        def headers(status: int) -> None:
            nonlocal latency, good
            latency, good = clock() - start, status == 200

        try:
            return await self._client.request(url, what, headers)
        except FetchError as error:
            answered = latency is not None or error.reason not in (Drop.TIMEOUT, Drop.CONNECTION)
            if error.retry_after_s is not None:
                turns.pause(host, min(error.retry_after_s, self.web.max_delay_s))
            raise
        finally:
            turns.give(host, latency, good=good, answered=answered)


class _Fetch(AbstractAsyncContextManager[Response]):
    """The block of a ``Fetcher.fetch``: written out, since a generator would double what it costs."""

    __slots__ = ("_fetcher", "_follow", "_held", "_kind", "_url")

    def __init__(self, fetcher: Fetcher, url: str, kind: Kind, follow: bool) -> None:
        self._fetcher, self._url, self._kind, self._follow = fetcher, url, kind, follow
        self._held = 0

    async def __aenter__(self) -> Response:
        response, held = await self._fetcher._chase(self._url, self._kind, self._follow)
        try:
            self._fetcher._judge(response, self._kind, self._follow)
        except FetchError:
            self._fetcher._client.budget.give(held)
            raise
        self._held = held
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._fetcher._client.budget.give(self._held)
