"""Readers of URL lists: rows in batches, and malformed rows separately.

A malformed line affects no other, so text is read line by line: a quote that is never closed swallows no neighbours; a
line that is not UTF-8 or not JSON is reported with its number. A file that is truncated or damaged as a whole (gzip,
Parquet, a JSON document) is an error, since what is missing is unknown.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from infra.errors import DataError
from infra.store import unreachable

__all__ = ["BATCH_ROWS", "Batch", "MalformedRow", "read_batches", "translated_errors"]

BATCH_ROWS = 10_000
_BATCH_SIZE = 32 << 20  # characters per batch, at most
MAX_LINE = 16 << 20  # bytes; a longer line is malformed
MAX_DOCUMENT = 1 << 30  # bytes of a JSON document that cannot be streamed, such as SBU's columns
_MAX_RECORD_LINES = 64  # of a quoted csv field, so that an unclosed quote does not read the whole file
_CHUNK = 1 << 20


class Row(NamedTuple):
    """Row ``number``: a line of text, a list of fields, an object; ``size`` of its text in characters."""

    number: int
    value: Any
    size: int


class MalformedRow(NamedTuple):
    """Row ``number`` could not be parsed; ``detail`` says why."""

    number: int
    text: str
    detail: str


@dataclass
class Batch:
    """Rows by column. ``numbers``: line number of each or, in formats without lines, row number, from 1."""

    columns: dict[str, Any] = field(default_factory=dict)  # lists of Python values, or Arrow arrays
    numbers: Sequence[int] = ()
    bad: list[MalformedRow] = field(default_factory=list)


def read_batches(
    opener: Callable[[], BinaryIO], form: str, place: str, groups: Sequence[int] | None = None, first: int = 1
) -> Iterator[Batch]:
    """Read a list of format ``form`` in batches of at most :data:`BATCH_ROWS` rows.

    ``groups``: only these row groups of a Parquet file, the first row of which is number ``first``.
    Raises DataError, naming ``place``, if the file is damaged.
    """
    kind, gz, _ = form.partition(".gz")

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with opener() as source:
            if kind == "parquet":
                yield source
                return
            inner = gzip.GzipFile(fileobj=source) if gz else source
            # Buffered here, since the files of some fsspec backends do not support readline(limit).
            with io.BufferedReader(inner) as lines:  # type: ignore[type-var]
                yield lines

    with translated_errors(place, kind):
        if kind == "parquet":
            yield from _parquet(opened, groups, first)
        else:
            readers = {"txt": _txt, "csv": _csv, "tsv": _tsv, "jsonl": _jsonl, "json": _json}
            yield from readers[kind](opened)


@contextmanager
def translated_errors(place: str, kind: str) -> Iterator[None]:
    """Translate exceptions of damaged files to DataError, naming the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{place} is not gzip, or is truncated", found=str(error)) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8", found=error.reason) from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (error.errno or unreachable(error)):
            raise  # a storage error; those without errno are Arrow's
        raise DataError(f"{place} is damaged", expected=f"a {kind} file", found=str(error)[:300]) from None
    except ValueError as error:
        if "range requests" not in str(error):  # fsspec's words for a web server that gives whole files only
            raise
        raise DataError(
            f"{place} cannot be read remotely", found=str(error), fix="copy it to a folder or a bucket"
        ) from None
    except DataError as error:
        raise DataError(f"{place}: {error.message}", expected=error.expected, found=error.found) from None


Opener = Callable[[], AbstractContextManager[BinaryIO]]


# --- lines ------------------------------------------------------------------------------------------------------------


def _lines(opened: Opener) -> Iterator[Row | MalformedRow]:
    """Yield the lines with their numbers, without line ends."""
    with opened() as source:
        number = 0
        while line := source.readline(MAX_LINE):
            number += 1
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError("a list must be UTF-8", found="UTF-16")
            start = line[:2000].decode("utf-8", "backslashreplace")
            if len(line) == MAX_LINE and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = source.readline(MAX_LINE)
                yield MalformedRow(number, start, f"more than {MAX_LINE} bytes")
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield MalformedRow(number, start.rstrip("\r\n"), f"not UTF-8: {error.reason}")
                continue
            yield Row(number, text, len(text))


