"""Types of a list's columns: found in its values, merged over its files, and cast to without losing a digit.

Numbers, booleans, texts and lists of them keep their types; all else becomes text, so that JSON and every reader of
Parquet can hold it. Where one file has integers and another one floats, the column is of floats only if no integer
would be rounded, else of text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from infra.errors import DataError

__all__ = ["EXACT", "Found", "cast", "final", "merged", "of_texts", "of_values", "plain", "text_of"]

EXACT = 1 << 53
"""Integers up to here are exact as a double."""

_NUMBER = r"^-?(?:0|[1-9]\d{0,18})(?:\.\d+)?(?:[eE][-+]?\d{1,2})?$"


class Found(NamedTuple):
    """A type; ``wide``: with integers beyond a double's precision."""

    type: pa.DataType = pa.null()
    wide: bool = False


def plain(type: pa.DataType) -> pa.DataType:
    """Return the type to keep a column in."""
    if pa.types.is_dictionary(type):
        return plain(type.value_type)
    if pa.types.is_float16(type):
        return pa.float32()
    if pa.types.is_boolean(type) or pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_null(type):
        return type
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
        inner = plain(type.value_type)
        changed = pa.types.is_string(inner) and not _is_text(type.value_type)
        return pa.string() if changed else pa.list_(inner)
    return pa.string()


def _is_text(type: pa.DataType) -> bool:
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type))


def merged(one: Found, other: Found) -> Found:
    """Return a type that holds the values of both exactly."""
    if pa.types.is_null(one.type) or one.type == other.type:
        return Found(other.type, one.wide or other.wide)
    if pa.types.is_null(other.type):
        return one
    if pa.types.is_list(one.type) and pa.types.is_list(other.type):
        inner = merged(Found(one.type.value_type, one.wide), Found(other.type.value_type, other.wide))
        return Found(pa.list_(inner.type), inner.wide)
    return Found(_number(one, other) or pa.string())._replace(wide=one.wide or other.wide)


def _number(one: Found, other: Found) -> pa.DataType | None:
    """Return the type of numbers of two types, None if there is none."""
    types, wide = (one.type, other.type), one.wide or other.wide
    if not all(pa.types.is_integer(type) or pa.types.is_floating(type) for type in types):
        return None
    if any(map(pa.types.is_floating, types)):
        return None if wide else pa.float64()
    if pa.uint64() in types and not all(map(pa.types.is_unsigned_integer, types)):
        return None if wide else pa.int64()
    same = len({pa.types.is_signed_integer(type) for type in types}) == 1
    return max(types, key=lambda type: type.bit_width) if same else pa.int64()


def final(type: pa.DataType) -> pa.DataType:
    """Return ``type`` with string in place of null, the type of a column without any value."""
    if pa.types.is_list(type):
        return pa.list_(final(type.value_type))
    return pa.string() if pa.types.is_null(type) else type


# --- types of values --------------------------------------------------------------------------------------------------


def of_values(values: Sequence[Any]) -> Found:
    """Find the type of Python values, as JSON has them."""
    try:
        found = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # different types, or an integer that no double holds
        return Found(pa.string())
    return Found(plain(found.type), _is_wide(found))


def _is_wide(values: pa.Array) -> bool:
    while pa.types.is_list(values.type):
        values = values.flatten()
    if not pa.types.is_integer(values.type):
        return False
    bounds = pc.min_max(values).as_py()
    return any(bound is not None and abs(bound) > EXACT for bound in bounds.values())


def of_texts(values: Sequence[str]) -> Found:
    """Find the type of values given as text. ``007`` is not a number: it would come back as 7."""
    texts = pa.array(values, pa.string())
    texts = texts.filter(pc.not_equal(texts, ""))
    if not len(texts):
        return Found()
    if not pc.all(pc.match_substring_regex(texts, _NUMBER)).as_py():
        return Found(pa.string())
    try:
        numbers = texts.cast(pa.int64())
        return Found(numbers.type, _is_wide(numbers))
    except pa.ArrowInvalid:
        return Found(pa.float64() if _is_exact(texts) else pa.string())


