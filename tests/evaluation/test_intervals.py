"""Intervals against scipy's and against the binomial distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluation import intervals


def interval(statistic, units, confidence=0.95, **options):
    return intervals.percentile_interval(intervals.resampled(statistic, units, **options), confidence)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("cells", [1 << 22, 100], ids=["one chunk", "chunks"])
def test_is_scipys_percentile_bootstrap(monkeypatch, confidence, cells):
    monkeypatch.setattr(intervals, "_INDICES", cells)
    data = np.random.default_rng(0).exponential(size=37)
    expected = stats.bootstrap(
        (data,),
        np.mean,
        method="percentile",
        n_resamples=500,
        confidence_level=confidence,
        rng=np.random.default_rng(9),
    ).confidence_interval
    low, high = interval(lambda index: data[index].mean(axis=1, keepdims=True), 37, confidence, samples=500, seed=9)
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_several_statistics_share_the_resamples():
    data = np.random.default_rng(1).normal(size=50)

    def both(index):
        return np.stack([data[index].mean(axis=1), 2 * data[index].mean(axis=1)], axis=1)

    low, high = interval(both, 50)
    assert 2 * low[0] == pytest.approx(low[1])
    assert 2 * high[0] == pytest.approx(high[1])


def test_covers_an_accuracy_about_as_often_as_it_says():
    truth, n, runs = 0.7, 200, 200
    random = np.random.default_rng(2)
    covered = 0
    for run in range(runs):
        hits = (random.random(n) < truth).astype(float)
        low, high = interval(lambda i, hits=hits: hits[i].mean(axis=1, keepdims=True), n, samples=300, seed=run)
        covered += int(low[0] <= truth <= high[0])
    assert 0.90 <= covered / runs <= 0.99
