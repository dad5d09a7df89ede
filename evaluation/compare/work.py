"""The work of a comparison, for the stage and the command: read evaluations, compare them, draw the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluation.compare.comparison import compare
from evaluation.compare.config import PRIMARY
from evaluation.compare.evaluations import read_evaluation
from evaluation.compare.figure import draw
from evaluation.compare.result import Comparison
from infra.run.manifest import Artifact

__all__ = ["compare_artifacts", "draw"]


def compare_artifacts(
    variants: Mapping[str, Sequence[Artifact]],
    *,
    primary: Sequence[str] = PRIMARY,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare the evaluations of every variant with those of the first. Raises DataError if they cannot be paired."""
    evaluations = {name: [read_evaluation(one) for one in artifacts] for name, artifacts in variants.items()}
    return compare(evaluations, primary=primary, confidence=confidence, seed=seed)
