"""The ``npy`` of a sample: its classes, where an image has several, or numbers by which images are grouped."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import DataError

__all__ = ["classes_shown", "whole_numbers"]


def classes_shown(data: bytes, key: str, classes: int) -> tuple[int, ...]:
    """The classes of sample ``key``, in rising order, from an array of zeros and ones, one for each of the set's.

    Raises DataError for any other array.
    """
    array = _read(data, key)
    if array.shape != (classes,) or not np.isin(array, (0, 1)).all():
        raise DataError(
            f"sample {key!r} has no valid labels",
            expected=f"npy holding {classes} zeros and ones, one for each class",
            found=f"an array of shape {array.shape} and type {array.dtype}",
        )
    return tuple(np.flatnonzero(array).tolist())


def whole_numbers(data: bytes, key: str) -> list[Any] | None:
    """The array of sample ``key`` as a list; None if not all its numbers are whole ones, as those that name groups."""
    array = np.atleast_1d(_read(data, key))
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.round(array)).all():
        array = array.astype(np.int64)
    return array.tolist() if array.dtype.kind in "biu" else None


def _read(data: bytes, key: str) -> NDArray[Any]:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"the npy of sample {key!r} cannot be read", found=str(error)) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"the npy of sample {key!r} is no array", found=type(array).__name__)
    return array
