"""From an address to its answer: allowed? whose turn? again? where does it lead?"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from types import TracebackType

from infra.schema import Drop
from pipelines.web.fetcher import FetchError, Kind, Response, Web
from pipelines.web.guard import AddressRefusedError
from pipelines.web.http_client import Client, What
from pipelines.web.policy.policy_file import SiteFile
from pipelines.web.policy.robots import Rules
from pipelines.web.policy.tdmrep import PATH, Reservations
from pipelines.web.politeness.queue import HostDownError, Turns
from pipelines.web.politeness.single_flight import Answer
from pipelines.web.urls import BadUrlError, canonical, host_of, origin_of

__all__ = ["Chase"]


class Chase:
    """What a ``Fetcher`` does."""

    def __init__(self, web: Web, client: Client, turns: Turns, admit: Callable[[str], bool] | None) -> None:
        self._web = web
        self._client = client
        self._turns = turns
        self._admit = admit
        self._policy = web.policy
        self._robots = SiteFile("/robots.txt", partial(Rules.read, agent=web.agent), partial(self._file, "robots"))
        self._tdm = SiteFile(PATH, Reservations.read, partial(self._file, "tdm"))
        self._clock = asyncio.get_running_loop().time

    def fetch(self, url: str, kind: Kind, follow: bool) -> AbstractAsyncContextManager[Response]:
        """See ``Fetcher.fetch``."""
        return _Fetch(self, url, kind, follow)

    async def answer(self, url: str, kind: Kind, follow: bool) -> tuple[Response, int]:
        """The answer, and the bytes it holds of the budget."""
        response, held = await self._follow(url, kind, follow)
        try:
            self._judge(response, kind, follow)
        except FetchError:
            self._client.budget.give(held)
            raise
        return response, held

    @property
    def failure(self) -> BaseException | None:
        """See ``Fetcher.failure``."""
        return self._turns.failure

    def release(self, held: int) -> None:
        self._client.budget.give(held)

    def redirect(self, response: Response) -> str:
        """See ``Fetcher.redirect``."""
        target = response.header("Location")
        if not target:
            raise FetchError(Drop.HTTP_ERROR, "redirect without a location")
        target = self._checked(target, base=response.url)
        if target == response.url or target in response.redirects:
            raise FetchError(Drop.REFUSED, "redirect loop")
        return target

    def _judge(self, response: Response, kind: Kind, follow: bool) -> None:
        """Raise FetchError if the answer is not one we may use."""
        if response.is_redirect and not follow:
            return
        if not 200 <= response.status < 300:
            raise FetchError(Drop.HTTP_ERROR, str(response.status))
        if not self._web.obey_opt_out or kind == "sitemap":  # which is read, not kept
            return
        if why := self._policy.of_file(response.headers, image=kind == "image"):
            raise FetchError(Drop.OPT_OUT, why)

    # --- where it leads ---

    async def _follow(self, url: str, what: What, follow: bool) -> tuple[Response, int]:
        """Follow redirects by hand, so that each address on the way is checked like the first."""
        ours = what == "robots" or what == "tdm"  # files we ask for of ourselves, and nobody has to allow
        most = max(5, self._web.max_redirects) if ours else self._web.max_redirects  # RFC 9309, 2.3.1.2
        passed: tuple[str, ...] = ()
        url = self._checked(url)
        while True:
            if not ours:
                await self._ask(url)
            response, held = await self._retry(url, what)
            if passed:
                response = replace(response, redirects=passed)
            if not (follow and response.is_redirect):
                return response, held
            passed = (*passed, url)
            url = self.redirect(response)
            if len(passed) > most:
                raise FetchError(Drop.REFUSED, f"more than {most} redirects")
            if not ours and self._admit and not self._admit(url):
                raise FetchError(Drop.OFF_SITE, url)

    def _checked(self, url: str, base: str | None = None) -> str:
        where = "redirect to " if base else ""
        try:
            url = canonical(url, base)
            self._client.guard.check_literal(host_of(url))
        except BadUrlError as error:
            raise FetchError(Drop.REFUSED, f"{where}{error}") from None
        except AddressRefusedError:
            raise FetchError(Drop.REFUSED, f"{where}an address that is not public") from None
        return url

    # --- is it allowed? ---

    async def _ask(self, url: str) -> None:
        """Raise FetchError if the origin's robots.txt or reservations keep us from ``url``, or cannot be had."""
        if self._web.obey_robots:
            try:
                rules = await self._robots.of(origin_of(url))
            except FetchError as error:
                # The server is not there: that is what became of the URL, rather than that robots.txt forbids it.
                raise FetchError(error.reason, f"robots.txt: {error.detail}") from None
            if refused := rules.refusal(url, self._web.agent, as_ai=self._web.obey_opt_out):
                raise FetchError(*refused)
            if rules.crawl_delay:
                self._turns.slow(host_of(url), rules.crawl_delay)
        if self._web.tdm_well_known and self._web.obey_opt_out:
            try:
                reserved = (await self._tdm.of(origin_of(url))).reserved(url)
            except FetchError:
                return  # what cannot be had reserves nothing; a host that is not there ends the fetch by itself
            if reserved:
                raise FetchError(Drop.OPT_OUT, "tdmrep.json: tdm-reservation")

    async def _file(self, what: What, url: str) -> Answer:
        """A robots.txt or the like, from whichever worker was first to fetch it."""
        return await self._turns.file(url, partial(self._load, what, url))

    async def _load(self, what: What, url: str) -> Answer:
        try:
            response, held = await self._follow(url, what, follow=True)
        except FetchError as error:
            if error.reason is Drop.HTTP_ERROR and error.detail.isdigit():
                return Answer(int(error.detail))
            if error.reason is Drop.REFUSED:
                return Answer(404)  # redirected in circles or where we do not go: there are no rules to be had
            return Answer(0, reason=str(error.reason), detail=error.detail)
        self.release(held)
        delay = 0.0
        if what == "robots":
            delay = (await self._robots.learn(url, response.status, response.body)).crawl_delay
        return Answer(response.status, response.body, crawl_delay_s=delay)

    # --- whose turn? again? ---

    async def _retry(self, url: str, what: What) -> tuple[Response, int]:
        host = host_of(url)
        wait = self._web.retry_s
        failed: FetchError | None = None
        for left in range(self._web.retries, -1, -1):
            try:
                return await self._request(url, host, what)
            except HostDownError:
                raise failed or FetchError(Drop.HOST_DOWN, "the host did not answer several times") from None
            except FetchError as error:
                too_long = error.retry_after_s is not None and error.retry_after_s > self._web.max_delay_s
                if not error.transient or not left or too_long:
                    raise
                failed = error
            await asyncio.sleep(random.uniform(0.5, 1.0) * wait)
            wait *= 2
        raise AssertionError("unreachable")

    async def _request(self, url: str, host: str, what: What) -> tuple[Response, int]:
        """One exchange in one turn, which tells the host's keepers how it went."""
        turns = self._turns
        await self._client.resolve(host)  # before the turn, which others may use meanwhile
        await turns.take(host)
        start = self._clock()
        latency: float | None = None
        good = answered = True

        def headers(status: int) -> None:
            nonlocal latency, good
            latency, good = self._clock() - start, status == 200

        try:
            return await self._client.request(url, what, headers)
        except FetchError as error:
            answered = latency is not None or error.reason not in (Drop.TIMEOUT, Drop.CONNECTION)
            if error.retry_after_s is not None:
                turns.pause(host, min(error.retry_after_s, self._web.max_delay_s))
            raise
        finally:
            turns.give(host, latency, good=good, answered=answered)


class _Fetch(AbstractAsyncContextManager[Response]):
    """The block of a ``Fetcher.fetch``: written out, since a generator would cost more than what it does."""

    __slots__ = ("_chase", "_follow", "_held", "_kind", "_url")

    def __init__(self, chase: Chase, url: str, kind: Kind, follow: bool) -> None:
        self._chase, self._url, self._kind, self._follow = chase, url, kind, follow

    async def __aenter__(self) -> Response:
        response, self._held = await self._chase.answer(self._url, self._kind, self._follow)
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._chase.release(self._held)
