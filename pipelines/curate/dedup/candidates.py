"""Find the pairs of many 64-bit hashes that differ in a few bits, without comparing all with all.

The 64 bits are cut into ``distance + agreeing`` blocks. Two hashes that differ in at most ``distance`` bits agree in at
least ``agreeing`` whole blocks, by the pigeonhole principle; so it is enough to compare those that agree in some choice
of that many blocks. A hash is sent to the exchange once for each of its first ``distance + 1`` blocks, since of the
blocks that agree the lowest is one of these. The choices of the others are made in memory, among the hashes that share
this one: 10M hashes within 6 bits are 70M rows of the exchange, and for each of 84 choices two comparisons.

For each choice the bits of its blocks are moved to the top and the hashes sorted as numbers, which numpy does several
times as fast as it sorts their positions; where each stood is looked up only for the few that are near another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks", "Found", "candidates"]

Array = NDArray[Any]

_PIECE = 2**15  # numbers
_SORT, _COMPARE = 40.0, 3.0  # ns of a hash for each choice, and for each hash it is compared with


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
            return float(comb(distance + agreeing, agreeing) * (_SORT + _COMPARE * compared))

        fewest = max(1, 3 - distance)  # so that no block has more bits than a bucket's name
        return cls(distance, min(range(fewest, 9), key=cost))

    @property
    def count(self) -> int:
        return self.distance + self.agreeing

    @property
    def sent(self) -> range:
        """The blocks by which a hash is sent to the exchange."""
        return range(self.distance + 1)

    def low(self, block: int) -> int:
        """The lowest bit of a block."""
        return 64 * block // self.count

    def values(self, hashes: Array, block: int) -> Array:
        """The bits of a block: (n,) uint64."""
        return (hashes >> np.uint64(self.low(block))) & np.uint64(2 ** self.width(block) - 1)

    def width(self, block: int) -> int:
        return self.low(block + 1) - self.low(block)


@dataclass
class Found:
    """Pairs of positions ``first < second``, and what was left out for the size of its bucket."""

    first: Array
    second: Array
    oversized: int = 0  # buckets
    largest: int = 0  # bucket


def candidates(hashes: Array, blocks: Blocks, lowest: int, most: int, order: Sequence[Array]) -> Found:
    """All pairs within the distance among ``hashes``, (n,) uint64, of whose agreeing blocks ``lowest`` is the lowest.

    In a bucket, all hashes that agree in one choice of blocks, each is compared with the first ``most``: by the columns
    of ``order``, each (n,), the last of which counts most, as in ``np.lexsort``, and then by themselves.
    """
    found = Found(np.empty(0, np.int64), np.empty(0, np.int64))
    first, second = [found.first], [found.second]
    lookup, everywhere = _Lookup.of(hashes), np.arange(len(hashes))
    for choice in _choices(_Choice((), (), hashes).and_block(lowest, blocks), blocks) if len(hashes) else []:
        choice.hashes = np.sort(choice.hashes)
        sizes = choice.sizes()
        found.largest = max(found.largest, int(sizes.max()))
        many = sizes > most
        few = np.flatnonzero(np.repeat(~many, sizes)) if many.any() else everywhere
        one, other = _near(choice, few, sizes[~many], blocks.distance)
        new = choice.found_first(choice.moved_back(choice.hashes[one] ^ choice.hashes[other]), blocks)
        first.append(lookup.positions(choice, one[new]))
        second.append(lookup.positions(choice, other[new]))
        if many.any():
            found.oversized += int(np.count_nonzero(many))
            positions = lookup.positions(choice, np.flatnonzero(np.repeat(many, sizes)))
            buckets = np.repeat(np.arange(np.count_nonzero(many)), sizes[many])
            keys = (hashes[positions], *(column[positions] for column in order), buckets)
            positions = positions[np.lexsort(keys)]
            one, other = _near_the_first(hashes[positions], sizes[many], blocks.distance, most)
            one, other = positions[one], positions[other]
            new = choice.found_first(hashes[one] ^ hashes[other], blocks)
            first.append(one[new])
            second.append(other[new])
    one, other = np.concatenate(first), np.concatenate(second)
    found.first, found.second = np.minimum(one, other), np.maximum(one, other)
    return found


@dataclass
class _Choice:
    """Blocks, and hashes whose bits in these are at the top."""

    blocks: tuple[int, ...]
    moves: tuple[tuple[int, int], ...]  # lowest bit and number of bits of each block, where it was when it was moved
    hashes: Array

    def and_block(self, number: int, blocks: Blocks) -> _Choice:
        """The choice of a higher block with these."""
        # The blocks moved before were below this one, and are above it now: it is so much lower.
        low, width = blocks.low(number) - sum(width for _, width in self.moves), blocks.width(number)
        return _Choice((*self.blocks, number), (*self.moves, (low, width)), _moved_up(self.hashes, low, width))

    @property
    def apart(self) -> np.uint64:
        """The most by which hashes of one bucket differ, as numbers."""
        return np.uint64(2 ** (64 - sum(width for _, width in self.moves)) - 1)

    def sizes(self) -> Array:
        """The sizes of the buckets, of sorted hashes: (buckets,)."""
        ends = np.flatnonzero((self.hashes[1:] ^ self.hashes[:-1]) > self.apart) + 1
        return np.diff(np.r_[0, ends, len(self.hashes)])

    def moved_back(self, values: Array) -> Array:
        """Hashes, or the bits in which some differ, as they were before they were moved."""
        for low, width in reversed(self.moves):
            below, above = values & np.uint64(2**low - 1), (values >> np.uint64(low)) << np.uint64(low + width)
            values = below | ((values >> np.uint64(64 - width)) << np.uint64(low)) | above
        return values

    def found_first(self, differing: Array, blocks: Blocks) -> Array:
        """Mask of the pairs whose lowest agreeing blocks are these: (n,). ``differing``: the bits that differ."""
        agrees = np.zeros(len(differing), bool)
        for number in set(range(self.blocks[-1])) - set(self.blocks):
            agrees |= blocks.values(differing, number) == 0
        return ~agrees


@dataclass
class _Lookup:
    """All hashes in order, and the position of each."""

    hashes: Array
    order: Array

    @classmethod
    def of(cls, hashes: Array) -> _Lookup:
        order = np.argsort(hashes)
        return cls(hashes[order], order)

    def positions(self, choice: _Choice, slots: Array) -> Array:
        """The positions of those in ``slots`` of the sorted hashes of ``choice``: (n,)."""
        values = choice.hashes[slots]
        among_equal = slots - np.searchsorted(choice.hashes, values)
        positions: Array = self.order[np.searchsorted(self.hashes, choice.moved_back(values)) + among_equal]
        return positions


def _choices(begun: _Choice, blocks: Blocks) -> Iterator[_Choice]:
    """Each choice of blocks that begins with those of ``begun``."""
    more = blocks.agreeing - len(begun.blocks)
    if not more:
        yield begun
        return
    for number in range(begun.blocks[-1] + 1, blocks.count - more + 1):
        yield from _choices(begun.and_block(number, blocks), blocks)


def _moved_up(hashes: Array, low: int, width: int) -> Array:
    """Move ``width`` bits from ``low`` on to the top, those above them down."""
    moved = np.empty_like(hashes)
    scratch = np.empty(_PIECE, np.uint64)
    for piece in _pieces(len(hashes)):
        source, target = hashes[piece], moved[piece]
        bits = scratch[: len(source)]
        np.right_shift(source, np.uint64(low), out=bits)
        np.left_shift(bits, np.uint64(64 - width), out=target)
        np.right_shift(bits, np.uint64(width), out=bits)
        np.left_shift(bits, np.uint64(low), out=bits)
        np.bitwise_or(target, bits, out=target)
        np.bitwise_and(source, np.uint64(2**low - 1), out=bits)
        np.bitwise_or(target, bits, out=target)
    return moved


def _near(choice: _Choice, slots: Array, sizes: Array, distance: int) -> tuple[Array, Array]:
    """Pairs of ``slots`` of one bucket within the distance; ``slots`` has whole buckets, of these ``sizes``.

    Each is compared with the one so many places behind it, all at once, as long as any bucket has as many; those of
    smaller buckets are left out once they are three quarters of all.
    """
    none = np.empty(0, np.int64)
    first, second = [none], [none]
    hashes, apart = choice.hashes if len(slots) == len(choice.hashes) else choice.hashes[slots], choice.apart
    by_size = np.bincount(sizes, minlength=1)
    larger = np.cumsum((by_size * np.arange(len(by_size)))[::-1])[::-1]  # slots in buckets of this size or more
    differing, bits = np.empty(_PIECE, np.uint64), np.empty(_PIECE, np.uint8)
    for step in range(1, len(larger) - 1):
        if 4 * larger[step + 1] <= len(slots):
            stays = sizes > step
            left = np.flatnonzero(np.repeat(stays, sizes))
            hashes, slots, sizes = hashes[left], slots[left], sizes[stays]
        for piece in _pieces(len(slots) - step):
            here, count = hashes[piece], piece.stop - piece.start
            np.bitwise_xor(here, hashes[piece.start + step : piece.stop + step], out=differing[:count])
            np.bitwise_count(differing[:count], out=bits[:count])
            near = np.flatnonzero(bits[:count] <= distance)
            near = near[differing[near] <= apart] + piece.start
            if len(near):
                first.append(slots[near])
                second.append(slots[near + step])
    return np.concatenate(first), np.concatenate(second)


def _near_the_first(hashes: Array, sizes: Array, distance: int, most: int) -> tuple[Array, Array]:
    """Pairs of places within the distance, in one of the buckets of these ``sizes``, whose first is among the first
    ``most`` there."""
    none = np.empty(0, np.int64)
    first, second = [none], [none]
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    left = np.arange(len(hashes))
    for rank in range(most):
        left = left[left - starts[left] > rank]
        others = starts[left] + rank
        near = np.bitwise_count(hashes[left] ^ hashes[others]) <= distance
        first.append(others[near])
        second.append(left[near])
    return np.concatenate(first), np.concatenate(second)


def _pieces(count: int) -> Iterator[slice]:
    """So many numbers in pieces that stay in a core's cache."""
    return (slice(begin, min(begin + _PIECE, count)) for begin in range(0, count, _PIECE))
