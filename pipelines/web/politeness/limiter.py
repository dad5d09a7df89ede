"""Rate limiter for hosts, shared by all workers of a stage.

A host's requests in flight are *tokens*. The workers of a stage share them through one :class:`RateLimiter`, which
never grants more than ``Web.host_concurrency`` of a host; what a host asks for (robots.txt, Crawl-delay, Retry-After),
its latency and whether it responds at all are known to all workers once one has found out.

Workers do not ask per request. A worker reports when it meets new hosts, and once a second: what it needs, what it
returns, what it saw; the reply grants its share (:meth:`RateLimiter.exchange`). Times travel as seconds from now, never
as clock readings, and are taken such that transit can only make a delay longer. ``pipelines.web.politeness.queue`` is
the worker's side, ``pipelines.web.politeness.client`` and ``actor`` the transport.

Plain logic, with the clock passed in. A limiter that is lost restarts empty: it knows no worker, and each reports all
it needs. Until then a host may see the requests in flight from before the loss on top of what the new one grants, and
the first of these sooner after the last one than the host's delay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pipelines.web.config import Web
from pipelines.web.politeness.single_flight import FileResult, SingleFlight
from pipelines.web.urls import host_of

__all__ = ["MAX_REST_S", "WORKER_TIMEOUT_S", "Grant", "HostReport", "RateLimiter", "Reply"]

WORKER_TIMEOUT_S = 15.0  # a worker not heard of for so long has lost its tokens
_TURN_S = 2.0  # how long a worker keeps a token that others wait for
_MAX_HOSTS = 100_000  # remembered when no worker uses them
_MAX_DOWN_S = 3600.0
MAX_REST_S = 24 * 3600.0  # however long a host asks for


class HostReport(NamedTuple):
    """A worker's report on one host. Counts are since its last report, times in seconds from now."""

    need: int = 0  # requests in flight or waiting
    returned: int = 0  # tokens handed back
    starts: int = 0
    next_start_s: float = 0.0  # until it would have started its next request
    pause_s: float = 0.0  # that the host asked for with Retry-After
    ok: tuple[int, float] = (0, 0.0)  # responses of status 200: count, sum of latencies
    not_ok: tuple[int, float] = (0, 0.0)  # other responses
    failures: int = 0  # requests without any response, since the last response
    crawl_delay_s: float = 0.0


class Grant(NamedTuple):
    """A worker's share of one host, as of now."""

    tokens: int  # held by the worker
    keep: int  # of which it may go on using; the others are to be returned as they come free
    wait_s: float = 0.0  # before its next start
    interval_s: float = 0.0  # between its starts
    down_s: float = 0.0  # the host counts as down for so long
    rest_s: float = 0.0  # the host asked not to be visited for so long, longer than anybody waits
    exact: bool = False  # the interval was asked for by the site, rather than derived from latency
    probe: bool = False  # the host was down; the next request finds out whether it still is


class Reply(NamedTuple):
    """Grants by host, and ``files``: results known; None: fetch it, for all. Missing: another worker is fetching it."""

    grants: dict[str, Grant]
    files: dict[str, FileResult | None]
    unknown_worker: bool = False  # first report, or the worker timed out: it holds no tokens


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
        "paused_s",
        "paused_until",
        "rest_for",
        "rests_until",
        "since",
        "started",
    )

    def __init__(self, floor: float) -> None:
        self.held: dict[str, int] = {}
        self.needs: dict[str, int] = {}  # by worker, in the order of their turns
        self.since: dict[str, float] = {}  # when a holder's turn began
        self.started: set[str] = set()  # holders that have made use of their turn
        self.floor = self.delay = floor
        self.next = self.paused_until = self.down_until = self.rests_until = 0.0
        self.paused_s = 0.0  # as it asked, since it last gave a file
        self.down_for = self.rest_for = 0.0
        self.failures = 0

    def is_idle(self, now: float) -> bool:
        return (
            not (self.held or self.needs)
            and max(self.next, self.paused_until, self.down_until, self.rests_until) <= now
        )


class _Worker:
    __slots__ = ("hosts", "last_report")

    def __init__(self, now: float) -> None:
        self.last_report = now
        self.hosts: set[str] = set()


