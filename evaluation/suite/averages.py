"""Averages over test sets, with intervals, none of them over fewer sets than it is named for.

The bounds of a mean of k independent figures follow from theirs by recovering each one's variance at its own bound
(MOVER; Zou and Donner, 2008): the squared distances to the lower bounds add up, and those to the upper ones. So the
intervals of shares near 0 and 1, which are no mirror images of themselves, stay so in the average. They hold for other
images of the same sets; which sets are in the suite is taken as given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from evaluation.intervals import Interval
from evaluation.suite.config import Suite
from infra.run.manifest import Artifact

__all__ = ["Group", "groups", "mean", "read_figures"]


@dataclass(frozen=True)
class Group:
    """An average over ``sets``; ``missing`` of them have no figure, for the reason given."""

    name: str
    sets: tuple[str, ...]
    missing: Mapping[str, str]
    mean: Interval | None  # over those that are there

    @property
    def metric(self) -> str:
        """Its name as a metric, which says if it is over fewer: ``average``, ``average_of_35_of_38``."""
        plain = "".join(char if char.isalnum() else "_" for char in self.name).strip("_").lower()
        there = len(self.sets) - len(self.missing)
        return f"{plain}_of_{there}_of_{len(self.sets)}" if self.missing else plain


def mean(figures: Sequence[Interval]) -> Interval:
    """The mean of independent figures with its interval."""
    count = len(figures)
    value = sum(one.value for one in figures) / count
    below = sqrt(sum((one.value - one.low) ** 2 for one in figures)) / count
    above = sqrt(sum((one.high - one.value) ** 2 for one in figures)) / count
    return Interval(value, value - below, value + above, "MOVER")


def read_figures(suite: Suite, evaluations: Sequence[Artifact]) -> tuple[dict[str, Interval], dict[str, str]]:
    """The main metric of each set of ``suite``, and of each set without one the reason."""
    found: dict[str, Interval] = {}
    missing: dict[str, str] = {}
    by_task = {_task(one.manifest.config["task"]): one for one in evaluations}
    for name, entry in suite.sets.items():
        tasks = [by_task.get((folder, entry.split, entry.task)) for folder in suite.folders(name)]
        evaluation = next((one for one in tasks if one is not None), None)
        if evaluation is None:
            missing[name] = f"no {entry.task} of it"
            continue
        metrics, plain = evaluation.manifest.metrics, entry.main.replace("@", "_at_")
        if plain not in metrics:
            missing[name] = f"{entry.task} gives no {entry.main}"
            continue
        found[name] = Interval(metrics[plain], metrics[f"{plain}_low"], metrics[f"{plain}_high"])
    return found, missing


def groups(suite: Suite, found: Mapping[str, Interval], missing: Mapping[str, str]) -> list[Group]:
    """The averages of ``suite``."""
    result = []
    for name, sets in suite.groups().items():
        there = [found[one] for one in sets if one in found]
        absent = {one: missing[one] for one in sets if one not in found}
        result.append(Group(name, tuple(sets), absent, mean(there) if there else None))
    return result


def _task(task: Mapping[str, Any]) -> tuple[str, str, str]:
    return task["dataset"].strip("/"), task["split"], task["kind"]
