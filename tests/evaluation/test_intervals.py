"""Intervals against scipy's and statsmodels' formulas, and how often they hold the truth of simulated models."""

from __future__ import annotations

import interval_samples as samples
import numpy as np
import pytest
from scipy import stats

from evaluation import intervals
from evaluation.intervals import interval, percentile_interval, resampled, wilson
from infra.measures import Average, ClassMean, Mean, Statistic


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize("cells", [1 << 22, 100], ids=["one chunk", "chunks"])
def test_is_scipys_percentile_bootstrap(monkeypatch, confidence, cells):
    monkeypatch.setattr(intervals, "_CELLS", cells)
    data = np.random.default_rng(0).exponential(size=37)
    expected = stats.bootstrap(
        (data,),
        np.mean,
        method="percentile",
        n_resamples=500,
        confidence_level=confidence,
        rng=np.random.default_rng(9),
    ).confidence_interval
    found = interval(Mean(data), resampled([Mean(data)], samples=500, seed=9)[:, 0], confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.method == "percentile bootstrap"


def test_metrics_share_the_resamples():
    data = np.random.default_rng(1).normal(size=50)
    low, high = percentile_interval(resampled([Mean(data), Mean(2 * data)]))
    assert 2 * low[0] == pytest.approx(low[1])
    assert 2 * high[0] == pytest.approx(high[1])


@pytest.mark.parametrize(("right", "images"), [(0, 240), (3, 240), (120, 240), (240, 240), (1, 1)])
def test_right_or_wrong_is_scipys_wilson(right, images):
    metric = Mean(np.arange(images) < right)
    found = interval(metric, resampled([metric], samples=10)[:, 0])
    expected = stats.binomtest(right, images).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.value, found.method) == (right / images, "Wilson")
    assert found.high - found.low > 0.01  # also where nothing varies


def test_outcomes_tied_to_images_count_as_less():
    """Five captions that are always right together are one outcome."""
    hits = np.random.default_rng(2).random(400) < 0.7
    alone, together = Mean(hits), Mean(5 * hits, np.full(400, 5))
    one, five = (interval(metric, resampled([metric])[:, 0]) for metric in (alone, together))
    assert (five.low, five.high) == pytest.approx((one.low, one.high), abs=1e-3)
    independent = Mean(np.random.default_rng(3).binomial(5, 0.7, 400), np.full(400, 5))
    found = interval(independent, resampled([independent])[:, 0])
    assert (found.low, found.high) == pytest.approx(wilson(independent.value, 2000), abs=4e-3)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_interval_of_a_share_is_a_point(share):
    labels, values = np.arange(60) % 6, np.full(60, share)
    whole = (Mean(5 * values, np.full(60, 5)), ClassMean(values, labels), Average((Mean(values), Mean(values))))
    for metric in whole:
        found = interval(metric, resampled([metric])[:, 0])
        assert (found.low, found.high) == pytest.approx(wilson(share, 60), abs=3e-3)


def test_a_metric_of_ones_own_is_resampled_by_counts():
    data = np.random.default_rng(4).normal(size=30)

    def variance(counts):
        mean = counts @ data / 30
        return counts @ data**2 / 30 - mean**2

    expected = stats.bootstrap(
        (data,), np.var, method="percentile", n_resamples=300, rng=np.random.default_rng(0)
    ).confidence_interval
    metric = Statistic(30, variance)
    found = interval(metric, resampled([metric], samples=300)[:, 0])
    assert (found.value, found.low, found.high) == pytest.approx((data.var(), expected.low, expected.high))


@pytest.mark.long
@pytest.mark.parametrize("case", samples.CASES, ids=lambda case: case.name)
def test_holds_the_truth_about_as_often_as_it_says(case):
    """300 test sets each: the bounds are those of 300 draws at 95%, with what the lattice of a share adds."""
    assert 0.92 <= samples.coverage(case, draws=300) <= 0.985
