"""Mean average precision: of images by their score for a class, do those that show it come first?

The average precision of a class is the mean, over the images that show it, of the share of such images among all that
score as high or higher: scikit-learn's ``average_precision_score``, without interpolation. CLIP_benchmark's is the same
where no scores are equal; there it takes the order in which they happen to be sorted. It counts 0 for a class that no
image shows, where here the mean is over the others.

**Its bias.** Each image that shows the class is among those that score as high as itself, so a class of few images
looks better than it is: one image alone at the top is 1 of 1. Without itself the share is right on average, whatever
the scores are: of images above a given score, each shows the class with the same probability. That is what the interval
is around.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from infra.measures import Array, Counts, Metric

__all__ = ["AveragePrecision"]


@dataclass(frozen=True)
class AveragePrecision(Metric):
    """The mean over classes of their average precision: ``scores`` (n, C), and which classes ``shown`` (n, C)."""

    scores: Array
    shown: NDArray[np.bool_]

    @property
    def images(self) -> int:  # type: ignore[override]
        return len(self.scores)

    @property
    def is_share(self) -> bool:
        return True

    @cached_property
    def bias(self) -> float:
        return self.value - float(np.mean([_without_itself(places, last) for _, places, last in self._classes]))

    @cached_property
    def _classes(self) -> list[tuple[Array, Array, Array]]:
        """Of each class that is shown: images by falling score, which show it, and the last place of equal scores."""
        return list(self._ordered())

    def _ordered(self) -> Iterator[tuple[Array, Array, Array]]:
        for scores, shown in zip(self.scores.T, self.shown.T, strict=True):
            if shown.any():
                order = np.argsort(-scores, kind="stable")
                ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
                last = ends[np.searchsorted(ends, np.arange(len(order)))]
                places = np.flatnonzero(shown[order])
                yield order, places, last[places]

    def resampled(self, counts: Counts) -> NDArray[np.float64]:
        # A row for each image, so that an image's counts lie side by side when images are put in order.
        by_image = np.ascontiguousarray(counts.T)
        total, classes = np.zeros(len(counts)), np.zeros(len(counts))
        for order, places, last in self._classes:
            ordered = by_image[order]
            images = np.cumsum(ordered, axis=0)[last]
            right = ordered[places]
            above = np.cumsum(right, axis=0)[np.searchsorted(places, last, side="right") - 1]
            number = right.sum(axis=0)
            precision = np.divide(above, images, out=np.zeros_like(above), where=images > 0)
            total += np.divide((right * precision).sum(axis=0), number, out=np.zeros_like(number), where=number > 0)
            classes += number > 0
        found: NDArray[np.float64] = total / np.maximum(classes, 1)
        return found


def _without_itself(places: Array, last: Array) -> float:
    """The average precision of a class if no image counts for itself; that of one with none above stays 1."""
    above = np.searchsorted(places, last, side="right") - 1
    return float(np.divide(above, last, out=np.ones(len(last)), where=last > 0).mean())