def _is_exact(texts: pa.Array) -> bool:
    """Return True if numbers given as text have no more digits than a double holds; any has 15."""
    long = texts.filter(pc.greater(pc.utf8_length(texts), 15))
    back = long.cast(pa.float64()).cast(pa.string())
    return all(
        Decimal(repr(float(text))) == Decimal(text) for text in long.filter(pc.not_equal(long, back)).to_pylist()
    )


# --- values of a type -------------------------------------------------------------------------------------------------


def cast(values: Any, type: pa.DataType, count: int) -> pa.Array:  # noqa: ANN401 - a list or an Arrow array
    """Return ``count`` values as an array of ``type``, which by the survey holds them all.

    Raises DataError, naming the value, if it does not.
    """
    try:
        if isinstance(values, pa.Array):
            return _cast_array(values, type)
        if pa.types.is_string(type):
            return pa.array([value if value is None else text_of(value) for value in values], type)
        if any(isinstance(value, str) for value in values):  # of a csv
            texts = pa.array(values, pa.string())
            return pc.if_else(pc.equal(texts, ""), None, texts).cast(type)
        return pa.array(values, type)
    except (pa.ArrowException, OverflowError) as error:
        if count == 1:
            raise DataError(f"{str(values[0])[:100]!r} is no {type}", found=str(error)) from error
        raise


def _cast_array(values: pa.Array, type: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if _holds_text(values.type) and not _is_valid(values):
        values = values.cast(_as_bytes(values.type))
    if not _holds_bytes(values.type) and not (pa.types.is_string(type) and pa.types.is_nested(values.type)):
        return values.cast(type)
    if pa.types.is_nested(values.type):
        values = values.cast(_readable(values.type))
    if pa.types.is_list(type):
        return pa.array([_decoded(row) for row in values.to_pylist()], type)
    fixed = pa.types.is_fixed_size_binary(values.type)
    return pa.array(
        [value if value is None else value.hex() if fixed else text_of(value) for value in values.to_pylist()], type
    )


def _decoded(value: Any) -> Any:  # noqa: ANN401 - lists of bytes, as deep as they are
    return [_decoded(item) for item in value] if isinstance(value, list) else value and text_of(value)


def _is_valid(values: pa.Array) -> bool:
    """Return True if texts are UTF-8, which Parquet promises and not every writer keeps."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _children(type: pa.DataType) -> list[pa.Field]:
    return [type.field(place) for place in range(type.num_fields)]


def _holds_text(type: pa.DataType) -> bool:
    return _is_text(type) or any(_holds_text(child.type) for child in _children(type))


def _holds_bytes(type: pa.DataType) -> bool:
    binary = pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_fixed_size_binary(type)
    return binary or any(_holds_bytes(child.type) for child in _children(type))


def _as_bytes(type: pa.DataType) -> pa.DataType:
    """Return ``type`` with bytes in place of texts."""
    return _replaced(type, lambda leaf: pa.binary() if _is_text(leaf) else leaf)


def _readable(type: pa.DataType) -> pa.DataType:
    """Return ``type`` with text in place of times and decimals, of which Python's own hold fewer."""

    def leaf(type: pa.DataType) -> pa.DataType:
        return pa.string() if pa.types.is_temporal(type) or pa.types.is_decimal(type) else type

    return _replaced(type, leaf)


def _replaced(type: pa.DataType, leaf: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    children = [child.with_type(_replaced(child.type, leaf)) for child in _children(type)]
    if pa.types.is_struct(type):
        return pa.struct(children)
    if pa.types.is_map(type):
        return pa.map_(*children[0].type)
    if pa.types.is_nested(type):
        return pa.list_(children[0])
    return leaf(type)


def text_of(value: object) -> str:
    """Return a value as text: bytes decoded or else hexadecimal, structures as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()  # many writers of Parquet do not mark texts as such
        except UnicodeDecodeError:
            return value.hex()
    return json.dumps(
        value, ensure_ascii=False, default=lambda part: text_of(part) if isinstance(part, bytes) else str(part)
    )
