"""Compare variants with a baseline on every task and metric they share, and say which differences are separated.

A verdict is spoken on the *primary* metrics only, chosen before anything is seen, and corrected for their number. The
others say how a difference comes about. Among a hundred metrics, most of them the same thing measured again, the
correction would hide what a few show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from evaluation.compare.config import PRIMARY
from evaluation.compare.differences import Difference, Estimate, difference, holm
from evaluation.compare.evaluations import Evaluation, check_paired, estimates

__all__ = ["Comparison", "Row", "compare"]

_Key = tuple[str, str]  # task, metric
_Found = tuple[Estimate, Evaluation]


@dataclass(frozen=True)
class Row:
    """Comparison of one metric of a variant with the baseline's.

    ``p``: of a primary metric corrected by Holm over all primary rows of the comparison, of others as it is alone.
    ``separated``: that of a primary metric is below 1 - confidence. ``images``: of the test set; ``images_needed``: to
    separate the difference, infinite where more cannot.
    """

    variant: str
    task: str
    metric: str
    baseline: float
    value: float
    difference: Difference
    primary: bool
    p: float
    separated: bool
    images: int
    images_needed: float
    lower_is_better: bool = False

    @property
    def title(self) -> str:
        return f"{self.task}: {self.metric}{' (less is better)' if self.lower_is_better else ''}"

    @property
    def better(self) -> bool:
        """True if the variant has the better value, whether that is separated or not."""
        return self.difference.value < 0 if self.lower_is_better else self.difference.value > 0

    @property
    def said(self) -> str:
        """The verdict on this row, with what it would take if it is not separated."""
        if not self.primary:
            return f"secondary, p {self.p:.3f} alone"
        if self.separated:
            return f"separated, {'better' if self.better else 'worse'}, p {self.p:.3f}"
        said = f"not separated, p {self.p:.3f}"
        if self.images < self.images_needed < math.inf:
            return f"{said}; some {self.images_needed:,.0f} images would, here are {self.images:,}"
        return f"{said}; more seeds might" if self.difference.seed_error else said


@dataclass(frozen=True)
class Comparison:
    """All rows, and ``notes``: what limits what they say."""

    baseline: str
    confidence: float
    seeds: Mapping[str, int]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def primary(self) -> tuple[Row, ...]:
        """The rows that the verdict is about."""
        return tuple(row for row in self.rows if row.primary)

    @property
    def verdict(self) -> str:
        """One sentence: how many differences are separated from 0."""
        apart, total = sum(row.separated for row in self.primary), len(self.primary)
        if not total:
            return f"no task is shared with {self.baseline}"
        which = ", ".join(dict.fromkeys(row.metric for row in self.primary))
        better = sum(row.separated and row.better for row in self.primary)
        judged = f": {better} better, {apart - better} worse" if apart else ""
        if apart == total:
            return f"all {total} differences from {self.baseline} in {which} are separated from 0{judged}"
        judged = judged and f"; the others are{judged}"
        return (
            f"{total - apart} of {total} differences from {self.baseline} in {which} are not separated from 0{judged}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        rows = []
        for row in self.rows:
            found = {**asdict(row), "better": row.better}
            of = found.pop("difference")
            found |= {"difference": of.pop("value"), "p_alone": of.pop("p"), **of}
            if math.isinf(row.images_needed):
                found["images_needed"] = None  # JSON has no infinity
            rows.append(found)
        return {
            "baseline": self.baseline,
            "confidence": self.confidence,
            "seeds": dict(self.seeds),
            "verdict": self.verdict,
            "notes": list(self.notes),
            "differences": rows,
        }


def compare(
    variants: Mapping[str, Sequence[Evaluation]],
    *,
    primary: Sequence[str] = PRIMARY,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare every variant with the first. Several evaluations of one task are a variant's seeds.

    ``primary``: names or patterns of metrics; of a task that has none of them, its first metric.

    Raises DataError if evaluations of one task cannot be paired: other images, options or resamples.
    """
    names = list(variants)
    baseline, *others = names
    found = {name: estimates(evaluations) for name, evaluations in variants.items()}
    pairs = [
        (name, key, found[baseline][key], other)
        for name in others
        for key, other in found[name].items()
        if key in found[baseline]
    ]
    for _, _, (_, first), (_, evaluation) in pairs:
        check_paired(first, evaluation)
    apart = [difference(base, estimate, confidence=confidence, seed=seed) for _, _, (base, _), (estimate, _) in pairs]

    chosen = _chosen(list(found[baseline]), primary)
    rows = _rows(pairs, apart, chosen, confidence)
    seeds = {name: min((len(one.values) for one, _ in found[name].values()), default=0) for name in names}
    notes = _notes(variants, found, rows, seeds, confidence)
    return Comparison(baseline, confidence, seeds, tuple(rows), tuple(notes))


