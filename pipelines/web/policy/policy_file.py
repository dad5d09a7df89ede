"""Files by which a site says what it allows: one per origin, fetched once for the cluster, parsed once per worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from infra.schema import Drop
from pipelines.web.fetcher import FetchError
from pipelines.web.politeness.single_flight import Answer

__all__ = ["SiteFile"]

_MAX_PARSED = 8 << 20  # bytes of files held parsed, which takes several times their size
_LARGE = 32 << 10  # bytes that take milliseconds to parse, and are kept off the event loop


class _Parsed(Protocol):
    @property
    def size(self) -> int: ...


T = TypeVar("T", bound=_Parsed)


class SiteFile(Generic[T]):
    """The file at ``path`` of each origin, read by ``read(status, body)``. ``load(url)`` gets it."""

    def __init__(self, path: str, read: Callable[[int, bytes], T], load: Callable[[str], Awaitable[Answer]]) -> None:
        self._path = path
        self._read = read
        self._load = load
        self._parsed: dict[str, T] = {}  # by address, oldest first
        self._bytes = 0

    async def of(self, origin: str) -> T:
        """The file of ``scheme://host[:port]``. Raises FetchError if there is no telling."""
        url = origin + self._path
        known = self._parsed.get(url)
        if known is not None:
            return known
        answer = await self._load(url)
        if answer.reason:
            raise FetchError(Drop(answer.reason), answer.detail)
        return await self.learn(url, answer.status, answer.body)

    async def learn(self, url: str, status: int, body: bytes) -> T:
        """The same, when we fetched it ourselves."""
        if (known := self._parsed.get(url)) is not None:
            return known
        parsed = await asyncio.to_thread(self._read, status, body) if len(body) > _LARGE else self._read(status, body)
        if url not in self._parsed:
            self._parsed[url] = parsed
            self._bytes += parsed.size
            while self._bytes > _MAX_PARSED:
                self._bytes -= self._parsed.pop(next(iter(self._parsed))).size
        return parsed
