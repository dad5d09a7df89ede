"""Which addresses a fetch may connect to: public ones, and those the user named.

The check sits in the connector's resolver: a name is resolved once, every address is checked, and the connection goes
to one of those very addresses. A second look-up, where DNS rebinding would strike, never happens.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from pipelines.urls import is_address, matches

__all__ = ["AddressRefusedError", "Guard", "is_public"]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


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
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class Guard(AbstractResolver):
    """Resolves names for aiohttp. ``connect_to`` maps host patterns to ``address[:port]``, and allows those."""

    def __init__(self, connect_to: Mapping[str, str], allow: tuple[str, ...], threads: int) -> None:
        self._connect_to = dict(connect_to)
        self._allow = [ipaddress.ip_network(network) for network in allow]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="clipline-dns")

    def allows(self, address: str) -> bool:
        ip = ipaddress.ip_address(address.partition("%")[0])
        return is_public(ip) or any(ip in network for network in self._allow if network.version == ip.version)

    def check_literal(self, host: str) -> None:
        """aiohttp asks no resolver for a host that is an address. Raises AddressRefusedError."""
        if is_address(host) and not self.allows(host):
            raise AddressRefusedError

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The allowed addresses of ``host``. Raises OSError if it has none, AddressRefusedError if none is allowed."""
        for pattern, target in self._connect_to.items():
            if matches(host, pattern):
                address, _, to_port = target.rpartition(":")
                if not to_port.isdigit() or target.endswith("]"):
                    address, to_port = target, str(port)
                return [self._result(host, address.strip("[]"), int(to_port))]
        try:
            infos = await asyncio.get_running_loop().run_in_executor(
                self._pool, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM
            )
        except UnicodeError:  # a label of more than 63 characters: no name that could resolve
            raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
        addresses = list(dict.fromkeys(str(info[4][0]) for info in infos))
        allowed = [address for address in addresses if self.allows(address)]
        if not allowed:
            raise AddressRefusedError
        return [self._result(host, address, port) for address in allowed]

    @staticmethod
    def _result(host: str, address: str, port: int) -> ResolveResult:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": flags}

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
