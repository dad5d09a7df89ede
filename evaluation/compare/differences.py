"""Differences between two variants of a model, with intervals that pair the test images and know of training's noise.

Every evaluation of a test set takes its metrics on the same resamples of the images (:mod:`evaluation.intervals`), so
the difference of two models' values on a resample is a draw of the paired bootstrap, whatever the metric. What both
find easy or hard cancels out.

A variant trained with several seeds has a second source of noise: another seed would have given another model. The
uncertainty of the mean of s seeds is Student's t with s - 1 degrees of freedom, scaled by their standard error; the
difference adds a draw of it for each variant (the Behrens-Fisher distribution). With one seed nothing is known of this
noise, and the interval is that of these very models.

Where both variants are the same models, evaluated in two ways (re-ranked or not, two sets of prompts), a strong model
is strong in both. So the difference is taken model by model, and its noise is that of the s differences: the paired t.

Where both answer every image alike, or one is right wherever the other is wrong, all resamples give the same and the
bootstrap is a point. There Tango's score interval of paired shares (1998) has a closed form: n images without a
disagreement bound the difference by z^2 / (n + z^2) on either side, n disagreements of one kind to above
(n - z^2) / (n + z^2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

__all__ = ["Difference", "Estimate", "difference", "holm"]

Array = NDArray[Any]
_DRAWS = 50_000
_MOST = 9.0  # powers of ten by which a test set is thought larger or smaller


@dataclass(frozen=True)
class Estimate:
    """A metric of a variant by seed: ``values`` (s,) on the whole test set, ``resampled`` (s, b) on its resamples.

    ``images``: their number if the metric is a share of right answers, of which 0 and 1 are the edges; else None.
    """

    values: Array
    resampled: Array
    images: int | None = None

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(self.values.mean())

    @property
    def seed_error(self) -> float:
        """The standard error of the mean that training's noise causes; 0 with one seed, which tells nothing of it."""
        count = len(self.values)
        return float(self.values.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0

    def draws(self, random: np.random.Generator) -> Array:
        """Draws of the mean: (b,)."""
        tested: Array = self.resampled.mean(axis=0)
        count = len(self.values)
        return tested if count == 1 else tested + self.seed_error * random.standard_t(count - 1, tested.shape)

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference model by model: both must be of the same models, in the same order."""
        return Estimate(self.values - other.values, self.resampled - other.resampled)


@dataclass(frozen=True)
class Difference:
    """A metric of a variant less that of the baseline, with the bounds of its interval.

    ``p``: two-sided probability of a difference as far from 0 if there were none, without correction; at least
    ``2 / (b + 1)`` for b resamples. ``test_error``, ``seed_error``: standard errors of the two sources of noise;
    ``seeds``: standard error and degrees of freedom of each variant with several, or of the differences by model.
    """

    value: float
    low: float
    high: float
    p: float
    test_error: float
    seed_error: float
    seeds: tuple[tuple[float, int], ...] = ()

    @property
    def is_point(self) -> bool:
        """True if nothing is known of how far it may be from its value."""
        return self.low == self.high

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    def images_to_separate(self, images: int, confidence: float) -> float:
        """Number of test images, drawn like these ``images``, whose interval would just clear 0 at this difference.

        Infinite if there is no difference, or if the seeds' noise alone hides it: then more seeds are needed. The test
        set's noise is taken as normal.
        """
        random = np.random.default_rng(0)
        tested = random.standard_normal(_DRAWS)
        trained = sum((error * random.standard_t(free, _DRAWS) for error, free in self.seeds), np.zeros(_DRAWS))
        tail = (1 + confidence) / 2

        def clearance(power: float) -> float:
            """Distance of the interval from 0 with 10**power times the images."""
            if not self.seeds:
                return abs(self.value) - NormalDist().inv_cdf(tail) * self.test_error / 10 ** (power / 2)
            return abs(self.value) - float(np.quantile(self.test_error / 10 ** (power / 2) * tested + trained, tail))

        if clearance(_MOST) <= 0:
            return float("inf")
        return images * 10 ** float(brentq(clearance, -_MOST, _MOST, xtol=1e-3)) if clearance(-_MOST) < 0 else 1.0


def difference(
    baseline: Estimate, other: Estimate, *, confidence: float, seed: int, same_models: bool = False
) -> Difference:
    """``other`` less ``baseline``. Their resamples must be of the same images.

    ``same_models``: the values of both are of the same trained models, in the same order, and are paired by model.
    """
    random = np.random.default_rng(seed)
    trained: tuple[Estimate, ...]
    if same_models:
        trained = (other - baseline,)
        draws = trained[0].draws(random)
    else:
        trained = (baseline, other)
        draws = other.draws(random) - baseline.draws(random)
    tested = other.resampled.mean(axis=0) - baseline.resampled.mean(axis=0)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    if baseline.images is not None and float(np.ptp(draws)) == 0 and abs(low) in (0.0, 1.0):
        low, high = _tango(float(low), baseline.images, confidence)
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return Difference(
        value=other.mean - baseline.mean,
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * (beyond + 1) / (len(draws) + 1)),
        test_error=float(tested.std()),
        seed_error=float(np.hypot.reduce([one.seed_error for one in trained])),
        seeds=tuple((one.seed_error, len(one.values) - 1) for one in trained if one.seed_error),
    )


def _tango(difference: float, images: int, confidence: float) -> tuple[float, float]:
    """The score interval of a ``difference`` of paired shares that is 0, 1 or -1 for every one of the images."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    if difference == 0:
        bound = z * z / (images + z * z)
        return -bound, bound
    bound = (images - z * z) / (images + z * z)
    return (bound, 1.0) if difference > 0 else (-1.0, -bound)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction (1979): p-values such that the chance of any false rejection below a level is that level."""
    corrected, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = highest
    return corrected
