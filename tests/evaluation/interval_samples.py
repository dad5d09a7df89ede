"""Simulated models of known quality: how often do their intervals hold it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import beta, betainc
from scipy.stats import norm

from evaluation.calibration import BINS, CalibrationError
from evaluation.intervals import interval, resampled
from evaluation.precision import AveragePrecision
from infra.measures import Average, ClassMean, Mean, Metric
from infra.ranking import tie_recall

RESAMPLES = 200


@dataclass(frozen=True)
class Case:
    """A model whose metric is ``truth`` over all test sets, of which ``draw`` gives one."""

    name: str
    truth: float
    draw: Callable[[np.random.Generator], Metric]


def _right(accuracy: float, images: int) -> Case:
    name = f"accuracy {accuracy} of {images} images"
    return Case(name, accuracy, lambda random: Mean(random.random(images) < accuracy))


def _captions(recall: float, images: int, tied: float) -> Case:
    """Five captions an image; ``tied``: correlation of their outcomes (beta-binomial)."""
    shape = recall * (1 - tied) / tied, (1 - recall) * (1 - tied) / tied

    def draw(random: np.random.Generator) -> Metric:
        return Mean(random.binomial(5, random.beta(*shape, images)), np.full(images, 5))

    return Case(f"recall {recall} of {images} images with 5 captions, tied {tied}", recall, draw)


def _classes(low: float, images: int, classes: int) -> Case:
    """Classes of accuracies from ``low`` to 1, of different sizes."""
    accuracy = np.linspace(low, 1, classes)

    def draw(random: np.random.Generator) -> Metric:
        labels = np.concatenate([np.arange(classes), random.integers(0, classes, images - classes)])
        return ClassMean(random.random(images) < accuracy[labels], labels)

    return Case(f"mean of {classes} classes from {low}, {images} images", accuracy.mean(), draw)


def _ties(right: float, images: int) -> Case:
    """Recall@5 where a third of the right answers are level with up to twenty wrong ones."""
    equal = np.arange(1, 21)
    share = tie_recall(np.zeros(20, np.int64), equal, np.ones(20, np.int64), 5).mean()

    def draw(random: np.random.Generator) -> Metric:
        better = np.where(random.random(images) < right, 0, 9)
        level = np.where(random.random(images) < 1 / 3, random.integers(1, 21, images), 0)
        return Mean(tie_recall(better, level, np.ones(images, np.int64), 5))

    return Case(f"recall with ties, {right} of {images} images", right * (2 / 3 + share / 3), draw)


def _both_ways(recall: float, images: int) -> Case:
    """The mean of two directions that find the same images hard."""

    def draw(random: np.random.Generator) -> Metric:
        hard = random.random(images)
        ways = [(hard < recall) ^ (random.random(images) < 0.1) for _ in range(2)]
        return Average((Mean(ways[0]), Mean(ways[1])))

    return Case(f"mean recall {recall} of {images} images", 0.9 * recall + 0.1 * (1 - recall), draw)


def scored(
    random: np.random.Generator, images: int, shares: Sequence[float], shifts: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Normal scores for classes that these ``shares`` of the images show, moved by ``shifts`` where shown."""
    shown = random.random((images, len(shares))) < np.array(shares)
    return random.standard_normal(shown.shape) + np.array(shifts) * shown, shown


def precision_of_all(share: float, shift: float) -> float:
    """The average precision on infinitely many images: of those that score as high, how many show the class?"""
    scores = norm.ppf((np.arange(20000) + 0.5) / 20000) + shift
    right, wrong = share * norm.sf(scores - shift), (1 - share) * norm.sf(scores)
    return float((right / (right + wrong)).mean())


def _precisions(images: int, shares: Sequence[float], shifts: Sequence[float]) -> Case:
    """Mean average precision of so many classes."""
    of_all = [precision_of_all(share, shift) for share, shift in zip(shares, shifts, strict=True)]
    name = f"mean average precision of {len(shares)} classes from {min(shares)} of {images} images"
    return Case(name, float(np.mean(of_all)), lambda random: AveragePrecision(*scored(random, images, shares, shifts)))


def calibration_of_all(first: float, second: float, sharp: float) -> float:
    """ECE on infinitely many images whose confidence p is a beta variable, and of which p**sharp are right."""
    edges = np.arange(BINS + 1) / BINS

    def moments(power: float) -> NDArray[np.float64]:
        """The mean of p**power where p lies in each bin, and 0 elsewhere."""
        moment = beta(first + power, second) / beta(first, second)
        inside: NDArray[np.float64] = np.diff(betainc(first + power, second, edges)) * moment
        return inside

    return float(np.abs(moments(sharp) - moments(1)).sum())


def _calibration(first: float, second: float, sharp: float, images: int) -> Case:
    def draw(random: np.random.Generator) -> Metric:
        confidence = random.beta(first, second, images)
        return CalibrationError(random.random(images) < confidence**sharp, confidence)

    truth = calibration_of_all(first, second, sharp)
    return Case(f"calibration error {truth:.2f} of {images} images", truth, draw)


CASES = (
    *(_right(accuracy, images) for accuracy in (0.5, 0.9, 0.99) for images in (240, 1000)),
    *(_captions(recall, 1000, tied) for recall in (0.3, 0.9, 0.99) for tied in (0.1, 0.5)),
    *(_classes(low, 600, 12) for low in (0.2, 0.95)),
    *(_ties(right, 400) for right in (0.3, 0.98)),
    *(_both_ways(recall, 300) for recall in (0.2, 0.95)),
    _precisions(300, [0.1] * 6, [1] * 6),
    _precisions(300, [0.1, 0.2, 0.05, 0.3, 0.1, 0.5], [3, 2, 1, 0, 4, 0.5]),
    _precisions(200, [0.03] * 8, [1.5] * 8),
    _precisions(240, [0.3] * 4, [5] * 4),  # nearly perfect
    _precisions(1000, [0.05] * 20, [2] * 20),
    _precisions(100, [0.2] * 5, [1.5] * 5),
    _precisions(500, [0.02, 0.05, 0.1, 0.4], [3, 2.5, 2, 1]),
    _precisions(300, [0.1], [2]),
    _precisions(1000, [0.01] * 10, [3] * 10),
    _calibration(4, 2, 1.5, 2000),
    _calibration(1, 1, 4.0, 20_000),  # of bins with very different gaps
)


def coverage(case: Case, draws: int) -> float:
    """Share of ``draws`` test sets whose 95% interval holds the truth."""
    random, held = np.random.default_rng(1), 0
    for seed in range(draws):
        metric = case.draw(random)
        known = metric.variance is not None or metric.own_interval(0.95) is not None
        resamples = 1 if known else RESAMPLES
        found = interval(metric, resampled([metric], samples=resamples, seed=seed)[:, 0])
        held += found.low <= case.truth <= found.high
    return held / draws