class RateLimiter:
    """Token pools of all hosts. ``now`` is any monotonic clock's seconds.

    ``notified`` maps workers to the hosts and files that they should ask about.
    """

    def __init__(self, web: Web) -> None:
        self._web = web
        self._hosts: dict[str, _Host] = {}  # least recently used first
        self._files = SingleFlight()
        self._workers: dict[str, _Worker] = {}
        self._swept = float("-inf")
        self.notified: dict[str, set[str]] = {}

    def exchange(
        self,
        worker: str,
        reports: Mapping[str, HostReport],
        now: float,
        wanted: Iterable[str] = (),
        fetched: Mapping[str, FileResult] | None = None,
    ) -> Reply:
        """Take a worker's reports, and reply with its grants for the hosts reported on.

        ``wanted``: URLs of policy files it needs; ``fetched``: results of those it was asked to fetch.
        """
        unknown = worker not in self._workers
        state = self._workers.setdefault(worker, _Worker(now))
        state.last_report = now
        wanted = list(wanted)
        if worker in self.notified:
            self.notified[worker].difference_update(reports, wanted)
        self._sweep(now)
        # Take in what the worker reports.
        for name, report in reports.items():
            self._take_report(worker, name, report, now)
        for url, result in (fetched or {}).items():
            self._notify(url, self._files.complete(worker, url, result, now))
            if result.crawl_delay_s:
                self._raise_floor(self._host(host_of(url)), result.crawl_delay_s)
        # A file to be fetched needs a token of its host, which may be granted at once.
        names = dict.fromkeys(reports)
        files = self._files.request(worker, wanted, now)
        for url, known in files.items():
            if known is None and (name := host_of(url)) not in names:
                names[name] = None
                host = self._host(name)
                host.needs.setdefault(worker, 1)
                state.hosts.add(name)
        for name in names:
            self._allocate(worker, name, now)
        return Reply({name: self._grant(worker, self._hosts[name], now) for name in names}, files, unknown)

    def leave(self, worker: str, now: float) -> None:
        """Free what ``worker`` holds: it has ended, or timed out."""
        state = self._workers.pop(worker, None)
        self.notified.pop(worker, None)
        if state is None:
            return
        for url, waiting in self._files.remove_worker(worker).items():
            self._notify(url, waiting)
        for name in sorted(state.hosts):
            host = self._hosts[name]
            if host.held.pop(worker, 0) and host.floor:
                host.next = max(host.next, now + host.delay)  # it may have sent a request just now
            host.needs.pop(worker, None)
            host.since.pop(worker, None)
            host.started.discard(worker)
            self._allocate("", name, now)

    # --- reports ---

    def _take_report(self, worker: str, name: str, report: HostReport, now: float) -> None:
        host = self._host(name)
        held = max(0, host.held.get(worker, 0) - report.returned)
        if held:
            host.held[worker] = held
        else:
            host.held.pop(worker, None)
            host.since.pop(worker, None)
            host.started.discard(worker)
        if report.starts:
            host.started.add(worker)
        need = min(report.need, self._web.host_concurrency)
        if not need:
            host.needs.pop(worker, None)
        else:
            if worker not in host.needs:  # a new worker: holders should report whether they still need their tokens
                self._notify(name, (other for other in host.held if other != worker))
            host.needs[worker] = need
        hosts = self._workers[worker].hosts
        if held or need:
            hosts.add(name)
        else:
            hosts.discard(name)
        self._update_host(worker, name, host, report, now)

    def _update_host(self, worker: str, name: str, host: _Host, report: HostReport, now: float) -> None:
        """Update delay and health of a host from what a worker saw."""
        host.next = max(host.next, now + report.next_start_s)
        if report.ok[0]:
            host.paused_s = host.rest_for = 0.0
        if report.pause_s:
            self._pause(worker, name, host, report.pause_s, now)
        if report.crawl_delay_s:
            self._raise_floor(host, report.crawl_delay_s)
        # AutoThrottle: delay = (delay + latency / target) / 2, once for each response; errors never lower it.
        target = self._web.target_concurrency or self._web.host_concurrency
        for (count, latency), lowers in ((report.ok, True), (report.not_ok, False)):
            if count:
                goal = latency / count / target
                delay = goal + (host.delay - goal) * 0.5**count
                delay = delay if lowers else max(delay, host.delay)
                host.delay = max(host.floor, min(delay, self._web.max_delay_s))
        # Circuit breaker.
        if report.ok[0] or report.not_ok[0]:
            host.failures, host.down_for, host.down_until = 0, 0.0, 0.0
        if report.failures and now >= host.down_until:
            host.failures += report.failures
            if host.failures >= self._web.breaker_failures:
                host.down_for = min(2 * host.down_for or self._web.breaker_s, _MAX_DOWN_S)
                host.down_until = now + host.down_for
                self._notify(name, (other for other in {**host.held, **host.needs} if other != worker))

    def _pause(self, worker: str, name: str, host: _Host, seconds: float, now: float) -> None:
        """Pause a host as it asked; if that is longer than a request may wait, refuse requests to it meanwhile.

        So is one that asks again after every pause, once that has cost as much time as several of the longest pauses.
        Of the last pause nothing has been waited yet: requests that were under way together ask for it one by one.
        """
        longest = self._web.max_delay_s
        until, rest = now + min(seconds, longest), 0.0
        host.paused_s += max(0.0, until - max(now, host.paused_until))
        ahead = max(until, host.paused_until) - now
        if seconds > longest:
            rest = min(seconds, MAX_REST_S)
        elif host.paused_s - ahead > (self._web.breaker_failures - 0.5) * longest:  # reports shorten a pause a little
            rest = host.rest_for = min(max(2 * host.rest_for or self._web.breaker_s, seconds), _MAX_DOWN_S)
        if until > host.paused_until or now + rest > host.rests_until:
            self._notify(name, (other for other in {**host.held, **host.needs} if other != worker))
        host.rests_until = max(host.rests_until, now + rest)
        host.paused_until = max(host.paused_until, until, host.rests_until)

    def _raise_floor(self, host: _Host, seconds: float) -> None:
        host.floor = max(host.floor, min(seconds, self._web.max_delay_s))
        host.delay = max(host.delay, host.floor)

    # --- grants ---

    def _targets(self, host: _Host, now: float) -> dict[str, int]:
        """Return how many tokens each worker in need should have: equal shares, remainders to the first in line."""
        if now < max(host.down_until, host.rests_until):
            return dict.fromkeys(host.needs, 0)
        left = self._web.host_concurrency
        targets = dict.fromkeys(host.needs, 0)
        if self._is_exclusive(host) and targets:
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
    def _is_exclusive(host: _Host) -> bool:
        """One worker at a time, to keep an exact delay between starts or to send the probe of a host that was down."""
        return host.floor > 0 or host.down_for > 0

    def _allocate(self, caller: str, name: str, now: float) -> None:
        """Grant free tokens to the workers next in line, and notify those concerned other than the caller."""
        host = self._hosts[name]
        targets = self._targets(host, now)
        # Others wait: workers whose turn is over go to the end of the line.
        if not all(targets.values()) and now >= max(host.down_until, host.rests_until):
            over = [
                worker
                for worker, target in targets.items()
                if target and worker in host.started and now - host.since.get(worker, now) >= _TURN_S
            ]
            for worker in over:
                host.needs[worker] = host.needs.pop(worker)
                host.since[worker] = now
                host.started.discard(worker)
            if over:
                targets = self._targets(host, now)
                self._notify(name, (worker for worker in over if worker != caller))
        free = self._web.host_concurrency - sum(host.held.values())
        for worker, target in targets.items():
            more = min(free, target - host.held.get(worker, 0))
            if more <= 0 or (self._is_exclusive(host) and any(other != worker for other in host.held)):
                continue
            free -= more
            host.held[worker] = host.held.get(worker, 0) + more
            host.since.setdefault(worker, now)
            if worker != caller:
                self._notify(name, [worker])

    def _grant(self, worker: str, host: _Host, now: float) -> Grant:
        tokens = host.held.get(worker, 0)
        targets = self._targets(host, now)
        contested = any(host.held.get(other, 0) < need for other, need in host.needs.items() if other != worker)
        keep = tokens
        if contested or self._is_exclusive(host) or now < max(host.down_until, host.rests_until):
            keep = min(tokens, targets.get(worker, 0))
        exact = host.floor > 0
        wait = max(0.0, host.paused_until - now, host.next - now if exact else 0.0)
        interval = host.delay if exact or not tokens else host.delay * sum(host.held.values()) / tokens
        down, rest = max(0.0, host.down_until - now), max(0.0, host.rests_until - now)
        return Grant(tokens, keep, wait, interval, down, rest, exact, host.down_for > 0)

    def _notify(self, key: str, workers: Iterable[str]) -> None:
        for worker in workers:
            self.notified.setdefault(worker, set()).add(key)

    # --- bookkeeping ---

    def _host(self, name: str) -> _Host:
        """Return a host, new or known, and mark it as most recently used."""
        host = self._hosts.pop(name, None)
        if host is None:
            host = _Host(self._web.delay_s)
        self._hosts[name] = host
        return host

    def _sweep(self, now: float) -> None:
        """Once a second: remove silent workers and the least recently used of too many idle hosts."""
        if now - self._swept < 1.0:
            return
        self._swept = now
        for worker in [name for name, one in self._workers.items() if now - one.last_report >= WORKER_TIMEOUT_S]:
            self.leave(worker, now)
        if len(self._hosts) > _MAX_HOSTS:
            old = [name for name, host in self._hosts.items() if host.is_idle(now)]
            for name in old[: len(self._hosts) - _MAX_HOSTS * 9 // 10]:
                del self._hosts[name]
