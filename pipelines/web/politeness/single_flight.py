"""Files everybody wants, fetched by one: a site's robots.txt is asked for once, whichever of the workers came first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Answer", "Errands"]

_MAX_BYTES = 64 << 20  # of all the files kept
_ENTRY_BYTES = 500  # what remembering one costs beside its body
_KEEP_S = 24 * 3600.0  # how long a file is good: RFC 9309, 2.4
_RETRY_S = 600.0  # how long it counts as unreachable


class Answer(NamedTuple):
    """A robots.txt or the like, or why (a ``Drop``, and text) there is none."""

    status: int
    body: bytes = b""
    reason: str = ""
    detail: str = ""
    crawl_delay_s: float = 0.0

    @property
    def size(self) -> int:
        return len(self.body) + _ENTRY_BYTES

    @property
    def good_for_s(self) -> float:
        return _RETRY_S if self.reason or self.status >= 500 or self.status == 429 else _KEEP_S


class _File:
    __slots__ = ("answer", "by", "expires", "waiting")

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.by = ""
        self.expires = 0.0
        self.waiting: set[str] = set()


class Errands:
    """Who fetches which file, and what came of it. Plain logic: ``now`` is any monotonic clock's seconds."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}  # least recently used first
        self._out: dict[str, set[str]] = {}  # by worker: what it is fetching
        self.bytes = 0

    def ask(self, worker: str, urls: Iterable[str], now: float) -> dict[str, Answer | None]:
        """The answers known; None: ``worker`` is to fetch the file. One that is missing, another is fetching."""
        found: dict[str, Answer | None] = {}
        for url in urls:
            file = self._files.pop(url, None)
            if file is None:
                file = _File()
            self._files[url] = file
            if file.answer and now < file.expires:
                found[url] = file.answer
            elif file.by and file.by != worker:
                file.waiting.add(worker)
            else:
                self._drop_answer(file)
                file.by = worker
                self._out.setdefault(worker, set()).add(url)
                found[url] = None
        return found

    def done(self, worker: str, url: str, answer: Answer, now: float) -> set[str]:
        """Keep what ``worker`` brought; gives the workers that wait for it."""
        self._out.get(worker, set()).discard(url)
        file = self._files.setdefault(url, _File())
        self._drop_answer(file)
        file.answer, file.by, file.expires = answer, "", now + answer.good_for_s
        self.bytes += answer.size
        waiting, file.waiting = file.waiting, set()
        for _ in range(len(self._files) - 1):
            if self.bytes <= _MAX_BYTES:
                break
            oldest = next(iter(self._files))
            old = self._files.pop(oldest)
            if old.answer is None or oldest == url:
                self._files[oldest] = old
            else:
                self._drop_answer(old)
        return waiting

    def leave(self, worker: str) -> dict[str, set[str]]:
        """``worker`` is gone: for each file it was fetching, who waits for it."""
        left: dict[str, set[str]] = {}
        for url in self._out.pop(worker, ()):
            file = self._files.get(url)
            if file is not None and file.by == worker:  # or somebody else was quicker
                file.by = ""
                left[url], file.waiting = file.waiting, set()
        return left

    def _drop_answer(self, file: _File) -> None:
        if file.answer is not None:
            self.bytes -= file.answer.size
            file.answer = None
