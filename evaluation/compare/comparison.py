"""Compare variants with a baseline on every task and metric they share, and say which differences are separated.

A verdict is spoken on the *primary* metrics only, chosen before anything is seen, and corrected for their number. The
others say how a difference comes about. Among a hundred metrics, most of them the same thing measured again, the
correction would hide what a few show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from evaluation.compare.config import PRIMARY
from evaluation.compare.differences import Estimate, difference, holm
from evaluation.compare.evaluations import Evaluation, Matched, by_task, estimate, match
from evaluation.compare.notes import notes
from evaluation.compare.result import Comparison, Row
from infra.errors import UsageError, did_you_mean

__all__ = ["compare"]


@dataclass(frozen=True)
class _Pair:
    """A metric of a variant and of the baseline, before their difference is taken."""

    variant: str
    metric: str
    matched: Matched
    baseline: Estimate
    other: Estimate

    @property
    def key(self) -> tuple[str, str]:
        return self.matched.baseline[0].task, self.metric


def compare(
    variants: Mapping[str, Sequence[Evaluation]],
    *,
    primary: Sequence[str] = PRIMARY,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare every variant with the first. Several evaluations of one task are a variant's seeds.

    Where both evaluated the same trained models in different ways, the differences are paired by model.
    ``primary``: names or patterns of metrics; of a task that has none of them, its first metric.

    Raises DataError if evaluations of one task cannot be paired: other images, options or resamples; UsageError for a
    primary metric, not of the default ones, that no task has.
    """
    found = {name: by_task(evaluations) for name, evaluations in variants.items()}
    baseline, *others = variants
    matched = {
        (name, task): match(found[baseline][task], seeds)
        for name in others
        for task, seeds in found[name].items()
        if task in found[baseline]
    }
    pairs = [
        _Pair(name, metric, both, estimate(both.baseline, metric), estimate(both.other, metric))
        for (name, _), both in matched.items()
        for metric in both.other[0].values
        if metric in both.baseline[0].values
    ]
    chosen = _chosen({task: list(seeds[0].values) for task, seeds in found[baseline].items()}, primary)
    rows = _rows(pairs, chosen, confidence, seed)
    seeds = _seeds(list(variants), matched)
    return Comparison(baseline, confidence, seeds, tuple(rows), tuple(notes(found, matched, rows, seeds, confidence)))


def _rows(pairs: Sequence[_Pair], chosen: set[tuple[str, str]], confidence: float, seed: int) -> list[Row]:
    """The differences of ``pairs``, corrected where the metric is primary."""
    apart = [
        difference(pair.baseline, pair.other, confidence=confidence, seed=seed, same_models=pair.matched.same_models)
        for pair in pairs
    ]
    # Holm over the primary ones; it judges the clearest difference at the strictest level, that of all together.
    first_class = [index for index, pair in enumerate(pairs) if pair.key in chosen]
    corrected = dict(zip(first_class, holm([apart[index].p for index in first_class]), strict=True))
    strictest = 1 - (1 - confidence) / max(1, len(first_class))

    rows = []
    for index, (pair, one) in enumerate(zip(pairs, apart, strict=True)):
        (task, metric), evaluation = pair.key, pair.matched.other[0]
        p = corrected.get(index, one.p)
        rows.append(
            Row(
                variant=pair.variant,
                task=task,
                metric=metric,
                baseline=pair.baseline.mean,
                value=pair.other.mean,
                difference=one,
                primary=index in corrected,
                p=p,
                separated=index in corrected and p < 1 - confidence,
                images=evaluation.images,
                images_needed=one.images_to_separate(evaluation.images, strictest),
                paired_models=len(pair.matched.other) if pair.matched.same_models else 0,
                lower_is_better=metric in evaluation.lower,
            )
        )
    return rows


def _chosen(metrics: Mapping[str, Sequence[str]], primary: Sequence[str]) -> set[tuple[str, str]]:
    """The primary ones (task, metric) of each task's ``metrics``. Raises UsageError for one that no task has."""
    known = dict.fromkeys(name for names in metrics.values() for name in names)
    for pattern in primary:
        if known and pattern not in PRIMARY and not any(_is(name, pattern) for name in known):
            raise UsageError(
                f"nothing that is compared has a metric {pattern!r}",
                expected=", ".join(known),
                fix=did_you_mean(pattern, known),
            )
    found = set()
    for task, names in metrics.items():
        matching = [name for name in names if any(_is(name, pattern) for pattern in primary)]
        found |= {(task, name) for name in matching or names[:1]}
    return found


def _is(name: str, pattern: str) -> bool:
    """True if the pattern has the metric's name, or how manifests and MLflow write it."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.replace("@", "_at_"), pattern)


def _seeds(names: Sequence[str], matched: Mapping[tuple[str, str], Matched]) -> dict[str, int]:
    """The number of each variant's seeds that are compared, the least of all its tasks; the baseline is the first."""
    counts: dict[str, list[int]] = {name: [] for name in names}
    for (name, _), both in matched.items():
        counts[name].append(len(both.other))
        counts[names[0]].append(len(both.baseline))
    return {name: min(of_tasks, default=0) for name, of_tasks in counts.items()}
