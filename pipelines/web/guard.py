"""Which addresses a fetch may connect to: public ones, and those the user named.

The check sits in the connector's resolver: a name is resolved once, every address is checked, and the connection goes
to one of those very addresses. A second look-up, where DNS rebinding would strike, never happens.

Lists of links hold about three hosts per ten addresses, many of them gone, so what was found out is kept: names that
resolve, names that do not, and, briefly, that the resolver had no answer.
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

from pipelines.web.urls import is_address, matches

__all__ = ["UNSURE", "AddressRefusedError", "Guard", "is_public", "look_up", "mapped"]

UNSURE = frozenset({socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM})
"""Errors of getaddrinfo that say more of the resolver than of the name."""

_KEEP_S = 300.0  # for a name that resolves, or that does not exist: getaddrinfo does not tell how long it is good
_UNSURE_S = 10.0  # for one the resolver could not say anything about
_MOST_NAMES = 50_000
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Not global by IANA's registries, or site-local, whatever the ipaddress module of the Python at hand makes of them.
_NOT_GLOBAL = [ipaddress.ip_network(network) for network in ("192.0.0.0/24", "fec0::/10", "3fff::/20")]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class _Known:
    """What asking for a name gave: addresses, or getaddrinfo's error."""

    addresses: tuple[str, ...]
    error: int | None
    expires: float


class AddressRefusedError(Exception):
    """The host's address is not one we connect to."""


def is_public(address: Address) -> bool:
    """Whether ``address`` is a global unicast one, also where it carries an IPv4 address within."""
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
    """Resolves names for aiohttp. ``connect_to`` maps host patterns to ``address[:port]``, and allows those."""

    def __init__(self, connect_to: Mapping[str, str], allow: tuple[str, ...], threads: int) -> None:
        self._connect_to = dict(connect_to)
        self._allow = [ipaddress.ip_network(network) for network in allow]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clipline-dns")
        self._known: dict[str, _Known] = {}  # oldest first
        self._asking: dict[str, asyncio.Future[_Known]] = {}
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
        """The allowed addresses of ``host``. Raises OSError if it has none, AddressRefusedError if none is allowed."""
        if target := mapped(host, self._connect_to):
            address, _, to_port = target.rpartition(":")
            if not to_port.isdigit() or target.endswith("]"):
                address, to_port = target, str(port)
            return [self._result(host, address.strip("[]"), int(to_port))]
        known = await self._look_up(host)
        if known.error is not None:
            raise socket.gaierror(known.error, "the name does not resolve")
        allowed = [address for address in known.addresses if self.allows(address)]
        if not allowed:
            raise AddressRefusedError
        return [self._result(host, address, port) for address in allowed]

    def knows(self, host: str) -> bool:
        """Whether :meth:`resolve` will have to ask nobody."""
        known = self._known.get(host)
        if known is not None and self._clock() < known.expires:
            return True
        return is_address(host) or bool(mapped(host, self._connect_to))

    async def look_up(self, host: str) -> None:
        """Find out what there is to know of ``host``, be it that there is no such name."""
        await self._look_up(host)

    async def _look_up(self, host: str) -> _Known:
        loop = asyncio.get_running_loop()
        known = self._known.get(host)
        if known is not None and self._clock() < known.expires:
            return known
        asking = self._asking.get(host)
        if asking is None:
            asking = self._asking[host] = loop.run_in_executor(self._pool, _ask, host, self._clock)
            asking.add_done_callback(partial(self._keep, host))
        return await asyncio.shield(asking)  # who waits may give up; the answer is for all

    def _keep(self, host: str, asked: asyncio.Future[_Known]) -> None:
        del self._asking[host]
        if asked.cancelled() or asked.exception() is not None:
            return
        self._known.pop(host, None)
        self._known[host] = asked.result()
        if len(self._known) > _MOST_NAMES:
            del self._known[next(iter(self._known))]

    @staticmethod
    def _result(host: str, address: str, port: int) -> ResolveResult:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": flags}

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def mapped(host: str, connect_to: Mapping[str, str]) -> str:
    """The ``address[:port]`` that ``connect_to`` has for ``host``; empty if it has none."""
    return next((target for pattern, target in connect_to.items() if matches(host, pattern)), "")


def look_up(host: str) -> tuple[tuple[str, ...], int | None]:
    """The addresses of ``host``, or getaddrinfo's error. Blocks."""
    try:
        infos = socket.getaddrinfo(host, 0, socket.AF_UNSPEC, socket.SOCK_STREAM)
    except socket.gaierror as error:
        return (), error.errno or socket.EAI_FAIL
    except UnicodeError:  # a label of more than 63 characters: no name that could resolve
        return (), socket.EAI_NONAME
    return tuple(dict.fromkeys(str(info[4][0]) for info in infos)), None


def _ask(host: str, clock: Callable[[], float]) -> _Known:
    addresses, error = look_up(host)
    return _Known(addresses, error, clock() + (_UNSURE_S if error in UNSURE else _KEEP_S))
