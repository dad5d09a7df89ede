"""Fetch a URL: permission, redirects, retries, rate limits.

Anything a server can do ends as one :class:`FetchError` with a reason, within a deadline and a byte limit; what we do
to a server is bounded by its robots.txt, its opt-outs and its load. One HTTP exchange is ``HTTPClient.request``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from infra.schema import Drop
from pipelines.web.budget import Share
from pipelines.web.config import Web
from pipelines.web.guard import AddressRefusedError
from pipelines.web.http_client import HTTPClient
from pipelines.web.policy.hosts import HostPolicies
from pipelines.web.policy.opt_outs import joined
from pipelines.web.politeness.client import LimiterClient, LocalLimiter
from pipelines.web.politeness.queue import HostDownError, HostQueue, HostRestsError
from pipelines.web.politeness.single_flight import FileResult
from pipelines.web.response import FetchError, ResourceType, Response
from pipelines.web.urls import BadUrlError, canonical, host_of

__all__ = ["Fetcher"]

_MIN_POLICY_REDIRECTS = 5  # RFC 9309, 2.3.1.2
_KEPT = ("page", "image")  # what opt-outs concern; sitemaps are read for their links and not kept


class Fetcher:
    """Async context manager around one HTTP session; use one per event loop, for many concurrent fetches.

    ``admit(url)`` tells whether a redirect may be followed; one that may not ends as ``Drop.OFF_SITE``.
    ``limiter``: the rate limiter shared by all workers (``politeness.actor.shared_limiter``); None: one of our own.
    """

    def __init__(
        self, web: Web, admit: Callable[[str], bool] | None = None, limiter: LimiterClient | None = None
    ) -> None:
        self.web = web
        self._admit = admit
        self._limiter = limiter
        self._policy = web.policy
        self._hosts = HostPolicies(web, self._policy_file)
        self._open = AsyncExitStack()
        self._client: HTTPClient
        self._queue: HostQueue

    async def __aenter__(self) -> Self:
        self._clock = asyncio.get_running_loop().time
        self._client = HTTPClient(self.web)
        self._open.push_async_callback(self._client.close)
        limiter = self._limiter or LocalLimiter(self.web)
        self._queue = await self._open.enter_async_context(HostQueue(self.web, limiter))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def fetch(
        self, url: str, resource: ResourceType = "page", *, follow: bool = True
    ) -> AbstractAsyncContextManager[Response]:
        """``async with fetcher.fetch(url) as response``: the body counts as bytes in flight until the block ends.

        Raises FetchError for anything but a 2xx response that policy lets us use, and TransientError when the rate
        limiter is lost. A page that is not HTML is refused before its body is read. Without ``follow`` a redirect is a
        result, too. A block must not start another fetch, or the two can wait for each other's bytes for ever.
        """
        return _Fetch(self, url, resource, follow)

    async def get(self, url: str, resource: ResourceType = "page", *, follow: bool = True) -> Response:
        """Fetch like :meth:`fetch`, but without counting the body afterwards."""
        async with self.fetch(url, resource, follow=follow) as response:
            return response

    @property
    def failure(self) -> BaseException | None:
        """Return the error that every fetch ends with once the rate limiter is lost; None before that."""
        return self._queue.failure

    def redirect(self, response: Response) -> str:
        """Return the canonical target of a redirect, checked like any other URL. Raises FetchError."""
        target = response.header("Location")
        if not target:
            raise FetchError(Drop.HTTP_ERROR, "redirect without a location")
        target = self._checked(target, base=response.url)
        if target == response.url or target in response.redirects:
            raise FetchError(Drop.REFUSED, "redirect loop")
        return target

    # --- redirects and checks ---

    async def _follow(self, url: str, resource: ResourceType, follow: bool) -> tuple[Response, Share]:
        """Fetch ``url`` and follow redirects, checking every URL on the way like the first.

        Returns the response and its body's share of the client's budget, which the caller releases.
        """
        is_policy_file = resource in ("robots", "policy")
        limit = self.web.max_redirects
        if is_policy_file:
            limit = max(_MIN_POLICY_REDIRECTS, limit)
        passed: tuple[str, ...] = ()
        opt_out = ""
        url = self._checked(url)
        while True:
            if not is_policy_file:
                opt_out = joined(opt_out, await self._check_permission(url, resource))
            response, share = await self._retry(url, resource)
            if passed or opt_out:
                response = replace(response, redirects=passed, opt_out=opt_out)
            if not (follow and response.is_redirect):
                return response, share
            passed = (*passed, url)
            url = self.redirect(response)
            if len(passed) > limit:
                raise FetchError(Drop.REFUSED, f"more than {limit} redirects")
            if not is_policy_file and self._admit and not self._admit(url):
                raise FetchError(Drop.OFF_SITE, url)

    def _checked(self, url: str, base: str | None = None) -> str:
        """Return the canonical form of a URL. Raises FetchError for what is no URL or names a private address."""
        where = "redirect to " if base else ""
        try:
            url = canonical(url, base)
            self._client.guard.check_literal(host_of(url))
        except BadUrlError as error:
            raise FetchError(Drop.REFUSED, f"{where}{error}") from None
        except AddressRefusedError:
            raise FetchError(Drop.REFUSED, f"{where}an address that is not public") from None
        return url

    def _check_response(self, response: Response, resource: ResourceType, follow: bool) -> Response:
        """Return the response with what its headers withhold. Raises FetchError for an error status or an opt-out."""
        if response.is_redirect and not follow:
            return response
        if not 200 <= response.status < 300:
            raise FetchError(Drop.HTTP_ERROR, str(response.status))
        if resource not in _KEPT:
            return response
        words = self._policy.of_file(response.headers, image=resource == "image")
        if words and self.web.obey_opt_out:
            raise FetchError(Drop.OPT_OUT, words)
        return replace(response, opt_out=joined(response.opt_out, words)) if words else response

    # --- permission ---

    async def _check_permission(self, url: str, resource: ResourceType) -> str:
        """Return the words by which the files of the URL's host withhold it from AI use, if that is not obeyed.

        Raises FetchError if they do and it is, if robots.txt forbids ``url``, or if robots.txt cannot be fetched.
        """
        try:
            rules = await self._hosts.robots(url)
        except FetchError as error:
            # The server failed: that is the URL's own failure, rather than one of robots.txt forbidding it.
            raise FetchError(error.reason, f"robots.txt: {error.detail}") from None
        if refused := rules.refusal(url, self.web.agent):
            raise FetchError(Drop.ROBOTS, refused)
        if rules.crawl_delay > self.web.max_delay_s:
            raise FetchError(Drop.RATE_LIMITED, "robots.txt: its Crawl-delay is longer than web.max_delay_s")
        if rules.crawl_delay:
            self._queue.set_crawl_delay(host_of(url), rules.crawl_delay)
        words = await self._hosts.opt_out(url, rules) if resource in _KEPT else ""
        if words and self.web.obey_opt_out:
            raise FetchError(Drop.OPT_OUT, words)
        return words

    async def _policy_file(self, resource: ResourceType, url: str) -> FileResult:
        """Get a policy file, fetched once for all workers."""
        return await self._queue.shared_file(url, partial(self._load_policy_file, resource, url))

    async def _load_policy_file(self, resource: ResourceType, url: str) -> FileResult:
        """Fetch a policy file on behalf of all workers; failures become part of the result."""
        try:
            response, share = await self._follow(url, resource, follow=True)
        except FetchError as error:
            if error.reason is Drop.HTTP_ERROR and error.detail.isdigit():
                return FileResult(int(error.detail))
            if error.reason is Drop.REFUSED:
                return FileResult(404)  # redirect loops and forbidden targets: there are no rules to be had
            return FileResult(0, reason=str(error.reason), detail=error.detail)
        share.release()
        delay = 0.0
        if resource == "robots":
            delay = (await self._hosts.add_robots(url, response.status, response.body)).crawl_delay
        return FileResult(response.status, response.body, crawl_delay_s=delay)

    # --- retries and rate limit ---

    async def _retry(self, url: str, resource: ResourceType) -> tuple[Response, Share]:
        """Request ``url``, again after transient failures, with exponential backoff and jitter."""
        host = host_of(url)
        wait = self.web.retry_s
        failed: FetchError | None = None
        for left in range(self.web.retries, -1, -1):
            try:
                return await self._request(url, host, resource)
            except HostDownError:
                raise failed or FetchError(Drop.HOST_DOWN, "the host did not answer several times") from None
            except HostRestsError:
                raise FetchError(Drop.RATE_LIMITED, "the host asked for rest") from None
            except FetchError as error:
                if error.retry_after_s is not None and error.retry_after_s > self.web.max_delay_s:
                    detail = f"{error.detail}, its Retry-After is longer than web.max_delay_s"
                    raise FetchError(Drop.RATE_LIMITED, detail) from None
                if not error.transient or not left:
                    raise
                failed = error
            await asyncio.sleep(random.uniform(0.5, 1.0) * wait)
            wait *= 2
        raise AssertionError("unreachable")

    async def _request(self, url: str, host: str, resource: ResourceType) -> tuple[Response, Share]:
        """Make one HTTP exchange within the host's rate limit, and report its outcome to the limiter."""
        queue = self._queue
        await self._client.resolve(host)  # before a slot is taken, which others can use meanwhile
        await queue.acquire(host)
        start = self._clock()
        latency: float | None = None
        ok = responded = True

        def on_headers(status: int) -> None:
            nonlocal latency, ok
            latency, ok = self._clock() - start, status == 200

        try:
            return await self._client.request(url, resource, on_headers)
        except FetchError as error:
            responded = latency is not None or not error.silent
            if error.retry_after_s is not None:
                queue.pause(host, error.retry_after_s)
            raise
        finally:
            queue.release(host, latency, ok=ok, responded=responded)


class _Fetch(AbstractAsyncContextManager[Response]):
    """Block of ``Fetcher.fetch``. A class, since a generator-based context manager costs more than its work."""

    __slots__ = ("_fetcher", "_follow", "_resource", "_share", "_url")

    def __init__(self, fetcher: Fetcher, url: str, resource: ResourceType, follow: bool) -> None:
        self._fetcher, self._url, self._resource, self._follow = fetcher, url, resource, follow

    async def __aenter__(self) -> Response:
        fetcher = self._fetcher
        response, self._share = await fetcher._follow(self._url, self._resource, self._follow)
        try:
            return fetcher._check_response(response, self._resource, self._follow)
        except FetchError:
            self._share.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._share.release()