def _filled(lines: Iterable[Row | MalformedRow]) -> Iterator[Row | MalformedRow]:
    """Skip empty lines."""
    return (line for line in lines if isinstance(line, MalformedRow) or line.value.strip())


class _Collector:
    """Groups rows into batches."""

    def __init__(self, columns: Callable[[list[Any]], dict[str, Any]]) -> None:
        self._columns = columns
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
        if self._rows or self._bad:
            yield self._take()

    def _take(self) -> Batch:
        columns = self._columns([row.value for row in self._rows]) if self._rows else {}
        batch = Batch(columns, [row.number for row in self._rows], self._bad)
        self._rows, self._bad, self._size = [], [], 0
        return batch


def _txt(opened: Opener) -> Iterator[Batch]:
    return _Collector(lambda rows: {"url": [row.strip() for row in rows]}).batches(_filled(_lines(opened)))


# --- csv and tsv ------------------------------------------------------------------------------------------------------


def _csv(opened: Opener) -> Iterator[Batch]:
    return _separated(opened, ",")


def _tsv(opened: Opener) -> Iterator[Batch]:
    return _separated(opened, "\t")


_URL = re.compile(r"\s*https?://", re.IGNORECASE)


def _separated(opened: Opener, separator: str) -> Iterator[Batch]:
    lines = _lines(opened)
    first = next((line for line in _filled(lines) if not isinstance(line, MalformedRow)), None)
    if first is None:
        return
    fields, _ = _Quoted(lambda: None, separator).record(first)
    fields = fields or first.value.split(separator)
    if any(_URL.match(value) for value in fields):  # CC3M and CC12M have no header
        names = _unnamed(fields)
        lines = chain([first], lines)
    else:
        names = _distinct(fields)
    rows = _records(lines, separator, len(names))
    yield from _Collector(
        lambda rows: {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    ).batches(rows)


def _unnamed(fields: Sequence[str]) -> list[str]:
    """Name the columns of a list without a header; of two, the one that is no URL is the caption."""
    place = next(place for place, value in enumerate(fields) if _URL.match(value))
    names = [f"column_{number}" for number in range(1, len(fields) + 1)]
    names[place] = "url"
    if len(fields) == 2:
        names[1 - place] = "caption"
    return names


def _distinct(fields: Sequence[str]) -> list[str]:
    names: list[str] = []
    for number, value in enumerate(fields, start=1):
        name = value.strip() or f"column_{number}"
        names.append(name if name not in names else f"{name}_{number}")
    return names


def _records(lines: Iterator[Row | MalformedRow], separator: str, width: int) -> Iterator[Row | MalformedRow]:
    """Yield rows of ``width`` fields. A quoted field may span lines; if that gives no row, the first stands alone."""
    ahead: deque[Row | MalformedRow] = deque()  # lines read in search of a closing quote

    def following() -> Row | MalformedRow | None:
        return ahead.popleft() if ahead else next(lines, None)

    quoted = _Quoted(following, separator)
    while (item := following()) is not None:
        if isinstance(item, MalformedRow):
            yield item
            continue
        number, line, size = item
        if '"' in line:
            fields, taken = quoted.record(item)
            if len(fields) != width:  # so the quotes are part of the text
                ahead.extendleft(reversed(taken))
                fields = line.split(separator)
        elif line.strip():
            fields = line.split(separator)
        else:
            continue
        if len(fields) == width:
            yield Row(number, fields, size)
        else:
            yield MalformedRow(number, line[:2000], f"{len(fields)} fields, not {width}")


class _Quoted:
    """Feeds the csv module line by line, so that the lines it consumed are known and can be put back."""

    def __init__(self, following: Callable[[], Row | MalformedRow | None], separator: str) -> None:
        self._following = following
        self._first: Row | None = None
        self._taken: list[Row | MalformedRow] = []
        self._reader = csv.reader(self, delimiter=separator, strict=True)

    def record(self, first: Row) -> tuple[list[str], list[Row | MalformedRow]]:
        """Return the fields of the record that ``first`` begins, none if malformed, and the further lines consumed."""
        self._first, self._taken = first, []
        try:
            return next(self._reader), self._taken
        except csv.Error:
            return [], self._taken

    def __iter__(self) -> _Quoted:
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


# --- JSON -------------------------------------------------------------------------------------------------------------


def _objects(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _jsonl(opened: Opener) -> Iterator[Batch]:
    return _Collector(_objects).batches(
        line if isinstance(line, MalformedRow) else _object(line) for line in _filled(_lines(opened))
    )


def _object(line: Row) -> Row | MalformedRow:
    try:
        return _checked(line.number, json.loads(line.value), line.value)
    except (ValueError, RecursionError) as error:
        return MalformedRow(line.number, line.value[:2000], f"not JSON: {error}")


def _checked(number: int, value: object, text: str) -> Row | MalformedRow:
    if not isinstance(value, dict):
        return MalformedRow(number, text[:2000], f"not an object but {type(value).__name__}")
    if "\\ud" in text.lower():  # half a surrogate pair is valid in JSON only
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return MalformedRow(number, text[:2000], "half a surrogate pair")
    return Row(number, value, len(text))


def _json(opened: Opener) -> Iterator[Batch]:
    """Read a list of objects; or objects line by line, a jsonl misnamed; or one object of columns, as SBU's."""
    with opened() as source:
        head = source.read(64 << 10).decode("utf-8-sig", "ignore").lstrip()[:1]
    if head == "[":
        yield from _Collector(_objects).batches(_array(opened))
    elif head == "{":
        yield from _columns(opened)
    elif head:
        raise DataError("not a list", expected="a JSON list of objects", found=repr(head))


def _array(opened: Opener) -> Iterator[Row | MalformedRow]:
    decoder, number = json.JSONDecoder(), 0
    with opened() as source, io.TextIOWrapper(source, "utf-8-sig") as text:
        buffer = text.read(_CHUNK)
        place = buffer.index("[") + 1
        while True:
            place = _GAP.match(buffer, place).end()  # type: ignore[union-attr]
            if buffer.startswith("]", place):
                return
            try:
                value, end = decoder.raw_decode(buffer, place)
            except (ValueError, RecursionError):
                end = len(buffer)
            if end == len(buffer):  # the value may continue in the next chunk
                more = text.read(_CHUNK) if end - place <= MAX_LINE else ""
                if not more:
                    found = repr(buffer[place : place + 80])
                    raise DataError(f"row {number + 1} is not JSON, or the list is truncated", found=found)
                buffer, place = buffer[place:] + more, 0
                continue
            number += 1
            yield _checked(number, value, buffer[place:end])
            place = end


_GAP = re.compile(r"[\s,]*")


def _columns(opened: Opener) -> Iterator[Batch]:
    with opened() as source:
        text = source.readline(MAX_DOCUMENT)
        whole = _is_json(text)
        more = source.read(_CHUNK).strip() if whole else b""
        if not whole:
            text += source.read(MAX_DOCUMENT - len(text))
    if more:
        yield from _jsonl(opened)
        return
    try:
        document = json.loads(text)
        columns = {name: _column(values) for name, values in document.items()}
        if len({len(values) for values in columns.values()}) > 1:
            raise ValueError("columns of different lengths")
    except (ValueError, RecursionError) as error:
        found = f"{MAX_DOCUMENT} bytes and more" if len(text) == MAX_DOCUMENT else str(error)
        raise DataError("not a list", expected="a JSON list of objects", found=found) from None
    count = len(next(iter(columns.values()), []))
    for start in range(0, count, BATCH_ROWS):
        end = min(count, start + BATCH_ROWS)
        yield Batch({name: values[start:end] for name, values in columns.items()}, range(start + 1, end + 1))


def _column(values: object) -> list[Any]:
    if isinstance(values, dict):  # pandas writes {"0": ..., "1": ...}
        return list(values.values())
    return values if isinstance(values, list) else [values]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet(opened: Opener, groups: Sequence[int] | None, first: int) -> Iterator[Batch]:
    with opened() as source, pq.ParquetFile(source) as file:
        chosen = list(range(file.num_row_groups)) if groups is None else list(groups)
        for batch in file.iter_batches(BATCH_ROWS, row_groups=chosen):
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            yield Batch(columns, range(first, first + batch.num_rows))
            first += batch.num_rows
