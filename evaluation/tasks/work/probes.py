"""Measure by learning from a training split: logistic regression on all of it, or on a few images of each class."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from evaluation.precision import AveragePrecision
from evaluation.tasks.task import Scores
from evaluation.tasks.work import logistic, multilabel
from evaluation.tasks.work.predictions import predictions
from infra import metrics

if TYPE_CHECKING:
    from evaluation.tasks.probe import FewShot, LinearProbe

__all__ = ["few_shot", "probe"]


def probe(task: LinearProbe, data: Embedded) -> Scores:
    """Choose the penalty on a part of the training split, learn from all of it."""
    if data.examples.multilabel:
        return _one_vs_rest(task, data)
    data.check_one_label()
    learned = data.split(task.train)
    held, rest = _parts(task, len(learned.keys))
    strength = logistic.best_strength(learned.images, learned.labels, rest, held)
    scores = logistic.class_scores(learned.images, learned.labels, strength, data.images, len(data.classes))
    classified = metrics.classified(scores, data.labels, scale=1.0)
    return Scores(
        metrics={f"lp_{name}": metric for name, metric in classified.metrics().items()},
        tables={"predictions": predictions(data.keys, classified, data.classes)},
        facts={"learned_from": len(learned.keys), "inverse_penalty": strength},
    )


def _one_vs_rest(task: LinearProbe, data: Embedded) -> Scores:
    """Of any number of classes an image: a regression for each class, with one penalty, the best by mean precision."""
    learned = data.split(task.train)
    held, rest = _parts(task, len(learned.keys))
    shows = learned.shows
    tried = logistic.OneVsRest(learned.images[rest], shows[rest])

    def precision(strength: float) -> float:
        return AveragePrecision(tried.scores(strength, learned.images[held]), shows[held]).value

    strength = logistic.search(precision) if shows[held].any() else 1.0
    scores = logistic.OneVsRest(learned.images, shows).scores(strength, data.images)
    found = multilabel.scored(data, scores)
    metrics = {f"lp_{name}": metric for name, metric in found.metrics.items()}
    facts = {**found.facts, "learned_from": len(learned.keys), "inverse_penalty": strength}
    return replace(found, metrics=metrics, facts=facts)


def _parts(task: LinearProbe, images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Those of the training split that the penalty is chosen on, and the rest."""
    order = np.random.default_rng(task.seed).permutation(images)
    held, rest = np.split(order, [max(1, round(task.validation * images))])
    return held, rest


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
