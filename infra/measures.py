"""Metrics as functions of how often each image of a test set counts, which is what the bootstrap needs.

A resample of n images is n counts that add up to n. Almost every metric is a mean, or a mean of means, so its values on
many resamples are a product of their counts with what each image contributes. The whole test set counts each once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Array", "Average", "ClassMean", "Counts", "Mean", "Median", "Metric", "Statistic", "means"]

Array = NDArray[Any]
Counts = NDArray[np.float64]
"""How often each image is in each resample: (b, n)."""


class Metric(ABC):
    """One number for a test set of ``images`` images."""

    images: int
    lower_is_better: bool = False
    range: tuple[float, float | None] = (0.0, 1.0)
    """The least and the most it can be; None: there is no most, as of a rank."""

    @abstractmethod
    def resampled(self, counts: Counts) -> NDArray[np.float64]:
        """The metric of each resample: (b, images) -> (b,)."""

    @cached_property
    def value(self) -> float:
        """The metric of the whole test set."""
        return float(self.resampled(np.ones((1, self.images)))[0])

    @property
    def is_share(self) -> bool:
        """True if it is a mean of outcomes from 0 (wrong) to 1 (right), so that its interval ends at 0 and 1."""
        return False

    @property
    def outcomes(self) -> float:
        """Number of outcomes of 0 or 1 with equal weight; infinite if they are others, as those of ties."""
        return np.inf

    @property
    def variance(self) -> float | None:
        """Variance of the value without its bias, over other test sets; None: that over resamples is taken."""
        return None

    @property
    def units(self) -> int:
        """Number of independent outcomes to take where nothing varies: all of an image as one."""
        return self.images

    @property
    def bias(self) -> float:
        """Mean distance of the value above what it estimates, by which its interval is moved."""
        return 0.0

    def own_interval(self, confidence: float) -> tuple[float, float, str] | None:
        """Low, high and the name of the method, if the metric knows better than the rules for all."""
        return None


@dataclass(frozen=True)
class Mean(Metric):
    """A mean over outcomes: ``totals`` (n,) of the outcomes of each image, ``sizes`` (n,) how many; None: one each."""

    totals: Array
    sizes: Array | None = None

    @property
    def images(self) -> int:  # type: ignore[override]
        return len(self.totals)

    @cached_property
    def _sizes(self) -> Array:
        return np.ones(len(self.totals)) if self.sizes is None else np.asarray(self.sizes, np.float64)

    @cached_property
    def _totals(self) -> Array:
        return np.asarray(self.totals, np.float64)

    def resampled(self, counts: Counts) -> NDArray[np.float64]:
        outcomes = self.images if self.sizes is None else counts @ self._sizes
        values: NDArray[np.float64] = counts @ self._totals / outcomes
        return values

    @property
    def is_share(self) -> bool:
        return bool(((self._totals >= 0) & (self._totals <= self._sizes)).all())

    @property
    def outcomes(self) -> float:
        return float(self._sizes.sum()) if (self._totals == np.round(self._totals)).all() else np.inf

    @property
    def independent(self) -> bool:
        """True if every image has one outcome of 0 or 1: the number of right ones is binomial."""
        return bool((self._sizes == 1).all() and np.isin(self._totals, (0, 1)).all())

    @property
    def variance(self) -> float:
        """The variance of the mean, images drawn independently: a ratio estimator's, linearised (Cochran, 1977)."""
        rest, images = self._totals - self.value * self._sizes, self.images
        return float((rest**2).sum() / self._sizes.sum() ** 2 * images / max(1, images - 1))


def means(values: Mapping[str, ArrayLike]) -> dict[str, Metric]:
    """Means over images by name: of each, one number or boolean per image."""
    return {name: Mean(np.asarray(column, np.float64)) for name, column in values.items()}


