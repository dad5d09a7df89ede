"""Parameters by which MLflow compares runs, with short names, and the stages whose scores matter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic_core import to_jsonable_python

from infra.config import Config
from infra.errors import redact_values
from infra.run.manifest import Manifest
from workflows.stage import Workflow

__all__ = ["headline", "main_metric", "parameters"]


def parameters(workflow: Workflow) -> dict[str, Any]:
    """The parameters of the recipe, then each stage's numbers, switches and names that differ from their defaults.

    A field is called ``train.lr``, for ``optimizer.lr`` of the stage ``train``; by its whole path where two of a stage
    would be called alike. Lists and mappings (rules, a model's layers) are on the stage's own page.
    """
    found: dict[str, Any] = dict(workflow.parameters)
    for stage in workflow:
        fields = list(_plain_fields(stage.config))
        short = Counter(path[-1] for path, _ in fields)
        for path, value in fields:
            found[f"{stage.name}.{path[-1] if short[path[-1]] == 1 else '.'.join(path)}"] = value
    plain: dict[str, Any] = redact_values(to_jsonable_python(found, fallback=str))
    return plain


def _plain_fields(config: Config) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path and value of every field, at any depth, that differs from its default and is no list or mapping."""
    for name, value in config.identity().items():
        inner = getattr(config, name, None)
        if isinstance(inner, Config):
            yield from (((name, *path), found) for path, found in _plain_fields(inner))
        elif isinstance(value, (bool, int, float, str)):
            yield (name,), value


def headline(workflow: Workflow) -> list[str]:
    """The stages whose main metric speaks for the run: models and scores, but none that a suite adds up.

    Those of which the gate asks something are the last.
    """
    summed = {
        source.name
        for stage in workflow
        if "suite" in stage.config.outputs()
        for name, source in stage.inputs.items()
        if name.startswith("scores")
    }
    shown = {"model", "scores", "suite"}
    gate = workflow.gate
    gated = {key.partition(".")[0] for key in (*gate.at_least, *gate.better)} if gate else set()
    names = [one.name for one in workflow if shown & {*one.config.outputs()} and one.name not in summed]
    return sorted(names, key=lambda name: name in gated)


def main_metric(manifest: Manifest) -> dict[str, float]:
    """The metric that speaks for an artifact, by ``stage.metric``; nothing if it names none, or none that is finite."""
    name = manifest.facts.get("main")
    value = manifest.metrics.get(name) if isinstance(name, str) else None
    return {f"{manifest.stage}.{name}": value} if value is not None and math.isfinite(value) else {}
