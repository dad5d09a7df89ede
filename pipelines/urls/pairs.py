"""Rows of a list as pairs of URL and caption, or as dropped rows with a reason."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from types import NoneType
from typing import Any, NamedTuple

import pyarrow as pa
from ftfy.fixes import unescape_html

from infra.errors import DataError
from infra.schema import Drop
from pipelines.tables import uid, without_secrets
from pipelines.urls.column_types import cast, final, plain, text_of
from pipelines.urls.lines import Batch
from pipelines.urls.plan import UID, Columns, Plan
from pipelines.web.urls import BadUrlError, canonical

__all__ = ["pairs_of"]

_DROPPED = pa.schema(
    [
        *(("file", pa.string()), ("row", pa.int64()), ("url", pa.string())),
        *(("reason", pa.string()), ("detail", pa.string()), ("text", pa.string())),
    ]
)


def pairs_of(batch: Batch, plan: Plan, columns: Columns, file: str) -> tuple[pa.Table, pa.Table]:
    """Split a batch into pairs and dropped rows; a row with a list of URLs or captions becomes as many pairs.

    Dropped rows have ``file``, ``row`` (its number), ``url``, ``reason``, ``detail`` and ``text``: the row as JSON, or
    up to 2,000 characters of a malformed line.
    """
    count = len(batch.numbers)
    others = {name: _cast(batch, source, columns, plan.schema.field(name).type, file)
              for name, source in plan.others.items()}  # fmt: skip
    listed = _pairs(_values(batch, columns.url), _values(batch, columns.caption))
    given = others.pop("uid").to_pylist() if "uid" in plan.others else [None] * count
    uids: list[str] = []
    faults: list[tuple[Drop, str] | None] = []
    for url, caption, place, fault in zip(*listed, strict=True):
        found, name = ((Drop.MALFORMED, fault), "") if fault else _check(url, caption, given[place], plan)
        faults.append(found)
        uids.append(name)
    own = {"uid": uids, "url": listed.urls, "caption": listed.captions}
    found_columns: dict[str, Any] = {name: pa.array(values, pa.string()) for name, values in own.items()}
    places = None if listed.places == range(count) else pa.array(listed.places, pa.int64())
    found_columns |= {name: values if places is None else values.take(places) for name, values in others.items()}
    absent = {name: pa.nulls(len(uids), plan.schema.field(name).type)
              for name in plan.schema.names if name not in found_columns}  # fmt: skip
    every = pa.table([(found_columns | absent)[name] for name in plan.schema.names], schema=plan.schema)
    bad = [number for number, fault in enumerate(faults) if fault]
    kept = every.filter(pa.array([fault is None for fault in faults], pa.bool_())) if bad else every
    lost: list[tuple[int, str | None, Drop, str, str]] = [
        (batch.numbers[listed.places[number]], listed.urls[number], *why, _row(batch, listed.places[number]))
        for number in bad
        if (why := faults[number])
    ]
    lost += [(item.number, None, Drop.MALFORMED, item.detail, item.text) for item in batch.bad]
    lost.sort(key=lambda row: row[0])
    rows = [dict(zip(_DROPPED.names, (file, *row), strict=True)) for row in lost]
    dropped = pa.Table.from_pylist(rows, _DROPPED)
    # Of a kept row the address stays as it is, since it is what will be fetched.
    return without_secrets(kept, ("page_url", "license")), without_secrets(dropped, ("url", "text"))


def _check(url: str, caption: str | None, own: str | None, plan: Plan) -> tuple[tuple[Drop, str] | None, str]:
    """Return why a row is no pair, or None, and its id: the list's, or else that of the same pair in a crawl."""
    if not url:
        return (Drop.BAD_URL, "no URL"), ""
    try:
        url = canonical(url)
    except BadUrlError as error:
        return (Drop.BAD_URL, str(error)), ""
    if plan.captions and not (caption or "").strip():
        return (Drop.NO_TEXT, "no caption"), ""
    if "uid" in plan.others:
        own = own or ""
        return (None if UID.fullmatch(own) else (Drop.MALFORMED, "uid is not 32 hex digits")), own
    return None, uid(url, caption or "")


# --- URLs and captions ------------------------------------------------------------------------------------------------


