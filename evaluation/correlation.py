"""Spearman's rank correlation as a metric, on the whole test set and on any number of resamples of it at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from infra.measures import Array, Counts, Metric

__all__ = ["RankCorrelation"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankCorrelation(Metric):
    """Spearman's correlation of ``values`` with ``others``, (n,) each: Pearson's of their ranks.

    Equal values share the mean of their ranks, as in :func:`scipy.stats.spearmanr`. Of what does not vary it is 0.
    """

    values: Array
    others: Array

    range: tuple[float, float | None] = (-1.0, 1.0)

    @property
    def images(self) -> int:  # type: ignore[override]
        return len(self.values)

    @cached_property
    def _levels(self) -> tuple[Array, Array]:
        """The number of each value among the distinct ones, in rising order; of the others likewise: (n,) each."""
        return tuple(np.unique(each, return_inverse=True)[1].ravel() for each in (self.values, self.others))  # type: ignore[return-value]

    def resampled(self, counts: Counts) -> Floats:
        total = counts.sum(axis=1, keepdims=True)
        first, second = (_ranks(levels, counts) - (total + 1) / 2 for levels in self._levels)
        weighted = counts * first
        products = np.einsum("bn,bn->b", weighted, second)
        squares = np.einsum("bn,bn->b", weighted, first) * np.einsum("bn,bn,bn->b", counts, second, second)
        found: Floats = np.divide(products, np.sqrt(squares), out=np.zeros_like(products), where=squares > 0)
        return found


def _ranks(levels: Array, counts: Counts) -> Floats:
    """The ranks from 1 of n values at ``levels`` (n,), each as often as ``counts`` (b, n) say: (b, n)."""
    order = np.argsort(levels, kind="stable")
    starts = np.searchsorted(levels[order], np.arange(levels.max() + 1))
    sizes = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks: Floats = (np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, levels]
    return ranks