def _rows(
    pairs: Sequence[tuple[str, _Key, _Found, _Found]],
    apart: Sequence[Difference],
    chosen: set[_Key],
    confidence: float,
) -> list[Row]:
    """The differences of ``pairs`` (variant, metric, baseline's, its own), corrected where the metric is primary."""
    # Holm over the primary ones; it judges the clearest difference at the strictest level, that of all together.
    first_class = [index for index, (_, key, _, _) in enumerate(pairs) if key in chosen]
    corrected = dict(zip(first_class, holm([apart[index].p for index in first_class]), strict=True))
    strictest = 1 - (1 - confidence) / max(1, len(first_class))

    rows = []
    for index, ((name, (task, metric), (base, _), (estimate, evaluation)), one) in enumerate(
        zip(pairs, apart, strict=True)
    ):
        p = corrected.get(index, one.p)
        rows.append(
            Row(
                variant=name,
                task=task,
                metric=metric,
                baseline=base.mean,
                value=estimate.mean,
                difference=one,
                primary=index in corrected,
                p=p,
                separated=index in corrected and p < 1 - confidence,
                images=evaluation.images,
                images_needed=one.images_to_separate(evaluation.images, strictest),
                lower_is_better=metric in evaluation.lower,
            )
        )
    return rows


def _chosen(keys: Sequence[tuple[str, str]], primary: Sequence[str]) -> set[tuple[str, str]]:
    """Those of ``keys`` (task, metric) that are primary."""
    metrics: dict[str, list[str]] = {}
    for task, metric in keys:
        metrics.setdefault(task, []).append(metric)
    found = set()
    for task, names in metrics.items():
        matching = [name for name in names if any(fnmatchcase(name, pattern) for pattern in primary)]
        found |= {(task, name) for name in matching or names[:1]}
    return found


def _notes(
    variants: Mapping[str, Sequence[Evaluation]],
    found: Mapping[str, Mapping[tuple[str, str], Any]],
    rows: Sequence[Row],
    seeds: Mapping[str, int],
    confidence: float,
) -> list[str]:
    notes = []
    baseline, tested = next(iter(variants)), sum(row.primary for row in rows)
    if secondary := len(rows) - tested:
        notes.append(f"{secondary} secondary differences are shown with intervals and p of each alone, not corrected")
    if min(seeds.values()) < 2:
        single = ", ".join(name for name, count in seeds.items() if count < 2)
        notes.append(f"one seed of {single}: the intervals say nothing of what another seed would have given")
    for name in variants:
        tasks, shared = {task for task, _ in found[name]}, {task for task, _ in found[baseline]}
        if missing := sorted(tasks ^ shared):
            notes.append(f"only one of {baseline} and {name} was evaluated on {', '.join(missing)}")
    if alike := sorted({row.metric for row in rows if row.difference.is_point}):
        notes.append(f"{', '.join(alike)}: equal on every resample, so the interval is a point and says little")
    resamples = min((len(next(iter(one.resampled.values()))) for many in variants.values() for one in many), default=0)
    if tested and 2 * tested / (resamples + 1) >= 1 - confidence:
        enough = math.ceil(2 * tested / (1 - confidence)) * 2
        notes.append(
            f"{resamples:,} resamples cannot separate anything among {tested} differences: set evaluate's bootstrap "
            f"to {enough:,}"
        )
    return notes
