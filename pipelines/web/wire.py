"""Bytes on the wire, counted before they are parsed: framing can be far larger than what it frames.

Chunk extensions, trailers, hints before the answer: none of it reaches whoever reads the body, and all of it is
received. So a limit on the body alone limits neither time nor traffic.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler

__all__ = ["WireLimitError", "connector", "limit_body"]

_FREE = 1 << 20  # bytes of headers, and of what a server sends with them before we know their limit
_FRAMING = 8  # of the body, framing may take one part in so many


class WireLimitError(Exception):
    """The server sent more than its answer may have, headers and framing included."""


class _Counted(ResponseHandler):
    """aiohttp's side of a connection, with a limit on the bytes of each answer."""

    received = 0
    limit = _FREE

    def set_response_params(self, **params: Any) -> None:  # noqa: ANN401 - aiohttp's, passed on
        """Begin another answer."""
        self.received, self.limit = 0, _FREE
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self.received <= self.limit:
            super().data_received(data)
            return
        # The reader is told, and closes the connection; what comes until then is not looked at.
        if self.transport is not None:
            self.transport.pause_reading()
        error = WireLimitError()
        if self._payload is not None:
            self._payload.set_exception(error)
        self.set_exception(error)


def connector(resolver: AbstractResolver, keep_alive_s: float) -> aiohttp.TCPConnector:
    """Return a connector whose connections count what they receive; ``resolver`` has a cache of its own."""
    made = aiohttp.TCPConnector(limit=0, resolver=resolver, use_dns_cache=False, keepalive_timeout=keep_alive_s)
    made._factory = partial(_Counted, loop=made._loop)  # type: ignore[assignment]
    return made


def limit_body(reply: aiohttp.ClientResponse, limit: int) -> None:
    """Let the body of ``reply``, ``limit`` bytes at most as it is coded, take little more than that on the wire."""
    connection = reply.connection  # None: all of it has arrived
    if connection is not None and isinstance(connection.protocol, _Counted):
        connection.protocol.limit = _FREE + limit + limit // _FRAMING
