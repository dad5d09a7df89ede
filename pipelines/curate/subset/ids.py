"""DataComp's subsets: 128-bit ids, each the first and the last 16 hex digits of a ``uid`` as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import DataError
from infra.store import Store

__all__ = ["DTYPE", "UID", "packed", "read_header", "read_some"]

DTYPE = np.dtype("<u8,<u8")
UID = "[0-9a-f]{32}"


def read_header(store: Store, path: str) -> tuple[int, int]:
    """Offset of the ids in a file of numpy's, in bytes, and their number. Raises DataError if it holds none."""
    with store.open(path) as source:
        try:
            major, _ = np.lib.format.read_magic(source)
            read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(source)
        except ValueError as error:
            raise DataError(f"{store.locate(path)} is no subset", expected="a .npy file", found=str(error)) from error
        if len(shape) != 1 or [field[1] for field in dtype.descr] != ["<u8", "<u8"]:
            expected = "numpy.uint64 pairs, dtype u8,u8"
            raise DataError(f"{store.locate(path)} is no subset", expected=expected, found=str(dtype))
        return source.tell(), shape[0]


def read_some(store: Store, path: str, start: int, stop: int) -> NDArray[Any]:
    """The ids in the bytes from ``start`` to ``stop`` of a file of numpy's: (n, 2) uint64."""
    (data,) = store.read_ranges([(path, start, stop)])
    if len(data) != stop - start:
        raise DataError(f"{store.locate(path)} is cut off", expected=f"{stop} bytes", found=f"{start + len(data)}")
    return np.frombuffer(data, "<u8").reshape(-1, 2)


def packed(halves: NDArray[Any]) -> NDArray[Any]:
    """Ids as 16 bytes each, in whose order they are: (n,) S16 of (n, 2) uint64."""
    found: NDArray[Any] = np.ascontiguousarray(halves.astype(">u8")).view("S16").ravel()
    return found
