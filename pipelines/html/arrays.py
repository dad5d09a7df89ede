"""Texts of thousands of images as Arrow arrays: kernels in C++ tell which need work, and Python does it for these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Array", "matches", "patched", "strings", "true"]

Array = np.ndarray[Any, np.dtype[Any]]


def strings(values: Iterable[str | None]) -> pa.StringArray:
    """Return texts as an array. A lone surrogate, which JSON may hold, becomes U+FFFD as in browsers."""
    values = values if isinstance(values, list) else list(values)
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array([None if value is None else _without_surrogates(value) for value in values], pa.string())


def _without_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def matches(texts: pa.StringArray, expression: str) -> pa.BooleanArray:
    """Return, for each text, whether the expression (of RE2) is found in it; null for null."""
    return pc.match_substring_regex(texts, expression)


def patched(texts: pa.StringArray, where: pa.BooleanArray, function: Callable[[str], str | None]) -> pa.StringArray:
    """Return ``texts`` with ``function`` of each where the mask ``where`` is true."""
    where = pc.fill_null(where, False)
    if not where.true_count:
        return texts
    return pc.replace_with_mask(texts, where, strings(map(function, texts.filter(where).to_pylist())))


def true(mask: pa.BooleanArray) -> Array:
    """Return a mask for numpy; null counts as false."""
    return np.asarray(pc.fill_null(mask, False))
