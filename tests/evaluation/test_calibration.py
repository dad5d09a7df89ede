"""Calibration and the worst group against loops by their definitions, and how often their intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from interval_samples import calibration_of_all
from scipy.stats import binom
from sklearn.metrics import f1_score

from evaluation.calibration import CalibrationError
from evaluation.f1 import MacroF1
from evaluation.figures import reliability
from evaluation.intervals import interval, resampled
from evaluation.worst import WorstGroup


def ece_by_loop(right, confidence, bins=15):
    """Guo et al. (2017), equation 3."""
    error = 0.0
    for low in range(bins):
        inside = [i for i, p in enumerate(confidence) if low / bins < p <= (low + 1) / bins]
        if inside:
            accuracy, sure = np.mean([right[i] for i in inside]), np.mean([confidence[i] for i in inside])
            error += len(inside) / len(right) * abs(accuracy - sure)
    return error


def test_ece_is_guos():
    random = np.random.default_rng(0)
    confidence = np.concatenate([random.random(200), [1.0, 1 / 15, 2 / 15]])
    right = random.random(203) < confidence**2
    metric = CalibrationError(right, confidence)
    assert metric.value == pytest.approx(ece_by_loop(right, confidence))
    drawn = random.integers(0, 203, (4, 203))
    counts = np.stack([np.bincount(row, minlength=203) for row in drawn]).astype(float)
    expected = [ece_by_loop(right[row], confidence[row]) for row in drawn]
    np.testing.assert_allclose(metric.resampled(counts), expected)


@pytest.mark.parametrize(
    ("right", "confidence", "error"),
    [([1, 1, 1, 0], [0.75] * 4, 0.0), ([0, 0], [1.0, 1.0], 1.0), ([1], [0.3], 0.7), ([0, 1], [0.2, 0.9], 0.15)],
)
def test_ece_by_hand(right, confidence, error):
    metric = CalibrationError(np.array(right), np.array(confidence))
    assert metric.value == pytest.approx(error)
    found = interval(metric, np.zeros(1))
    assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.long
@pytest.mark.parametrize("images", [240, 2000])
@pytest.mark.parametrize("sharp", [1.0, 1.2, 2.0, 4.0])
def test_the_interval_of_ece_holds_the_error_without_its_bias(sharp, images):
    random, expected, held, above = np.random.default_rng(1), calibration_of_all(4, 2, sharp), 0, 0
    for _ in range(400):
        confidence = random.beta(4, 2, images)
        found = interval(CalibrationError(random.random(images) < confidence**sharp, confidence), np.zeros(1))
        held += found.low <= expected + 1e-12 and expected <= found.high
        above += found.value > expected
    assert held / 400 >= 0.92
    if sharp == 1.0:
        assert above == 400  # the bias: what a percentile interval would be around


def test_the_worst_group_is_the_least_mean():
    random = np.random.default_rng(2)
    right, groups = random.random(300) < 0.7, random.integers(0, 4, 300)
    metric = WorstGroup(right, groups)
    assert metric.value == min(right[groups == group].mean() for group in range(4))
    drawn = random.integers(0, 300, (5, 300))
    counts = np.stack([np.bincount(row, minlength=300) for row in drawn]).astype(float)
    expected = [min(right[row][groups[row] == g].mean() for g in range(4)) for row in drawn]
    np.testing.assert_allclose(metric.resampled(counts), expected)
    assert [mean.images for mean in metric.of_each()] == np.bincount(groups).tolist()


def test_a_group_that_a_resample_lost_is_passed_over():
    metric = WorstGroup(np.array([1, 1, 0]), np.array([0, 0, 1]))
    assert metric.value == 0
    assert metric.resampled(np.array([[2.0, 1.0, 0.0]])).tolist() == [1.0]
    assert np.isfinite(resampled([metric], samples=50)).all()


@pytest.mark.parametrize("images", [30, 120])
@pytest.mark.parametrize(
    "accuracies",
    [(0.8,), (0.8,) * 2, (0.8,) * 50, (0.5, 0.9, 0.9), (0.2, 0.8, 0.8, 0.8), (0.97, 0.99, 1.0), (0.6, 0.62) * 10],
    ids=str,
)
def test_the_interval_of_the_worst_group_holds_the_worst_truth(accuracies, images):
    """Exactly: counts of right images are binomial, and the bounds miss where those of every group do."""
    groups, counts, worst = (
        np.arange(images * len(accuracies)) % len(accuracies),
        np.arange(images + 1),
        min(accuracies),
    )
    place = np.arange(len(groups)) // len(accuracies)
    found = [interval(WorstGroup(place < count, groups), np.zeros(1)) for count in counts]
    low, high = np.array([one.low for one in found]), np.array([one.high for one in found])
    each = [binom.pmf(counts, images, accuracy) for accuracy in accuracies]
    above, below = (np.prod([chance @ mask for chance in each]) for mask in (low > worst, high >= worst))
    assert 0.945 <= below - above <= 0.995


def test_bounds_of_the_worst_group_are_the_lowest_of_any():
    groups, place, rights = np.arange(300) % 3, np.arange(300) // 3, (40, 45, 90)
    found = interval(WorstGroup(place < np.take(rights, groups), groups), np.zeros(1))
    alike = [interval(WorstGroup(place < count, groups), np.zeros(1)) for count in rights]
    assert (found.low, found.high) == (min(one.low for one in alike), min(one.high for one in alike))


def test_the_reliability_figure_is_drawn():
    random = np.random.default_rng(4)
    metric = CalibrationError(random.random(60) < 0.5, random.random(60))
    assert reliability(metric).startswith(b"\x89PNG") and reliability(metric) == reliability(metric)


def test_macro_f1_is_scikit_learns_over_the_classes_there_are():
    random = np.random.default_rng(5)
    labels, predicted = random.integers(0, 6, 90), random.integers(0, 8, 90)
    predicted[::2] = labels[::2]
    metric = MacroF1(labels, predicted)
    drawn = random.integers(0, 90, (5, 90))
    counts = np.stack([np.bincount(row, minlength=90) for row in drawn]).astype(float)

    def theirs(row):
        return f1_score(labels[row], predicted[row], average="macro", labels=np.unique(labels[row]))

    assert metric.value == pytest.approx(theirs(np.arange(90)))
    np.testing.assert_allclose(metric.resampled(counts), [theirs(row) for row in drawn])
    few = MacroF1(np.array([0, 1, 1]), np.array([2, 2, 1]))
    assert few.value == pytest.approx((0 + 2 / 3) / 2)
    assert few.resampled(np.array([[0.0, 3.0, 0.0]])).tolist() == [0.0]
