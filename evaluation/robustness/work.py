"""Compute effective robustness of evaluations that are there, and write its table and figure."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from evaluation.intervals import Interval
from evaluation.robustness.config import Config, Shift
from evaluation.robustness.figure import draw
from evaluation.robustness.lines import Expectation, effective, fit
from infra.errors import DataError
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest

__all__ = ["measure"]

log = logging.getLogger(__name__)


def measure(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Write a row for each model and shift. Raises DataError if no model has both sets, or no line can be fitted."""
    given = {name: [inputs[one] for one in members] for name, members in config.models.items()}
    rows: list[dict[str, Any]] = []
    lines: dict[str, Expectation] = {}
    missing: dict[str, str] = {}
    for name, shift in config.shifts.items():
        found, absent = _pairs(shift, given)
        missing |= {f"{model}.{name}": reason for model, reason in absent.items()}
        if not found:
            raise DataError(f"no model has both sets of shift {name!r}", found="; ".join(sorted(set(absent.values()))))
        base = {model: pair for model, pair in found.items() if model in (config.baseline or found)}
        if shift.line:
            lines[name] = Expectation(shift.line.slope, shift.line.intercept)
        else:
            pairs = [(standard.value, shifted.value) for standard, shifted in base.values()]
            lines[name] = fit([one for one, _ in pairs], [other for _, other in pairs], name)
        for model, (standard, shifted) in found.items():
            beyond = effective(standard, shifted, lines[name], config.confidence)
            row = {"model": model, "shift": name, "fitted": lines[name].models > 0 and model in base}
            for title, figure in (("standard", standard), ("shifted", shifted), ("effective_robustness", beyond)):
                row |= {title: figure.value, f"{title}_low": figure.low, f"{title}_high": figure.high}
            rows.append(row | {"expected": lines[name].at(standard.value)})
    for what, reason in missing.items():
        log.warning("%s has no effective robustness: %s", what, reason)

    context.output.write_table("data/robustness.parquet", pa.Table.from_pylist(rows))
    context.figure("robustness", draw(rows, lines))
    metrics = {
        f"{row['model']}.{row['shift']}{end}": row[f"effective_robustness{end}"]
        for row in rows
        for end in ("", "_low", "_high")
    }
    return context.finish(
        metrics=metrics, facts={"lines": {name: asdict(line) for name, line in lines.items()}, "missing": missing}
    )


def _pairs(
    shift: Shift, given: Mapping[str, Sequence[Artifact]]
) -> tuple[dict[str, tuple[Interval, Interval]], dict[str, str]]:
    """Accuracies of each model on both sets, and why those are missing that are."""
    found, absent = {}, {}
    for model, artifacts in given.items():
        standard = _figure(artifacts, shift.standard, shift.metric)
        shifted = _figure(artifacts, shift.shifted, shift.shifted_metric or shift.metric)
        if standard is None or shifted is None:
            dataset, metric = (
                (shift.standard, shift.metric)
                if standard is None
                else (shift.shifted, shift.shifted_metric or shift.metric)
            )
            absent[model] = f"no {metric} of {dataset}"
        else:
            found[model] = standard, shifted
    return found, absent


def _figure(artifacts: Sequence[Artifact], dataset: str, metric: str) -> Interval | None:
    plain = metric.replace("@", "_at_")
    for artifact in artifacts:
        metrics = artifact.manifest.metrics
        if artifact.manifest.config["task"]["dataset"].strip("/") == dataset.strip("/") and plain in metrics:
            value, low, high = (metrics[f"{plain}{end}"] for end in ("", "_low", "_high"))
            # A share of 0 or 1 has no logit; the middle of its interval is as good a guess.
            return Interval((low + high) / 2 if value in (0, 1) else value, low, high)
    return None
