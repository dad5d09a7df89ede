"""Search for many 64-bit keys among others that differ from them in a few bits. Exact.

The bits are cut into ``distance + 2`` blocks, of which two keys within the distance agree in two, by the pigeonhole
principle. For each pair of blocks the keys are in order of these blocks' bits, at most 16 of them, so that the bits of
an asked key name a range of them; only that is compared, and all asked keys at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.arrays import ranges
from pipelines.curate.dedup.candidates import Blocks

__all__ = ["Neighbours"]

Array = NDArray[Any]

_VALUES = 1 << 16
_COMPARED = 1 << 20  # keys at once


class Neighbours:
    """``keys``, (n,) uint64, in order of each pair of blocks: 4 n bytes a pair, of which there are 28 for 6 bits."""

    def __init__(self, keys: Array, distance: int) -> None:
        self._keys, self._distance = keys, distance
        self._blocks = Blocks(distance, 2)
        self._tables = []
        for pair in combinations(range(self._blocks.count), 2):
            values = self._values(keys, pair)
            order = np.argsort(values, kind="stable").astype(np.uint32)
            sizes = np.bincount(values, minlength=_VALUES)
            self._tables.append((pair, order, np.cumsum(sizes) - sizes, sizes))

    def within(self, asked: Array) -> tuple[Array, Array, Array]:
        """All pairs of an asked key and a key within the distance: places of both, and bits. Some come twice."""
        found = [np.empty((3, 0), np.int64)]
        for pair, order, starts, sizes in self._tables if len(asked) else ():
            values = self._values(asked, pair)
            for some in _lots(sizes[values]):
                places = order[ranges(starts[values[some]], sizes[values[some]])].astype(np.int64)
                of = np.repeat(np.arange(some.start, some.stop), sizes[values[some]])
                bits = np.bitwise_count(self._keys[places] ^ asked[of])
                near = bits <= self._distance
                found.append(np.stack([of[near], places[near], bits[near].astype(np.int64)]))
        first, second, bits = np.concatenate(found, axis=1)
        return first, second, bits

    def _values(self, keys: Array, pair: tuple[int, int]) -> Array:
        """The bits of a pair of blocks, at most 16 of them: (n,) uint16."""
        one, other = (self._blocks.values(keys, block) for block in pair)
        return ((one << np.uint64(self._blocks.width(pair[1]))) | other).astype(np.uint16)


def _lots(sizes: Array) -> Iterator[slice]:
    """Cut asked keys into runs that are compared with about ``_COMPARED`` keys each; one alone with more."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _COMPARED, "right")))
        yield slice(start, stop)
        start = stop
