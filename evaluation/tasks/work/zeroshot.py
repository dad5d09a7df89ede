"""Measure zero-shot classification: a vector for each class, and every image to the nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation import figures, galleries
from evaluation.calibration import CalibrationError
from evaluation.classifiers import classifiers
from evaluation.embedded import Embedded
from evaluation.f1 import MacroF1
from evaluation.precision import AveragePrecision
from evaluation.tasks.task import Columns, Scores
from evaluation.tasks.work import multilabel
from evaluation.tasks.work.predictions import predictions
from evaluation.worst import WorstGroup
from infra import metrics
from infra.measures import Metric
from infra.metrics import Classified

if TYPE_CHECKING:
    from evaluation.tasks.zeroshot import ZeroShot

__all__ = ["measure"]


def measure(task: ZeroShot, data: Embedded) -> Scores:
    """Every image to the nearest class, or by several classes. Raises DataError for a set without classes.

    Where prompts are in several languages, those of the task's count, and a table has the metrics by language.
    """
    by_language = classifiers(task, data)
    scores = (multilabel.measure if data.examples.multilabel else _measure)(task, data, by_language[task.language])
    if len(by_language) == 1:
        return scores
    each = {code: _metrics(data, by_language[code]) for code in sorted(by_language)}
    return replace(scores, groups={**scores.groups, "languages": each})


def _metrics(data: Embedded, classifier: NDArray[np.float32]) -> Mapping[str, Metric]:
    if data.examples.multilabel:
        return {"mean_average_precision": AveragePrecision(data.images @ classifier.T, data.shows)}
    return metrics.classify(data.images, classifier, data.labels, data.logit_scale).metrics()


def _measure(task: ZeroShot, data: Embedded, classifier: NDArray[np.float32]) -> Scores:
    classes = data.classes
    data.check_one_label()
    classified = metrics.classify(data.images, classifier, data.labels, data.logit_scale)
    calibration = CalibrationError(classified.rank == 0, np.asarray(classified.confidence))
    f1 = {"F1-macro_all": MacroF1(classified.labels, classified.predicted)} if task.macro_f1 else {}
    worst, by_group = _groups(task, data, classified)
    confusion = metrics.confusion_matrix(classified)
    logits = galleries.Logits(data.images, classifier, data.logit_scale)

    return Scores(
        metrics={**classified.metrics(), "ece": calibration, **f1, **worst},
        groups=by_group,
        tables={
            "predictions": predictions(data.keys, classified, classes),
            "classes": _per_class(confusion, classes),
        },
        figures={
            "confusion": figures.confusion(confusion, classes),
            "reliability": figures.reliability(calibration),
            "predictions": galleries.predictions(data.examples, classified, logits),
        },
        facts={"images": len(data.keys), "classes": len(classes)},
    )


def _groups(
    task: ZeroShot, data: Embedded, classified: Classified
) -> tuple[dict[str, Metric], dict[str, Mapping[str, Mapping[str, Metric]]]]:
    """The accuracy of the worst group by each grouping of ``task``, by WILDS's names, and the tables of all groups."""
    right = {"acc1": classified.rank == 0} | ({"acc5": classified.rank < 5} if classified.classes >= 5 else {})
    names = {"acc1": "acc", "acc5": "acc_top5"}
    classes = data.distinct_classes
    found: dict[str, Metric] = {}
    tables: dict[str, Mapping[str, Mapping[str, Metric]]] = {}
    for name, fields in task.groups.items():
        columns = [
            [classes[label] for label in data.labels] if field == "class" else data.column(field) for field in fields
        ]
        rows = [" / ".join(map(str, row)) for row in zip(*columns, strict=True)]
        known, numbers = np.unique(rows, return_inverse=True)
        worst = {metric: WorstGroup(values, numbers) for metric, values in right.items()}
        found |= {f"{names[metric]}_{name}": one for metric, one in worst.items()}
        means = zip(known.tolist(), *(one.of_each() for one in worst.values()), strict=True)
        tables[f"groups_{name}"] = {group: dict(zip(worst, each, strict=True)) for group, *each in means}
    return found, tables


def _per_class(confusion: NDArray[np.int64], classes: Sequence[str]) -> Columns:
    """A row per class: images, correct ones, recall, and the wrong class most often predicted ("" if none is)."""
    images, correct = confusion.sum(axis=1), confusion.diagonal()
    wrong = confusion.copy()
    wrong.flat[:: len(classes) + 1] = 0  # the diagonal
    return {
        "class": list(classes),
        "images": images,
        "right": correct,
        "recall": [hits / total if total else float("nan") for hits, total in zip(correct, images, strict=True)],
        "taken_for": [classes[other] if row[other] else "" for row, other in zip(wrong, wrong.argmax(1), strict=True)],
        "taken_for_images": wrong.max(axis=1),
    }
