"""Add up a suite's scores: its averages as metrics, a table of its sets, and results in mteb's form."""

from __future__ import annotations

from collections.abc import Mapping

from evaluation.suite.config import Config
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``scores_...`` -> ``data/suite.json`` and ``data/sets.parquet``, with a row for each set of the suite.

    Metrics: each average with its bounds ``_low`` and ``_high``; one over fewer sets than it is named for says so in
    its name, and the facts name what is missing. ``data/mteb/{set}.json``: each set as mteb keeps results.
    """
    from evaluation.suite.work import add_up  # loads pyarrow

    return add_up(config, inputs, context)
