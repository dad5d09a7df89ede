"""Single flight for policy files: each is fetched once for all workers, by whichever worker asks first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["FileResult", "SingleFlight"]

_MAX_BYTES = 64 << 20  # of all cached files
_ENTRY_BYTES = 500  # of a cache entry in addition to its body
_TTL_S = 24 * 3600.0  # of a file: RFC 9309, 2.4
_ERROR_TTL_S = 600.0  # of a failure


class FileResult(NamedTuple):
    """A policy file such as robots.txt, or the ``reason`` (a ``Drop``) and ``detail`` of a failed fetch."""

    status: int
    body: bytes = b""
    reason: str = ""
    detail: str = ""
    crawl_delay_s: float = 0.0

    @property
    def size(self) -> int:
        return len(self.body) + _ENTRY_BYTES

    @property
    def ttl_s(self) -> float:
        return _ERROR_TTL_S if self.reason or self.status >= 500 or self.status == 429 else _TTL_S


class _File:
    __slots__ = ("expires", "fetched_by", "result", "waiting")

    def __init__(self) -> None:
        self.result: FileResult | None = None
        self.fetched_by = ""
        self.expires = 0.0
        self.waiting: set[str] = set()


class SingleFlight:
    """Cache of files, and who is fetching which. Plain logic: ``now`` is any monotonic clock's seconds."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}  # least recently used first
        self._in_flight: dict[str, set[str]] = {}  # by worker: the URLs it is fetching
        self.bytes = 0

    def request(self, worker: str, urls: Iterable[str], now: float) -> dict[str, FileResult | None]:
        """Return the results known. None: ``worker`` is to fetch the file. Missing: another worker is fetching it."""
        found: dict[str, FileResult | None] = {}
        for url in urls:
            file = self._files.pop(url, None)
            if file is None:
                file = _File()
            self._files[url] = file
            if file.result and now < file.expires:
                found[url] = file.result
            elif file.fetched_by and file.fetched_by != worker:
                file.waiting.add(worker)
            else:
                self._drop_result(file)
                file.fetched_by = worker
                self._in_flight.setdefault(worker, set()).add(url)
                found[url] = None
        return found

    def complete(self, worker: str, url: str, result: FileResult, now: float) -> set[str]:
        """Cache what ``worker`` fetched; returns the workers that wait for it."""
        self._in_flight.get(worker, set()).discard(url)
        file = self._files.setdefault(url, _File())
        self._drop_result(file)
        file.result, file.fetched_by, file.expires = result, "", now + result.ttl_s
        self.bytes += result.size
        waiting, file.waiting = file.waiting, set()
        # Evict the least recently used results, but neither this one nor files in flight.
        for _ in range(len(self._files) - 1):
            if self.bytes <= _MAX_BYTES:
                break
            oldest = next(iter(self._files))
            old = self._files.pop(oldest)
            if old.result is None or oldest == url:
                self._files[oldest] = old
            else:
                self._drop_result(old)
        return waiting

    def remove_worker(self, worker: str) -> dict[str, set[str]]:
        """Abandon the fetches of a worker that is gone; returns who waits, for each file."""
        abandoned: dict[str, set[str]] = {}
        for url in self._in_flight.pop(worker, ()):
            file = self._files.get(url)
            if file is not None and file.fetched_by == worker:  # or another worker completed it first
                file.fetched_by = ""
                abandoned[url], file.waiting = file.waiting, set()
        return abandoned

    def _drop_result(self, file: _File) -> None:
        if file.result is not None:
            self.bytes -= file.result.size
            file.result = None
