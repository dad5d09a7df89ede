"""Host queues of one worker: its fetches wait here until the rate limiter's grant lets them start.

A fetch starts when the worker holds a free token of the host (limiter.py), the delay between starts has passed, and the
worker has a connection to spare. Acquiring a free slot costs a dictionary lookup: all communication with the limiter is
one task's, which exchanges reports and grants at most a few times a second.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from infra.errors import TransientError
from pipelines.web.config import Web
from pipelines.web.politeness.client import LimiterClient
from pipelines.web.politeness.limiter import MAX_REST_S, WORKER_TIMEOUT_S, Grant, HostReport
from pipelines.web.politeness.single_flight import FileResult
from pipelines.web.urls import host_of

__all__ = ["HostDownError", "HostQueue", "HostRestsError"]

_HEARTBEAT_S = 1.0
_SLACK_S = 0.002  # a delay so short is not worth a timer, unless the site asked for it


class HostDownError(Exception):
    """The host has not responded repeatedly, and counts as down for now."""


class HostRestsError(Exception):
    """The host asked not to be visited for longer than a request waits."""


class _Host:
    """State of one host in this worker. Times are the event loop's."""

    __slots__ = (
        "down_until",
        "exact",
        "failures",
        "floor",
        "idle_since",
        "in_use",
        "interval",
        "keep",
        "last",
        "name",
        "next",
        "not_ok",
        "ok",
        "pause_until",
        "probe",
        "queued",
        "reported_need",
        "rests_until",
        "returned",
        "starts",
        "timer",
        "tokens",
        "waiting",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.tokens = self.keep = self.in_use = self.returned = self.starts = self.reported_need = 0
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.next = self.last = self.interval = self.down_until = self.pause_until = self.idle_since = 0.0
        self.rests_until = 0.0
        self.floor = 0.0  # the site's Crawl-delay, if we know it
        self.exact = self.probe = self.queued = False
        self.ok: tuple[int, float] = (0, 0.0)
        self.not_ok: tuple[int, float] = (0, 0.0)
        self.failures = 0
        self.timer: asyncio.TimerHandle | None = None


class HostQueue:
    """Async context manager, one per event loop: ``acquire`` a slot, make the request, ``release`` the slot."""

    def __init__(self, web: Web, limiter: LimiterClient) -> None:
        self._web = web
        self._limiter = limiter
        self._worker_id = uuid.uuid4().hex
        self._hosts: dict[str, _Host] = {}
        self._free = web.concurrency
        self._ready: deque[_Host] = deque()  # could start if a connection were free
        self._to_report: set[str] = set()  # hosts to report on at the next exchange
        self._files: dict[str, asyncio.Future[FileResult]] = {}  # policy files that fetches wait for, by URL
        self._wanted: set[str] = set()  # files to ask the limiter for
        self._fetched: dict[str, FileResult] = {}  # files to hand to the limiter
        self._loaders: dict[str, Callable[[], Coroutine[Any, Any, FileResult]]] = {}
        self._in_flight: dict[str, asyncio.Task[FileResult]] = {}
        self._wake_up = asyncio.Event()
        self._last_reply = 0.0
        self._error: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._last_reply = self._clock()
        notifications = [self._notification_loop(shard) for shard in self._limiter.shards]
        self._tasks = [self._loop.create_task(one) for one in (self._report_loop(), *notifications)]
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = [*self._tasks, *self._in_flight.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for host in self._hosts.values():
            if host.timer:
                host.timer.cancel()
        with suppress(TransientError):
            await self._limiter.leave(self._worker_id)

    # --- slots ---

    async def acquire(self, name: str) -> None:
        """Wait for a slot at host ``name``. Raises HostDownError, HostRestsError, or TransientError if the limiter
        is lost."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(name)
        now = self._clock()
        if self._error:
            raise self._error
        if now < host.down_until:
            raise HostDownError
        if now < host.rests_until:
            raise HostRestsError
        if not host.waiting and self._may_start(host, now):
            self._start(host, now)
            host.last = now
            host.starts += 1
            return
        slot = self._loop.create_future()
        host.waiting.append(slot)
        self._start_waiting(host, now)
        if not slot.done() and self._need(host) > host.reported_need:
            self._report_soon(host)
        try:
            await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled() and slot.exception() is None:
                self.release(name)
            raise
        host.last = now = self._clock()
        host.starts += 1
        if (
            host.exact
        ):  # counts from the actual start; other delays from the planned one, so that lateness does not add up
            host.next = max(host.next, now + host.interval)

    def _may_start(self, host: _Host, now: float) -> bool:
        return (
            host.in_use < min(host.tokens, host.keep)
            and self._free > 0
            and host.next <= now + (0.0 if host.exact else _SLACK_S)
            and now - self._last_reply <= WORKER_TIMEOUT_S / 2  # or our tokens may have been granted to another worker
        )

    def _start(self, host: _Host, now: float) -> None:
        host.in_use += 1
        self._free -= 1
        host.next = max(host.next, now) + host.interval

    def release(self, name: str, latency_s: float | None = None, *, ok: bool = True, responded: bool = True) -> None:
        """Give a slot back and start what waits. ``latency_s``: time to headers; ``ok``: the status was 200;
        ``responded``: False if the host sent nothing at all.

        A request that ended for reasons of our own has no latency and counts as responded.
        """
        host = self._hosts[name]
        host.in_use -= 1
        self._free += 1
        if latency_s is not None:
            count, total = host.ok if ok else host.not_ok
            if ok:
                host.ok = (count + 1, total + latency_s)
            else:
                host.not_ok = (count + 1, total + latency_s)
            host.failures = 0
        elif not responded:
            host.failures += 1
        if not responded or host.probe:
            self._report_soon(host)
        if host.probe:
            host.keep = 0  # one request is the probe; the limiter decides what follows
        now = self._clock()
        if host.tokens > host.keep:
            self._return_tokens(host, 1)
        self._start_waiting(host, now)
        host.idle_since = now
        while self._free and self._ready:
            ready = self._ready.popleft()
            ready.queued = False
            self._start_waiting(ready, now)

    def pause(self, name: str, seconds: float) -> None:
        """Start nothing for ``seconds``: the host sent Retry-After."""
        host = self._hosts[name]
        seconds = min(seconds, MAX_REST_S)
        host.pause_until = max(host.pause_until, self._clock() + seconds)
        host.next = max(host.next, min(host.pause_until, self._clock() + self._web.max_delay_s))
        if seconds > self._web.max_delay_s:
            self._rest(host, seconds)
        self._report_soon(host)

    def _rest(self, host: _Host, seconds: float) -> None:
        """Refuse all requests to ``host``, waiting or new, for ``seconds``."""
        host.rests_until = max(host.rests_until, self._clock() + seconds)
        self._send_away(host, HostRestsError)

    @staticmethod
    def _send_away(host: _Host, error: type[Exception]) -> None:
        while host.waiting:
            slot = host.waiting.popleft()
            if not slot.done():
                slot.set_exception(error())

    def set_crawl_delay(self, name: str, seconds: float) -> None:
        """Apply a Crawl-delay at once: the limiter sends it only with its next reply, and a restarted one has yet to
        learn it from our reports."""
        host = self._hosts.get(name) or self._hosts.setdefault(name, _Host(name))
        if (seconds := min(seconds, self._web.max_delay_s)) > host.floor:
            host.floor = seconds
            self._set_interval(host, host.interval, exact=True)

    def _start_waiting(self, host: _Host, now: float) -> None:
        """Start waiting fetches of ``host``, as far as tokens, delay and connections allow."""
        while host.waiting and host.in_use < min(host.tokens, host.keep):
            if host.waiting[0].done():  # cancelled
                host.waiting.popleft()
            elif self._may_start(host, now):
                self._start(host, now)
                host.waiting.popleft().set_result(None)
            else:
                break
        else:
            return
        if not self._free:
            if not host.queued:
                host.queued = True
                self._ready.append(host)
        elif host.next > now and host.timer is None:
            host.timer = self._loop.call_at(host.next, self._on_timer, host)

    def _on_timer(self, host: _Host) -> None:
        host.timer = None
        self._start_waiting(host, self._clock())

    # --- policy files, fetched by one worker for all ---

    @property
    def failure(self) -> BaseException | None:
        """Return the error that ended the exchange with the limiter; it is raised for every fetch from then on."""
        return self._error

    async def shared_file(self, url: str, load: Callable[[], Coroutine[Any, Any, FileResult]]) -> FileResult:
        """Return the file at ``url``, from the limiter's cache, or by ``load`` if it is on us to fetch it for all."""
        if self._error:
            raise self._error
        waiting = self._files.get(url)
        if waiting is None:
            waiting = self._files[url] = self._loop.create_future()
            self._loaders[url] = load
            self._wanted.add(url)
            self._wake_up.set()
        return await asyncio.shield(waiting)

    def _on_fetched(self, url: str, task: asyncio.Task[FileResult]) -> None:
        del self._in_flight[url]
        if task.cancelled():
            return
        if error := task.exception():
            self._loaders.pop(url, None)
            if (waiting := self._files.pop(url, None)) and not waiting.done():
                waiting.set_exception(error)
            return
        self._fetched[url] = task.result()
        self._deliver(url, task.result())
        self._wake_up.set()

    def _deliver(self, url: str, result: FileResult) -> None:
        if result.crawl_delay_s:
            self.set_crawl_delay(host_of(url), result.crawl_delay_s)
        self._loaders.pop(url, None)
        waiting = self._files.pop(url, None)
        if waiting and not waiting.done():
            waiting.set_result(result)

    # --- exchange with the limiter ---

    def _need(self, host: _Host) -> int:
        return min(host.in_use + len(host.waiting), self._web.host_concurrency)

    def _report_soon(self, host: _Host) -> None:
        self._to_report.add(host.name)
        self._wake_up.set()

    def _return_tokens(self, host: _Host, count: int) -> None:
        host.tokens -= count
        host.returned += count
        self._report_soon(host)

    async def _report_loop(self) -> None:
        """Exchange with the limiter when there is something to report, and at least once a second."""
        next_heartbeat = self._clock() + _HEARTBEAT_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_heartbeat):
                    await self._wake_up.wait()
            self._wake_up.clear()
            now = self._clock()
            if now >= next_heartbeat:
                next_heartbeat = now + _HEARTBEAT_S
                self._wanted.update(self._files.keys() - self._in_flight.keys())
                self._heartbeat(now)
            await self._exchange(now)
            if self._limiter.pause_s:
                await asyncio.sleep(self._limiter.pause_s)

    async def _notification_loop(self, shard: LimiterClient) -> None:
        while True:
            for key in await shard.notifications(self._worker_id):
                if key in self._files:
                    self._wanted.add(key)
                elif key in self._hosts:
                    self._to_report.add(key)
            self._wake_up.set()

    async def _exchange(self, now: float) -> None:
        names, self._to_report = self._to_report, set()
        wanted, self._wanted = self._wanted, set()
        fetched, self._fetched = self._fetched, {}
        reports = {name: self._report(self._hosts[name], now) for name in sorted(names) if name in self._hosts}
        reply = await self._limiter.exchange(self._worker_id, reports, sorted(wanted), fetched)
        self._last_reply = now
        now = self._clock()
        if reply.unknown_worker:  # our first report, or we timed out, or the limiter was restarted
            for host in self._hosts.values():
                if host.name not in reply.grants:
                    host.tokens = host.keep = 0
                    self._report_soon(host)
        for name, grant in reply.grants.items():
            self._apply_grant(self._hosts.get(name) or self._hosts.setdefault(name, _Host(name)), grant, now)
        for url, result in reply.files.items():
            if result is not None:
                self._deliver(url, result)
            elif url in self._loaders and url not in self._in_flight:
                self._in_flight[url] = self._loop.create_task(self._loaders[url]())
                self._in_flight[url].add_done_callback(partial(self._on_fetched, url))

    def _report(self, host: _Host, now: float) -> HostReport:
        host.reported_need = self._need(host)
        report = HostReport(
            need=host.reported_need,
            returned=host.returned,
            starts=host.starts,
            next_start_s=max(0.0, host.next - now) if host.exact else 0.0,
            pause_s=max(0.0, host.pause_until - now),
            ok=host.ok,
            not_ok=host.not_ok,
            failures=host.failures,
            crawl_delay_s=host.floor,
        )
        host.returned = host.starts = host.failures = 0
        host.ok = host.not_ok = (0, 0.0)
        host.pause_until = 0.0
        return report

    def _apply_grant(self, host: _Host, grant: Grant, now: float) -> None:
        host.tokens = grant.tokens - host.returned  # what we returned meanwhile is not counted yet
        host.keep, host.probe = grant.keep, grant.probe
        self._set_interval(host, grant.interval_s, exact=grant.exact)
        if grant.wait_s:
            host.next = max(host.next, now + grant.wait_s)
        if grant.down_s:
            host.down_until = now + grant.down_s
            self._send_away(host, HostDownError)
        if grant.rest_s:
            self._rest(host, grant.rest_s)
        spare = host.tokens - max(host.keep, host.in_use)
        if spare > 0:
            self._return_tokens(host, spare)
        self._start_waiting(host, now)
        if self._need(host) > host.reported_need:
            self._report_soon(host)
        elif not self._is_used(host) and now >= max(host.down_until, host.rests_until):
            del self._hosts[host.name]

    @staticmethod
    def _is_used(host: _Host) -> bool:
        return bool(host.reported_need or host.tokens or host.returned or host.in_use or host.waiting)

    @staticmethod
    def _set_interval(host: _Host, interval_s: float, *, exact: bool) -> None:
        host.exact = exact or host.floor > 0
        host.interval = max(interval_s, host.floor)
        if host.exact and host.last:
            host.next = max(host.next, host.last + host.interval)

    def _heartbeat(self, now: float) -> None:
        """Report on hosts in use, and return the tokens of those idle for a while.

        Hosts idle for less are not reported: if another worker needs them, the limiter notifies us.
        """
        for host in self._hosts.values():
            if host.in_use or host.waiting:
                self._to_report.add(host.name)
            elif now - host.idle_since >= _HEARTBEAT_S and now >= max(host.down_until, host.rests_until):
                self._return_tokens(host, host.tokens)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Pass the error that ended the exchange on to all waiting fetches."""
        if task.cancelled() or not (error := task.exception()) or self._error:
            return
        self._error = error
        waiting: list[asyncio.Future[Any]] = list(self._files.values())
        waiting += (slot for host in self._hosts.values() for slot in host.waiting)
        for one in waiting:
            if not one.done():
                one.set_exception(error)
