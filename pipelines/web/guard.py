"""SSRF guard: lets connections go to public addresses only, and to those the user configured.

The check is part of the connector's resolver: a name is resolved once, every address is checked, and the connection
goes to one of those addresses. A second lookup, which DNS rebinding needs, never happens.

Lists of links hold about three hosts per ten URLs, many of them dead, so results are cached: names that resolve, names
that do not exist and, briefly, resolver errors.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from aiohttp.abc import AbstractResolver, ResolveResult

from pipelines.web.dns import RESOLVER_ERRORS, look_up, mapped
from pipelines.web.urls import is_address

__all__ = ["AddressRefusedError", "Guard", "is_public"]

_TTL_S = 300.0  # of a name that resolves or does not exist: getaddrinfo does not return the record's own TTL
_ERROR_TTL_S = 10.0  # of a resolver error
_MAX_NAMES = 50_000
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Not global by IANA's registries, or site-local, which not every version of the ipaddress module knows.
_NOT_GLOBAL = [ipaddress.ip_network(network) for network in ("192.0.0.0/24", "fec0::/10", "3fff::/20")]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class _Lookup:
    """Cached result of a lookup: addresses, or getaddrinfo's error."""

    addresses: tuple[str, ...]
    error: int | None
    expires: float


class AddressRefusedError(Exception):
    """The host has no address that we may connect to."""


def is_public(address: Address) -> bool:
    """Return True for a global unicast address; of an IPv6 address that embeds an IPv4 one, the latter decides."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    if any(address in network for network in _NOT_GLOBAL):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class Guard(AbstractResolver):
    """Resolver for aiohttp. ``connect_to`` maps host patterns to ``address[:port]``, which are always allowed."""

    def __init__(self, connect_to: Mapping[str, str], allow: tuple[str, ...], threads: int) -> None:
        self._connect_to = dict(connect_to)
        self._allow = [ipaddress.ip_network(network) for network in allow]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clipline-dns")
        self._cache: dict[str, _Lookup] = {}  # oldest first
        self._in_flight: dict[str, asyncio.Future[_Lookup]] = {}
        self._clock = asyncio.get_running_loop().time

    def allows(self, address: str) -> bool:
        ip = ipaddress.ip_address(address.partition("%")[0])
        return is_public(ip) or any(ip in network for network in self._allow if network.version == ip.version)

    def check_literal(self, host: str) -> None:
        """aiohttp asks no resolver for a host that is an address. Raises AddressRefusedError."""
        if not is_address(host):
            return
        try:
            allowed = self.allows(host)
        except ValueError:  # a number that is not an address, from a host such as "1.."
            allowed = False
        if not allowed:
            raise AddressRefusedError

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the allowed addresses of ``host``. Raises OSError, or AddressRefusedError if none is allowed."""
        if target := mapped(host, self._connect_to):
            address, _, to_port = target.rpartition(":")
            if not to_port.isdigit() or target.endswith("]"):
                address, to_port = target, str(port)
            return [self._result(host, address.strip("[]"), int(to_port))]
        cached = await self._look_up(host)
        if cached.error is not None:
            raise socket.gaierror(cached.error, "the name does not resolve")
        allowed = [address for address in cached.addresses if self.allows(address)]
        if not allowed:
            raise AddressRefusedError
        return [self._result(host, address, port) for address in allowed]

    def is_cached(self, host: str) -> bool:
        """Return True if :meth:`resolve` needs no lookup."""
        cached = self._cache.get(host)
        if cached is not None and self._clock() < cached.expires:
            return True
        return is_address(host) or bool(mapped(host, self._connect_to))

    async def look_up(self, host: str) -> None:
        """Look ``host`` up and cache the result, whatever it is."""
        await self._look_up(host)

    async def _look_up(self, host: str) -> _Lookup:
        loop = asyncio.get_running_loop()
        cached = self._cache.get(host)
        if cached is not None and self._clock() < cached.expires:
            return cached
        lookup = self._in_flight.get(host)
        if lookup is None:
            lookup = self._in_flight[host] = loop.run_in_executor(self._pool, _timed_look_up, host, self._clock)
            lookup.add_done_callback(partial(self._store, host))
        return await asyncio.shield(lookup)  # a caller may be cancelled; the result is for all of them

    def _store(self, host: str, done: asyncio.Future[_Lookup]) -> None:
        del self._in_flight[host]
        if done.cancelled() or done.exception() is not None:
            return
        self._cache.pop(host, None)
        self._cache[host] = done.result()
        if len(self._cache) > _MAX_NAMES:
            del self._cache[next(iter(self._cache))]

    @staticmethod
    def _result(host: str, address: str, port: int) -> ResolveResult:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": flags}

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _timed_look_up(host: str, clock: Callable[[], float]) -> _Lookup:
    addresses, error = look_up(host)
    return _Lookup(addresses, error, clock() + (_ERROR_TTL_S if error in RESOLVER_ERRORS else _TTL_S))
