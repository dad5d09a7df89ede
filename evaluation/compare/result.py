"""The result of a comparison: a row for each metric of each variant, and the verdict on all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.compare.differences import Difference

__all__ = ["Comparison", "Row"]


@dataclass(frozen=True)
class Row:
    """Comparison of one metric of a variant with the baseline's.

    ``p``: of a primary metric corrected by Holm over all primary rows of the comparison, of others as it is alone.
    ``separated``: that of a primary metric is below 1 - confidence. ``images``: of the test set; ``images_needed``: to
    separate the difference, infinite where more cannot. ``paired_models``: number of trained models that both variants
    evaluated, by which the difference is paired; 0: their models are others.
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
    paired_models: int = 0
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
            said = f"all {total} differences from {self.baseline} in {which} are separated from 0{judged}"
        else:
            said = f"{total - apart} of {total} differences from {self.baseline} in {which} are not separated from 0"
            said += judged and f"; the others are{judged}"
        return f"{said}; {self.pairing}" if self.pairing else said

    @property
    def pairing(self) -> str:
        """By how many models the primary differences are paired; "" if by none."""
        counts = {row.paired_models for row in self.primary}
        paired = sum(row.paired_models > 0 for row in self.primary)
        if not paired:
            return ""
        least, most = min(counts - {0}), max(counts)
        seeds = f"{most} seed{'s' if most > 1 else ''}" if least == most else f"{least} to {most} seeds"
        return f"{'' if 0 not in counts else f'{paired} of them '}paired by model: {seeds}"

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
