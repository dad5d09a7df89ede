"""Rows of csv and tsv files in a given dialect: each line is a row, a part of one, blank, or malformed.

In a quoted file, too, a quote that is never closed is text, and swallows no other row.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from pipelines.urls.config import Quoting
from pipelines.urls.lines import Batch, Collector, MalformedRow, Row, distinct

__all__ = ["NO_SEPARATOR", "SEPARATORS", "URL", "Dialect", "batches", "records"]

_SPECIAL = {"quoted": ('"',) * 2, "unquoted": ("\n",) * 2, "backslash": ('"', "\\")}  # a line holds no line feed
NO_SEPARATOR = "\x1f"  # of a list with one column, where a comma is a part of a URL
SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar", NO_SEPARATOR: "one column"}
URL = re.compile(r'\s*"?\s*https?://', re.IGNORECASE)
_MAX_RECORD_LINES = 64  # of a quoted field, so that a quote that is never closed does not read the whole file


class Dialect(NamedTuple):
    """The dialect of a file. ``header``: line of the columns' names, 0 for none; ``urls``: places of URL columns."""

    separator: str
    quoting: Quoting
    columns: Sequence[str] = ()
    header: int = 0
    urls: Sequence[int] = ()

    def __str__(self) -> str:
        return f"{SEPARATORS[self.separator]}, {self.quoting}, {'' if self.header else 'no '}header"

    def fields(self, line: Row) -> list[str]:
        """Return the fields of a line by itself."""
        return _Parser(self, lambda: None).record(line)[0] or line.value.split(self.separator)

    def is_row(self, fields: Sequence[str]) -> bool:
        """Return True for as many fields as columns, with a URL where the list has them."""
        if len(fields) != len(self.columns):
            return False
        return not self.urls or any(URL.match(fields[place]) for place in self.urls)


def batches(lines: Iterable[Row | MalformedRow], dialect: Dialect) -> Iterator[Batch]:
    """Read a file in batches."""
    counts = Counter[str]()
    names = distinct(dialect.columns)
    return Collector(
        lambda rows: {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}, counts
    ).batches(records(lines, dialect, counts))


def records(
    lines: Iterable[Row | MalformedRow], dialect: Dialect, counts: Counter[str]
) -> Iterator[Row | MalformedRow]:
    """Yield rows of as many fields as there are columns, and the lines that are none. Other lines are counted."""
    source = iter(lines)
    ahead: deque[Row | MalformedRow] = deque()  # lines read in search of a closing quote

    def following() -> Row | MalformedRow | None:
        return ahead.popleft() if ahead else next(source, None)

    parser = _Parser(dialect, following)
    separator, width = dialect.separator, len(dialect.columns)
    quote, escape = _SPECIAL[dialect.quoting]
    while (item := following()) is not None:
        if isinstance(item, MalformedRow):
            yield item
            continue
        number, line, size, _ = item
        if number == dialect.header:
            continue
        literal = False
        if quote in line or escape in line:
            fields, taken = parser.record(item)
            literal = len(fields) != width or _swallows(dialect, item, taken)
            if literal:  # so the quotes are part of the text
                counts["quotes kept as text"] += 1
                ahead.extendleft(reversed(taken))
                fields = line.split(separator)
            elif taken:
                counts["continued lines"] += len(taken)
        else:
            fields = line.split(separator)
        if len(fields) == width and (width > 1 or line):
            yield Row(number, fields, size, literal)
        elif line.strip():
            yield MalformedRow(number, line[:2000], f"{len(fields)} fields, not {width}")
        else:
            counts["blank lines"] += 1


def _swallows(dialect: Dialect, first: Row, taken: Sequence[Row | MalformedRow]) -> bool:
    """Return True if a quoted field spans lines that are rows by themselves: its quotes are lone ones.

    The first line of a quoted field that spans lines may look like a row, if its URL comes first, or the last one, but
    not both, and none between.
    """
    if not taken or not dialect.urls:
        return False
    rows = [isinstance(line, Row) and dialect.is_row(line.value.split(dialect.separator)) for line in (first, *taken)]
    return any(rows[1:-1]) or (rows[0] and rows[-1])


class _Parser:
    """Feeds the csv module line by line, so that the lines it consumed are known and can be put back."""

    def __init__(self, dialect: Dialect, following: Callable[[], Row | MalformedRow | None]) -> None:
        self._following = following
        self._first: Row | None = None
        self._taken: list[Row | MalformedRow] = []
        self._reader = csv.reader(
            self,
            delimiter=dialect.separator,
            quoting=csv.QUOTE_NONE if dialect.quoting == "unquoted" else csv.QUOTE_MINIMAL,
            escapechar="\\" if dialect.quoting == "backslash" else None,
            strict=True,
        )

    def record(self, first: Row) -> tuple[list[str], list[Row | MalformedRow]]:
        """Return the fields of the record that ``first`` begins, none if malformed, and the further lines consumed."""
        self._first, self._taken = first, []
        try:
            return next(self._reader), self._taken
        except csv.Error:
            return [], self._taken

    def __iter__(self) -> _Parser:
        return self

    def __next__(self) -> str:
        line: Row | MalformedRow | None = self._first
        if line is None:
            line = self._following() if len(self._taken) < _MAX_RECORD_LINES else None
            if line is not None:
                self._taken.append(line)
        self._first = None
        if isinstance(line, Row):
            return f"{line.value}\n"
        raise StopIteration  # ends this record
