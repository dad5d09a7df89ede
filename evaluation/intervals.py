"""Compute confidence intervals by resampling the test set, so that a difference between two runs can be judged.

The percentile bootstrap (Efron, 1979): draw n of the n units with replacement, many times, and take the quantiles of
the statistic. It needs no formula per metric, handles ratios and means over classes, and ties a query's captions to
its image when images are the unit. Near 0 and 1 it is too short: a statistic that is 1 has the interval [1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["percentile_interval", "resampled"]

_INDICES = 1 << 22  # held at once: 32 MiB


def resampled(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]], units: int, *, samples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Return the m values of a statistic on ``samples`` resamples of the units: (samples, m).

    ``statistic`` maps resamples, (b, units) indices into the units, to (b, m) values. The draws are numpy's PCG64 under
    ``seed``, as ``scipy.stats.bootstrap(method="percentile", rng=numpy.random.default_rng(seed))`` makes them: the same
    for every statistic on as many units, so that the values of two models can be paired.
    """
    # In chunks of resamples, so that the indices held at once are bounded.
    random = np.random.default_rng(seed)
    chunk = max(1, _INDICES // units)
    return np.concatenate(
        [statistic(random.integers(0, units, (min(chunk, samples - done), units))) for done in range(0, samples, chunk)]
    )


def percentile_interval(values: NDArray[Any], confidence: float = 0.95) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return ``(low, high)``, (m,) each, of values on resamples, (samples, m). Quantiles are interpolated linearly."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return low, high
