"""Find the pairs of many 64-bit hashes that differ in a few bits, without comparing all with all.

The 64 bits are cut into ``distance + agreeing`` blocks. Two hashes that differ in at most ``distance`` bits agree in at
least ``agreeing`` whole blocks, by the pigeonhole principle; so it is enough to compare those that agree in some choice
of that many blocks. A hash is sent to the exchange once for each of its first ``distance + 1`` blocks, since of the
blocks that agree the first is one of these. The choices of the others are made in memory, among the hashes that share
this one: 10M hashes within 6 bits are 70M rows of the exchange, and for each of 84 choices one comparison in four.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import ceil, comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.arrays import begins_run

__all__ = ["Blocks", "Found", "candidates"]

Array = NDArray[Any]

_DIGIT = 16  # bits
_SORT, _REST, _COMPARE = 16.0, 30.0, 5.0  # ns per hash and choice: for each 16 bits, and else; and per comparison


@dataclass(frozen=True)
class Blocks:
    """The blocks of a search within ``distance`` bits."""

    distance: int
    agreeing: int

    @classmethod
    def of(cls, distance: int, hashes: int) -> Blocks:
        """Those that cost least for so many hashes: more choices of finer blocks, the more hashes there are."""

        def cost(agreeing: int) -> float:
            compared = hashes * 2.0 ** (-64 * agreeing / (distance + agreeing)) / 2
            digits = ceil(64 * (agreeing - 1) / (distance + agreeing) / _DIGIT)
            return float(comb(distance + agreeing, agreeing) * (_SORT * digits + _REST + _COMPARE * compared))

        fewest = max(1, 3 - distance)  # so that no block has more bits than a bucket's name
        return cls(distance, min(range(fewest, 9), key=cost))

    @property
    def count(self) -> int:
        return self.distance + self.agreeing

    @property
    def sent(self) -> range:
        """The blocks by which a hash is sent to the exchange."""
        return range(self.distance + 1)

    def values(self, hashes: Array, block: int) -> Array:
        """The bits of a block: (n,) uint64."""
        low = 64 * block // self.count
        return (hashes >> np.uint64(low)) & np.uint64(2 ** self.width(block) - 1)

    def width(self, block: int) -> int:
        return 64 * (block + 1) // self.count - 64 * block // self.count


@dataclass
class Found:
    """Pairs of positions ``first < second``, and what was left out for the size of its bucket."""

    first: Array
    second: Array
    oversized: int = 0  # buckets
    largest: int = 0  # bucket


def candidates(hashes: Array, blocks: Blocks, block: int, most: int) -> Found:
    """All pairs within the distance among ``hashes``, (n,) uint64, that agree in ``block`` and in no lower one of their
    agreeing blocks, so that each pair is found in one place only.

    A hash is compared with the first ``most`` of those with which it shares a bucket; ``hashes`` come in order of
    preference.
    """
    found = Found(np.empty(0, np.int64), np.empty(0, np.int64))
    first, second = [found.first], [found.second]
    values = [blocks.values(hashes, number) for number in range(blocks.count)]
    for others in combinations(range(block + 1, blocks.count), blocks.agreeing - 1):
        chosen = (block, *others)
        order, starts, places = _buckets(hashes, values, blocks, others)
        found.largest = max(found.largest, int(places.max(initial=-1)) + 1)
        found.oversized += int(np.count_nonzero(places == most))
        ordered = hashes[order]
        one, other = _within(ordered, starts, places, blocks.distance, most)
        differing = ordered[one] ^ ordered[other]
        agrees = np.zeros(len(one), bool)
        for number in set(range(chosen[-1])) - set(chosen):
            agrees |= blocks.values(differing, number) == 0
        first.append(order[one[~agrees]])
        second.append(order[other[~agrees]])
    found.first, found.second = np.concatenate(first), np.concatenate(second)
    return found


def _buckets(hashes: Array, values: list[Array], blocks: Blocks, others: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Positions of the hashes bucket by bucket; for each where its bucket starts among these, and its place there."""
    bits = 0
    keys = np.zeros(len(hashes), np.uint64)
    for number in others:
        keys = (keys << np.uint64(blocks.width(number))) | values[number]
        bits += blocks.width(number)
    # numpy sorts 16 bits by radix: all of them digit by digit take a third of the time of a sort of 64 bits.
    digits = [(keys >> np.uint64(low)).astype(np.uint16) for low in range(0, max(bits, 1), _DIGIT)]
    order = np.lexsort(digits)
    keys = keys[order]
    begins = np.flatnonzero(begins_run(keys))
    starts = np.repeat(begins, np.diff(np.r_[begins, len(keys)]))
    return order, starts, np.arange(len(keys)) - starts


def _within(hashes: Array, starts: Array, places: Array, distance: int, most: int) -> tuple[Array, Array]:
    """Pairs of hashes of one bucket, the first of which is among its first ``most``."""
    none = np.empty(0, np.int64)
    first, second = [none], [none]
    left = np.arange(len(hashes))
    for rank in range(most):
        left = left[places[left] > rank]
        if not len(left):
            break
        others = starts[left] + rank
        near = np.bitwise_count(hashes[left] ^ hashes[others]) <= distance
        first.append(others[near])
        second.append(left[near])
    return np.concatenate(first), np.concatenate(second)
