"""The worst group: a metric of the images of each group, such as a hospital or a country, and the lowest of them.

The lowest of several estimates is below the lowest truth: chance picks the group. So the interval is not of the worst
estimate alone. It reaches up to the lowest upper bound of any group, where the bounds of all hold at once (Sidak).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evaluation.intervals import wilson
from infra.measures import Array, Counts, Mean, Metric

__all__ = ["WorstGroup"]


@dataclass(frozen=True)
class WorstGroup(Metric):
    """The least mean of ``values`` (n,), each 0 or 1, over the images of a group; ``groups`` (n,) are numbers from 0.

    Groups that a resample does not hold are passed over, as WILDS does.
    """

    values: Array
    groups: NDArray[np.int64]

    @property
    def images(self) -> int:  # type: ignore[override]
        return len(self.values)

    @cached_property
    def _by_group(self) -> tuple[Array, Array, Array]:
        """Images ordered by group, their values, and where each group begins."""
        order = np.argsort(self.groups, kind="stable")
        _, starts = np.unique(np.asarray(self.groups)[order], return_index=True)
        return order, np.asarray(self.values, np.float64)[order], starts

    def resampled(self, counts: Counts) -> NDArray[np.float64]:
        order, values, starts = self._by_group
        ordered = counts[:, order]
        images = np.add.reduceat(ordered, starts, axis=1)
        right = np.add.reduceat(ordered * values, starts, axis=1)
        means = np.divide(right, images, out=np.full_like(right, np.inf), where=images > 0)
        lowest: NDArray[np.float64] = means.min(axis=1)
        return lowest

    def of_each(self) -> list[Mean]:
        """The mean of each group, of its own images."""
        _, values, starts = self._by_group
        return [Mean(part) for part in np.split(values, starts[1:])]

    def own_interval(self, confidence: float) -> tuple[float, float, str]:
        means = self.of_each()
        together = 1 - 2 * (1 - (1 - (1 - confidence) / 2) ** (1 / len(means)))  # of which only the upper bounds count
        low = min(wilson(mean.value, mean.images, confidence)[0] for mean in means)
        high = min(wilson(mean.value, mean.images, together)[1] for mean in means)
        return low, max(high, self.value), "of all groups at once, Wilson"
