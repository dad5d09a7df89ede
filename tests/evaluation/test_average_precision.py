"""Mean average precision against scikit-learn's and the definition, and how often its interval holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import average_precision_score

from evaluation.intervals import interval, resampled
from evaluation.precision import AveragePrecision


def drawn(random, images, shares, shifts):
    """Scores of a model that tells classes of these shares of the images by normal scores, shifted where shown."""
    shown = random.random((images, len(shares))) < np.array(shares)
    return random.standard_normal(shown.shape) + np.array(shifts) * shown, shown


@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_it_is_scikit_learns_also_on_resamples_and_with_ties(decimals):
    random = np.random.default_rng(0)
    scores, shown = drawn(random, 80, [0.1, 0.3, 0.02, 0.9], [2, 1, 0, 1])
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
    scores, shown = drawn(np.random.default_rng(1), 60, [0.2, 0.5], [1, 0.5])
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
    scores, shown = drawn(np.random.default_rng(2), 40, [0.3, 0.0], [1, 1])
    assert AveragePrecision(scores, shown).value == AveragePrecision(scores[:, :1], shown[:, :1]).value


def truth(share, shift):
    """The average precision on infinitely many images: of those that score as high, how many show the class?"""
    scores = norm.ppf((np.arange(20000) + 0.5) / 20000) + shift
    right, wrong = share * norm.sf(scores - shift), (1 - share) * norm.sf(scores)
    return (right / (right + wrong)).mean()


@pytest.mark.long
@pytest.mark.parametrize(
    ("images", "shares", "shifts"),
    [
        (300, [0.1] * 6, [1] * 6),
        (300, [0.1, 0.2, 0.05, 0.3, 0.1, 0.5], [3, 2, 1, 0, 4, 0.5]),
        (200, [0.03] * 8, [1.5] * 8),
        (240, [0.3] * 4, [5] * 4),
    ],
)
def test_the_interval_holds_the_truth_without_the_bias(images, shares, shifts):
    random, expected, held, values = np.random.default_rng(3), np.mean(list(map(truth, shares, shifts))), 0, []
    for seed in range(200):
        metric = AveragePrecision(*drawn(random, images, shares, shifts))
        found = interval(metric, resampled([metric], samples=100, seed=seed)[:, 0])
        held += found.low <= expected <= found.high
        values.append((metric.value, metric.value - metric.bias))
    assert 0.9 <= held / 200 <= 0.98
    (biased, right), error = np.mean(values, axis=0), np.std(values, axis=0) / np.sqrt(200)
    assert abs(right - expected) < 3 * error[1] + 1e-4
    assert biased >= right
