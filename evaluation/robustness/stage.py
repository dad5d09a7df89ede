"""Compare models with the line that a baseline of models follows from a standard test set to shifted ones."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.robustness.config import Config
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``scores_...`` -> ``data/robustness.parquet``, a row for each model and shift, and a figure.

    Metrics: effective robustness as ``{model}.{shift}`` with its bounds ``_low`` and ``_high``; the facts have the
    lines, and what is missing.
    """
    from evaluation.robustness.work import measure  # loads pyarrow and matplotlib

    return measure(config, inputs, context)
