"""Rows of JSON: objects line by line, a list of objects, or one object of columns."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from infra.errors import DataError
from pipelines.urls.lines import BATCH_ROWS, MAX_LINE, Batch, Collector, MalformedRow, Opener, Row, filled, lines

__all__ = ["json_batches", "jsonl_batches"]

MAX_DOCUMENT = 1 << 30  # bytes of a JSON document that cannot be streamed, such as SBU's columns
_CHUNK = 1 << 20
_GAP = re.compile(r"[\s,]*")


def _float(text: str) -> float | str:
    """Return a number, or its text if it has more digits than a float holds."""
    return float(text) if len(text) <= 16 or Decimal(repr(float(text))) == Decimal(text) else text


_DECODER = json.JSONDecoder(parse_float=_float)


def jsonl_batches(opened: Opener) -> Iterator[Batch]:
    """Read an object per line."""
    counts = Counter[str]()
    return Collector(_objects, counts).batches(
        line if isinstance(line, MalformedRow) else _object(line) for line in filled(lines(opened), counts)
    )


def _objects(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _object(line: Row) -> Row | MalformedRow:
    try:
        return _checked(line.number, _DECODER.decode(line.value), line.value)
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


def json_batches(opened: Opener) -> Iterator[Batch]:
    """Read a list of objects; or objects line by line, a jsonl misnamed; or one object of columns, as SBU's."""
    with opened() as source:
        head = source.read(64 << 10).decode("utf-8-sig", "ignore").lstrip()[:1]
    if head == "[":
        yield from Collector(_objects, Counter()).batches(_array(opened))
    elif head == "{":
        yield from _columns(opened)
    elif head:
        raise DataError("not a list", expected="a JSON list of objects", found=repr(head))


def _array(opened: Opener) -> Iterator[Row | MalformedRow]:
    number = 0
    with opened() as source, io.TextIOWrapper(source, "utf-8-sig") as text:
        buffer = text.read(_CHUNK)
        place = buffer.index("[") + 1
        while True:
            place = _GAP.match(buffer, place).end()  # type: ignore[union-attr]
            if buffer.startswith("]", place):
                return
            try:
                value, end = _DECODER.raw_decode(buffer, place)
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


def _columns(opened: Opener) -> Iterator[Batch]:
    with opened() as source:
        text = source.readline(MAX_DOCUMENT)
        whole = _is_json(text)
        more = source.read(_CHUNK).strip() if whole else b""
        if not whole:
            text += source.read(MAX_DOCUMENT - len(text))
    if more:
        yield from jsonl_batches(opened)
        return
    try:
        document = _DECODER.decode(text.decode("utf-8-sig"))
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
