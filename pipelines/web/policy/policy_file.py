"""Policy files, such as robots.txt: one per origin, fetched once per cluster, parsed once per worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from infra.schema import Drop
from pipelines.web.politeness.single_flight import FileResult
from pipelines.web.response import FetchError

__all__ = ["PolicyFiles"]

_MAX_PARSED = 8 << 20  # bytes of files kept parsed, which takes several times their size
_LARGE = 32 << 10  # bytes that take milliseconds to parse, so that a thread does it


class _Parsed(Protocol):
    @property
    def size(self) -> int: ...


T = TypeVar("T", bound=_Parsed)


class PolicyFiles(Generic[T]):
    """Parsed files at ``path`` of each origin, cached: ``load(url)`` gets one, ``parse(status, body)`` reads it."""

    def __init__(
        self, path: str, parse: Callable[[int, bytes], T], load: Callable[[str], Awaitable[FileResult]]
    ) -> None:
        self._path = path
        self._parse = parse
        self._load = load
        self._parsed: dict[str, T] = {}  # by URL, oldest first
        self._bytes = 0

    async def get(self, origin: str) -> T:
        """Return the file of ``scheme://host[:port]``. Raises FetchError if the server did not respond."""
        url = origin + self._path
        known = self._parsed.get(url)
        if known is not None:
            return known
        result = await self._load(url)
        if result.reason:
            raise FetchError(Drop(result.reason), result.detail)
        return await self.add(url, result.status, result.body)

    async def add(self, url: str, status: int, body: bytes) -> T:
        """Parse and cache a file that was just fetched."""
        if (known := self._parsed.get(url)) is not None:
            return known
        parsed = await asyncio.to_thread(self._parse, status, body) if len(body) > _LARGE else self._parse(status, body)
        if url not in self._parsed:
            self._parsed[url] = parsed
            self._bytes += parsed.size
            while self._bytes > _MAX_PARSED:
                self._bytes -= self._parsed.pop(next(iter(self._parsed))).size
        return parsed
