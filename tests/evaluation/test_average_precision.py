"""Mean average precision against scikit-learn's and the definition, and how often its interval holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from interval_samples import precision_of_all, scored
from sklearn.metrics import average_precision_score

from evaluation.intervals import interval, resampled
from evaluation.precision import AveragePrecision


@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_it_is_scikit_learns_also_on_resamples_and_with_ties(decimals):
    random = np.random.default_rng(0)
    scores, shown = scored(random, 80, [0.1, 0.3, 0.02, 0.9], [2, 1, 0, 1])
    scores = np.round(scores, decimals)
    metric = AveragePrecision(scores, shown)
    assert metric.value == pytest.approx(average_precision_score(shown, scores), abs=1e-12)
    counts = random.multinomial(80, np.full(80, 1 / 80), size=5).astype(float)
    expected = [
        np.mean([
            average_precision_score(shown[:, label], scores[:, label], sample_weight=row)
            for label in range(4) if row @ shown[:, label]
        ])
        for row in counts
    ]  # fmt: skip
    np.testing.assert_allclose(metric.resampled(counts), expected, atol=1e-12)


def test_it_is_clip_benchmarks_where_no_scores_are_equal():
    """By the definition in its metrics/zeroshot_classification.py: precision at each hit of the sorted images."""
    scores, shown = scored(np.random.default_rng(1), 60, [0.2, 0.5], [1, 0.5])
    each = []
    for column in range(2):
        hits = shown[np.argsort(-scores[:, column]), column]
        each.append((np.cumsum(hits) / np.arange(1, 61))[hits].mean())
    assert AveragePrecision(scores, shown).value == pytest.approx(np.mean(each), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "shown", "value"),
    [
        ([3, 2, 1], [1, 0, 1], (1 + 2 / 3) / 2),
        ([1, 1, 1, 1], [1, 0, 0, 0], 0.25),  # all equal: the share of images
        ([2, 1], [0, 0], 0.0),
    ],
)
def test_by_hand(scores, shown, value):
    metric = AveragePrecision(np.array(scores, float)[:, None], np.array(shown, bool)[:, None])
    assert metric.value == pytest.approx(value)


def test_a_class_that_no_image_shows_is_passed_over():
    scores, shown = scored(np.random.default_rng(2), 40, [0.3, 0.0], [1, 1])
    assert AveragePrecision(scores, shown).value == AveragePrecision(scores[:, :1], shown[:, :1]).value


def without_itself(scores, shown):
    """By the definition: at each shown image the share of shown ones among the others that score as high or higher."""
    found = []
    for one in np.flatnonzero(shown):
        others = (scores >= scores[one]) & (np.arange(len(scores)) != one)
        found.append(shown[others].mean() if others.any() else 1.0)
    return np.mean(found) if found else np.nan


@pytest.mark.parametrize("decimals", [12, 1, 0])
@pytest.mark.parametrize("shares", [[0.3], [0.1, 0.5, 0.02]])
def test_bias_and_variance_are_those_of_leaving_images_out(decimals, shares):
    scores, shown = scored(np.random.default_rng(4), 40, shares, [1.0] * len(shares))
    scores = np.round(scores, decimals)
    metric = AveragePrecision(scores, shown)

    def value(left):
        return np.nanmean([without_itself(scores[left, k], shown[left, k]) for k in range(len(shares))])

    assert metric.value - metric.bias == pytest.approx(value(np.arange(40)), abs=1e-12)
    without = np.array([value(np.delete(np.arange(40), one)) for one in range(40)])
    expected = 39 / 40 * ((without - without.mean()) ** 2).sum()
    assert metric.variance == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("place", "low", "high"), [(19, 0.1, 1.0), (7, 0.0, 0.9)])
def test_one_image_says_little_of_a_class(place, low, high):
    metric = AveragePrecision(np.arange(20.0)[:, None], (np.arange(20) == place)[:, None])
    found = interval(metric, resampled([metric], samples=1)[:, 0])
    assert found.low <= low + 0.1
    assert found.high >= high - 0.15
    assert found.high - found.low > 0.7


def test_without_itself_it_is_right_on_average():
    random, values = np.random.default_rng(3), []
    for _ in range(400):
        metric = AveragePrecision(*scored(random, 300, [0.1] * 6, [1.0] * 6))
        values.append((metric.value, metric.value - metric.bias))
    (biased, right), error = np.mean(values, axis=0), np.std(values, axis=0) / np.sqrt(400)
    expected = precision_of_all(0.1, 1.0)
    assert abs(right - expected) < 3 * error[1]
    assert biased > expected + 5 * error[0]
