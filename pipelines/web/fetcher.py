"""The one way out to the web: a guarded, polite client for pages and images.

Everything a server can do to us ends as one :class:`FetchError` with a reason, within a deadline and a byte cap;
everything we do to a server is what its robots.txt, its opt-outs and its load allow.

Here is what its users see, light to import. The work is in ``chase`` (from an address to its answer), ``exchange`` (one
request), ``guard`` (where we connect), ``coding`` (bodies under a cap), ``urls`` (what an address is), ``robots`` and
``optout`` (what we are allowed), ``turns``, ``hosts`` and ``books`` (when).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator, model_validator

from infra.config import Config, Runtime
from infra.schema import Drop

if TYPE_CHECKING:
    from pipelines.web.chase import Chase
    from pipelines.web.policy.opt_outs import Policy
    from pipelines.web.politeness.actor import Link

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
    obey_robots: bool = Field(True, description="fetch only what robots.txt allows; off: do not read it at all")
    obey_opt_out: bool = Field(
        True, description="drop what X-Robots-Tag, robots meta tags, TDM reservation or robots.txt keep from AI use"
    )
    tdm_well_known: bool = Field(
        False,
        description="with obey_opt_out: also ask each origin for /.well-known/tdmrep.json, one request each",
    )
    max_page_bytes: int = Field(4 << 20, gt=0, description="largest page taken, bytes decoded")
    max_image_bytes: int = Field(32 << 20, gt=0, description="largest image taken, bytes decoded")
    max_bytes_in_flight: Runtime[int] = Field(
        256 << 20, gt=0, description="bytes of bodies a worker holds at once, from their headers until they are used"
    )
    max_redirects: int = Field(5, ge=0, description="redirects followed from one address")
    concurrency: Runtime[int] = Field(512, gt=0, description="requests in flight per worker")
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
    connect_s: Runtime[float] = Field(5.0, gt=0, description="for opening a connection")
    min_rate: Runtime[float] = Field(1000.0, gt=0, description="bytes per second a body must average after 5 s")
    retries: Runtime[int] = Field(2, ge=0, description="further attempts after a failure that may pass")
    retry_s: Runtime[float] = Field(1.0, ge=0, description="wait before the first retry, doubled each time, jittered")
    breaker_failures: Runtime[int] = Field(
        5, gt=0, description="requests in a row without any answer after which a host is left alone"
    )
    breaker_s: Runtime[float] = Field(
        30.0, gt=0, description="for how long at first, doubled each time it still does not answer"
    )
    dns_threads: Runtime[int] = Field(64, gt=0, description="look-ups at once")
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
    def policy(self) -> Policy:
        """What counts as an opt-out."""
        from pipelines.web.policy.opt_outs import Policy

        return Policy(self.agent)

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


def media_type(value: str) -> str:
    """The media type of a Content-Type header in lower case, without parameters."""
    return value.partition(";")[0].strip().lower()


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
        return media_type(self.header("Content-Type"))

    @property
    def is_redirect(self) -> bool:
        return self.status in _REDIRECT


class Fetcher:
    """An async context manager around one HTTP session; use one per event loop, for many fetches at once.

    ``admit(url)`` says whether a redirect may lead there; one that may not ends as ``Drop.OFF_SITE``.
    ``manners``: the books of ``pipelines.web.politeness.actor.shared``, kept with all other workers; without, our own.
    """

    def __init__(self, web: Web, admit: Callable[[str], bool] | None = None, manners: Link | None = None) -> None:
        self.web = web
        self._admit = admit
        self._manners = manners
        self._open = AsyncExitStack()
        self._chase: Chase

    async def __aenter__(self) -> Self:
        from pipelines.web.chase import Chase
        from pipelines.web.http_client import Client
        from pipelines.web.politeness.actor import Local
        from pipelines.web.politeness.queue import Turns

        client = Client(self.web)
        self._open.push_async_callback(client.close)
        turns = await self._open.enter_async_context(Turns(self.web, self._manners or Local(self.web)))
        self._chase = Chase(self.web, client, turns, self._admit)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def fetch(self, url: str, kind: Kind = "page", *, follow: bool = True) -> AbstractAsyncContextManager[Response]:
        """``async with fetcher.fetch(url) as response``: the body counts as bytes in flight until the block ends.

        Raises FetchError for anything but a 2xx answer we may use, and TransientError when the stage's manners are no
        longer kept. A page that is not HTML is refused before its body is read. Without ``follow`` a redirect is an
        answer too. A block must not wait for another fetch, or the two can wait for each other's bytes for ever.
        """
        return self._chase.fetch(url, kind, follow)

    async def get(self, url: str, kind: Kind = "page", *, follow: bool = True) -> Response:
        """The same, with the body no longer counted."""
        async with self.fetch(url, kind, follow=follow) as response:
            return response

    @property
    def failure(self) -> BaseException | None:
        """The error that every fetch ends with once the stage's manners are no longer kept; None before that."""
        return self._chase.failure

    def redirect(self, response: Response) -> str:
        """Where a redirect leads, checked like any address we are given. Raises FetchError."""
        return self._chase.redirect(response)
