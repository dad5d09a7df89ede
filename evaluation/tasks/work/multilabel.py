"""Measure zero-shot classification where an image has any number of classes: which images come first for each."""

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

__all__ = ["measure"]


def measure(task: ZeroShot, data: Embedded, classifier: NDArray[np.float32]) -> Scores:
    """Mean average precision, CLIP_benchmark's metric of such sets, and that of each class with its share of images.

    Raises DataError if no image shows any class, or groups are asked for.
    """
    shows = data.shows
    if task.groups or not shows.any():
        raise DataError(
            f"images of {data.examples.name!r} have any number of classes",
            expected="a task without groups" if task.groups else "at least one class of one image",
        )
    scores = data.images @ classifier.T
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
