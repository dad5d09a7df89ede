"""Calibration: of the images of which a model is 80% sure, are 80% right?

The expected calibration error (Naeini et al., 2015; Guo et al., 2017) cuts images by the probability of their first
class into bins of equal width, and averages over images how far the accuracy of their bin is from its mean probability.

**Its bias.** A distance is never negative, so noise adds to it: a model of perfect calibration has an error of some .05
on 300 images. The value is the one that papers report, bias and all. The interval is of what it estimates, the error on
infinitely many images: of the errors that could be true, it holds those that would, noise included, have given about
the value that was found. Where noise alone explains it, that is all from 0. The noise is that of each bin's images and
of their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import pi, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import erf

from infra.measures import Array, Counts, Metric

__all__ = ["BINS", "CalibrationError"]

BINS = 15
_FAR = 40.0  # standard errors


@dataclass(frozen=True)
class CalibrationError(Metric):
    """ECE of images that are right or not, ``right`` (n,), with the ``confidence`` (n,) in their first class."""

    right: Array
    confidence: Array
    bins: int = BINS
    lower_is_better: bool = True

    @property
    def images(self) -> int:  # type: ignore[override]
        return len(self.right)

    @cached_property
    def bin_of(self) -> NDArray[np.int64]:
        """The bin of each image: bin i holds the probabilities in (i, i + 1] / bins."""
        return np.clip(np.ceil(np.asarray(self.confidence, np.float64) * self.bins).astype(np.int64) - 1, 0, None)

    @cached_property
    def by_bin(self) -> tuple[Array, Array, Array]:
        """Images, right ones and summed probability of each bin."""
        count, right, sure = (
            np.bincount(self.bin_of, weights=weights, minlength=self.bins)
            for weights in (None, np.asarray(self.right, np.float64), np.asarray(self.confidence, np.float64))
        )
        return count, right, sure

    @cached_property
    def _gaps(self) -> Array:
        """Contribution of each image to the gap of its bin: (n, bins)."""
        gaps = np.zeros((self.images, self.bins))
        gaps[np.arange(self.images), self.bin_of] = np.asarray(self.right, np.float64) - self.confidence
        return gaps

    def resampled(self, counts: Counts) -> NDArray[np.float64]:
        values: NDArray[np.float64] = np.abs(counts @ self._gaps).sum(axis=1) / self.images
        return values

    def own_interval(self, confidence: float) -> tuple[float, float, str]:
        count, right, sure = self.by_bin
        gap, part = np.abs(right - sure)[count > 0] / self.images, count[count > 0] / self.images
        share = ((right + 1) / (count + 2))[count > 0]  # never 0 or 1, where nothing would seem to vary
        error = np.sqrt(share * (1 - share) * count[count > 0]) / self.images
        z = NormalDist().inv_cdf((1 + confidence) / 2)

        def true(shift: float) -> Array:
            """Gaps that could be the true ones: those found, all moved by so many standard errors."""
            moved: Array = np.maximum(gap + shift * error, 0)
            return moved

        def excess(shift: float, side: float) -> float:
            mean, variance = _folded(true(shift), error)
            # Other images of the same kind would also be in other bins.
            composition = (true(shift) ** 2 / part).sum() - true(shift).sum() ** 2
            return mean + side * z * sqrt(variance + composition / self.images) - float(gap.sum())

        low, high = (
            0.0 if excess(-_FAR, side) >= 0 else float(true(brentq(excess, -_FAR, _FAR, args=(side,))).sum())
            for side in (1.0, -1.0)
        )
        # The biased value may be above all that is plausible; it stays inside, so that nobody looks for an error.
        return min(low, self.value), min(1.0, max(high, self.value)), "inverted, noise of bins folded"


def _folded(mean: Array, deviation: Array) -> tuple[float, float]:
    """Mean and variance of the sum of absolute values of independent normal variables."""
    absolute = deviation * sqrt(2 / pi) * np.exp(-((mean / deviation) ** 2) / 2) + mean * erf(
        mean / deviation / sqrt(2)
    )
    variance = mean**2 + deviation**2 - absolute**2
    return float(absolute.sum()), float(variance.sum())
