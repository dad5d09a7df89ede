"""Measure classification where an image has any number of classes: which images come first for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from evaluation.precision import AveragePrecision
from evaluation.tasks.task import Columns, Scores
from infra.errors import DataError
from infra.measures import Mean

if TYPE_CHECKING:
    from evaluation.tasks.zeroshot import ZeroShot

__all__ = ["measure", "scored"]


def measure(task: ZeroShot, data: Embedded, classifier: NDArray[np.float32]) -> Scores:
    """Score every image for every class by its vector. Raises DataError if groups are asked for, too."""
    if task.groups:
        raise DataError(
            f"images of {data.examples.name!r} have any number of classes", expected="a task without groups"
        )
    return scored(data, data.images @ classifier.T)


def scored(data: Embedded, scores: NDArray[np.float32]) -> Scores:
    """Mean average precision of ``scores`` (n, classes), and that of each class with its share of images.

    Raises DataError if no image shows any class.
    """
    shows = data.shows
    if not shows.any():
        raise DataError(f"no image of {data.examples.name!r} has a class", expected="at least one class of one image")
    named = {name: label for label, name in enumerate(data.distinct_classes) if shows[:, label].any()}
    by_class = {
        name: {
            "average_precision": AveragePrecision(scores[:, [label]], shows[:, [label]]),
            "share_of_images": Mean(shows[:, label]),  # the average precision of random scores
        }
        for name, label in named.items()
    }
    return Scores(
        metrics={"mean_average_precision": AveragePrecision(scores, shows)},
        groups={"classes": by_class},
        tables={"first_classes": _first(data, scores, shows)},
        facts={"images": len(data.keys), "classes": len(data.classes), "classes_with_images": len(named)},
    )


def _first(data: Embedded, scores: NDArray[np.float32], shows: NDArray[np.bool_]) -> Columns:
    """A row for each image: its classes, the one it scores highest for, and whether that is one of them."""
    first = scores.argmax(axis=1)
    return {
        "key": data.keys,
        "classes": [[data.classes[label] for label in labels] for labels in data.labels_of_images],
        "predicted_class": [data.classes[label] for label in first],
        "right": shows[np.arange(len(first)), first],
    }
