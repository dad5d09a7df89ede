"""Measure multiple choice: the share of images whose right choices score highest, by step and by category."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.embedded import Embedded
from evaluation.tasks.task import Scores
from infra.errors import DataError
from infra.measures import Mean, Metric

if TYPE_CHECKING:
    from evaluation.tasks.multiple_choice import MultipleChoice

__all__ = ["measure"]

Floats = NDArray[np.float64]


def measure(task: MultipleChoice, data: Embedded) -> Scores:
    """All metrics. Raises DataError for a set of another kind, or an image whose steps are not those of the others."""
    steps = _steps(task, data)
    starts = np.searchsorted(data.image_of, np.arange(len(data.keys)))
    # Half the set away: neighbours may be asked the same.
    other = np.roll(np.arange(len(data.keys)), len(data.keys) // 2)
    hits = _right(steps, starts, _scores(task, data, data.image_of))
    elsewhere = _right(steps, starts, _scores(task, data, other[data.image_of]))
    found = {
        "acc": np.prod([*hits.values()], axis=0),
        "acc_other_image": np.prod([*elsewhere.values()], axis=0),
        **({f"{name}_acc": own for name, own in hits.items()} if len(hits) > 1 else {}),
    }
    by_guessing = np.prod([1 / sizes for sizes in steps.values()], axis=0)
    return Scores(
        metrics={name: Mean(values) for name, values in found.items()},
        groups=_by_category(data, found),
        tables={"choices": {"key": data.keys, **{f"{name}_right": own for name, own in hits.items()}}},
        facts={"images": len(data.keys), "choices": len(data.text_of), "acc_by_chance": float(by_guessing.mean())},
    )


def _steps(task: MultipleChoice, data: Embedded) -> dict[str, NDArray[np.int64]]:
    """The number of choices of each image (n,) by step, in the order of the steps."""
    data.check_kind(task.needs[0], "choices")
    given = data.column("steps")
    counts = np.bincount(data.image_of, minlength=len(data.keys)).tolist()
    for key, count, steps in zip(data.keys, counts, given, strict=True):
        told = isinstance(steps, dict) and all(type(size) is int and size > 1 for size in steps.values())
        if not told or not steps or list(steps) != list(given[0]) or sum(steps.values()) != count:
            raise DataError(
                f"sample {key!r} of {data.examples.name} does not say which captions are the choices of which step",
                expected=f"the steps that all images have, of two choices or more each, {count} together",
                found=str(steps)[:200],
            )
    return {name: np.array([steps[name] for steps in given]) for name in given[0]}


def _scores(task: MultipleChoice, data: Embedded, image_of: NDArray[np.int64]) -> Floats:
    """Score choice i with image ``image_of[i]``, for all choices: (m,)."""
    if task.score == "matching":
        return data.match(image_of, data.text_of).astype(np.float64)
    # Row by row, so that equal texts score equal to the last bit.
    cosines: Floats = np.einsum("md,md->m", data.images[image_of], data.texts[data.text_of]).astype(np.float64)
    return cosines


def _right(steps: dict[str, NDArray[np.int64]], starts: NDArray[np.int64], scores: Floats) -> dict[str, Floats]:
    """The probability (n,) that an image's first choice of a step is taken: among those that score level all are."""
    found, first = {}, starts.copy()
    for name, sizes in steps.items():
        taken = np.empty(len(starts))
        for size in np.unique(sizes):
            rows = np.flatnonzero(sizes == size)
            own = scores[first[rows, None] + np.arange(size)]
            best = own == own.max(axis=1, keepdims=True)
            taken[rows] = best[:, 0] / best.sum(axis=1)
        found[name], first = taken, first + sizes
    return found


def _by_category(data: Embedded, found: dict[str, Floats]) -> dict[str, dict[str, dict[str, Metric]]]:
    """The table by category; empty if the set has none."""
    rows: dict[str, dict[str, Metric]] = {
        name: {metric: Mean(values[own]) for metric, values in found.items()} for name, own in data.categories.items()
    }
    return {"categories": rows} if rows else {}
