"""Is the web there at all? A look at the resolver before a stage starts, and a floor under its success while it runs.

Dead links are normal: of a list a few years old, 15 to 30% of the names no longer exist. A resolver that answers
nothing, a proxy in the way or a firewall look the same row by row, and would turn a billion rows into failures.
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
from typing import TYPE_CHECKING

from infra.errors import StageFailed
from infra.schema import Drop

if TYPE_CHECKING:
    from infra.run.context import Ledger
    from pipelines.web.fetcher import Web

__all__ = ["Preflight", "SuccessFloor", "preflight"]

_HINTS = {
    Drop.CONNECTION: "no connections: check the network, name resolution, a firewall or a proxy in the way",
    Drop.TIMEOUT: "answers come too late: lower web.concurrency, or raise web.deadline_s",
    Drop.HOST_DOWN: "hosts stopped answering: lower web.concurrency and web.host_concurrency",
    Drop.ROBOTS: "robots.txt forbids most of it: these sites do not want to be fetched",
    Drop.OPT_OUT: "these sites opted out of AI use",
    Drop.HTTP_ERROR: "servers refuse: look at the status codes, and set web.contact so that sites know who asks",
    Drop.REFUSED: "the addresses are not public ones: an intranet needs web.allow_private",
}


@dataclass(frozen=True)
class Preflight:
    """What asking for the names of some hosts gave. ``unknown``: do not exist; ``failed``: the resolver had nothing."""

    asked: int
    resolved: int
    unknown: int
    failed: int
    seconds: float
    servers: tuple[str, ...]
    examples: tuple[str, ...]  # names that failed

    def check(self) -> None:
        """Raise StageFailed if it is the resolver that fails, rather than that names are gone."""
        if self.asked < 3 or self.failed <= self.asked / 2:
            return
        raise StageFailed(
            "names do not resolve: the resolver fails, not the links",
            expected="an answer for most names, be it that they do not exist",
            found=f"{self.failed} of {self.asked} names without any answer in {self.seconds:.1f} s "
            f"({', '.join(self.examples)}); name servers: {', '.join(self.servers) or 'none in /etc/resolv.conf'}",
            fix="check that the name servers answer (getent hosts example.org); a caching resolver such as unbound on "
            "the worker's machine copes best with many names",
        )


def preflight(hosts: Iterable[str], web: Web, *, sample: int = 200, patience_s: float = 15.0) -> Preflight:
    """Ask for the names of a ``sample`` of ``hosts``, always the same one. Blocks up to ``patience_s``.

    Hosts that ``web.connect_to`` maps, and addresses, need no resolver and are left out. ``check`` judges the result.
    """
    from pipelines.web.guard import UNSURE, look_up, mapped
    from pipelines.web.urls import is_address

    rank = {host: hashlib.sha256(host.encode()).digest() for host in hosts}
    needed = (host for host in rank if host and not is_address(host) and not mapped(host, web.connect_to))
    names = heapq.nsmallest(sample, needed, key=rank.__getitem__)
    start = time.monotonic()
    pool = ThreadPoolExecutor(max(1, min(web.dns_threads, len(names))), thread_name_prefix="clipline-preflight")
    asked = {pool.submit(look_up, name): name for name in names}
    done, late = wait(asked, timeout=patience_s)
    pool.shutdown(wait=False, cancel_futures=True)
    errors = {asked[future]: future.result()[1] for future in done}
    failed = sorted([name for name, error in errors.items() if error in UNSURE] + [asked[future] for future in late])
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
    """Stops a stage that only fails. ``add`` each shard as it ends; those committed before a resume need not be."""

    def __init__(self, share: float, after: int) -> None:
        self._share, self._after = share, after
        self._entered = self._kept = 0
        self._below: list[str] = []
        self._reasons: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()

    def judge(
        self, ledger: Ledger, shard: str, kept: int, dropped: Mapping[str, int], hosts: Mapping[str, int] | None = None
    ) -> None:
        """:meth:`add` of one shard. If that stops the stage, the shards that fell below the floor on their own are
        forgotten, so that the next run does them again: what was lost to a network that is down must not stay lost."""
        if kept < self._share * (kept + sum(dropped.values())):
            self._below.append(shard)
        try:
            self.add(kept, dropped, hosts)
        except StageFailed:
            for failed in self._below:
                ledger.forget(failed)
            raise

    def settle(self) -> None:
        """What was judged so far has been built upon, and cannot be done again."""
        self._below.clear()

    def add(self, kept: int, dropped: Mapping[str, int], hosts: Mapping[str, int] | None = None) -> None:
        """``dropped``: rows by reason; ``hosts``: failures by host, if known.

        Raises StageFailed once ``after`` rows have entered and fewer than ``share`` of all came through.
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
            fix=(_HINTS.get(Drop(top[0][0]), "") if top and top[0][0] in list(Drop) else "")
            or "look at the rows' reasons",
        )