class _Pairs(NamedTuple):
    """Pairs by column. ``places``: of the row each is from; ``faults``: why it is none, or an empty string."""

    urls: list[str]
    captions: list[str | None]
    places: Sequence[int]
    faults: list[str]


def _values(batch: Batch, name: str | None) -> list[Any]:
    """Return the Python values of a column; those that are not UTF-8 as bytes."""
    values = batch.columns.get(name) if name else None
    if values is None:
        return [None] * len(batch.numbers)
    if not isinstance(values, pa.Array):
        return list(values)
    try:
        found: list[Any] = values.to_pylist()
    except UnicodeDecodeError:
        found = values.cast(pa.binary()).to_pylist()
    return found


def _pairs(urls: list[Any], captions: list[Any]) -> _Pairs:
    if set(map(type, urls)) | set(map(type, captions)) <= {str, NoneType}:  # nearly always
        together = "\n".join(("", *filter(None, urls), *filter(None, captions)))
        if not any(f"\n{start}" in together for start in _LIST_STARTS):
            texts = [_caption(text) for text in captions] if "&" in together else captions
            return _Pairs([(url or "").strip() for url in urls], texts, range(len(urls)), [""] * len(urls))
    found = _Pairs([], [], places := [], [])
    for place, (url, caption) in enumerate(zip(urls, captions, strict=True)):
        try:
            pairs, fault = _several(_items(url, "URL"), _items(caption, "caption")), ""
        except DataError as error:
            pairs, fault = [(url if isinstance(url, str) else "", None)], error.message
        for one, text in pairs:
            found.urls.append((one or "").strip())
            found.captions.append(_caption(text))
            found.faults.append(fault)
            places.append(place)
    return found


def _caption(value: str | None) -> str | None:
    return unescape_html(value) if value and "&" in value else value  # as in captions of pages


_LIST_STARTS = ('["', "['")


def _items(value: object, what: str) -> list[str | None]:
    """Return the URLs or captions that a value holds. Raises DataError for a structure or what is not text."""
    if type(value) is str and value[:2] in _LIST_STARTS:
        value = _list_in(value)
    values = value if isinstance(value, list) else [value]
    return [_item(item, what) for item in values] or [None]


def _list_in(text: str) -> object:
    """Return the texts of a list that csv holds as JSON, or as Python shows it; ``text`` itself if it is none."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and all(isinstance(item, str) for item in found):
            return found
    return text


def _item(value: object, what: str) -> str | None:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"the {what} is not UTF-8: {error.reason}") from None
    if isinstance(value, list | dict | tuple):
        raise DataError(f"the {what} is a structure")
    return value if value is None or isinstance(value, str) else text_of(value)


def _several(urls: list[str | None], captions: list[str | None]) -> list[tuple[str | None, str | None]]:
    """Pair the URLs and captions of a row. Raises DataError if it is unclear which belong together."""
    if len(urls) == len(captions):
        return list(zip(urls, captions, strict=True))
    if len(urls) > 1 and len(captions) > 1:
        raise DataError(f"{len(urls)} URLs and {len(captions)} captions")
    return [(url, caption) for url in urls for caption in captions]


# --- further columns --------------------------------------------------------------------------------------------------


def _cast(batch: Batch, name: str, columns: Columns, type: pa.DataType, file: str) -> pa.Array:
    """Return a column as an array of ``type``. Raises DataError naming file, column and row."""
    count = len(batch.numbers)
    values: Any = None if name in (columns.url, columns.caption) else batch.columns.get(name)
    try:
        return cast(values, type, count)
    except (pa.ArrowException, OverflowError, DataError):
        for place, number in enumerate(batch.numbers):
            try:
                cast(values[place : place + 1], type, 1)
            except DataError as error:
                raise DataError(
                    f"{file}: column {name!r} of row {number}: {error.message}", found=error.found
                ) from None
        raise


def _row(batch: Batch, place: int) -> str:
    """Return a row of the list as JSON."""
    values = {
        name: cast(column[place : place + 1], final(plain(column.type)), 1)[0].as_py()
        if isinstance(column, pa.Array)
        else column[place]
        for name, column in batch.columns.items()
    }
    return text_of(values)