@dataclass(frozen=True)
class ClassMean(Metric):
    """A mean over classes of the mean over their images: ``values`` and ``labels``, (n,) each.

    It is over the classes that a resample holds (scikit-learn's ``balanced_accuracy_score``).
    """

    values: Array
    labels: Array

    @property
    def images(self) -> int:  # type: ignore[override]
        return len(self.values)

    @cached_property
    def _by_class(self) -> tuple[Array, Array, Array]:
        """Images ordered by class, their values, and where each class begins."""
        order = np.argsort(self.labels, kind="stable")
        _, starts = np.unique(np.asarray(self.labels)[order], return_index=True)
        return order, np.asarray(self.values, np.float64)[order], starts

    def resampled(self, counts: Counts) -> NDArray[np.float64]:
        order, values, starts = self._by_class
        ordered = counts[:, order]
        images = np.add.reduceat(ordered, starts, axis=1)
        right = np.add.reduceat(ordered * values, starts, axis=1)
        means = np.divide(right, images, out=np.zeros_like(right), where=images > 0)
        found: NDArray[np.float64] = means.sum(axis=1) / (images > 0).sum(axis=1)
        return found

    @property
    def is_share(self) -> bool:
        return bool(((np.asarray(self.values) >= 0) & (np.asarray(self.values) <= 1)).all())


@dataclass(frozen=True)
class Average(Metric):
    """The mean of several metrics of the same images."""

    parts: tuple[Metric, ...]

    @property
    def images(self) -> int:  # type: ignore[override]
        return self.parts[0].images

    def resampled(self, counts: Counts) -> NDArray[np.float64]:
        values: NDArray[np.float64] = np.mean([part.resampled(counts) for part in self.parts], axis=0)
        return values

    @property
    def is_share(self) -> bool:
        return all(part.is_share for part in self.parts)

    @property
    def outcomes(self) -> float:
        return sum(part.outcomes for part in self.parts)


@dataclass(frozen=True)
class Statistic(Metric):
    """Any other metric: ``function`` maps counts (b, n) to values (b,). ``share``: see :attr:`Metric.is_share`."""

    images: int
    function: Callable[[Counts], Array]
    share: bool = False
    lower_is_better: bool = False
    range: tuple[float, float | None] = (0.0, 1.0)

    def resampled(self, counts: Counts) -> NDArray[np.float64]:
        return np.asarray(self.function(counts), np.float64)

    @property
    def is_share(self) -> bool:
        return self.share


@dataclass(frozen=True)
class Median(Metric):
    """The median rank of outcomes: ``values`` (m,), of which outcome i belongs to image ``image_of[i]``."""

    values: Array
    image_of: Array
    images: int
    lower_is_better: bool = True
    range: tuple[float, float | None] = (1.0, None)

    @cached_property
    def _ordered(self) -> tuple[Array, Array]:
        """Values in rising order, and their images."""
        order = np.argsort(self.values, kind="stable")
        return np.asarray(self.values, np.float64)[order], np.asarray(self.image_of)[order]

    def resampled(self, counts: Counts) -> NDArray[np.float64]:
        values, owner = self._ordered
        outcomes = len(values)
        totals = counts @ np.bincount(owner, minlength=self.images)
        # A resample's median is nearly always close to the middle: outcomes below are counted by image, at once.
        reach = int(4 * np.sqrt(outcomes * np.bincount(owner).max())) + 1
        start, stop = max(0, outcomes // 2 - reach), min(outcomes, outcomes // 2 + reach)
        found = self._within(counts, totals, start, stop)
        if (missed := np.isnan(found)).any():
            found[missed] = self._within(counts[missed], totals[missed], 0, outcomes)
        return found

    def _within(self, counts: Counts, totals: Array, start: int, stop: int) -> NDArray[np.float64]:
        """The median of each resample, if it lies among the outcomes from ``start`` to ``stop``; else NaN."""
        values, owner = self._ordered
        below = counts @ np.bincount(owner[:start], minlength=self.images)
        reached = below[:, None] + np.cumsum(counts[:, owner[start:stop]], axis=1)
        # The two in the middle, which are one if the number is odd.
        middle = [(reached < place[:, None]).sum(axis=1) for place in (np.ceil(totals / 2), np.floor(totals / 2) + 1)]
        inside = (below < np.ceil(totals / 2)) & (middle[1] < stop - start)
        low, high = (values[start:stop][np.minimum(place, stop - start - 1)] for place in middle)
        return np.where(inside, (low + high) / 2, np.nan)
