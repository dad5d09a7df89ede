"""Compute effective robustness of evaluations that are there, and write its table and figure."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.compare.config import RESAMPLED
from evaluation.intervals import Interval
from evaluation.robustness.config import Config, Shift
from evaluation.robustness.figure import draw
from evaluation.robustness.lines import Expectation, Resampled, effective, fit
from infra.errors import DataError
from infra.run.context import Context
from infra.run.manifest import Artifact, Manifest

__all__ = ["measure"]

log = logging.getLogger(__name__)

_LEAST = 3  # models that a line can be fitted to

_Accuracies = tuple[Interval, Interval, Resampled | None]
"""Of a model, on the standard and on the shifted set; on the same resamples if both are of one evaluation."""


def measure(config: Config, inputs: Mapping[str, Artifact], context: Context) -> Manifest:
    """Write a row for each model and shift. Raises DataError if no model has both sets, or no line can be fitted."""
    given = {name: [inputs[one] for one in members] for name, members in config.models.items()}
    rows: list[dict[str, Any]] = []
    lines: dict[str, Expectation] = {}
    sources: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, shift in config.shifts.items():
        found, absent = _pairs(shift, given)
        missing |= {f"{model}.{name}": reason for model, reason in absent.items()}
        if not found:
            raise DataError(f"no model has both sets of shift {name!r}", found="; ".join(sorted(set(absent.values()))))
        base = _base(config, shift, found)
        lines[name], sources[name] = _line(config, name, base)
        for model, (standard, shifted, paired) in found.items():
            beyond = effective(standard, shifted, lines[name], config.confidence, paired)
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
    known = {name: {"source": sources[name], **asdict(line)} for name, line in lines.items()}
    return context.finish(metrics=metrics, facts={"lines": known, "missing": missing})


def _base(config: Config, shift: Shift, found: Mapping[str, _Accuracies]) -> dict[str, _Accuracies]:
    """The models here that the line is fitted to: the baseline; all if there are neither it nor points."""
    names = config.baseline or (() if shift.points else tuple(found))
    return {model: pair for model, pair in found.items() if model in names}


def _line(config: Config, name: str, base: Mapping[str, _Accuracies]) -> tuple[Expectation, str]:
    """Return the line of shift ``name`` and its source. Raises DataError if no line can be fitted."""
    shift = config.shifts[name]
    if shift.line:
        return Expectation(shift.line.slope, shift.line.intercept), "given"
    if not shift.points and not config.baseline and len(base) < _LEAST:
        log.warning(
            "%s: no line is known and %d models give none: as much as on %s is expected (y = x); give points of others",
            *(name, len(base), shift.standard),
        )
        return Expectation(1.0, 0.0), "y = x"
    points = [*shift.points, *((standard.value, shifted.value) for standard, shifted, _ in base.values())]
    line = fit([one for one, _ in points], [other for _, other in points], name)
    return line, f"fitted to {len(shift.points)} points and {len(base)} models"


def _pairs(shift: Shift, given: Mapping[str, Sequence[Artifact]]) -> tuple[dict[str, _Accuracies], dict[str, str]]:
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
            found[model] = standard, shifted, _paired(artifacts, shift)
    return found, absent


def _paired(artifacts: Sequence[Artifact], shift: Shift) -> Resampled | None:
    """Both accuracies on the same resamples, if they are of the same images: of one evaluation."""
    names = shift.metric, shift.shifted_metric or shift.metric
    if shift.standard.strip("/") != shift.shifted.strip("/"):
        return None
    for artifact in artifacts:
        if artifact.manifest.config["task"]["dataset"].strip("/") == shift.standard.strip("/") and artifact.files(
            RESAMPLED
        ):
            with artifact.store.open(RESAMPLED) as source:
                table = pq.read_table(source)
            if set(names) <= set(table.column_names):
                standard, shifted = (table[name].to_numpy() for name in names)
                return standard, shifted
    return None


def _figure(artifacts: Sequence[Artifact], dataset: str, metric: str) -> Interval | None:
    plain = metric.replace("@", "_at_")
    for artifact in artifacts:
        metrics = artifact.manifest.metrics
        if artifact.manifest.config["task"]["dataset"].strip("/") == dataset.strip("/") and plain in metrics:
            value, low, high = (metrics[f"{plain}{end}"] for end in ("", "_low", "_high"))
            # A share of 0 or 1 has no logit; the middle of its interval is as good a guess.
            return Interval((low + high) / 2 if value in (0, 1) else value, low, high)
    return None
