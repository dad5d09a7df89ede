"""Measure by learning from a training split: logistic regression on all of it, or on a few images of each class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evaluation.embedded import Embedded
from evaluation.tasks.task import Scores
from evaluation.tasks.work import logistic
from evaluation.tasks.work.predictions import predictions
from infra import metrics

if TYPE_CHECKING:
    from evaluation.tasks.probe import FewShot, LinearProbe

__all__ = ["few_shot", "probe"]


def probe(task: LinearProbe, data: Embedded) -> Scores:
    """Choose the penalty on a part of the training split, learn from all of it."""
    data.check_one_label()
    learned = data.split(task.train)
    random = np.random.default_rng(task.seed)
    order = random.permutation(len(learned.labels))
    held, rest = np.split(order, [max(1, round(task.validation * len(order)))])
    strength = logistic.best_strength(learned.images, learned.labels, rest, held)
    scores = logistic.class_scores(learned.images, learned.labels, strength, data.images, len(data.classes))
    classified = metrics.classified(scores, data.labels, scale=1.0)
    return Scores(
        metrics={f"lp_{name}": metric for name, metric in classified.metrics().items()},
        tables={"predictions": predictions(data.keys, classified, data.classes)},
        facts={"learned_from": len(order), "inverse_penalty": strength},
    )


def few_shot(task: FewShot, data: Embedded) -> Scores:
    """The mean over draws of a few images of each class."""
    data.check_one_label()
    learned = data.split(task.train)
    random = np.random.default_rng(task.seed)
    right = np.zeros(len(data.labels))
    for _ in range(task.draws):
        # As many to learn from as asked for, and up to four of the others of each class to choose the penalty on.
        order = random.permutation(len(learned.labels))
        place = logistic.place_in_class(learned.labels[order])
        few, held = order[place < task.shots], order[(place >= task.shots) & (place < task.shots + 4)]
        strength = logistic.best_strength(learned.images, learned.labels, few, held) if len(held) else 1.0
        scores = logistic.class_scores(
            learned.images[few], learned.labels[few], strength, data.images, len(data.classes)
        )
        right += scores.argmax(axis=1) == data.labels
    return Scores.means({f"few_shot_acc1@{task.shots}": right / task.draws})
