"""Index arithmetic on numpy arrays that several packages need."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["begins_run", "ranges"]

Array = NDArray[Any]


def begins_run(*columns: Array) -> Array:
    """True for each row that differs from the row before it in any of the columns, and for the first: (n,) bool."""
    first, *others = columns
    changes = first[1:] != first[:-1]
    for column in others:
        changes = changes | (column[1:] != column[:-1])
    begins: Array = np.r_[True, changes][: len(first)]
    return begins


def ranges(starts: Array, sizes: Array) -> Array:
    """The integers from each of ``starts`` on, as many as its size, one range after the other: (sum(sizes),) int64."""
    places: Array = np.arange(sizes.sum()) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    return places
