"""Compute zero-shot classification metrics from features, without the whole N x C score matrix.

Classes are ranked first (one pass over chunks of the score matrix); the metrics then have CLIP_benchmark's names, and
know their value on the whole test set and on resamples of it (:mod:`infra.measures`). Between classes of equal score
the first in the list wins, as numpy's and scikit-learn's argmax have it. Retrieval is :mod:`infra.ranking`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.measures import ClassMean, Mean, Metric

__all__ = ["Classified", "classified", "classify", "confusion_matrix", "ensemble"]

Numbers = Sequence[int] | NDArray[np.int64]

_CELLS = 1 << 22  # of a score chunk: 16 MiB in float32


def _chunk(columns: int) -> int:
    return max(1, _CELLS // max(1, columns))


def ensemble(prompts: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
    """Combine prompts into one unit vector per class, the normalised mean of its prompts (Radford et al., 2021).

    ``prompts``: (classes * templates, d), unit rows, a class's templates side by side. -> (classes, d).
    """
    mean = prompts.reshape(classes, -1, prompts.shape[-1]).mean(axis=1)
    unit: NDArray[np.float32] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


@dataclass(frozen=True)
class Classified:
    """The classification of N images into C classes."""

    labels: NDArray[np.int64]  # (N,)
    predicted: NDArray[np.int64]  # (N,)
    rank: NDArray[np.int64]  # (N,) of the true class, 0 = first
    classes: int
    confidence: NDArray[np.float64] | None = None  # (N,) probability of the predicted class, where it was asked for

    def metrics(self) -> dict[str, Metric]:
        """The metrics by name; ``acc5`` says nothing below five classes and is left out there."""
        first = self.rank == 0
        found: dict[str, Metric] = {"acc1": Mean(first)}
        if self.classes >= 5:
            found["acc5"] = Mean(self.rank < 5)
        return found | {"mean_per_class_recall": ClassMean(first, self.labels)}


def classify(
    images: NDArray[np.float32], classifier: NDArray[np.float32], labels: Numbers, scale: float | None = None
) -> Classified:
    """Rank the classes for every image. ``images`` (N, d), ``classifier`` (C, d), unit rows; labels in [0, C).

    With ``scale``, which turns cosines into logits, predictions have their confidence.
    """
    truth = np.asarray(labels, dtype=np.int64)
    parts = [
        classified(images[start : start + step] @ classifier.T, truth[start : start + step], scale)
        for step in (_chunk(len(classifier)),)
        for start in range(0, len(images), step)
    ]
    predicted, rank = (np.concatenate(part) for part in zip(*((p.predicted, p.rank) for p in parts), strict=True))
    confidence = None if scale is None else np.concatenate([np.asarray(part.confidence) for part in parts])
    return Classified(truth, predicted, rank, len(classifier), confidence)


def classified(scores: NDArray[np.floating], labels: Numbers, scale: float | None = None) -> Classified:
    """Rank the classes by ``scores`` (N, C), logits if multiplied by ``scale``."""
    truth = np.asarray(labels, dtype=np.int64)
    label, columns = truth[:, None], np.arange(scores.shape[1])
    own = np.take_along_axis(scores, label, axis=1)
    rank = ((scores > own) | ((scores == own) & (columns < label))).sum(axis=1)
    predicted = scores.argmax(axis=1)
    confidence = None
    if scale is not None:
        # Odds against the first class, at most 1: in place, as they are as large as the scores.
        odds = scores - np.take_along_axis(scores, predicted[:, None], axis=1)
        odds *= scale
        confidence = 1 / np.exp(odds, out=odds).sum(axis=1, dtype=np.float64)
    return Classified(truth, predicted, rank, scores.shape[1], confidence)


def confusion_matrix(classified: Classified) -> NDArray[np.int64]:
    """Count images by true class (rows) and predicted class (columns): (C, C)."""
    cells = classified.labels * classified.classes + classified.predicted
    size = classified.classes
    return np.bincount(cells, minlength=size * size).reshape(size, size)
