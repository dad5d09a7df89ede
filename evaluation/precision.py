"""Mean average precision: of images by their score for a class, do those that show it come first?

The average precision of a class is the mean, over the images that show it, of the share of such images among all that
score as high or higher: scikit-learn's ``average_precision_score``, without interpolation. CLIP_benchmark's is the same
where no scores are equal; there it takes the order in which they happen to be sorted. It counts 0 for a class that no
image shows, where here the mean is over the others.

**Its bias.** Each image that shows the class is among those that score as high as itself, so a class of few images
looks better than it is: one image alone at the top is 1 of 1. Without itself the share is right on average, whatever
the scores are: of images above a given score, each shows the class with the same probability. That is what the interval
is around.

**Its variance.** A resample repeats images, which count as above one another, so it is neither right on average nor of
the right width. The jackknife (Tukey, 1958) leaves out each image in turn instead, of a class in one pass.
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
        return self.value - float(np.mean([_without_itself(places, last).mean() for _, places, last in self._classes]))

    @property
    def units(self) -> int:
        return min(self.images, int(self.shown.sum()))

    @cached_property
    def variance(self) -> float:
        """The jackknife's, of the mean over the classes that are shown without each image."""
        total, classes = np.zeros(self.images), np.zeros(self.images)
        for order, places, last in self._classes:
            without = _without_each(places, last, self.images)
            known = np.isfinite(without)
            total[order] += np.where(known, without, 0)
            classes[order] += known
        values = total[classes > 0] / classes[classes > 0]
        return float((self.images - 1) * values.var()) if len(values) else 0.0

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


def _share(above: Array, images: Array) -> NDArray[np.float64]:
    """The part ``above`` of so many ``images``; 1 where there are none."""
    return np.divide(above, images, out=np.ones(len(images)), where=images > 0)


def _without_itself(places: Array, last: Array) -> NDArray[np.float64]:
    """Precision at each image that shows the class if it does not count itself; at one with none above it is 1."""
    return _share(_above(places, last), last)


def _above(places: Array, last: Array) -> NDArray[np.int64]:
    """Number of others of the class that score as high or higher than each image of it."""
    above: NDArray[np.int64] = np.searchsorted(places, last, side="right") - 1
    return above


def _without_each(places: Array, last: Array, images: int) -> NDArray[np.float64]:
    """The mean of :func:`_without_itself` without each image in turn, by place: (images,). NaN: none shows the class.

    Leaving an image out changes the precision at those that score as high or lower, which are the last ones.
    """
    above, itself = _above(places, last), _without_itself(places, last)
    if_other, if_shown = _share(above, last - 1), _share(above - 1, last - 1)  # is left out
    first = np.searchsorted(last, np.arange(images))  # of those that change
    same = np.concatenate([[0], np.cumsum(itself)])[first]
    total = same + _from_each(if_other)[first]
    total[places] = (same + _from_each(if_shown)[first])[places] - if_shown
    number = np.full(images, float(len(places)))
    number[places] -= 1
    without: NDArray[np.float64] = np.divide(total, number, out=np.full(images, np.nan), where=number > 0)
    return without


def _from_each(values: Array) -> NDArray[np.float64]:
    """The sum of ``values`` from each on, and 0 from behind the last: (len(values) + 1,)."""
    sums: NDArray[np.float64] = np.append(np.cumsum(values[::-1])[::-1], 0)
    return sums
