"""DNS lookups, blocking and without cache, and the addresses the user configured instead of them."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from pipelines.web.urls import matches

__all__ = ["RESOLVER_ERRORS", "look_up", "mapped"]

RESOLVER_ERRORS = frozenset({socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM})
"""Errors of getaddrinfo that mean the resolver failed, rather than that the name does not exist."""


def mapped(host: str, connect_to: Mapping[str, str]) -> str:
    """Return the ``address[:port]`` that ``connect_to`` has for ``host``; empty if it has none."""
    return next((target for pattern, target in connect_to.items() if matches(host, pattern)), "")


def look_up(host: str) -> tuple[tuple[str, ...], int | None]:
    """Return the addresses of ``host``, or none and getaddrinfo's error. Blocks."""
    try:
        infos = socket.getaddrinfo(host, 0, socket.AF_UNSPEC, socket.SOCK_STREAM)
    except socket.gaierror as error:
        return (), error.errno or socket.EAI_FAIL
    except UnicodeError:  # a label of more than 63 characters, which cannot resolve
        return (), socket.EAI_NONAME
    return tuple(dict.fromkeys(str(info[4][0]) for info in infos)), None
