"""Compare variants with a baseline on every task and metric they share, and say which differences are separated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.compare.differences import Difference, difference, holm
from evaluation.compare.evaluations import Evaluation, check_paired, estimates

__all__ = ["Comparison", "Row", "compare"]


@dataclass(frozen=True)
class Row:
    """Comparison of one metric of a variant with the baseline's.

    ``p``: corrected by Holm over all rows of the comparison. ``separated``: that is below 1 - confidence.
    ``images``: of the test set; ``images_needed``: to separate the difference, infinite where more cannot.
    """

    variant: str
    task: str
    metric: str
    baseline: float
    value: float
    difference: Difference
    p: float
    separated: bool
    images: int
    images_needed: float

    @property
    def title(self) -> str:
        return f"{self.task}: {self.metric}"

    @property
    def said(self) -> str:
        """The verdict on this row, with what it would take if it is not separated."""
        if self.separated:
            return f"separated, p {self.p:.3f}"
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
    def verdict(self) -> str:
        """One sentence: how many differences are separated from 0."""
        apart, total = sum(row.separated for row in self.rows), len(self.rows)
        if not total:
            return f"no task is shared with {self.baseline}"
        if apart == total:
            return f"all {total} differences from {self.baseline} are separated from 0"
        return f"{total - apart} of {total} differences from {self.baseline} are not separated from 0"

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        rows = []
        for row in self.rows:
            found = asdict(row)
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


def compare(variants: Mapping[str, Sequence[Evaluation]], *, confidence: float = 0.95, seed: int = 0) -> Comparison:
    """Compare every variant with the first. Several evaluations of one task are a variant's seeds.

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
    # Holm judges the clearest difference at the strictest level, that of all together.
    corrected, strictest = holm([one.p for one in apart]), 1 - (1 - confidence) / max(1, len(pairs))
    rows = tuple(
        Row(
            variant=name,
            task=task,
            metric=metric,
            baseline=base.mean,
            value=estimate.mean,
            difference=one,
            p=p,
            separated=p < 1 - confidence,
            images=evaluation.images,
            images_needed=one.images_to_separate(evaluation.images, strictest),
        )
        for (name, (task, metric), (base, _), (estimate, evaluation)), one, p in zip(
            pairs, apart, corrected, strict=True
        )
    )
    seeds = {name: min((len(one.values) for one, _ in found[name].values()), default=0) for name in names}
    return Comparison(baseline, confidence, seeds, rows, tuple(_notes(variants, found, rows, seeds, confidence)))


def _notes(
    variants: Mapping[str, Sequence[Evaluation]],
    found: Mapping[str, Mapping[tuple[str, str], Any]],
    rows: Sequence[Row],
    seeds: Mapping[str, int],
    confidence: float,
) -> list[str]:
    notes = []
    baseline = next(iter(variants))
    if min(seeds.values()) < 2:
        single = ", ".join(name for name, count in seeds.items() if count < 2)
        notes.append(f"one seed of {single}: the intervals say nothing of what another seed would have given")
    for name in variants:
        tasks, shared = {task for task, _ in found[name]}, {task for task, _ in found[baseline]}
        if missing := sorted(tasks ^ shared):
            notes.append(f"only one of {baseline} and {name} was evaluated on {', '.join(missing)}")
    resamples = min((len(next(iter(one.resampled.values()))) for many in variants.values() for one in many), default=0)
    if rows and 2 * len(rows) / (resamples + 1) >= 1 - confidence:
        enough = math.ceil(2 * len(rows) / (1 - confidence)) * 2
        notes.append(
            f"{resamples:,} resamples cannot separate anything among {len(rows)} differences: set evaluate's bootstrap "
            f"to {enough:,}"
        )
    return notes
