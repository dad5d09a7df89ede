"""Measure accuracy under corruptions: the same images, each under every corruption and severity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.classifiers import classifiers
from evaluation.corruptions.figure import by_severity
from evaluation.embedded import Embedded
from evaluation.tasks.task import Scores
from infra import metrics
from infra.errors import DataError
from infra.measures import Mean, Metric

if TYPE_CHECKING:
    from evaluation.tasks.corrupted import Corrupted

__all__ = ["measure"]


def measure(task: Corrupted, data: Embedded) -> Scores:
    """Accuracy of all changes, which are of the same images, so that what is lost is known image by image."""
    data.check_one_label()
    classifier = classifiers(task, data)[task.language]
    clean = _right(data, data, classifier)
    changes = task.corruptions.changes()
    right = {name: _right(data, data.split(change.split(task.split)), classifier) for name, change in changes.items()}
    mean = np.mean(list(right.values()), axis=0)  # of each image, over all changes
    found: dict[str, Metric] = {"acc1_corrupted": Mean(mean), "acc1": Mean(clean), "acc1_lost": Mean(clean - mean)}
    kinds = {
        kind.kind: np.stack([right[f"{kind.kind}-{severity}"] for severity in sorted(task.corruptions.severities)])
        for kind in task.corruptions.kinds
    }
    return Scores(
        metrics=found,
        groups={
            "corruptions": {kind: {"acc1": Mean(each.mean(axis=0))} for kind, each in kinds.items()},
            "severities": {name: {"acc1": Mean(each)} for name, each in right.items()},
        },
        figures={"corruptions": by_severity(clean.mean(), sorted(task.corruptions.severities), kinds)},
        facts={"images": len(data.keys), "changes": len(right)},
    )


def _right(data: Embedded, seen: Embedded, classifier: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mask of the images that are classified rightly as they are ``seen``. Raises DataError if these are others."""
    if seen.keys != data.keys:
        raise DataError(f"the images of {seen.examples.split} are not those of {data.examples.split}")
    return np.asarray(metrics.classify(seen.images, classifier, data.labels).rank == 0, np.float64)
