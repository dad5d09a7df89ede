"""Simulated models of known quality: how often do their intervals hold it?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evaluation.intervals import interval, resampled
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


CASES = (
    *(_right(accuracy, images) for accuracy in (0.5, 0.9, 0.99) for images in (240, 1000)),
    *(_captions(recall, 1000, tied) for recall in (0.3, 0.9, 0.99) for tied in (0.1, 0.5)),
    *(_classes(low, 600, 12) for low in (0.2, 0.95)),
    *(_ties(right, 400) for right in (0.3, 0.98)),
    *(_both_ways(recall, 300) for recall in (0.2, 0.95)),
)


def coverage(case: Case, draws: int) -> float:
    """Share of ``draws`` test sets whose 95% interval holds the truth."""
    random, held = np.random.default_rng(1), 0
    for seed in range(draws):
        metric = case.draw(random)
        resamples = 1 if isinstance(metric, Mean) else RESAMPLES  # a mean of outcomes knows its variance
        found = interval(metric, resampled([metric], samples=resamples, seed=seed)[:, 0])
        held += found.low <= case.truth <= found.high
    return held / draws
