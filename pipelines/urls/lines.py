"""Rows of a list: its lines with their numbers, and batches of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from infra.errors import DataError

__all__ = ["BATCH_ROWS", "Batch", "Collector", "MalformedRow", "Opener", "Row", "distinct", "filled", "lines"]

BATCH_ROWS = 10_000
_BATCH_SIZE = 32 << 20  # characters per batch, at most
MAX_LINE = 16 << 20  # bytes; a longer line is malformed

Opener = Callable[[], AbstractContextManager[BinaryIO]]


class Row(NamedTuple):
    """Row ``number``: a line of text, a list of fields, an object; ``size`` of its text in characters.

    ``literal``: its quotes could not be understood and are part of the text.
    """

    number: int
    value: Any
    size: int
    literal: bool = False


class MalformedRow(NamedTuple):
    """Row ``number`` could not be parsed; ``detail`` says why."""

    number: int
    text: str
    detail: str


@dataclass
class Batch:
    """Rows by column. ``numbers``: line number of each or, in formats without lines, row number, from 1.

    ``counts``: what was seen on the way: blank lines, lines that continue a quoted field, quotes kept as text.
    """

    columns: dict[str, Any] = field(default_factory=dict)  # lists of Python values, or Arrow arrays
    numbers: Sequence[int] = ()
    bad: list[MalformedRow] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


# First bytes of what is no list of lines, whatever its name says.
_OTHERS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "gzip: its name should end in .gz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a zip archive, as .xlsx files are",
    b"<!doctype": "an HTML page",
    b"<html": "an HTML page",
}


def lines(opened: Opener) -> Iterator[Row | MalformedRow]:
    """Yield the lines with their numbers, without line ends. Raises DataError for what is not UTF-8 text at all."""
    with opened() as source:
        number = 0
        while line := source.readline(MAX_LINE):
            number += 1
            if number == 1:
                _check_first(line)
            if len(line) == MAX_LINE and not line.endswith(b"\n"):
                start = _text(line)
                while line and not line.endswith(b"\n"):
                    line = source.readline(MAX_LINE)
                yield MalformedRow(number, start, f"more than {MAX_LINE} bytes")
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield MalformedRow(number, _text(line).rstrip("\r\n"), f"not UTF-8: {error.reason}")
                continue
            yield Row(number, text, len(text))


def _text(line: bytes) -> str:
    return line[:2000].decode("utf-8", "backslashreplace")


def _check_first(line: bytes) -> None:
    found = next((what for start, what in _OTHERS.items() if line[: len(start)].lower() == start.lower()), None)
    if found is None and line.count(b"\0", 0, 1000) * 4 > min(len(line), 1000):
        found = "UTF-16 without a mark, or no text"
    if found:
        raise DataError("not a list of lines", expected="UTF-8 text", found=found)
    if b"\r" in line.rstrip(b"\r\n"):
        raise DataError(
            "lines end with a carriage return alone",
            expected="line feeds, with or without one",
            found=f"{line.count(bytes([13]))} carriage returns before the first line feed",
            fix="convert it: tr '\\r' '\\n'",
        )


def filled(lines: Iterable[Row | MalformedRow], counts: Counter[str]) -> Iterator[Row | MalformedRow]:
    """Skip blank lines, counting them."""
    for line in lines:
        if isinstance(line, MalformedRow) or line.value.strip():
            yield line
        else:
            counts["blank lines"] += 1


class Collector:
    """Groups rows into batches; ``columns`` turns the values of rows to columns, and ``counts`` goes along."""

    def __init__(self, columns: Callable[[list[Any]], dict[str, Any]], counts: Counter[str]) -> None:
        self._columns, self._counts = columns, counts
        self._rows: list[Row] = []
        self._bad: list[MalformedRow] = []
        self._size = 0

    def batches(self, items: Iterable[Row | MalformedRow]) -> Iterator[Batch]:
        for item in items:
            if isinstance(item, MalformedRow):
                self._bad.append(item)
            else:
                self._rows.append(item)
                self._size += item.size
            if len(self._rows) + len(self._bad) >= BATCH_ROWS or self._size >= _BATCH_SIZE:
                yield self._take()
        if self._rows or self._bad or self._counts:
            yield self._take()

    def _take(self) -> Batch:
        columns = self._columns([row.value for row in self._rows]) if self._rows else {}
        batch = Batch(columns, [row.number for row in self._rows], self._bad, Counter(self._counts))
        self._rows, self._bad, self._size = [], [], 0
        self._counts.clear()
        return batch


def distinct(names: Iterable[str]) -> list[str]:
    """Return the names of columns, of which none is empty and no two are equal: ``w``, ``w_2``."""
    found: dict[str, None] = {}
    for place, given in enumerate(names, start=1):
        name = first = given.strip() or f"column_{place}"
        number = 1
        while name in found:
            number += 1
            name = f"{first}_{number}"
        found[name] = None
    return list(found)
