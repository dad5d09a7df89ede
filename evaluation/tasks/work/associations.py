"""Measure associations: the Jaccard index of each cue, put together by the number of its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation import galleries
from evaluation.cues import Cue, cues_of, expected_jaccard, scores_of
from evaluation.embedded import Embedded
from evaluation.tasks.task import Columns, Scores
from infra.measures import Counts, Mean, Metric

if TYPE_CHECKING:
    from evaluation.tasks.associations import Associations

__all__ = ["measure"]

Floats = NDArray[np.float64]

_TOGETHER = ((5, 6), (10, 12))
"""Numbers of candidates that DataComp takes together, from and to: those of WinoGAViL's two games."""


@dataclass(frozen=True)
class _PartMean(Mean):
    """A mean over some of the cues: ``sizes`` is 0 for the others.

    A resample without any of them has the value of the whole set, as it says nothing else of it.
    """

    def resampled(self, counts: Counts) -> Floats:
        held = counts @ self._sizes
        known = self._totals.sum() / self._sizes.sum()
        values: Floats = np.divide(counts @ self._totals, held, out=np.full(len(held), known), where=held > 0)
        return values

    @property
    def units(self) -> int:
        return int(self._sizes.sum())


def measure(task: Associations, data: Embedded) -> Scores:
    """The scores of all cues, and by their number of candidates. Raises DataError for another kind of set."""
    data.check_kind(task.needs[0], "cues")
    cues = cues_of(data)
    scores = [scores_of(data, cue) for cue in cues]
    found = np.array([expected_jaccard(one, cue.right) for one, cue in zip(scores, cues, strict=True)])
    guessed = np.array([expected_jaccard(np.zeros(len(cue.right)), cue.right) for cue in cues])
    parts = _parts(np.array([len(cue.images) for cue in cues]))
    metrics: dict[str, Metric] = {"avg_jaccard_score": Mean(found)}
    metrics |= {name: _PartMean(found * part, part.astype(np.float64)) for name, part in parts.items()}
    chance = {"avg_jaccard_score": float(guessed.mean())}
    chance |= {name: float(guessed[part].mean()) for name, part in parts.items()}
    return Scores(
        metrics=metrics,
        tables={"associations": {**_table(data, cues, scores), "jaccard_score": found, "chance": guessed}},
        figures={"associations": galleries.associations(data, cues, scores)},
        facts={"cues": len(cues), "images": len(data.keys), "chance": chance},
    )


def _parts(candidates: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """The metrics of some cues only, and which these are; those that no cue has are left out."""
    exact = {f"jaccard_score_{number}": candidates == number for number in np.unique(candidates).tolist()}
    together = {f"jaccard_score_{low}-{high}": (candidates >= low) & (candidates <= high) for low, high in _TOGETHER}
    return {name: part for name, part in (exact | together).items() if part.any()}


def _table(data: Embedded, cues: Sequence[Cue], scores: Sequence[Floats]) -> Columns:
    """A row for each cue: its text, and the keys of its candidates, most similar first, with those that are right."""
    ordered = [cue.images[np.argsort(-one, kind="stable")].tolist() for cue, one in zip(cues, scores, strict=True)]
    return {
        "cue": [cue.name for cue in cues],
        "text": [data.captions[cue.text] for cue in cues],
        "candidates": [[data.keys[image] for image in images] for images in ordered],
        "right": [[data.keys[image] for image in cue.images[cue.right].tolist()] for cue in cues],
    }
