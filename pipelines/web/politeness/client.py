"""Clients of the rate limiter: in this process, or several limiters with the hosts split among them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from zlib import crc32

from pipelines.web.config import Web
from pipelines.web.politeness.limiter import WORKER_TIMEOUT_S, HostReport, RateLimiter, Reply
from pipelines.web.politeness.single_flight import FileResult
from pipelines.web.urls import host_of

__all__ = ["LimiterClient", "LocalLimiter", "ShardedLimiter"]

_CALLS_PER_S = 25  # of one worker, to all limiters together, however many there are
_MAX_PAUSE_S = 2.0  # well below WORKER_TIMEOUT_S


class LimiterClient:
    """Interface of a rate limiter to one worker: ``exchange`` and ``leave`` of :class:`RateLimiter`, without the clock.

    ``notifications`` waits until there are hosts or files to ask about and returns them; it may return none. They are
    to be awaited for each of ``shards`` separately. Methods raise TransientError if the limiter is unreachable.
    """

    pause_s = 0.0  # between two exchanges of one worker

    async def exchange(
        self,
        worker: str,
        reports: Mapping[str, HostReport],
        wanted: Iterable[str],
        fetched: Mapping[str, FileResult],
    ) -> Reply:
        raise NotImplementedError

    async def notifications(self, worker: str) -> set[str]:
        raise NotImplementedError

    async def leave(self, worker: str) -> None:
        raise NotImplementedError

    @property
    def shards(self) -> Sequence[LimiterClient]:
        return (self,)


class LocalLimiter(LimiterClient):
    """A rate limiter in this process; also what a limiter actor runs."""

    def __init__(self, web: Web, clock: Callable[[], float] = time.monotonic) -> None:
        self._limiter = RateLimiter(web)
        self._clock = clock
        self._events: dict[str, asyncio.Event] = {}

    async def exchange(
        self,
        worker: str,
        reports: Mapping[str, HostReport],
        wanted: Iterable[str],
        fetched: Mapping[str, FileResult],
    ) -> Reply:
        reply = self._limiter.exchange(worker, reports, self._clock(), wanted, fetched)
        self._wake()
        return reply

    async def notifications(self, worker: str) -> set[str]:
        event = self._events.setdefault(worker, asyncio.Event())
        try:
            async with asyncio.timeout(WORKER_TIMEOUT_S):  # not wait_for, which can swallow a cancellation
                await event.wait()
        except TimeoutError:
            return set()
        event.clear()
        return self._limiter.notified.pop(worker, set())

    async def leave(self, worker: str) -> None:
        self._limiter.leave(worker, self._clock())
        self._events.pop(worker, None)
        self._wake()

    def _wake(self) -> None:
        for worker in self._limiter.notified:
            if event := self._events.get(worker):
                event.set()


class ShardedLimiter(LimiterClient):
    """Several limiters: each has the hosts that hash to it, and their policy files."""

    def __init__(self, shards: Sequence[LimiterClient]) -> None:
        self._shards = shards
        self.pause_s = max(min(len(shards) / _CALLS_PER_S, _MAX_PAUSE_S), *(shard.pause_s for shard in shards))

    @property
    def shards(self) -> Sequence[LimiterClient]:
        return self._shards

    async def exchange(
        self,
        worker: str,
        reports: Mapping[str, HostReport],
        wanted: Iterable[str],
        fetched: Mapping[str, FileResult],
    ) -> Reply:
        """Exchange with every shard, even if there is nothing to report: a silent worker would time out."""
        parts: list[tuple[dict[str, HostReport], list[str], dict[str, FileResult]]] = [
            ({}, [], {}) for _ in self._shards
        ]
        for host, report in reports.items():
            parts[self._shard_of(host)][0][host] = report
        for url in wanted:
            parts[self._shard_of(host_of(url))][1].append(url)
        for url, result in fetched.items():
            parts[self._shard_of(host_of(url))][2][url] = result
        replies = await asyncio.gather(
            *(shard.exchange(worker, *part) for shard, part in zip(self._shards, parts, strict=True))
        )
        return Reply(
            {host: grant for reply in replies for host, grant in reply.grants.items()},
            {url: result for reply in replies for url, result in reply.files.items()},
            # The worker reports all its hosts again at once, so the grants of the other shards are only repeated.
            any(reply.unknown_worker for reply in replies),
        )

    async def leave(self, worker: str) -> None:
        await asyncio.gather(*(shard.leave(worker) for shard in self._shards))

    def _shard_of(self, host: str) -> int:
        return crc32(host.encode()) % len(self._shards)
