"""Lines appended to a path of an object store, where an object cannot grow.

Each append is an object of its own, a *part*, numbered from 0. Sixteen neighbours are merged into one object and
deleted, then sixteen such objects, up to 4,096 parts in one. So a journal of a week, of 100,000 parts, lies in 45
objects, which one request lists.

    00000032             part 32
    00000016-00000031    parts 16 to 31: a line with their sizes as JSON, then their bytes

Nothing is lost whoever dies when, and no clock decides anything:

- A part is created exclusively, and a merged object before its parts are deleted. So what is listed covers every number
  below the end, always.
- Of several objects with the same number the widest counts. The others are leftovers: whoever sees them removes them.
- A writer that slept may create a part whose number has been merged and deleted meanwhile. So it lists after each
  append: if the number lies in a wider object, it appends once more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from infra.errors import CredentialsError, StorageError, TransientError
from infra.store.base import Store

__all__ = ["Parts"]

_TOGETHER, _WIDEST = 16, 16**3
_TRIES = 20


class _Span(NamedTuple):
    """An object with the parts ``first`` to ``last``."""

    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.first:08d}" if self.first == self.last else f"{self.first:08d}-{self.last:08d}"

    @property
    def width(self) -> int:
        return self.last - self.first + 1

    def split(self, data: bytes) -> list[bytes]:
        """The parts in the object's bytes."""
        if self.width == 1:
            return [data]
        start = data.index(b"\n") + 1
        parts = []
        for size in json.loads(data[:start]):
            parts.append(data[start : start + size])
            start += size
        return parts


class Parts:
    """A file at ``path`` of ``store`` that grows by appended parts; a position in it is a number of parts."""

    def __init__(self, store: Store, path: str) -> None:
        self._store, self._path = store, path
        self._spans: list[_Span] = []  # as last listed

    def append(self, data: bytes) -> None:
        """Add a part, and merge what has come to sixteen."""
        spans = self._spans or self._list()[0]
        while True:
            part = _Span(_end(spans), _end(spans))
            made = self._store.create(self._at(part), data)
            spans, leftovers = self._list()
            if made and part in spans:
                break
        with suppress(TransientError, CredentialsError):  # the next append does it; not all who write may delete
            self._merge(spans, leftovers)

    def read(self, start: int) -> tuple[bytes, int]:
        """The bytes since position ``start``, and the position after them."""
        for _ in range(_TRIES):
            spans, _ = self._list()
            wanted = [span for span in spans if span.last >= start]
            try:
                found = self._read(wanted)
            except FileNotFoundError:  # merged since it was listed
                continue
            return b"".join(found[start - wanted[0].first :] if wanted else ()), max(start, _end(spans))
        raise StorageError(f"parts of {self._store.locate(self._path)} are listed but not there")

    def _list(self) -> tuple[list[_Span], list[_Span]]:
        """The objects that count, in order and without a gap; and leftovers."""
        names = (path.rpartition("/")[2] for path in self._store.paths(self._path))
        spans: list[_Span] = []
        leftovers = []
        for span in sorted(_parsed(names), key=lambda span: (span.first, -span.last)):
            if span.first == _end(spans):
                spans.append(span)
            elif span.last < _end(spans):
                leftovers.append(span)
        self._spans = spans
        return spans, leftovers

    def _merge(self, spans: list[_Span], leftovers: list[_Span]) -> None:
        spans, leftovers = list(spans), list(leftovers)
        width = 1
        while width < _WIDEST:
            if at := _full(spans, width):
                merged = spans[at]
                whole = _Span(merged[0].first, merged[-1].last)
                try:
                    parts = self._read(merged)
                except FileNotFoundError:  # another writer is merging
                    return
                sizes = json.dumps([len(part) for part in parts]).encode()
                self._store.create(self._at(whole), b"\n".join((sizes, b"".join(parts))))
                spans[at] = [whole]
                leftovers += merged
            width *= _TOGETHER
        if leftovers:
            self._store.delete_all([self._at(span) for span in leftovers])

    def _read(self, spans: list[_Span]) -> list[bytes]:
        """Parts of the objects, in order. Raises FileNotFoundError."""
        found = self._store.read_all([self._at(span) for span in spans])
        return [part for span, data in zip(spans, found, strict=True) for part in span.split(data)]

    def _at(self, span: _Span) -> str:
        return f"{self._path}/{span.name}"


def _end(spans: list[_Span]) -> int:
    return spans[-1].last + 1 if spans else 0


def _parsed(names: Iterator[str]) -> Iterator[_Span]:
    for name in names:
        if match := re.fullmatch(r"(\d{8,})(?:-(\d{8,}))?", name):
            yield _Span(int(match[1]), int(match[2] or match[1]))


def _full(spans: list[_Span], width: int) -> slice | None:
    """The place of the first sixteen objects of ``width`` parts that make up a wider one."""
    for at, span in enumerate(spans[: 1 - _TOGETHER]):
        together = spans[at : at + _TOGETHER]
        if span.first % (_TOGETHER * width) == 0 and all(one.width == width for one in together):
            return slice(at, at + _TOGETHER)
    return None
