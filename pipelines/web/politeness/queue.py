"""A worker's side of the cluster's manners: who of its many fetches may start now.

Fetches of a host wait in line here; the line moves as the worker's share of the host (limiter.py) and the
pause between starts allow, and as one of the worker's own connections is free. Taking a turn that is free costs a look
into a dictionary: everything that concerns others is said by one task, which speaks at most a few times a second.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from infra.errors import TransientError
from pipelines.web.politeness.limiter import SILENCE_S, News, Share
from pipelines.web.politeness.single_flight import Answer
from pipelines.web.urls import host_of

if TYPE_CHECKING:
    from pipelines.web.fetcher import Web
    from pipelines.web.politeness.actor import Link

__all__ = ["HostDownError", "Turns"]

_BEAT_S = 1.0
_SLACK_S = 0.002  # a pause so short is not worth a timer, unless the host asked for it


class HostDownError(Exception):
    """The host has not answered for a while, and is left alone for now."""


class _Host:
    """One host as this worker may use it. Times are the loop's."""

    __slots__ = (
        "bad",
        "down_until",
        "exact",
        "failures",
        "floor",
        "given",
        "good",
        "idle_since",
        "in_use",
        "interval",
        "keep",
        "last",
        "line",
        "name",
        "next",
        "pause_until",
        "probe",
        "queued",
        "starts",
        "timer",
        "tokens",
        "told",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.tokens = self.keep = self.in_use = self.given = self.starts = self.told = 0
        self.line: deque[asyncio.Future[None]] = deque()
        self.next = self.last = self.interval = self.down_until = self.pause_until = self.idle_since = 0.0
        self.floor = 0.0  # the site's Crawl-delay, if we know it
        self.exact = self.probe = self.queued = False
        self.good: tuple[int, float] = (0, 0.0)
        self.bad: tuple[int, float] = (0, 0.0)
        self.failures = 0
        self.timer: asyncio.TimerHandle | None = None


class Turns:
    """An async context manager; for one event loop. ``take`` a turn, make the request, ``give`` the turn back."""

    def __init__(self, web: Web, link: Link) -> None:
        self._web = web
        self._link = link
        self._me = uuid.uuid4().hex
        self._hosts: dict[str, _Host] = {}
        self._free = web.concurrency
        self._ready: deque[_Host] = deque()  # could start if a connection were free
        self._fresh: set[str] = set()  # hosts to speak of at the next opportunity
        self._files: dict[str, asyncio.Future[Answer]] = {}  # being waited for
        self._asked: set[str] = set()
        self._found: dict[str, Answer] = {}
        self._loads: dict[str, Callable[[], Coroutine[Any, Any, Answer]]] = {}
        self._loading: dict[str, asyncio.Task[Answer]] = {}
        self._bell = asyncio.Event()
        self._heard = 0.0
        self._error: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._heard = self._clock()
        listening = [self._listen(part) for part in self._link.parts]
        self._tasks = [self._loop.create_task(one) for one in (self._talk(), *listening)]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = [*self._tasks, *self._loading.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for host in self._hosts.values():
            if host.timer:
                host.timer.cancel()
        with suppress(TransientError):
            await self._link.leave(self._me)

    # --- turns ---

    async def take(self, name: str) -> None:
        """Wait for a turn at host ``name``. Raises HostDownError, or TransientError if nobody keeps the books."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(name)
        now = self._clock()
        if self._error:
            raise self._error
        if now < host.down_until:
            raise HostDownError
        if not host.line and self._may_start(host, now):
            self._start(host, now)
            host.last = now
            host.starts += 1
            return
        turn = self._loop.create_future()
        host.line.append(turn)
        self._pump(host, now)
        if not turn.done() and self._need(host) > host.told:
            self._say(host)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give(name)
            raise
        host.last = now = self._clock()
        host.starts += 1
        if host.exact:  # such a pause counts from the real start; others from the planned, so that delays do not add up
            host.next = max(host.next, now + host.interval)

    def _may_start(self, host: _Host, now: float) -> bool:
        return (
            host.in_use < min(host.tokens, host.keep)
            and self._free > 0
            and host.next <= now + (0.0 if host.exact else _SLACK_S)
            and now - self._heard <= SILENCE_S / 2  # or our tokens may be somebody else's by now
        )

    def _start(self, host: _Host, now: float) -> None:
        host.in_use += 1
        self._free -= 1
        host.next = max(host.next, now) + host.interval

    def give(self, name: str, latency_s: float | None = None, *, good: bool = True, answered: bool = True) -> None:
        """The turn is over. ``latency_s``: until the headers were there; ``answered``: anything at all came back.

        A turn that ended for reasons of our own has neither.
        """
        host = self._hosts[name]
        host.in_use -= 1
        self._free += 1
        if latency_s is not None:
            count, total = host.good if good else host.bad
            if good:
                host.good = (count + 1, total + latency_s)
            else:
                host.bad = (count + 1, total + latency_s)
            host.failures = 0
        elif not answered:
            host.failures += 1
        if not answered or host.probe:
            self._say(host)
        if host.probe:
            host.keep = 0  # one request probes; what follows from it the books will say
        now = self._clock()
        if host.tokens > host.keep:
            self._hand_back(host, 1)
        self._pump(host, now)
        host.idle_since = now
        while self._free and self._ready:
            ready = self._ready.popleft()
            ready.queued = False
            self._pump(ready, now)

    def pause(self, name: str, seconds: float) -> None:
        """The host asked to be left alone for a while."""
        host = self._hosts[name]
        host.pause_until = max(host.pause_until, self._clock() + seconds)
        host.next = max(host.next, host.pause_until)
        self._say(host)

    def slow(self, name: str, seconds: float) -> None:
        """The site wants such a pause between requests (Crawl-delay); the books say so only with their next word, if at
        all: those that were begun anew have yet to hear of it."""
        host = self._hosts.get(name) or self._hosts.setdefault(name, _Host(name))
        if (seconds := min(seconds, self._web.max_delay_s)) > host.floor:
            host.floor = seconds
            self._pace(host, host.interval, exact=True)

    def _pump(self, host: _Host, now: float) -> None:
        """Start those in ``host``'s line that may start."""
        while host.line and host.in_use < min(host.tokens, host.keep):
            if host.line[0].done():  # given up
                host.line.popleft()
            elif self._may_start(host, now):
                self._start(host, now)
                host.line.popleft().set_result(None)
            else:
                break
        else:
            return
        if not self._free:
            if not host.queued:
                host.queued = True
                self._ready.append(host)
        elif host.next > now and host.timer is None:
            host.timer = self._loop.call_at(host.next, self._due, host)

    def _due(self, host: _Host) -> None:
        host.timer = None
        self._pump(host, self._clock())

    # --- files that one worker fetches for all ---

    @property
    def failure(self) -> BaseException | None:
        """Why nobody gets a turn any more: raised for whoever asks."""
        return self._error

    async def file(self, url: str, load: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """The file at ``url``: from whoever has it, or by ``load`` if it falls to us to fetch it for everybody."""
        if self._error:
            raise self._error
        waiting = self._files.get(url)
        if waiting is None:
            waiting = self._files[url] = self._loop.create_future()
            self._loads[url] = load
            self._asked.add(url)
            self._bell.set()
        return await asyncio.shield(waiting)

    def _loaded(self, url: str, task: asyncio.Task[Answer]) -> None:
        del self._loading[url]
        if task.cancelled():
            return
        if error := task.exception():
            self._loads.pop(url, None)
            if (waiting := self._files.pop(url, None)) and not waiting.done():
                waiting.set_exception(error)
            return
        self._found[url] = task.result()
        self._settle_file(url, task.result())
        self._bell.set()

    def _settle_file(self, url: str, answer: Answer) -> None:
        if answer.crawl_delay_s:
            self.slow(host_of(url), answer.crawl_delay_s)
        self._loads.pop(url, None)
        waiting = self._files.pop(url, None)
        if waiting and not waiting.done():
            waiting.set_result(answer)

    # --- talking ---

    def _need(self, host: _Host) -> int:
        return min(host.in_use + len(host.line), self._web.host_concurrency)

    def _say(self, host: _Host) -> None:
        self._fresh.add(host.name)
        self._bell.set()

    def _hand_back(self, host: _Host, count: int) -> None:
        host.tokens -= count
        host.given += count
        self._say(host)

    async def _talk(self) -> None:
        """Speak when there is something to say, and once a second anyway."""
        beat = self._clock() + _BEAT_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(beat):
                    await self._bell.wait()
            self._bell.clear()
            now = self._clock()
            if now >= beat:
                beat = now + _BEAT_S
                self._asked.update(self._files.keys() - self._loading.keys())
                self._beat(now)
            await self._exchange(now)
            if self._link.pause_s:
                await asyncio.sleep(self._link.pause_s)

    async def _listen(self, part: Link) -> None:
        while True:
            for key in await part.news(self._me):
                if key in self._files:
                    self._asked.add(key)
                elif key in self._hosts:
                    self._fresh.add(key)
            self._bell.set()

    async def _exchange(self, now: float) -> None:
        names, self._fresh = self._fresh, set()
        asked, self._asked = self._asked, set()
        found, self._found = self._found, {}
        news = {name: self._news(self._hosts[name], now) for name in sorted(names) if name in self._hosts}
        reply = await self._link.exchange(self._me, news, sorted(asked), found)
        self._heard = now
        now = self._clock()
        if reply.stranger:  # we were silent for too long, or this is our first word
            for host in self._hosts.values():
                if host.name not in reply.shares:
                    host.tokens = host.keep = 0
                    self._say(host)
        for name, share in reply.shares.items():
            self._apply(self._hosts.get(name) or self._hosts.setdefault(name, _Host(name)), share, now)
        for url, answer in reply.files.items():
            if answer is not None:
                self._settle_file(url, answer)
            elif url in self._loads and url not in self._loading:
                self._loading[url] = self._loop.create_task(self._loads[url]())
                self._loading[url].add_done_callback(partial(self._loaded, url))

    def _news(self, host: _Host, now: float) -> News:
        host.told = self._need(host)
        rest = max(0.0, host.next - now) if host.exact else 0.0
        pause = max(0.0, host.pause_until - now)
        news = News(host.told, host.given, host.starts, rest, pause, host.good, host.bad, host.failures, host.floor)
        host.given = host.starts = host.failures = 0
        host.good = host.bad = (0, 0.0)
        host.pause_until = 0.0
        return news

    def _apply(self, host: _Host, share: Share, now: float) -> None:
        host.tokens = share.tokens - host.given  # what we handed back meanwhile is still on its way
        host.keep, host.probe = share.keep, share.probe
        self._pace(host, share.interval_s, exact=share.exact)
        if share.wait_s:
            host.next = max(host.next, now + share.wait_s)
        if share.down_s:
            host.down_until = now + share.down_s
            while host.line:
                turn = host.line.popleft()
                if not turn.done():
                    turn.set_exception(HostDownError())
        spare = host.tokens - max(host.keep, host.in_use)
        if spare > 0:
            self._hand_back(host, spare)
        self._pump(host, now)
        if self._need(host) > host.told:
            self._say(host)
        elif not (host.told or host.tokens or host.given or host.in_use or host.line) and now >= host.down_until:
            del self._hosts[host.name]

    @staticmethod
    def _pace(host: _Host, interval_s: float, *, exact: bool) -> None:
        host.exact = exact or host.floor > 0
        host.interval = max(interval_s, host.floor)
        if host.exact and host.last:
            host.next = max(host.next, host.last + host.interval)

    def _beat(self, now: float) -> None:
        """What is worth saying once a second: of hosts in use, and of those idle for so long that others may have them.

        Of one that is idle for less we keep silent: if others want it, the books ask.
        """
        for host in self._hosts.values():
            if host.in_use or host.line:
                self._fresh.add(host.name)
            elif now - host.idle_since >= _BEAT_S and now >= host.down_until:
                self._hand_back(host, host.tokens)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody keeps the books any more: whoever waits is told so."""
        if task.cancelled() or not (error := task.exception()) or self._error:
            return
        self._error = error
        waiting: list[asyncio.Future[Any]] = list(self._files.values())
        waiting += (turn for host in self._hosts.values() for turn in host.line)
        for one in waiting:
            if not one.done():
                one.set_exception(error)
