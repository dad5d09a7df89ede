"""Confidence intervals of metrics, and the resamples of the test set that comparisons pair.

**Shares of right answers** get Wilson's interval (1927), which holds what it says near 0 and 1 too, where the bootstrap
of 240 wrong answers is the point 0. Where each image is right or wrong by itself, the size is the number of images.
Where outcomes are tied together (the captions of an image), shared (equal scores) or weighted (classes), it is the
*effective* size, at which independent outcomes would have the variance that is found (Korn and Graubard, 1998), as
survey statistics does it.

**A metric with a bias** (:mod:`evaluation.precision`) has the interval of its value without it, reaching to the value.
**A metric that knows better** says its interval itself (:mod:`evaluation.calibration`, :mod:`evaluation.worst`).

**Everything else** gets the percentile bootstrap (Efron, 1979): draw n of the n images with replacement, many times,
and take the quantiles of the metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from infra.measures import Mean, Metric

__all__ = ["Interval", "interval", "percentile_interval", "resampled", "wilson"]

_CELLS = 1 << 20  # indices held at once: 8 MiB, so that metrics read their counts from the cache
_ROUNDING = 1e-18  # a variance below is that of sums in another order


@dataclass(frozen=True)
class Interval:
    """A metric, the bounds of its confidence interval, and how they were computed, where that is known."""

    value: float
    low: float
    high: float
    method: str = ""


def resampled(metrics: Sequence[Metric], *, samples: int = 1000, seed: int = 0) -> NDArray[np.float64]:
    """Return the metrics of the same images on ``samples`` resamples of them: (samples, len(metrics)).

    The draws are numpy's PCG64 under ``seed``, as ``scipy.stats.bootstrap(rng=numpy.random.default_rng(seed))`` makes
    them: the same for any metrics of as many images, so that the values of two models can be paired.
    """
    images = metrics[0].images
    parts = [
        np.stack([metric.resampled(counts) for metric in metrics], axis=1) for counts in _counts(images, samples, seed)
    ]
    return np.concatenate(parts)


def _counts(images: int, samples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield the count of each image in each resample, (b, images) for some resamples at a time."""
    random = np.random.default_rng(seed)
    chunk = max(1, _CELLS // images)
    for done in range(0, samples, chunk):
        rows = min(chunk, samples - done)
        drawn = random.integers(0, images, (rows, images))
        drawn += np.arange(rows)[:, None] * images
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)


def interval(metric: Metric, values: NDArray[Any], confidence: float = 0.95) -> Interval:
    """The interval of ``metric``, whose ``values`` (samples,) on resamples are known."""
    if (own := metric.own_interval(confidence)) is not None:
        return Interval(metric.value, *own)
    value, bias = metric.value, metric.bias
    if metric.is_share:
        exact = isinstance(metric, Mean) and metric.independent
        size = metric.images if exact else _effective_size(metric, values, confidence)
        low, high = wilson(min(1.0, max(0.0, value - bias)), size, confidence)
        method = "Wilson" if exact else "Wilson, effective size"
    else:
        low, high = (float(bound) - bias for bound in percentile_interval(values, confidence))
        method = "percentile bootstrap"
    if bias:
        low, high, method = min(low, value), max(high, value), f"{method}, without bias"
    return Interval(value, low, high, method)


def wilson(share: float, size: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of ``size`` independent outcomes."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle, width = share + z * z / (2 * size), z * sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    low, high = ((middle - width) / (1 + z * z / size), (middle + width) / (1 + z * z / size))
    # Rounding must not put the value itself outside.
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def _effective_size(metric: Metric, values: NDArray[Any], confidence: float) -> float:
    """Number of independent outcomes of 0 or 1 that would vary as ``metric`` does; Student's t for few images."""
    share, images = min(1.0, max(0.0, metric.value - metric.bias)), metric.images
    correction = images / max(1, images - 1)  # a resample varies less than another test set would
    variance = float(np.var(values)) * correction if metric.variance is None else metric.variance
    # Where nothing varies nothing is known of how outcomes are tied.
    varies = variance > _ROUNDING and 0 < share < 1
    size = share * (1 - share) / variance if varies else float(metric.units)
    size = min(size, metric.outcomes)
    tail = (1 + confidence) / 2
    student = float(stdtrit(max(1, images - 1), tail))
    return size * (NormalDist().inv_cdf(tail) / student) ** 2


def percentile_interval(values: NDArray[Any], confidence: float = 0.95) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return ``(low, high)``, (m,) each, of values on resamples, (samples, m). Quantiles are interpolated linearly."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high
