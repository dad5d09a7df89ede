"""MinHash signatures of sets, in bands (Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter 3).

A signature has the least hash of a set under each of many hash functions; two sets agree in one of them with the
probability of their Jaccard similarity s. It is cut into *bands* of ``rows`` numbers each, and two sets meet if they
agree in any whole band: with probability 1 - (1 - s^rows)^count.

Of sets that hardly resemble each other many meet by chance, and of n sets n^2. So each has a *sketch*, too: one bit of
each of its numbers (b-bit minwise hashing, Li and König 2010). Two agree in a bit with probability (1 + s) / 2, and who
agrees in far fewer than similar ones do need not be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.curate.textdedup.shingles import mixed

__all__ = ["Bands"]

Array = NDArray[Any]

_MOST = 128  # numbers of a signature
_SKETCH = 64  # bits
_BIT = np.uint64(32)  # of a number: the highest bits of a minimum are zero
_LOST = 1e-6  # of similar pairs, whose sketches differ by chance


@dataclass(frozen=True)
class Bands:
    """``count`` bands of ``rows`` numbers each."""

    rows: int
    count: int

    @classmethod
    def of(cls, threshold: float, missed: float) -> Bands:
        """The longest bands, by which the fewest others meet, that miss a pair of this similarity at most so often."""
        found = cls(1, _count(threshold, missed, 1))
        for rows in range(2, _MOST + 1):
            count = _count(threshold, missed, rows)
            if rows * count > _MOST:
                break
            found = cls(rows, count)
        return found

    def misses(self, similarity: float) -> float:
        """The probability that sets of this Jaccard similarity do not meet."""
        return float((1 - similarity**self.rows) ** self.count)

    @property
    def bits(self) -> int:
        """The length of a sketch."""
        return min(_SKETCH, self.rows * self.count)

    def fewest_bits(self, similarity: float) -> int:
        """The number of bits in which sketches of sets of this Jaccard similarity agree at least, but for one pair in a
        million."""
        agrees, fewer = (1 + similarity) / 2, 0.0
        for bits in range(self.bits):
            fewer += math.comb(self.bits, bits) * agrees**bits * (1 - agrees) ** (self.bits - bits)
            if fewer > _LOST:
                return bits
        return self.bits

    def keys(self, hashes: Array, bounds: Array) -> tuple[Array, Array]:
        """The bands of each set, none empty, as 64 bits, and its sketch: (n, count) and (n,) uint64.

        Sets are flat, with (n + 1,) bounds.
        """
        starts = bounds[:-1]
        keys = np.empty((len(starts), self.count), np.uint64)
        sketches, place = np.zeros(len(starts), np.uint64), 0
        turned = np.empty_like(hashes)
        factors, terms = mixed(np.arange(2 * self.rows * self.count, dtype=np.uint64)).reshape(2, self.count, self.rows)
        for band in range(self.count if len(starts) else 0):
            own = np.full(len(starts), band, np.uint64)
            # Hashes are random bits: multiplied by an odd number, their order is another random one.
            for factor, term in zip(factors[band] | np.uint64(1), terms[band], strict=True):
                np.multiply(hashes, factor, out=turned)
                np.add(turned, term, out=turned)
                least = np.minimum.reduceat(turned, starts)
                own = mixed(own + least)
                if place < self.bits:
                    sketches |= ((least >> _BIT) & np.uint64(1)) << np.uint64(place)
                    place += 1
            keys[:, band] = own
        return keys, sketches


def _count(threshold: float, missed: float, rows: int) -> int:
    """Bands of so many rows that miss a pair of this similarity at most so often."""
    if threshold == 1:
        return 1
    return max(1, math.ceil(math.log(missed) / math.log1p(-(threshold**rows))))
