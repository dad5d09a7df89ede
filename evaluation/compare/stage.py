"""Compare evaluations of several variants in one table and one figure, also for MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping

from evaluation.compare.config import Config
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest

__all__ = ["run"]


def run(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """``scores_...`` -> ``data/comparison.json``, a figure, and the verdict among the facts.

    Metrics: each difference as ``{variant}.{task}.{metric}`` with its bounds ``_low`` and ``_high``.
    """
    from evaluation.compare.work import compare_artifacts, draw

    variants = {name: [inputs[one] for one in members] for name, members in config.variants.items()}
    comparison = compare_artifacts(variants, primary=config.primary, confidence=config.confidence, seed=config.seed)
    context.output.write("data/comparison.json", json.dumps(comparison.as_dict(), indent=1).encode())
    context.figure("comparison", draw(comparison))
    metrics: dict[str, float] = {}
    for row in comparison.rows:
        name = f"{row.variant}.{row.task}.{row.metric}".replace("@", "_at_").replace(" ", "_")
        metrics |= {name: row.difference.value, f"{name}_low": row.difference.low, f"{name}_high": row.difference.high}
    facts = {"verdict": comparison.verdict, "notes": list(comparison.notes)}
    return context.finish(metrics=metrics, facts=facts)
