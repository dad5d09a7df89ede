"""Measure the choice among hard negatives: outcomes of groups, put together by category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation import galleries
from evaluation.embedded import Embedded
from evaluation.groups import Group, chance, groups_of, outcomes
from evaluation.tasks.task import Columns, Scores
from infra.measures import ClassMean, Mean, Metric

if TYPE_CHECKING:
    from evaluation.tasks.selection import ImageCaptionSelection

__all__ = ["measure"]


def measure(task: ImageCaptionSelection, data: Embedded) -> Scores:
    """Outcomes of all groups, and by category. Raises DataError for a set without wrong captions."""
    data.check_kind(task.needs[0], "wrong captions")
    groups = groups_of(data)
    found = outcomes(data, groups)
    categories = [group.category for group in groups]
    names, category = np.unique(categories, return_inverse=True)
    metrics: dict[str, Metric] = {name: Mean(values) for name, values in found.items()}
    by_category: dict[str, dict[str, Metric]] = {}
    if len(names) > 1:
        metrics["mean_per_category_acc"] = ClassMean(found["acc"], category)
        for number, name in enumerate(names.tolist()):
            by_category[name] = {metric: Mean(values[category == number]) for metric, values in found.items()}
    return Scores(
        metrics=metrics,
        groups={"categories": by_category} if by_category else {},
        tables={"selections": _table(data, groups, found)},
        figures={"selections": galleries.selections(data, groups, found["acc"])},
        facts={"groups": len(groups), "images": len(data.keys), "captions": len(data.text_of)} | chance(groups),
    )


def _table(data: Embedded, groups: Sequence[Group], found: dict[str, NDArray[np.float64]]) -> Columns:
    """A row for each group: its images, its captions (the right ones first, in the order of images), and outcomes."""
    return {
        "group": [group.name for group in groups],
        "category": [group.category for group in groups],
        "keys": [[data.keys[image] for image in group.images] for group in groups],
        "captions": [[data.captions[data.text_of[caption]] for caption in group.captions] for group in groups],
        **found,
    }
