"""Numbers of the rows of a selection, and their homes: the tasks of the exchange that know their shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["Homes", "column_at_home", "part_of", "places_of", "row_numbers", "split_row"]

_ROWS = 1 << 32  # in a shard, at most


@dataclass(frozen=True)
class Homes:
    """Neighbouring shards, some hundred thousand rows of them, are one home. Small; pickles."""

    first: tuple[int, ...]  # shard of each

    @property
    def count(self) -> int:
        return len(self.first)

    def of(self, rows: pa.ChunkedArray | pa.Array) -> NDArray[Any]:
        """The home of each row: (n,) int64."""
        homes: NDArray[Any] = np.searchsorted(np.array(self.first), rows.to_numpy() // _ROWS, side="right") - 1
        return homes

    @classmethod
    def lots(cls, shards: Iterable[tuple[int, str, int]], rows: int) -> tuple[Homes, list[list[tuple[int, str]]]]:
        """Divide (number, path, rows) of shards into homes of about ``rows`` rows; these, and the shards of each."""
        lots: list[list[tuple[int, str]]] = []
        room = 0
        for number, path, count in sorted(shards):
            if room <= 0:
                lots.append([])
                room = rows
            lots[-1].append((number, path))
            room -= count
        return cls(tuple(lot[0][0] for lot in lots)), lots


def row_numbers(shard: int, count: int) -> NDArray[Any]:
    """The numbers of a shard's rows, in order: (count,) int64."""
    return shard * _ROWS + np.arange(count)


def places_of(rows: NDArray[Any], shard: int) -> slice:
    """Return the slice of ``rows``, numbers in order, that are of a shard."""
    low, high = np.searchsorted(rows, [shard * _ROWS, (shard + 1) * _ROWS]).tolist()
    return slice(low, high)


def split_row(row: int) -> tuple[int, int]:
    """Shard of a row, and its place there."""
    return divmod(row, _ROWS)


def column_at_home(
    shards: Iterable[tuple[int, str]], rows: NDArray[Any], read: Callable[[int, str], pa.Array], type: pa.DataType
) -> pa.Array:
    """The values of ``rows``, of the home of ``shards``, which come in order: (n,) of ``type``.

    ``read`` gives the column of a shard, by number and path; one with such a row is read at a time.
    """
    found = [pa.array([], type)]
    for shard, path in shards:
        own = rows[places_of(rows, shard)]
        if len(own):
            found.append(read(shard, path).cast(type).take(pa.array(own - shard * _ROWS)))
    return pa.concat_arrays(found)


def part_of(keys: pa.ChunkedArray | pa.Array | NDArray[Any], parts: int) -> NDArray[Any]:
    """One of ``parts`` for each integer, evenly: (n,) int64."""
    values = keys if isinstance(keys, np.ndarray) else keys.to_numpy()
    mixed = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed >> np.uint64(32)) % np.uint64(parts)).astype(np.int64)
