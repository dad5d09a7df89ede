"""Say what limits a comparison: too few seeds or resamples, models or tasks that only one variant has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from evaluation.compare.evaluations import Evaluation, Matched
from evaluation.compare.result import Row

__all__ = ["notes"]


def notes(
    found: Mapping[str, Mapping[str, Sequence[Evaluation]]],
    matched: Mapping[tuple[str, str], Matched],
    rows: Sequence[Row],
    seeds: Mapping[str, int],
    confidence: float,
) -> Iterator[str]:
    """Yield what a reader of ``rows`` should know.

    ``found``: evaluations by variant, the baseline first, and task; ``matched``: those compared, by variant and task;
    ``seeds``: how many of each variant are compared.
    """
    baseline, tested = next(iter(found)), sum(row.primary for row in rows)
    if secondary := len(rows) - tested:
        yield f"{secondary} secondary differences are shown with intervals and p of each alone, not corrected"
    if single := ", ".join(name for name, count in seeds.items() if count == 1):
        yield f"one seed of {single}: the intervals say nothing of what another seed would have given"
    for name, tasks in found.items():
        if missing := sorted({*tasks} ^ {*found[baseline]}):
            yield f"only one of {baseline} and {name} was evaluated on {', '.join(missing)}"
    for (name, task), both in matched.items():
        if both.same_models:
            yield from _of_same_models(task, baseline, name, both, (found[baseline][task], found[name][task]))
    if alike := sorted({row.metric for row in rows if row.difference.is_point}):
        yield f"{', '.join(alike)}: equal on every resample, so the interval is a point and says little"
    every = [one for tasks in found.values() for of_task in tasks.values() for one in of_task]
    resamples = min((len(next(iter(one.resampled.values()))) for one in every), default=0)
    if tested and 2 * tested / (resamples + 1) >= 1 - confidence:
        enough = math.ceil(2 * tested / (1 - confidence)) * 2
        yield (
            f"{resamples:,} resamples cannot separate anything among {tested} differences: set evaluate's bootstrap "
            f"to {enough:,}"
        )


def _of_same_models(
    task: str, baseline: str, name: str, both: Matched, every: tuple[Sequence[Evaluation], Sequence[Evaluation]]
) -> Iterator[str]:
    """Yield the models that are compared, if not all are, and the fields in which the task differs."""
    used = [one.model for one in both.other]
    if len(used) < max(map(len, every)):
        yield (
            f"{task}: {baseline} has {len(every[0])} seeds and {name} {len(every[1])}; only the models of both are "
            f"compared: {', '.join(used)}"
        )
    one, other = both.baseline[0].options, both.other[0].options
    if differ := sorted(field for field in {*one, *other} if one.get(field) != other.get(field)):
        yield f"{task}: {baseline} and {name} differ in the task's {', '.join(differ)}"
