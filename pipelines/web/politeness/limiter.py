"""Who may ask which host when, over the whole cluster: the manners of many workers kept in one place.

A host's requests in flight are *tokens*. The workers of a stage share them through one set of :class:`Books`, which
never give out more than ``Web.host_concurrency`` of a host, whoever holds them; what a host asks for (robots.txt,
Crawl-delay, Retry-After), how fast it answers and whether it answers at all is known to all once one has found out.

A worker does not ask per request. It speaks when it meets hosts, and once a second: what it needs, what it hands back,
what it saw; the answer is its share (:meth:`Books.exchange`). Times travel as seconds from now, never as a clock's,
and are taken where the journey can only make a pause longer. ``pipelines.web.politeness.queue`` is the worker's side,
``pipelines.web.politeness.actor`` the way there.

Plain logic, with the clock passed in. Books that are lost are begun anew: to them every worker is a stranger who says
all it needs, so for a moment a host may see, beside what they give out, what was under way before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pipelines.web.politeness.single_flight import Answer, Errands
from pipelines.web.urls import host_of

if TYPE_CHECKING:
    from pipelines.web.fetcher import Web

__all__ = ["SILENCE_S", "Books", "News", "Reply", "Share"]

SILENCE_S = 15.0  # a worker not heard of for so long has lost its tokens
_TURN_S = 2.0  # how long a worker keeps a token that others wait for
_MAX_HOSTS = 100_000  # remembered when nobody uses them
_LONGEST_DOWN_S = 3600.0


class News(NamedTuple):
    """What a worker says of one host. Counts are since it last spoke of it, seconds from now."""

    need: int = 0  # requests under way or waiting for a turn
    given: int = 0  # tokens handed back
    starts: int = 0
    rest_s: float = 0.0  # until it would have started its next request
    pause_s: float = 0.0  # that the host asked for with Retry-After
    good: tuple[int, float] = (0, 0.0)  # answers of status 200: how many, sum of their latencies
    bad: tuple[int, float] = (0, 0.0)  # the others
    failures: int = 0  # requests without any answer, since the last answer
    crawl_delay_s: float = 0.0


class Share(NamedTuple):
    """What a worker may do with one host."""

    tokens: int  # it holds, by our books
    keep: int  # of which it may use and keep; the others are to be handed back as they come free
    wait_s: float = 0.0  # before its next start
    interval_s: float = 0.0  # between its starts
    down_s: float = 0.0  # the host is given up for so long
    exact: bool = False  # the interval was asked for, rather than found out
    probe: bool = False  # the host was down, and the next request finds out whether it still is


class Reply(NamedTuple):
    """``files``: the answers known; None: fetch it, for everybody. One that is missing is being fetched by another."""

    shares: dict[str, Share]
    files: dict[str, Answer | None]
    stranger: bool = False  # we do not know this worker (any more): it holds nothing


class _Host:
    __slots__ = (
        "delay",
        "down_for",
        "down_until",
        "failures",
        "floor",
        "held",
        "needs",
        "next",
        "paused_until",
        "since",
        "started",
    )

    def __init__(self, floor: float) -> None:
        self.held: dict[str, int] = {}
        self.needs: dict[str, int] = {}  # by worker, in the order of their turns
        self.since: dict[str, float] = {}  # when a holder's turn began
        self.started: set[str] = set()  # who has made use of his turn
        self.floor = self.delay = floor
        self.next = self.paused_until = self.down_until = 0.0
        self.down_for = 0.0
        self.failures = 0

    def free_of_users(self, now: float) -> bool:
        return not (self.held or self.needs) and max(self.next, self.paused_until, self.down_until) <= now


class _Worker:
    __slots__ = ("heard", "hosts")

    def __init__(self, now: float) -> None:
        self.heard = now
        self.hosts: set[str] = set()


class Books:
    """The books. ``now`` is any monotonic clock's seconds; ``woken`` maps workers to what they should ask about."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self._hosts: dict[str, _Host] = {}  # least recently used first
        self._errands = Errands()
        self._workers: dict[str, _Worker] = {}
        self._swept = float("-inf")
        self.woken: dict[str, set[str]] = {}

    def exchange(
        self,
        worker: str,
        news: Mapping[str, News],
        now: float,
        asked: Iterable[str] = (),
        found: Mapping[str, Answer] | None = None,
    ) -> Reply:
        """Hear ``worker`` out and tell it its shares of the hosts it spoke of.

        ``asked``: addresses of files it wants to know of; ``found``: such files as it was told to fetch.
        """
        stranger = worker not in self._workers
        me = self._workers.setdefault(worker, _Worker(now))
        me.heard = now
        asked = list(asked)
        if worker in self.woken:
            self.woken[worker].difference_update(news, asked)
        self._sweep(now)
        for name, said in news.items():
            self._hear(worker, name, said, now)
        for url, brought in (found or {}).items():
            self._wake(url, self._errands.done(worker, url, brought, now))
            if brought.crawl_delay_s:
                self._raise_floor(self._host(host_of(url)), brought.crawl_delay_s)
        names = dict.fromkeys(news)
        files = self._errands.ask(worker, asked, now)
        for url, answer in files.items():
            if answer is None and (name := host_of(url)) not in names:
                names[name] = None  # it will need a token for that, so it may have one at once
                host = self._host(name)
                host.needs.setdefault(worker, 1)
                me.hosts.add(name)
        for name in names:
            self._settle(worker, name, now)
        return Reply({name: self._share(worker, self._hosts[name], now) for name in names}, files, stranger)

    def leave(self, worker: str, now: float) -> None:
        """``worker`` is gone, or given up: what it holds is free."""
        me = self._workers.pop(worker, None)
        self.woken.pop(worker, None)
        if me is None:
            return
        for url, waiting in self._errands.leave(worker).items():
            self._wake(url, waiting)
        for name in sorted(me.hosts):
            host = self._hosts[name]
            if host.held.pop(worker, 0) and host.floor:
                host.next = max(host.next, now + host.delay)  # it may have asked just now
            host.needs.pop(worker, None)
            host.since.pop(worker, None)
            host.started.discard(worker)
            self._settle("", name, now)

    # --- hearing ---

    def _hear(self, worker: str, name: str, said: News, now: float) -> None:
        host = self._host(name)
        held = max(0, host.held.get(worker, 0) - said.given)
        if held:
            host.held[worker] = held
        else:
            host.held.pop(worker, None)
            host.since.pop(worker, None)
            host.started.discard(worker)
        if said.starts:
            host.started.add(worker)
        need = min(said.need, self._web.host_concurrency)
        if not need:
            host.needs.pop(worker, None)
        else:
            if worker not in host.needs:  # a newcomer: who holds tokens should say whether he still needs them
                self._wake(name, (other for other in host.held if other != worker))
            host.needs[worker] = need
        mine = self._workers[worker].hosts
        if held or need:
            mine.add(name)
        else:
            mine.discard(name)
        self._learn(worker, name, host, said, now)

    def _learn(self, worker: str, name: str, host: _Host, said: News, now: float) -> None:
        host.next = max(host.next, now + said.rest_s)
        if said.pause_s and now + said.pause_s > host.paused_until:
            host.paused_until = now + said.pause_s
            self._wake(name, (other for other in host.held if other != worker))
        if said.crawl_delay_s:
            self._raise_floor(host, said.crawl_delay_s)
        target = self._web.target_concurrency or self._web.host_concurrency
        for (count, latency), lowers in ((said.good, True), (said.bad, False)):
            if count:  # AutoThrottle: delay = (delay + latency / target) / 2, once for each answer
                goal = latency / count / target
                delay = goal + (host.delay - goal) * 0.5**count
                delay = delay if lowers else max(delay, host.delay)
                host.delay = max(host.floor, min(delay, self._web.max_delay_s))
        if said.good[0] or said.bad[0]:
            host.failures, host.down_for, host.down_until = 0, 0.0, 0.0
        if said.failures and now >= host.down_until:
            host.failures += said.failures
            if host.failures >= self._web.breaker_failures:
                host.down_for = min(2 * host.down_for or self._web.breaker_s, _LONGEST_DOWN_S)
                host.down_until = now + host.down_for
                self._wake(name, (other for other in {**host.held, **host.needs} if other != worker))

    def _raise_floor(self, host: _Host, seconds: float) -> None:
        host.floor = max(host.floor, min(seconds, self._web.max_delay_s))
        host.delay = max(host.delay, host.floor)

    # --- sharing ---

    def _targets(self, host: _Host, now: float) -> dict[str, int]:
        """How many tokens each worker in need should have: equal shares, the first in line first."""
        if now < host.down_until:
            return dict.fromkeys(host.needs, 0)
        left = self._web.host_concurrency
        targets = dict.fromkeys(host.needs, 0)
        if self._exclusive(host) and targets:
            first = next(iter(targets))
            return {**targets, first: min(1 if host.down_for else left, host.needs[first])}
        while left:
            short = [worker for worker, need in host.needs.items() if targets[worker] < need][:left]
            if not short:
                break
            for worker in short:
                targets[worker] += 1
            left -= len(short)
        return targets

    @staticmethod
    def _exclusive(host: _Host) -> bool:
        """Only one worker can keep an exact pause between starts, or make the one request that probes a dead host."""
        return host.floor > 0 or host.down_for > 0

    def _settle(self, caller: str, name: str, now: float) -> None:
        """Give out what is free to those whose turn it is, and wake whoever is concerned but is not calling."""
        host = self._hosts[name]
        targets = self._targets(host, now)
        if not all(targets.values()) and now >= host.down_until:
            over = [
                worker
                for worker, target in targets.items()
                if target and worker in host.started and now - host.since.get(worker, now) >= _TURN_S
            ]
            for worker in over:  # to the end of the line
                host.needs[worker] = host.needs.pop(worker)
                host.since[worker] = now
                host.started.discard(worker)
            if over:
                targets = self._targets(host, now)
                self._wake(name, (worker for worker in over if worker != caller))
        free = self._web.host_concurrency - sum(host.held.values())
        for worker, target in targets.items():
            more = min(free, target - host.held.get(worker, 0))
            if more <= 0 or (self._exclusive(host) and any(other != worker for other in host.held)):
                continue
            free -= more
            host.held[worker] = host.held.get(worker, 0) + more
            host.since.setdefault(worker, now)
            if worker != caller:
                self._wake(name, [worker])

    def _share(self, worker: str, host: _Host, now: float) -> Share:
        tokens = host.held.get(worker, 0)
        targets = self._targets(host, now)
        contested = any(host.held.get(other, 0) < need for other, need in host.needs.items() if other != worker)
        keep = tokens
        if contested or self._exclusive(host) or now < host.down_until:
            keep = min(tokens, targets.get(worker, 0))
        exact = host.floor > 0
        wait = max(0.0, host.paused_until - now, host.next - now if exact else 0.0)
        interval = host.delay if exact or not tokens else host.delay * sum(host.held.values()) / tokens
        down = max(0.0, host.down_until - now)
        return Share(tokens, keep, wait, interval, down, exact, host.down_for > 0)

    def _wake(self, key: str, workers: Iterable[str]) -> None:
        for worker in workers:
            self.woken.setdefault(worker, set()).add(key)

    # --- bookkeeping ---

    def _host(self, name: str) -> _Host:
        host = self._hosts.pop(name, None)
        if host is None:
            host = _Host(self._web.delay_s)
        self._hosts[name] = host
        return host

    def _sweep(self, now: float) -> None:
        if now - self._swept < 1.0:
            return
        self._swept = now
        for worker in [name for name, one in self._workers.items() if now - one.heard >= SILENCE_S]:
            self.leave(worker, now)
        if len(self._hosts) > _MAX_HOSTS:
            old = [name for name, host in self._hosts.items() if host.free_of_users(now)]
            for name in old[: len(self._hosts) - _MAX_HOSTS * 9 // 10]:
                del self._hosts[name]
