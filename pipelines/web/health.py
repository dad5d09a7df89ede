"""Network health checks: a DNS preflight before a stage starts, and a minimum success rate while it runs.

Dead links are normal: of a list a few years old, 15 to 30% of the names no longer exist. Row by row, a broken resolver,
a proxy or a firewall look the same, and would turn a billion rows into failures.
"""

from __future__ import annotations

import hashlib
import heapq
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from infra.errors import StageFailed
from infra.run.ledger import Ledger
from infra.schema import Drop
from pipelines.web.config import Web
from pipelines.web.dns import RESOLVER_ERRORS, look_up, mapped
from pipelines.web.urls import is_address

__all__ = ["Preflight", "SuccessFloor", "nothing_kept", "preflight"]

_HINTS = {
    Drop.CONNECTION: "no connections: check the network, name resolution, firewalls and proxies",
    Drop.TIMEOUT: "responses are too slow: lower web.concurrency, or raise web.deadline_s",
    Drop.HOST_DOWN: "hosts stopped responding: lower web.concurrency and web.host_concurrency",
    Drop.RATE_LIMITED: "hosts ask for more rest than web.max_delay_s: raise it, or retry these rows later",
    Drop.ROBOTS: "robots.txt forbids most URLs: these sites do not want to be crawled",
    Drop.OPT_OUT: "these sites opted out of AI use",
    Drop.HTTP_ERROR: "servers refuse requests: look at the status codes, and set web.contact to identify yourself",
    Drop.REFUSED: "addresses that are not public (loopback, an intranet) are reached only if you name them: "
    'allow_private=\'["127.0.0.0/8"]\', or connect_to=\'{"host": "address:port"}\'',
}


def nothing_kept(what: str, dropped: Mapping[str, int], details: Mapping[tuple[str, str], int]) -> StageFailed:
    """Return the error of a stage all of whose rows were dropped: counts by reason, and what to do about the first.

    ``details``: counts of some rows by reason and detail.
    """
    order = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    found = []
    for reason, count in order:
        about = [detail for (other, detail), _ in Counter(details).most_common() if other == reason and detail]
        found.append(f"{reason} {count}" + (f" ({'; '.join(about[:2])})" if about else ""))
    return StageFailed(
        f"none of {sum(dropped.values())} {what} could be kept",
        expected="at least one",
        found=", ".join(found),
        fix=_hint(order[0][0]),
    )


def _hint(reason: str) -> str:
    known = _HINTS.get(Drop(reason), "") if reason in list(Drop) else ""
    return known or "look at the reasons of the dropped rows"


@dataclass(frozen=True)
class Preflight:
    """Result of a DNS preflight. ``unknown``: names that do not exist; ``failed``: resolver errors and timeouts."""

    asked: int
    resolved: int
    unknown: int
    failed: int
    seconds: float
    servers: tuple[str, ...]
    examples: tuple[str, ...]  # names that failed

    def check(self) -> None:
        """Raise StageFailed if the resolver fails, as opposed to names that no longer exist."""
        if self.asked < 3 or self.failed <= self.asked / 2:
            return
        raise StageFailed(
            "the DNS resolver fails",
            expected="an answer for most names, even if it is that they do not exist",
            found=f"{self.failed} of {self.asked} names without an answer in {self.seconds:.1f} s "
            f"({', '.join(self.examples)}); name servers: {', '.join(self.servers) or 'none in /etc/resolv.conf'}",
            fix="check that the name servers answer (getent hosts example.org); a caching resolver such as unbound on "
            "the worker's machine handles many names best",
        )


def preflight(hosts: Iterable[str], web: Web, *, sample: int = 200, timeout_s: float = 15.0) -> Preflight:
    """Look up a deterministic ``sample`` of ``hosts``. Blocks up to ``timeout_s`` seconds.

    Hosts that ``web.connect_to`` maps, and IP addresses, need no resolver and are left out. ``check`` the result.
    """
    rank = {host: hashlib.sha256(host.encode()).digest() for host in hosts}
    needed = (host for host in rank if host and not is_address(host) and not mapped(host, web.connect_to))
    names = heapq.nsmallest(sample, needed, key=rank.__getitem__)
    start = time.monotonic()
    pool = ThreadPoolExecutor(max(1, min(web.dns_threads, len(names))), thread_name_prefix="clipline-preflight")
    asked = {pool.submit(look_up, name): name for name in names}
    done, late = wait(asked, timeout=timeout_s)
    pool.shutdown(wait=False, cancel_futures=True)
    errors = {asked[future]: future.result()[1] for future in done}
    failed = sorted(
        [name for name, error in errors.items() if error in RESOLVER_ERRORS] + [asked[future] for future in late]
    )
    resolved = sum(error is None for error in errors.values())
    return Preflight(
        asked=len(names),
        resolved=resolved,
        unknown=len(names) - resolved - len(failed),
        failed=len(failed),
        seconds=time.monotonic() - start,
        servers=_servers(Path("/etc/resolv.conf")),
        examples=tuple(failed[:3]),
    )


def _servers(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(words[1] for line in lines if len(words := line.split()) > 1 and words[0] == "nameserver")


class SuccessFloor:
    """Stops a stage whose success rate is too low. Pass each shard as it ends; shards of earlier runs do not count."""

    def __init__(self, share: float, after: int) -> None:
        self._share, self._after = share, after
        self._entered = self._kept = 0
        self._below: list[str] = []
        self._reasons: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()

    def add_shard(
        self, ledger: Ledger, shard: str, kept: int, dropped: Mapping[str, int], hosts: Mapping[str, int] | None = None
    ) -> None:
        """Count one shard like :meth:`add`. If that stops the stage, remove the shards that were below the floor by
        themselves from the ledger, so that the next run repeats what failed for lack of a network."""
        if kept < self._share * (kept + sum(dropped.values())):
            self._below.append(shard)
        try:
            self.add(kept, dropped, hosts)
        except StageFailed:
            ledger.forget(*self._below)
            raise

    def seal(self) -> None:
        """Never remove the shards counted so far: later steps depend on them."""
        self._below.clear()

    def add(self, kept: int, dropped: Mapping[str, int], hosts: Mapping[str, int] | None = None) -> None:
        """Count rows: ``kept``, ``dropped`` by reason, and failures by host if known.

        Raises StageFailed if, after at least ``after`` rows, fewer than ``share`` of all were kept.
        """
        self._entered += kept + sum(dropped.values())
        self._kept += kept
        self._reasons.update(dropped)
        for host, count in (hosts or {}).items():
            self._hosts[host] += count
        if len(self._hosts) > 10_000:
            self._hosts = Counter(dict(self._hosts.most_common(1000)))
        if self._entered < max(1, self._after) or self._kept >= self._share * self._entered:
            return
        top = self._reasons.most_common(3)
        worst = ", ".join(f"{host} ({count})" for host, count in self._hosts.most_common(3))
        raise StageFailed(
            f"only {self._kept} of {self._entered} rows succeeded",
            expected=f"at least {self._share:.0%} after {self._after} rows",
            found=", ".join(f"{reason} {count}" for reason, count in top) + (f"; most at {worst}" if worst else ""),
            fix=_hint(top[0][0] if top else ""),
        )
