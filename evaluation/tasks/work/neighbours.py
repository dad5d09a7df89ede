"""Measure by the nearest images of a training split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evaluation.embedded import Embedded
from evaluation.tasks.task import Scores
from infra import metrics, ranking

if TYPE_CHECKING:
    from evaluation.tasks.neighbours import NearestNeighbours

__all__ = ["measure"]


def measure(task: NearestNeighbours, data: Embedded) -> Scores:
    """Add up the votes of the neighbours of each image."""
    data.check_one_label()
    learned = data.split(task.train)
    cosines, nearest = ranking.nearest(data.images, learned.images, task.k)
    votes = np.zeros((len(data.images), len(data.classes)), np.float32)
    rows = np.arange(len(votes))
    for neighbour in range(nearest.shape[1]):
        votes[rows, learned.labels[nearest[:, neighbour]]] += np.exp(
            (cosines[:, neighbour] - cosines[:, 0]) / task.temperature  # the nearest has weight 1
        )
    found = metrics.classified(votes, data.labels).metrics()
    return Scores(
        metrics={f"knn_{name}": metric for name, metric in found.items() if name != "acc5"},
        facts={"neighbours_from": len(learned.keys)},
    )
